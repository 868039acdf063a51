//! The main job, as a user would do it: image, project, network, VM, and the guest's own answer.
//!
//! Everything goes through the public API with the command line's own client. What is there already
//! is left as it is, so that a second run takes seconds.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use basalt_cli::Failure;
use basalt_cli::client::Client;
use basalt_cli::upload::upload;
use basalt_model::tasks::Task;
use basalt_wire::rest::{Phase, TransferGrant, Vm};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Names of what the journey makes.
pub const PROJECT: &str = "demo";
/// The network.
pub const NETWORK: &str = "lan";
/// The security group of the network: without one, nothing reaches a guest.
pub const SECURITY_GROUP: &str = "web";
/// The image.
pub const IMAGE: &str = "tiny";
/// The VM.
pub const VM: &str = "web-1";
const TASK_LIMIT: Duration = Duration::from_secs(180);
const GUEST_LIMIT: Duration = Duration::from_secs(120);

/// What the journey ended with.
pub struct Outcome {
    /// The VM as the gateway shows it.
    pub vm: Vm,
    /// Its address.
    pub address: Ipv4Addr,
    /// What the guest itself answered over HTTP.
    pub answer: String,
    /// The VMs of the other hosts.
    pub others: Vec<Guest>,
    /// Stages and how long each took.
    pub stages: Vec<(&'static str, Duration)>,
}

/// A VM that runs and answered.
pub struct Guest {
    /// The VM as the gateway shows it.
    pub vm: Vm,
    /// Its address.
    pub address: Ipv4Addr,
    /// What the guest itself answered over HTTP.
    pub answer: String,
}

/// Fetches a page of a guest from inside a host, by the host's name.
pub trait GuestDoor: Sync {
    /// The page's text.
    fn fetch(&self, host: &str, address: Ipv4Addr) -> Result<String>;
}

struct Stages(Vec<(&'static str, Duration)>, Instant);

impl Stages {
    fn done(&mut self, stage: &'static str) {
        self.0.push((stage, self.1.elapsed()));
        self.1 = Instant::now();
    }
}

fn said(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!(failure.text())
}

/// Makes what is missing and ends with the guest's answer.
pub async fn run(client: &Client, image: &Path, door: &dyn GuestDoor) -> Result<Outcome> {
    run_on(client, image, door, &[]).await
}

/// [`run`] with a VM on each of these hosts; with less than two hosts, one VM wherever it fits.
pub async fn run_on(
    client: &Client,
    image: &Path,
    door: &dyn GuestDoor,
    hosts: &[String],
) -> Result<Outcome> {
    let mut stages = Stages(Vec::new(), Instant::now());
    hosts_ready(client, hosts).await?;
    stages.done("hosts ready");
    let base = with_image(client, PROJECT, image).await?;
    stages.done("image uploaded and verified");
    let network =
        json!({"name": NETWORK, "spec": {"cidr": "10.10.0.0/24", "security_groups": [SECURITY_GROUP]}});
    ensure(client, &format!("{base}/networks"), NETWORK, network).await?;
    stages.done("network");
    let vms: Vec<(String, Option<&String>)> = match hosts {
        [] | [_] => vec![(VM.to_owned(), None)],
        several => (1..).map(|n| format!("web-{n}")).zip(several.iter().map(Some)).collect(),
    };
    for (name, host) in &vms {
        ensure(client, &format!("{base}/vms"), name, vm_body(name, *host)).await?;
    }
    let mut running_vms = Vec::new();
    for (name, _) in &vms {
        running_vms.push(running(client, name).await?);
    }
    stages.done(if vms.len() == 1 { "VM running" } else { "VMs running" });
    let mut guests = Vec::new();
    for vm in running_vms {
        guests.push(guest(door, vm).await?);
    }
    stages.done(if guests.len() == 1 { "guest booted and answered" } else { "guests booted and answered" });
    let Guest { vm, address, answer } = guests.remove(0);
    Ok(Outcome { vm, address, answer, others: guests, stages: stages.0 })
}

fn vm_body(name: &str, host: Option<&String>) -> Value {
    let mut body = json!({"name": name, "spec": {
        "cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": IMAGE}}],
        "nics": [{"network": NETWORK}],
        "stop_grace_seconds": 15,
    }});
    if let Some(host) = host {
        body["spec"]["placement"] = json!({"host": host});
    }
    body
}

async fn guest(door: &dyn GuestDoor, vm: Vm) -> Result<Guest> {
    let address = vm.nics.first().context("the VM has no interface")?.address;
    let host = vm.placement.as_ref().context("the VM has no host")?.host.to_string();
    let answer = guest_answer(door, &host, address).await?;
    Ok(Guest { vm, address, answer })
}

