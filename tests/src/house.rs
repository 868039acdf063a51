//! A whole house for one scenario: database, gateway, hosts, a project with what a VM needs.

use crate::{
    api::Api,
    gateway::{Place, TestGateway},
    images::Images,
    machine::{self, Machine},
    oracles,
    truth::Truth,
    wait,
};
use anyhow::{Context, Result, bail};
use basalt_agent::{Pace, host::sim::fabric::Fabric};
use basalt_daemon::{Clock, SystemClock};
use basalt_model::{ImageId, Name, TransferId, hosts::HostState, roles::Role};
use basalt_wire::{
    image::{ImageEvent, ImageOutcome},
    rest::{Accepted, Host, Image, Page, TransferGrant, Vm},
};
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// The project that scenarios work in.
pub const PROJECT: &str = "demo";

/// A database, a gateway, hosts and a way in as administrator.
pub struct House {
    /// The way in, in the project [`PROJECT`].
    pub api: Api,
    /// The gateway.
    pub gateway: TestGateway,
    /// Hosts, in the order in which they came.
    pub hosts: Vec<Arc<Machine>>,
    /// Files and addresses of the gateway.
    pub place: Place,
    /// The database.
    pub truth: Truth,
    /// What lies between the hosts: VMs go over it from one to another.
    pub fabric: Fabric,
    /// How often the agents of hosts that come look and report.
    pub pace: Pace,
    dir: TempDir,
}

impl House {
    /// A house with a gateway in this process and so many hosts, and what a VM needs: the network `lan`
    /// and the ready image `tiny`.
    pub async fn with_hosts(hosts: usize) -> Result<Self> {
        let (truth, dir) = (Truth::for_test().await, TempDir::new()?);
        let place = Place::make(dir.path(), &truth.url, &truth.owner_url)?;
        let gateway = TestGateway::inside(&place).await?;
        Self::furnished(truth, dir, place, gateway, hosts).await
    }

    /// As [`Self::with_hosts`], with an image service that takes uploads; it runs for as long as the second value lives.
    pub async fn with_images(hosts: usize) -> Result<(Self, Images)> {
        let (truth, dir) = (Truth::for_test().await, TempDir::new()?);
        let mut place = Place::make(dir.path(), &truth.url, &truth.owner_url)?;
        let door = Images::door(&mut place)?;
        let gateway = TestGateway::inside(&place).await?;
        let images = Images::open(&place, door, &gateway.agents)?;
        Ok((Self::furnished(truth, dir, place, gateway, hosts).await?, images))
    }

    /// A house without hosts, whose gateways' configuration says more: which engines there are.
    pub async fn that_says(more: &str) -> Result<Self> {
        Self::on(Truth::for_test().await, more).await
    }

    /// As [`Self::that_says`], over a database.
    pub async fn on(truth: Truth, more: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let mut place = Place::make(dir.path(), &truth.url, &truth.owner_url)?;
        more.clone_into(&mut place.more);
        let gateway = TestGateway::inside(&place).await?;
        Self::furnished(truth, dir, place, gateway, 0).await
    }

    /// As [`Self::with_hosts`], with the real program as gateway.
    pub async fn with_program(hosts: usize) -> Result<Self> {
        Self::over(Truth::for_test().await, hosts).await
    }

    /// A house with the real program over a database.
    pub async fn over(truth: Truth, hosts: usize) -> Result<Self> {
        let dir = TempDir::new()?;
        let place = Place::make(dir.path(), &truth.url, &truth.owner_url)?;
        let gateway = TestGateway::program(&place).await?;
        Self::furnished(truth, dir, place, gateway, hosts).await
    }

