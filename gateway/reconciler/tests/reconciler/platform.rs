//! A platform in memory, behind the contract of adapters: it keeps what it is told, fails when it is told to, and counts
//! what it was asked. What it lists says in the words of all platforms what it is, so nothing needs to be translated.

use basalt_adapters::{Adapter, Applied, Discovered, Error, Health, LogOptions, Removed, Result};
use basalt_model::{
    CapabilityReason, DateTime, DeploymentId, Epoch,
    artifacts::Source,
    deployments::{
        Endpoint, ErrorClass, LogLine, ObservedWorkload, Owner, PlatformCapabilities, Readiness, SecretText,
        Workload,
    },
    providers::{Platform, ProviderSpec},
};
use basalt_reconciler::{graph::Eyes, platforms::Open};
use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It fails.
    Fails(ErrorClass),
    /// It is done, and the answer is lost.
    DoneAndTimesOut,
    /// It is done, and no answer comes.
    DoneThenHangs,
    /// The adapter panics.
    Panics,
}

/// What the platform was asked, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Deploy(DeploymentId, Epoch),
    Undeploy(DeploymentId, Epoch),
}

#[derive(Clone, Debug)]
pub struct Running {
    pub seen: ObservedWorkload,
    pub name: String,
    pub env: BTreeMap<String, String>,
}

#[derive(Default)]
pub struct State {
    pub running: BTreeMap<String, Running>,
    pub calls: Vec<Call>,
    /// How often something was really made or changed.
    pub made: usize,
    pub fates: VecDeque<Fate>,
    /// Every look fails.
    pub blind: bool,
    /// Every call fails.
    pub away: bool,
    /// The next so many listings leave everything out.
    pub omits: usize,
    pub looks: usize,
    /// Calls that are under way, and how many there were at most, of one owner.
    under_way: BTreeMap<DeploymentId, usize>,
    pub overlaps: usize,
}

/// Handle of a platform; clones are the same one.
#[derive(Clone)]
pub struct FakePlatform {
    pub state: Arc<Mutex<State>>,
    /// Deploys wait for a permit while it has none.
    pub gate: Arc<Semaphore>,
    /// The same of listings: what they saw is told later.
    pub listings: Arc<Semaphore>,
}

pub const EYES: Eyes = Eyes { normalise, revision };

fn normalise(_: Platform, found: &[Discovered]) -> Option<ObservedWorkload> {
    serde_json::from_value(found.first()?.raw.get("seen")?.clone()).ok()
}

fn revision(_: Platform) -> u32 {
    1
}

impl FakePlatform {
    pub fn new() -> Self {
        let open = || Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { state: Arc::default(), gate: open(), listings: open() }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.clone()
    }

    pub fn deploys(&self) -> usize {
        self.calls().iter().filter(|c| matches!(c, Call::Deploy(..))).count()
    }

    pub fn undeploys(&self) -> usize {
        self.calls().iter().filter(|c| matches!(c, Call::Undeploy(..))).count()
    }

    pub fn looks(&self) -> usize {
        self.state.lock().unwrap().looks
    }

    pub fn fates(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state.lock().unwrap().fates.extend(fates);
    }

    /// Deploys stand still from now on.
    pub fn stop_deploys(&self) {
        let all = self.gate.available_permits();
        self.gate.forget_permits(all);
    }

    pub fn go_on(&self) {
        self.gate.add_permits(1_000_000);
    }

    /// The one that runs for a deployment.
    pub fn of(&self, id: DeploymentId) -> Option<Running> {
        let state = self.state.lock().unwrap();
        state.running.values().find(|r| r.seen.owner == Some(id)).cloned()
    }

    pub fn kill(&self, id: DeploymentId) {
        self.state.lock().unwrap().running.retain(|_, r| r.seen.owner != Some(id));
    }

    /// Something that Basalt did not start.
    pub fn stranger(&self, name: &str, owner: Option<DeploymentId>) {
        let seen = ObservedWorkload { owner, ..observed() };
        let running = Running { seen, name: name.into(), env: BTreeMap::new() };
        self.state.lock().unwrap().running.insert(name.into(), running);
    }

    fn fate(&self) -> Result<Option<Fate>> {
        let mut state = self.state.lock().unwrap();
        if state.away {
            return Err(error(ErrorClass::Timeout));
        }
        Ok(state.fates.pop_front())
    }

    async fn deploy_now(&self, workload: &Workload) -> Result<Applied> {
        let id = workload.owner.id;
        {
            let mut state = self.state.lock().unwrap();
            state.calls.push(Call::Deploy(id, workload.epoch));
            let n = state.under_way.entry(id).or_default();
            *n += 1;
            if *n > 1 {
                state.overlaps += 1;
            }
        }
        let _leaves = Leaves(self, id);
        let permit = self.gate.acquire().await.unwrap();
        permit.forget();
        self.gate.add_permits(1);
        match self.fate()? {
            Some(Fate::Fails(class)) => return Err(error(class)),
            Some(Fate::Panics) => panic!("an adapter that panics"),
            Some(Fate::DoneAndTimesOut) => {
                self.write(workload)?;
                return Err(error(ErrorClass::Timeout));
            }
            Some(Fate::DoneThenHangs) => {
                self.write(workload)?;
                return std::future::pending().await;
            }
            None => {}
        }
        self.write(workload)
    }