/// A group that admits HTTP and pings from everywhere.
pub fn security_group() -> Value {
    let http = json!({"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}});
    let ping = ["icmp", "icmpv6"].map(|p| json!({"direction": "ingress", "protocol": p}));
    json!({"name": SECURITY_GROUP, "spec": {"rules": [http, ping[0], ping[1]]}})
}

/// Makes a project with the image that VMs begin with and the group `web`; gives the project's path.
pub async fn with_image(client: &Client, project: &str, image: &Path) -> Result<String> {
    ensure(client, "/v1/projects", project, json!({"name": project})).await?;
    let base = format!("/v1/projects/{project}");
    ensure_image(client, &base, image).await?;
    ensure(client, &format!("{base}/security-groups"), SECURITY_GROUP, security_group()).await?;
    Ok(base)
}

/// Waits until all of these hosts take VMs; without names, until some host does.
async fn hosts_ready(client: &Client, names: &[String]) -> Result<()> {
    let end = Instant::now() + TASK_LIMIT;
    loop {
        let page: Value = client.get("/v1/hosts").await.map_err(said)?;
        let hosts = page["items"].as_array().cloned().unwrap_or_default();
        let ready = |name: Option<&String>| {
            hosts.iter().any(|h| h["state"] == "ready" && name.is_none_or(|name| h["name"] == name.as_str()))
        };
        if ready(None) && names.iter().all(|name| ready(Some(name))) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("not every host became ready: {}", serde_json::to_string_pretty(&hosts)?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Declares an object unless it is there, and follows its task to the end.
async fn ensure(client: &Client, collection: &str, name: &str, body: Value) -> Result<()> {
    if client.find::<Value>(&format!("{collection}/{name}")).await.map_err(said)?.is_some() {
        return Ok(());
    }
    let answer: Value = client.post(collection, &body).await.map_err(said)?;
    follow(client, name, &answer).await
}

async fn follow(client: &Client, name: &str, answer: &Value) -> Result<()> {
    let task = answer.get("task").filter(|t| !t.is_null()).cloned();
    let Some(task) = task.map(serde_json::from_value::<Task>).transpose()? else { return Ok(()) };
    let bar = ProgressBar::new(100);
    bar.set_style(ProgressStyle::with_template("  {prefix:<10} [{bar:30}] {pos:>3} % {msg}")?);
    bar.set_prefix(name.to_owned());
    let done = client.follow(task.id, TASK_LIMIT, |t| {
        bar.set_position(t.progress.unsigned_abs().into());
        bar.set_message(t.stage.clone());
    });
    let done = done.await;
    bar.finish();
    done.map(drop).map_err(said)
}

async fn ensure_image(client: &Client, base: &str, file: &Path) -> Result<()> {
    let at = format!("{base}/images/{IMAGE}");
    let size = fs::metadata(file)?.len();
    let found: Option<Value> = client.find(&at).await.map_err(said)?;
    if found.as_ref().is_some_and(|i| i["observed"]["state"] == "ready") {
        return Ok(());
    }
    let answer = match found {
        Some(_) => Value::Null,
        None => {
            let body = json!({"name": IMAGE, "spec": {"format": "qcow2", "size_bytes": size}});
            client.post(&format!("{base}/images"), &body).await.map_err(said)?
        }
    };
    let grant: TransferGrant = client.call(&format!("{at}/upload")).await.map_err(said)?;
    let bar = ProgressBar::new(size);
    bar.set_style(ProgressStyle::with_template("  {prefix:<10} [{bar:30}] {bytes}/{total_bytes}")?);
    bar.set_prefix(IMAGE);
    upload(client.http(), &grant, file, |sent| bar.set_position(sent)).await.map_err(said)?;
    bar.finish();
    follow(client, IMAGE, &answer).await
}

async fn running(client: &Client, name: &str) -> Result<Vm> {
    let end = Instant::now() + TASK_LIMIT;
    loop {
        let vm = named_vm(client, name).await?;
        if vm.phase == Phase::Running {
            return Ok(vm);
        }
        if Instant::now() > end {
            bail!("VM {name} does not run: {}", serde_json::to_string_pretty(&vm)?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The journey's VM as the gateway shows it.
pub async fn vm(client: &Client) -> Result<Vm> {
    named_vm(client, VM).await
}

/// The VMs of the journey's project.
pub async fn vms(client: &Client) -> Result<Vec<Vm>> {
    let page: Value = client.get(&format!("/v1/projects/{PROJECT}/vms")).await.map_err(said)?;
    Ok(serde_json::from_value(page["items"].clone())?)
}

/// A VM of the journey's project.
pub async fn named_vm(client: &Client, name: &str) -> Result<Vm> {
    client.get(&format!("/v1/projects/{PROJECT}/vms/{name}")).await.map_err(said)
}

async fn guest_answer(door: &dyn GuestDoor, host: &str, address: Ipv4Addr) -> Result<String> {
    let end = Instant::now() + GUEST_LIMIT;
    loop {
        match door.fetch(host, address) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(e) if Instant::now() > end => return Err(e).context("the guest does not answer"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