    async fn furnished(
        truth: Truth,
        dir: TempDir,
        place: Place,
        gateway: TestGateway,
        hosts: usize,
    ) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let token =
            basalt_api::create_local(&truth.store, &clock, Name::new("scenarios")?, Role::Admin, 1).await?;
        let api = Api::new(&gateway.users, &place.ca_pem, &token.token, PROJECT)?;
        let mut house = Self {
            api,
            gateway,
            hosts: Vec::new(),
            place,
            truth,
            fabric: Fabric::default(),
            pace: machine::QUICK,
            dir,
        };
        house.ready().await?;
        let quota = json!({"max_vms": 100_000, "max_cpus": 1_000_000, "max_memory_bytes": 1u64 << 50, "max_storage_bytes": 1u64 << 60});
        house.api.post::<Value>("/v1/projects", &json!({"name": PROJECT, "quota": quota})).await?;
        let lan = json!({"name": "lan", "spec": {"cidr": "10.10.0.0/16"}});
        house.api.post::<Value>(&house.api.path("networks"), &lan).await?;
        let image = house.declare_image("tiny").await?;
        house.make_ready(image).await?;
        for n in 1..=hosts {
            house.add_host(&format!("h{n}")).await?;
        }
        house.until_hosts_ready().await?;
        Ok(house)
    }

    /// Waits until the gateway says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(self.place.ca_pem.as_bytes())?])
            .build()?;
        let ready = wait::until("the gateway is ready", || async {
            Ok(self.gateway.is_ready(&http).await.then_some(()))
        });
        ready.await.with_context(|| self.gateway.log())
    }

    /// The database's address as owner of the schema, for oracles.
    pub fn owner_url(&self) -> &str {
        &self.truth.owner_url
    }

    /// Declares a host and starts its agent.
    pub async fn add_host(&mut self, name: &str) -> Result<Arc<Machine>> {
        let gateway = self.gateway.agents.clone();
        let machine = self.declare_host(name, json!({}), &gateway).await?;
        machine.start()?;
        Ok(machine)
    }

    /// Declares a host with a spec; its agent, not yet started, will speak with that gateway.
    pub async fn declare_host(&mut self, name: &str, spec: Value, gateway: &str) -> Result<Arc<Machine>> {
        let made: Value = self.api.post("/v1/hosts", &json!({"name": name, "spec": spec})).await?;
        let id = serde_json::from_value(made["join_token"]["host_id"].clone())?;
        let token =
            made["join_token"]["token"].as_str().context("a declared host comes with a join token")?;
        let dir = self.dir.path().join(name);
        let machine =
            Arc::new(Machine::new(name, id, &dir, gateway, &self.place.ca_pem, token)?.at(self.pace));
        self.fabric.join(id, &machine.sim);
        self.hosts.push(machine.clone());
        Ok(machine)
    }

    /// Waits until every host whose agent runs is ready for VMs.
    pub async fn until_hosts_ready(&self) -> Result<()> {
        wait::until("every host is ready", || async {
            let page: Page<Host> = self.api.get("/v1/hosts?limit=500").await?;
            let waiting: Vec<_> = page.items.iter().filter(|h| h.state != HostState::Ready).collect();
            match waiting.first() {
                None => Ok(Some(())),
                Some(h) => bail!("{} is {:?}", h.metadata.name, h.state),
            }
        })
        .await
    }

    /// Waits until one host is ready for VMs.
    pub async fn until_ready(&self, name: &str) -> Result<()> {
        wait::until(&format!("host {name} is ready"), || async {
            Ok((self.host(name).await?.state == HostState::Ready).then_some(()))
        })
        .await
    }

    /// A host as the API shows it.
    pub async fn host(&self, name: &str) -> Result<Host> {
        self.api.get(&format!("/v1/hosts/{name}")).await
    }

    /// Declares an image; no bytes of it are there.
    pub async fn declare_image(&self, name: &str) -> Result<ImageId> {
        let body = json!({"name": name, "spec": {"format": "qcow2", "size_bytes": 1 << 20}});
        let accepted: Accepted<Image> = self.api.post(&self.api.path("images"), &body).await?;
        Ok(ImageId(accepted.object.metadata.id))
    }

    /// Does what the image service does when an upload is whole: tells the gateway through its own door,
    /// under its own certificate. The bytes themselves are of no use to hosts in memory.
    pub async fn make_ready(&self, image: ImageId) -> Result<()> {
        let grant: TransferGrant = self.api.call(&self.api.path(&format!("images/{image}/upload"))).await?;
        let event = ImageEvent {
            id: SystemClock.new_id(),
            at: SystemClock.now(),
            image_id: image,
            transfer_id: transfer(&grant.token)?,
            outcome: ImageOutcome::Ready {
                sha256: "ab".repeat(32),
                size_bytes: 1 << 20,
                virtual_size_bytes: 64 << 20,
            },
        };
        let identity = reqwest::Identity::from_pem(self.place.image_service_identity()?.as_bytes())?;
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(self.place.ca_pem.as_bytes())?])
            .identity(identity)
            .build()?;
        let url = format!("{}/image/v1/events", self.gateway.agents);
        let answer = http.post(url).json(&event).send().await?;
        if !answer.status().is_success() {
            bail!("the event was refused: {} {}", answer.status(), answer.text().await?);
        }
        Ok(())
    }

    /// The machine that a VM was put on.
    pub fn machine_of(&self, vm: &Vm) -> Result<&Arc<Machine>> {
        let placed = vm.placement.as_ref().with_context(|| format!("{} is not placed", vm.metadata.name))?;
        self.hosts.iter().find(|m| m.id == placed.host_id).context("a host of this house")
    }

    /// Deletes every VM and waits until nothing of any is left, in rows or on hosts.
    pub async fn clear(&self) -> Result<()> {
        let page: Page<Vm> = self.api.get(&self.api.path("vms?limit=500")).await?;
        let mut tasks = Vec::new();
        for vm in &page.items {
            tasks.push(self.api.delete_vm(vm.metadata.name.as_str()).await?);
        }
        for task in &tasks {
            self.api.completed(task).await?;
        }
        self.nothing_left().await
    }

    /// Nothing of any VM is left, in rows or on hosts.
    pub async fn nothing_left(&self) -> Result<()> {
        wait::until("nothing of the VMs is left", || async {
            let mut left = oracles::leftovers(self.owner_url())?;
            left.extend(self.hosts.iter().flat_map(|m| m.leftovers()));
            if left.is_empty() { Ok(Some(())) } else { bail!("{}", left.join(", ")) }
        })
        .await
    }

    /// Every oracle is content.
    pub fn sound(&self) -> Result<()> {
        let findings = oracles::findings(self.owner_url())?;
        if findings.is_empty() { Ok(()) } else { bail!("{}", findings.join("\n")) }
    }

    /// No VM executes on more than one host.
    pub fn runs_once(&self) -> Result<()> {
        let mut seen = std::collections::BTreeMap::<_, Vec<&str>>::new();
        for machine in &self.hosts {
            for id in machine.sim.look(|w| w.observed.vms.items.keys().copied().collect::<Vec<_>>()) {
                seen.entry(id).or_default().push(&machine.name);
            }
        }
        match seen.iter().find(|(_, hosts)| hosts.len() > 1) {
            Some((id, hosts)) => bail!("VM {id} is on {hosts:?}"),
            None => Ok(()),
        }
    }
}

/// Which transfer a token is for; only the image service checks the signature.
pub(crate) fn transfer(token: &str) -> Result<TransferId> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = token.split('.').next().unwrap_or_default();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let id: Uuid = serde_json::from_value(claims["transfer_id"].clone())?;
    Ok(TransferId(id))
}