    fn write(&self, workload: &Workload) -> Result<Applied> {
        let mut state = self.state.lock().unwrap();
        let name = workload.owner.workload_name();
        if matches!(workload.program.source, Source::Remote { .. }) {
            // It runs elsewhere; what ran here before it did so goes.
            let was = state.running.remove(&name);
            return Ok(if was.is_some() { Applied::Changed } else { Applied::Unchanged });
        }
        if let Some(there) = state.running.get(&name) {
            if there.seen.epoch > Some(workload.epoch) {
                return Err(error(ErrorClass::Conflict));
            }
            if there.seen.fingerprint.as_deref() == Some(&workload.fingerprint) && there.seen.drift.is_empty()
            {
                return Ok(Applied::Unchanged);
            }
        }
        state.made += 1;
        let seen = ObservedWorkload {
            owner: Some(workload.owner.id),
            project: Some(workload.owner.project.to_string()),
            fingerprint: Some(workload.fingerprint.clone()),
            generation: Some(workload.generation),
            epoch: Some(workload.epoch),
            kind: Some(workload.target.kind),
            endpoints: vec![Endpoint { name: "http".into(), url: format!("http://{name}/") }],
            ..observed()
        };
        let mut env = workload.env.clone();
        env.extend(workload.secret_env.iter().map(|(k, v)| (k.clone(), v.expose().to_owned())));
        state.running.insert(name.clone(), Running { seen, name, env });
        Ok(Applied::Changed)
    }

    fn list(&self, one: Option<DeploymentId>) -> Result<Vec<Discovered>> {
        let mut state = self.state.lock().unwrap();
        if state.blind || state.away {
            return Err(error(ErrorClass::Timeout));
        }
        if one.is_none() {
            state.looks += 1;
            if state.omits > 0 {
                state.omits -= 1;
                return Ok(Vec::new());
            }
        }
        let all = state.running.values().filter(|r| one.is_none() || r.seen.owner == one);
        let discovered = |r: &Running| Discovered {
            kind: "container".into(),
            namespace: None,
            name: r.name.clone(),
            owner: r.seen.owner,
            raw: serde_json::json!({ "seen": r.seen }),
        };
        Ok(all.map(discovered).collect())
    }
}

struct Leaves<'a>(&'a FakePlatform, DeploymentId);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if let Some(n) = self.0.state.lock().unwrap().under_way.get_mut(&self.1) {
            *n -= 1;
        }
    }
}

pub fn observed() -> ObservedWorkload {
    ObservedWorkload {
        owner: None,
        project: None,
        fingerprint: None,
        generation: None,
        epoch: None,
        kind: None,
        image: Some("image".into()),
        readiness: Readiness::Ready,
        endpoints: Vec::new(),
        drift: Vec::new(),
    }
}

fn error(class: ErrorClass) -> Error {
    let message = format!("the platform says {}", class.as_str());
    let reason = CapabilityReason::new("told_to_fail", "platform", message, "tell it otherwise");
    Error::new(class, reason)
}

impl Adapter for FakePlatform {
    fn revision(&self) -> u32 {
        1
    }

    fn capabilities(&self) -> PlatformCapabilities {
        PlatformCapabilities::default()
    }

    fn health(&self) -> BoxFuture<'_, Result<Health>> {
        let away = self.state.lock().unwrap().away;
        let health = Health { version: "fake 1".into(), limits: Vec::new() };
        async move { if away { Err(error(ErrorClass::Timeout)) } else { Ok(health) } }.boxed()
    }

    fn deploy<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Applied>> {
        self.deploy_now(workload).boxed()
    }

    fn undeploy<'a>(&'a self, owner: &'a Owner, epoch: Epoch) -> BoxFuture<'a, Result<Removed>> {
        async move {
            self.state.lock().unwrap().calls.push(Call::Undeploy(owner.id, epoch));
            match self.fate()? {
                Some(Fate::Fails(class)) => return Err(error(class)),
                Some(Fate::Panics) => panic!("an adapter that panics"),
                Some(Fate::DoneAndTimesOut | Fate::DoneThenHangs) => {
                    self.kill(owner.id);
                    return Err(error(ErrorClass::Timeout));
                }
                None => {}
            }
            let was = self.of(owner.id);
            if was.as_ref().is_some_and(|r| r.seen.epoch > Some(epoch)) {
                return Err(error(ErrorClass::Conflict));
            }
            self.kill(owner.id);
            Ok(if was.is_some() { Removed::Gone } else { Removed::Absent })
        }
        .boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Discovered>>> {
        async {
            let seen = self.list(None);
            let _told = self.listings.acquire().await;
            seen
        }
        .boxed()
    }

    fn observe_one<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<Discovered>>> {
        async { self.list(Some(owner.id)) }.boxed()
    }

    fn logs<'a>(
        &'a self,
        _: &'a Owner,
        _: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<LogLine>>>> {
        let lines = [Ok(LogLine { at: None::<DateTime>, instance: String::new(), line: "hello".into() })];
        async { Ok(Box::pin(futures::stream::iter(lines)) as BoxStream<'static, _>) }.boxed()
    }

    fn adopt<'a>(&'a self, found: &'a Discovered, owner: &'a Owner, _: Epoch) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut state = self.state.lock().unwrap();
            let mut there = state.running.remove(&found.name).ok_or_else(|| error(ErrorClass::Missing))?;
            there.seen.owner = Some(owner.id);
            there.name = owner.workload_name();
            state.running.insert(there.name.clone(), there);
            Ok(())
        }
        .boxed()
    }
}

impl Open for FakePlatform {
    fn open(
        &self,
        _: &ProviderSpec,
        _: Option<&SecretText>,
    ) -> std::result::Result<Arc<dyn Adapter>, Box<Error>> {
        Ok(Arc::new(self.clone()))
    }
}

/// Some time for nothing to happen in.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}
