//! Verbs that declare, change and delete.

use super::{
    Session, bare,
    deployments::{Goal, query},
    security_groups,
};
use crate::{
    Failure,
    args::{After, Cascade, Create, CreateVm, Leaving, Vms},
    failure::Tally,
    kinds::{Can, Kind, escape, named},
    output::{Format, note, print_value, sayln},
};
use basalt_model::tasks::{Task, TaskLog};
use basalt_wire::rest::JoinToken;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::{cell::RefCell, fs, path::Path};

/// A change that the gateway took, and what is still to be waited for.
pub(super) struct Taken {
    kind: &'static Kind,
    /// `vm/web-1`
    pub(super) label: String,
    /// What became of it, for people: `created`.
    done: &'static str,
    answer: Value,
    task: Option<Task>,
    /// What is waited for where there is no task.
    goal: Option<Goal>,
}

/// A value from a file or from standard input: never from the command line, which others on the machine can read.
fn secret_value(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|e| Failure::Usage(format!("--file {}: {e}", file.display())))?;
    Ok(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned())
}

impl Taken {
    /// Reads an answer; `name` is what the user called the object, for answers that do not show it.
    pub(super) fn read(
        kind: &'static Kind,
        name: &str,
        done: &'static str,
        answer: Value,
    ) -> Result<Self, Failure> {
        let task = answer.get("task").filter(|t| !t.is_null()).cloned();
        let task = task.map(serde_json::from_value).transpose()?;
        let label = format!("{}/{name}", kind.name);
        let goal = Goal::of(kind, done, &answer);
        Ok(Self { kind, label, done, answer, task, goal })
    }

    /// The same, told of under another label: what was changed is not what was asked for.
    pub(super) fn labelled(self, label: String) -> Self {
        Self { label, ..self }
    }

    pub(super) fn object(&self) -> &Value {
        self.answer.get("object").or(self.answer.get(self.kind.name)).unwrap_or(&self.answer)
    }
}

impl Session {
    pub(super) async fn create(&self, what: Create) -> Result<(), Failure> {
        match what {
            Create::Vm(vm) => {
                let waits = depends_on(&vm.after);
                self.declare_at("vm", vm_body(vm)?, &waits).await
            }
            Create::Network { name, cidr, security_group } => {
                let spec = json!({"cidr": cidr, "security_groups": security_group});
                self.declare("network", json!({"name": name, "spec": spec})).await
            }
            Create::SecurityGroup(group) => {
                self.declare("security-group", security_groups::body(&group)?).await
            }
            Create::Volume { name, size, image, pool } => {
                let source = image.map_or(json!({"kind": "blank"}), |i| json!({"kind": "image", "image": i}));
                let mut spec = json!({"size_bytes": size, "source": source});
                if let Some(pool) = pool {
                    spec["pool"] = json!(pool);
                }
                self.declare("volume", json!({"name": name, "spec": spec})).await
            }
            Create::Deployment(what) => self.create_deployment(what).await,
            Create::Project { name, tenant } => {
                let mut body = json!({"name": name});
                if let Some(tenant) = tenant {
                    body["tenant"] = json!(tenant);
                }
                self.declare("project", body).await
            }
            Create::Tenant { name } => self.declare("tenant", json!({"name": name, "spec": {}})).await,
            Create::Host { name } => self.create_host(&name).await,
            Create::JoinToken { host } => {
                let path = format!("{}/join-token", Kind::find("host")?.object("", bare("host", &host)));
                let answer: Value = self.client.call(&path).await?;
                self.show_join_token(&host, &answer, &answer)
            }
            Create::Secret { name, file } => {
                let value = secret_value(&file)?;
                self.declare("secret", json!({"name": name, "spec": {"value": value}})).await
            }
            Create::Image { name, file: Some(file), sha256, format, .. } => {
                self.create_image(&name, &file, sha256, format).await
            }
            Create::Image { name, url, sha256, format, .. } => {
                self.import_image(&name, &url.unwrap_or_default(), sha256, format).await
            }
            Create::User { name } => self.create_user(&name).await,
            Create::ServiceToken { name, grant, days } => {
                self.create_service_token(&name, &grant, days).await
            }
            Create::RoleBinding { user, service_token, grant } => {
                self.create_role_binding(user, service_token, &grant).await
            }
        }
    }

    async fn create_host(&self, name: &str) -> Result<(), Failure> {
        let answer: Value = self.client.post("/v1/hosts", &json!({"name": name, "spec": {}})).await?;
        let token = answer.get("join_token").cloned().unwrap_or(Value::Null);
        self.show_join_token(name, &token, &answer)
    }

