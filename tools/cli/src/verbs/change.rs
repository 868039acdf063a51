//! Verbs that declare, change and delete.

use super::{Session, vm_name};
use crate::{
    Failure,
    args::{Create, CreateVm},
    kinds::{Kind, target},
    output::sayln,
    upload::upload,
};
use basalt_model::tasks::Task;
use basalt_wire::rest::{JoinToken, TransferGrant};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

impl Session {
    pub(super) async fn create(&self, what: Create) -> Result<(), Failure> {
        match what {
            Create::Vm(vm) => self.declare("vm", vm_body(vm)?).await,
            Create::Network { name, cidr } => {
                self.declare("network", json!({"name": name, "spec": {"cidr": cidr}})).await
            }
            Create::Volume { name, size, image, pool } => {
                let source = image.map_or(json!({"kind": "blank"}), |i| json!({"kind": "image", "image": i}));
                let mut spec = json!({"size_bytes": size, "source": source});
                if let Some(pool) = pool {
                    spec["pool"] = json!(pool);
                }
                self.declare("volume", json!({"name": name, "spec": spec})).await
            }
            Create::Project { name, tenant } => {
                let mut body = json!({"name": name});
                if let Some(tenant) = tenant {
                    body["tenant"] = json!(tenant);
                }
                self.declare("project", body).await
            }
            Create::Tenant { name } => self.declare("tenant", json!({"name": name, "spec": {}})).await,
            Create::Host { name } => self.create_host(&name).await,
            Create::Image { name, file, format } => self.create_image(&name, &file, &format).await,
        }
    }

    async fn create_host(&self, name: &str) -> Result<(), Failure> {
        let answer: Value = self.client.post("/v1/hosts", &json!({"name": name, "spec": {}})).await?;
        let token = answer.get("join_token").cloned().unwrap_or(Value::Null);
        let token: JoinToken = serde_json::from_value(token)?;
        eprintln!(
            "host/{name} declared; put this into its agent's join-token file before {}:",
            token.expires_at
        );
        sayln!("{}", token.token);
        Ok(())
    }

    async fn create_image(&self, name: &str, file: &Path, format: &str) -> Result<(), Failure> {
        let size = fs::metadata(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?.len();
        let kind = Kind::find("image")?;
        let body = json!({"name": name, "spec": {"format": format, "size_bytes": size}});
        let accepted: Value = self.client.post(&kind.collection(&self.project), &body).await?;
        let grant = format!("{}/upload", kind.object(&self.project, name));
        let grant: TransferGrant = self.client.call(&grant).await?;
        let bar = ProgressBar::new(size);
        if let Ok(style) =
            ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
        {
            bar.set_style(style);
        }
        bar.set_message(format!("image/{name}"));
        upload(self.client.http(), &grant, file, |sent| bar.set_position(sent)).await?;
        bar.finish();
        self.conclude(kind, &accepted).await
    }

    async fn declare(&self, kind: &str, body: Value) -> Result<(), Failure> {
        let kind = Kind::find(kind)?;
        let answer: Value = self.client.post(&kind.collection(&self.project), &body).await?;
        self.conclude(kind, &answer).await
    }

    pub(super) async fn delete(&self, words: &[String]) -> Result<(), Failure> {
        let (kind, name) = target(words)?;
        let name = name.ok_or_else(|| Failure::Usage("give a name: delete vm web-1".into()))?;
        let answer = self.client.delete(&kind.object(&self.project, &name)).await?;
        self.conclude(kind, &answer).await
    }

    pub(super) async fn power(&self, vm: &str, verb: &str) -> Result<(), Failure> {
        let kind = Kind::find("vm")?;
        let path = format!("{}/{verb}", kind.object(&self.project, vm_name(vm)));
        let answer: Value = self.client.call(&path).await?;
        self.conclude(kind, &answer).await
    }

    /// Waits for the task of an answer, if it has one, and says what came of it.
    pub(super) async fn conclude(&self, kind: &Kind, answer: &Value) -> Result<(), Failure> {
        let object = answer.get("object").unwrap_or(answer);
        let name = object.get("name").and_then(Value::as_str).unwrap_or("-");
        let task = answer.get("task").filter(|t| !t.is_null()).cloned();
        let Some(task) = task.map(serde_json::from_value::<Task>).transpose()? else {
            sayln!("{}/{name}", kind.name);
            return Ok(());
        };
        if !self.wait {
            sayln!("{}/{name} task/{}", kind.name, task.id);
            return Ok(());
        }
        let bar = ProgressBar::new(100);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos} %") {
            bar.set_style(style);
        }
        let label = format!("{}/{name}", kind.name);
        let done = self.client.follow(task.id, self.timeout, |t| {
            bar.set_position(t.progress.unsigned_abs().into());
            bar.set_message(format!("{label} {}", t.stage));
        });
        let done = done.await;
        bar.finish_and_clear();
        done?;
        sayln!(
            "{label} {}",
            serde_json::to_value(task.kind)?.as_str().unwrap_or_default().replace('_', " ")
        );
        Ok(())
    }
}

fn vm_body(vm: CreateVm) -> Result<Value, Failure> {
    let read = |p: &Path| fs::read_to_string(p).map_err(|e| Failure::Usage(format!("{}: {e}", p.display())));
    let mut disks = Vec::new();
    let root = |source: Value| {
        let mut disk = json!({"name": "root", "source": source});
        if let Some(size) = vm.disk {
            disk["size_bytes"] = json!(size);
        }
        disk
    };
    match (&vm.image, &vm.volume, &vm.iso) {
        (Some(image), _, _) => disks.push(root(json!({"kind": "image", "image": image}))),
        (_, Some(volume), _) => disks.push(root(json!({"kind": "volume", "volume": volume}))),
        (_, _, Some(iso)) => {
            disks.push(root(json!({"kind": "blank"})));
            disks.push(json!({"name": "cdrom", "source": {"kind": "iso", "image": iso}, "boot_order": 1}));
        }
        _ => return Err(Failure::Usage("give --image, --volume, or --iso with --disk".into())),
    }
    let nics: Vec<_> = vm.network.iter().map(|n| json!({ "network": n })).collect();
    let mut cloud_init = Map::new();
    if let Some(path) = &vm.user_data {
        cloud_init.insert("user_data".into(), read(path)?.into());
    }
    if let Some(path) = &vm.ssh_key {
        let keys = read(path)?;
        let keys: Vec<_> = keys.lines().map(str::trim).filter(|l| !l.is_empty()).map(Value::from).collect();
        cloud_init.insert("ssh_authorized_keys".into(), keys.into());
    }
    let mut labels = Map::new();
    for label in &vm.label {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--label {label}: write key=value")))?;
        labels.insert(key.into(), value.into());
    }
    let mut spec = json!({
        "power": if vm.stopped { "stopped" } else { "running" },
        "cpus": vm.cpus, "memory_bytes": vm.memory, "disks": disks, "nics": nics, "cloud_init": cloud_init,
    });
    if let Some(host) = vm.host {
        spec["placement"] = json!({ "host": host });
    }
    Ok(json!({"name": vm.name, "labels": labels, "spec": spec}))
}
