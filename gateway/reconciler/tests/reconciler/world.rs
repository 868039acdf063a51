//! A database of its own, a clock, and short words for what tests do to them.

use crate::agent::Agent;
use basalt_daemon::{Clock, Drain, ManualClock, SystemClock};
use basalt_model::{
    GIB, HostId, ImageId, Labels, Name, ProjectId, TaskId, TenantId, TransferId, VmId,
    hosts::HostSpec,
    tasks::{Actor, Task, TaskState},
};
use basalt_reconciler::{Handle, OnManifest, Options, Reconciler, Verify};
use basalt_store::{
    Accepted, Change, Ids, Key, New, Page, Store,
    image_transfers::{Event, Outcome},
    testkit::{self, Database},
    vms::{self, Vm, VmView},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A world to reconcile.
pub struct World {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub ids: Ids,
    pub tenant: TenantId,
    pub project: ProjectId,
    database: Database,
}

/// A reconciler that runs.
pub struct Running {
    pub handle: Handle,
    drain: Drain,
    join: JoinHandle<Result<(), basalt_reconciler::Error>>,
}

impl Running {
    /// Ends it politely; a graph that differed from a recomputation is a failure here.
    pub async fn stop(self) {
        self.drain.begin();
        self.join.await.unwrap().unwrap();
    }

    /// Ends it like a power cut: at whatever it is doing, without a word.
    pub async fn kill(self) {
        self.join.abort();
        if let Ok(result) = self.join.await {
            result.unwrap();
        }
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl World {
    pub async fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock)).await
    }

    /// A world whose time stands until it is moved.
    pub async fn manual() -> (Self, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(SystemClock.now(), 7));
        (Self::with_clock(clock.clone()).await, clock)
    }

    async fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let database = Database::new().await;
        let of = Arc::clone(&clock);
        let ids: Ids = Arc::new(move || of.new_id());
        let (tenant, project) = testkit::project(&database, &ids, "acme").await;
        Self { store: database.store.clone(), clock, ids, tenant, project, database }
    }

    /// The database itself, past the store.
    pub fn database(&self) -> &Database {
        &self.database
    }

    pub fn change(&self) -> Change {
        Change {
            actor: Actor::system("test"),
            request_id: None,
            now: self.clock.now(),
            ids: Arc::clone(&self.ids),
        }
    }

    /// Starts a reconciler with the oracle on.
    pub fn start(&self) -> Running {
        self.start_as(Uuid::from_u128(1))
    }

    pub fn start_as(&self, holder: Uuid) -> Running {
        self.start_with(Options::new(self.store.clone(), Arc::clone(&self.clock), holder))
    }

    /// Starts one that tells of the manifests that it writes.
    pub fn start_telling(&self, told: OnManifest) -> Running {
        let options = Options::new(self.store.clone(), Arc::clone(&self.clock), Uuid::from_u128(1));
        self.start_with(Options { on_manifest: Some(told), ..options })
    }

    /// Starts one whose oracle is as in production, but faster.
    pub fn start_sampled(&self) -> Running {
        let options = Options::new(self.store.clone(), Arc::clone(&self.clock), Uuid::from_u128(1));
        let Verify::Sampled { keys, .. } = options.verify else { panic!("{:?}", options.verify) };
        let every = std::time::Duration::from_millis(10);
        Self::run(Options { verify: Verify::Sampled { every, keys }, ..options })
    }

    pub fn start_with(&self, options: Options) -> Running {
        Self::run(Options { verify: Verify::Always, ..options })
    }

    fn run(options: Options) -> Running {
        let (reconciler, handle) = Reconciler::new(options);
        let drain = Drain::new();
        let join = tokio::spawn(reconciler.run(drain.clone()));
        Running { handle, drain, join }
    }

    /// A host with an agent that does not act yet.
    pub async fn host(&self, host: &str, threads: u32, memory_bytes: u64) -> Agent {
        self.labelled_host(host, threads, memory_bytes, Labels::default()).await
    }

    pub async fn labelled_host(&self, host: &str, threads: u32, memory_bytes: u64, labels: Labels) -> Agent {
        let spec = HostSpec { cpu_overcommit_percent: 100, reserved_memory_bytes: 0, ..HostSpec::default() };
        let mut tx = self.store.system().await.unwrap();
        let new = New { name: name(host), labels, spec };
        let host = basalt_store::hosts::insert(&mut tx, &self.change(), &new).await.unwrap();
        tx.commit().await.unwrap();
        let agent = Agent::new(self, HostId(host.metadata.id), threads, memory_bytes);
        agent.report_facts().await;
        agent
    }

    /// An image and a network for VMs.
    pub async fn furnish(&self) {
        self.image().await;
        self.network().await;
    }

    /// An image `debian` of 1 GiB that is ready.
    async fn image(&self) -> ImageId {
        let spec = serde_json::from_value(json!({"format": "qcow2", "size_bytes": 1000})).unwrap();
        let new = New { name: name("debian"), labels: Labels::default(), spec };
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let made = basalt_store::images::insert(&mut tx, &self.change(), self.project, &new).await.unwrap();
        tx.commit().await.unwrap();
        let id = ImageId(made.object.metadata.id);
        let event = Event {
            id: (self.ids)(),
            at: self.clock.now(),
            image_id: id,
            transfer_id: TransferId((self.ids)()),
            outcome: Outcome::Ready { sha256: "ab".repeat(32), size_bytes: 1000, virtual_size_bytes: GIB },
        };
        let mut tx = self.store.system().await.unwrap();
        let applied =
            basalt_store::image_transfers::apply_event(&mut tx, &event, self.clock.now()).await.unwrap();
        assert!(applied);
        tx.commit().await.unwrap();
        id
    }

    /// A network `net`.
    async fn network(&self) {
        let spec = serde_json::from_value(json!({"cidr": "10.20.0.0/16"})).unwrap();
        let new = New { name: name("net"), labels: Labels::default(), spec };
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        basalt_store::networks::insert(&mut tx, &self.change(), self.project, &new).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Another gateway's way to the same truth: its commits give no signal here.
    pub async fn another_store(&self) -> Store {
        Store::connect(&self.database.url(), basalt_store::Options::default()).await.unwrap()
    }

    /// The usual VM: one disk from the image, one interface, 1 CPU and 1 GiB unless said otherwise.
    pub async fn create(&self, vm: &str, more: serde_json::Value) -> Accepted<Vm> {
        self.create_on(&self.store, vm, more).await
    }

    /// The same by way of another store.
    pub async fn create_on(&self, store: &Store, vm: &str, more: serde_json::Value) -> Accepted<Vm> {
        self.create_labelled_on(store, vm, Labels::default(), more).await
    }

    /// The same with labels.
    pub async fn create_labelled(&self, vm: &str, labels: Labels, more: serde_json::Value) -> Accepted<Vm> {
        self.create_labelled_on(&self.store, vm, labels, more).await
    }

    async fn create_labelled_on(
        &self,
        store: &Store,
        vm: &str,
        labels: Labels,
        more: serde_json::Value,
    ) -> Accepted<Vm> {
        let mut spec = json!({"cpus": 1, "memory_bytes": GIB,
            "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}], "nics": [{"network": "net"}]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let new = New { name: name(vm), labels, spec: serde_json::from_value(spec).unwrap() };
        let mut tx = store.tenant(self.tenant).await.unwrap();
        let made = vms::insert(&mut tx, &self.change(), self.project, &new).await.unwrap();
        tx.commit().await.unwrap();
        made
    }

    pub async fn delete(&self, vm: VmId) -> Task {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let gone = vms::delete(&mut tx, &self.change(), self.project, &Key::Id(vm.0), None).await.unwrap();
        tx.commit().await.unwrap();
        gone.task
    }

    pub async fn vm(&self, id: VmId) -> Option<VmView> {
        let mut tx = self.store.system_read().await.unwrap();
        vms::get_by_id(&mut tx, id).await.ok()
    }

    pub async fn vms(&self) -> Vec<VmView> {
        let mut tx = self.store.system_read().await.unwrap();
        vms::list_all(&mut tx, &Page { limit: 1000, ..Page::default() }).await.unwrap().items
    }

    pub async fn task(&self, id: TaskId) -> Task {
        let mut tx = self.store.system_read().await.unwrap();
        basalt_store::tasks::get(&mut tx, id).await.unwrap()
    }

    /// Waits until a task ended, and says how.
    pub async fn ended(&self, id: TaskId) -> Task {
        let mut last = None;
        for _ in 0..400 {
            let task = self.task(id).await;
            if task.state.is_terminal() {
                return task;
            }
            last = Some(task);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the task did not end: {last:#?}");
    }

    pub async fn completed(&self, id: TaskId) -> Task {
        let task = self.ended(id).await;
        assert_eq!(task.state, TaskState::Completed, "{task:#?}");
        assert_eq!(task.progress, 100);
        task
    }

    /// Conditions of a VM.
    pub async fn condition(&self, id: VmId, kind: &str) -> Option<basalt_model::Condition> {
        self.vm(id).await?.conditions.into_iter().find(|c| c.kind == kind)
    }
}

/// Waits until something holds, ten seconds at most.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("did not come to pass: {what}");
}