    /// The token alone on standard output, so that it can be sent into a file.
    fn show_join_token(&self, host: &str, token: &Value, answer: &Value) -> Result<(), Failure> {
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print_value(answer, self.output);
        }
        let token: JoinToken = serde_json::from_value(token.clone())?;
        note!(
            "host/{}: put this into its agent's join-token file before {}:",
            bare("host", host),
            token.expires_at
        );
        sayln!("{}", token.token);
        Ok(())
    }

    /// Somebody saw that a host's power is off.
    pub(super) async fn confirm_power_off(&self, host: &str) -> Result<(), Failure> {
        let host = bare("host", host);
        let path = format!("{}/confirm-power-off", Kind::find("host")?.object("", host));
        let death = self.client.call::<Value>(&path).await?;
        let at = death.get("at").and_then(Value::as_str).unwrap_or_default();
        sayln!("host/{host} counts as dead since {at}; its VMs with an HA policy are started elsewhere");
        note!(
            "it executes none of them again before it knows what it lost; no more is to be done when it is started"
        );
        Ok(())
    }

    pub(super) async fn revoke(&self, host: &str) -> Result<(), Failure> {
        let host = bare("host", host);
        let path = format!("{}/revoke", Kind::find("host")?.object("", host));
        self.client.call::<Value>(&path).await?;
        sayln!("host/{host} revoked");
        note!("its agent may enrol anew with a token: basalt create join-token {host}");
        Ok(())
    }

    pub(super) async fn declare(&self, kind: &str, body: Value) -> Result<(), Failure> {
        self.declare_at(kind, body, "").await
    }

    async fn declare_at(&self, kind: &str, body: Value, query: &str) -> Result<(), Failure> {
        let kind = Kind::find(kind)?;
        let name = body.get("name").and_then(Value::as_str).unwrap_or("-").to_owned();
        let path = format!("{}{query}", kind.collection(&self.project));
        let answer: Value = self.client.post(&path, &body).await?;
        self.conclude(Taken::read(kind, &name, "created", answer)?).await
    }

    pub(super) async fn delete(
        &self,
        words: &[String],
        after: &After,
        leaving: &Leaving,
    ) -> Result<(), Failure> {
        let targets = named(words)?;
        let mut queries = Vec::new();
        for (kind, _) in &targets {
            kind.demand(Can::Delete, "deleted")?;
            queries.push(deletion(kind, after, leaving)?);
        }
        let mut tally = Tally::new(targets.len());
        let mut taken = Vec::new();
        for ((kind, name), query) in targets.into_iter().zip(queries) {
            taken.extend(
                tally.keep(&format!("{}/{name}", kind.name), self.delete_one(kind, &name, &query).await),
            );
        }
        self.conclude_all(taken, &mut tally).await?;
        tally.end()
    }

    async fn delete_one(&self, kind: &'static Kind, name: &str, query: &str) -> Result<Taken, Failure> {
        let path = match kind.can.contains(&Can::Show) {
            true => kind.object(&self.project, name),
            false => {
                let found = self.find(kind, name).await?;
                let id = found.pointer("/id").and_then(Value::as_str).unwrap_or(name);
                kind.object(&self.project, id)
            }
        };
        Taken::read(kind, name, "deleted", self.client.delete(&format!("{path}{query}")).await?)
    }

    /// Asks all of them before it waits for the first, so that they happen side by side.
    pub(super) async fn power(&self, asked: &Vms, verb: &str, done: &'static str) -> Result<(), Failure> {
        let vms = &asked.vms;
        let kind = Kind::find("vm")?;
        let mut tally = Tally::new(vms.len());
        let mut taken = Vec::new();
        for vm in vms.iter().map(|vm| bare("vm", vm)) {
            let path = format!("{}/{verb}{}", kind.object(&self.project, vm), depends_on(&asked.after));
            let asked = match self.client.call::<Value>(&path).await {
                Ok(answer) => Taken::read(kind, vm, done, answer),
                Err(e) => Err(e),
            };
            taken.extend(tally.keep(&format!("vm/{vm}"), asked));
        }
        self.conclude_all(taken, &mut tally).await?;
        tally.end()
    }

    /// Waits for the task of one change, and says what came of it.
    pub(super) async fn conclude(&self, taken: Taken) -> Result<(), Failure> {
        let mut tally = Tally::new(1);
        self.conclude_all(vec![taken], &mut tally).await?;
        tally.end()
    }

    /// The same for all changes of one command.
    pub(super) async fn conclude_all(&self, taken: Vec<Taken>, tally: &mut Tally) -> Result<(), Failure> {
        let mut shown = Vec::new();
        for one in &taken {
            shown.extend(tally.keep(&one.label, self.finish(one).await).flatten());
        }
        match (shown.len(), taken.len()) {
            (0, _) => Ok(()),
            (1, 1) => print_value(&shown[0], self.output),
            _ => print_value(&Value::from(shown), self.output),
        }
    }

    /// Waits, and says what came of it; gives what is to be printed as JSON or YAML.
    async fn finish(&self, taken: &Taken) -> Result<Option<Value>, Failure> {
        let Taken { kind, label, done, answer, task, goal } = taken;
        if let (Some(task), true) = (task, self.wait) {
            let progress = RefCell::new(Progress::new(label));
            let show = |task: &Task| progress.borrow_mut().show(task);
            let tell = |line: &TaskLog| progress.borrow().tell(line);
            self.client.follow_log(task.id, self.left(), show, tell).await?;
        }
        let id = taken.object().get("id").and_then(Value::as_str);
        let at = id.map(|id| kind.object(&self.project_of(taken), id));
        if let (Some(goal), Some(at), true) = (goal, &at, self.wait) {
            self.follow_deployment(at, label, *goal).await?;
        }
        match (self.output, task) {
            (Format::Json | Format::Yaml, _) if !self.wait => Ok(Some(match task {
                Some(_) => answer.clone(),
                None => taken.object().clone(),
            })),
            (Format::Json | Format::Yaml, task) => {
                // Read again what changed meanwhile, unless it is gone.
                Ok(Some(match at {
                    Some(at) if *done != "deleted" && (task.is_some() || goal.is_some()) => {
                        self.client.get(&at).await?
                    }
                    _ => taken.object().clone(),
                }))
            }
            (Format::Name, _) => {
                sayln!("{label}");
                Ok(None)
            }
            (Format::Table, Some(task)) if !self.wait => {
                sayln!("{label} task/{}", task.id);
                Ok(None)
            }
            (Format::Table, _) => {
                sayln!("{label} {done}");
                Ok(None)
            }
        }
    }

    /// The project that an object is in: a document may name another than the command does.
    fn project_of(&self, taken: &Taken) -> String {
        let id = taken.object().get("project_id").and_then(Value::as_str);
        id.unwrap_or(&self.project).to_owned()
    }
}

/// How far a task is: a bar at a terminal, else a line for every stage; and the lines of its log.
struct Progress<'a> {
    label: &'a str,
    bar: ProgressBar,
    stage: String,
}

impl<'a> Progress<'a> {
    fn new(label: &'a str) -> Self {
        let bar = ProgressBar::new(100);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos} %") {
            bar.set_style(style);
        }
        Self { label, bar, stage: String::new() }
    }

    fn tell(&self, line: &TaskLog) {
        // The bar is drawn anew below it.
        self.bar.suspend(|| note!("{}: {}", self.label, line.line));
    }

    fn show(&mut self, task: &Task) {
        self.bar.set_position(task.progress.unsigned_abs().into());
        self.bar.set_message(format!("{} {}", self.label, task.stage));
        if self.bar.is_hidden() && !task.state.is_terminal() && task.stage != self.stage {
            note!("{}: {} ({} %)", self.label, task.stage, task.progress);
            self.stage.clone_from(&task.stage);
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The query of a deletion. What is said of what depends on it must mean something for the kind.
fn deletion(kind: &Kind, after: &After, leaving: &Leaving) -> Result<String, Failure> {
    let refused = |flag: &str, kinds: &str| {
        let kind = kind.name.replace('-', " ");
        Err(Failure::Usage(format!("{flag} says nothing of a {kind}; it does of these: {kinds}")))
    };
    let tasks: Vec<_> = after.after.iter().map(|t| bare("task", t)).collect();
    let tasks = tasks.join(",");
    let mut parts: Vec<(&str, &str)> = Vec::new();
    match (leaving.cascade, kind.name) {
        (None, _) => {}
        (Some(Cascade::All), "provider") => parts.push(("cascade", "true")),
        (Some(_), "agent" | "server") => parts.push(("cascade", "undeploy")),
        (Some(Cascade::Undeploy), "provider") => {
            let why =
                "a provider's deployments cannot stay without it: give --cascade alone, and they are deleted";
            return Err(Failure::Usage(why.into()));
        }
        (Some(_), _) => return refused("--cascade", "provider, agent, server"),
    }
    match (leaving.orphan, kind.name) {
        (false, _) => {}
        (true, "deployment" | "agent" | "server") => parts.push(("orphan", "true")),
        (true, _) => return refused("--orphan", "deployment, agent, server"),
    }
    if !tasks.is_empty() {
        parts.push(("depends_on", &tasks));
    }
    Ok(query(&parts))
}

/// The query that has a change wait for tasks.
fn depends_on(after: &After) -> String {
    let tasks: Vec<_> = after.after.iter().map(|t| escape(bare("task", t))).collect();
    if tasks.is_empty() { String::new() } else { format!("?depends_on={}", tasks.join(",")) }
}

fn vm_body(vm: CreateVm) -> Result<Value, Failure> {
    let read = |flag: &str, p: &Path| {
        fs::read_to_string(p).map_err(|e| Failure::Usage(format!("{flag} {}: {e}", p.display())))
    };
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
        cloud_init.insert("user_data".into(), read("--user-data", path)?.into());
    }
    if let Some(path) = &vm.ssh_key {
        let keys = read("--ssh-key", path)?;
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
        "security_groups": vm.security_group,
    });
    if let Some(host) = vm.host {
        spec["placement"] = json!({ "host": host });
    }
    Ok(json!({"name": vm.name, "labels": labels, "spec": spec}))
}
