//! From the database to the hands: an agent is edited, and its deployments are among thousands that are as wanted.

use super::{Figure, Latencies, Size, ms};
use crate::truth::Truth;
use anyhow::{Context, Result, ensure};
use basalt_adapters::Discovered;
use basalt_daemon::{Clock, SystemClock};
use basalt_model::{
    Epoch, Labels, Name, ProjectId, TenantId,
    artifacts::{ArtifactKind, ArtifactSpec, Tag},
    attempts::{Applied, AttemptOutcome, Attempted, ReconcileEvent},
    deployments::{DeploymentSpec, ObservedWorkload, Readiness},
    providers::Platform,
    tasks::Actor,
};
use basalt_reconciler::{
    dispatch::Ended,
    graph::{Eyes, deployments::Due},
    step::Stepper,
};
use basalt_store::{
    Change, Feed, Ids, New, Options, Store, Update,
    artifacts::{self, ArtifactKey},
    attempts::{self, Applies, Record, Wanted},
    deployments,
    discovered::Thing,
    feed::Cursor,
    leases::{self, Lease},
    projects, providers, tenants,
    work::Executor,
};
use krt::Finish;
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Deployments of one agent, each at a provider of its own, so that none waits for another.
const DEPENDENTS: usize = 10;
/// What is written in one transaction.
const PORTION: usize = 500;

/// The project that is measured, and what the engine knows of it.
struct Yard {
    store: Store,
    stepper: Stepper,
    cursor: Cursor,
    began: Instant,
    tenant: TenantId,
    project: ProjectId,
}

fn change() -> Change {
    let ids: Ids = Arc::new(|| SystemClock.new_id());
    Change { actor: Actor::system("bench"), request_id: None, now: SystemClock.now(), ids }
}

fn agent(says: usize) -> Result<ArtifactSpec> {
    let spec = json!({ "source": { "type": "image", "image": "example/agent:1" }, "env": { "SAYS": says.to_string() } });
    Ok(ArtifactSpec::Agent(serde_json::from_value(spec)?))
}

/// From the answer of the commit that edits an agent until its ten deployments are handed to those who carry them out.
pub async fn measure(size: &Size) -> Result<Vec<Figure>> {
    let truth = Truth::durable().await?;
    let began = Instant::now();
    let mut yard = Yard::filled(&truth, size.rows).await?;
    let filled = began.elapsed();
    let exchange = {
        let store = yard.store.clone();
        tokio::spawn(async move { store.exchange_news(|| 0.0).await })
    };
    let (mut took, mut derived) = (Vec::new(), Vec::new());
    for n in 0..size.samples {
        let (all, inside) = yard.edit(n % (size.rows / DEPENDENTS), n + 1).await?;
        took.push(all);
        derived.push(inside);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    exchange.abort();
    let (took, derived) = (Latencies::new(took), Latencies::new(derived));
    let reached = took.quantile(0.99) < Duration::from_millis(50);
    let what = format!("an agent is edited → {DEPENDENTS} work items, of {} deployments", size.rows);
    Ok(vec![Figure::new(what, took.text()).target("p99 < 50 ms", reached).floor(format!(
        "{} of it p50 in the engine; made ready in {:.0} s",
        ms(derived.quantile(0.5)),
        filled.as_secs_f64()
    ))])
}

impl Yard {
    /// So many deployments, all carried out.
    async fn filled(truth: &Truth, rows: usize) -> Result<Self> {
        let options = Options { max_connections: 4, ..Options::default() };
        let store = Store::connect(&truth.url, options).await?;
        let (tenant, project) = declare(&store, rows).await?;
        let mut stepper = Stepper::with_eyes(Eyes { normalise, revision: |_| 1 })?;
        let batch = Feed::new(&store).bootstrap().await?;
        let cursor = batch.cursor.clone();
        stepper.take(&batch, Duration::ZERO);
        let mut yard = Self { store, stepper, cursor, began: Instant::now(), tenant, project };
        let due = yard.due();
        ensure!(due.len() == rows, "{} of {rows} deployments are new", due.len());
        for portion in due.chunks(PORTION) {
            carry_out(&yard.store, portion).await?;
        }
        yard.pull().await?;
        let now = yard.began.elapsed();
        while yard.stepper.attempt(now).is_some() {}
        let left = yard.due();
        ensure!(
            left.is_empty(),
            "{} are not as wanted: {:?}",
            left.len(),
            left.first().map(|due| &due.request)
        );
        Ok(yard)
    }

    fn due(&self) -> Vec<Arc<Due>> {
        let (snapshot, nodes) = self.stepper.snapshot();
        snapshot.rows(&nodes.deployments.due).map(|(_, due)| Arc::new(Due::clone(due))).collect()
    }

    async fn pull(&mut self) -> Result<Duration> {
        let batch = Feed::new(&self.store).pull(&self.cursor).await?;
        self.cursor = batch.cursor.clone();
        let began = Instant::now();
        self.stepper.take(&batch, self.began.elapsed());
        Ok(began.elapsed())
    }

    /// Edits an agent, waits for the work, and carries it out. Gives how long it took until the work was there, and how
    /// much of that was the engine's.
    async fn edit(&mut self, agent_number: usize, says: usize) -> Result<(Duration, Duration)> {
        let mut news = self.store.changed();
        news.mark_unchanged();
        let mut tx = self.store.tenant(self.tenant).await?;
        let key = ArtifactKey::parse(ArtifactKind::Agent, &format!("a{agent_number}"))?;
        let update = Update { expected: None, labels: None, spec: agent(says)? };
        artifacts::update(&mut tx, &change(), self.project, &key, &update).await?;
        tx.commit().await?;
        let began = Instant::now();
        let (mut starts, mut inside) = (Vec::new(), Duration::ZERO);
        for _ in 0..10 {
            if let Ok(changed) = tokio::time::timeout(Duration::from_secs(1), news.changed()).await {
                changed?;
            }
            inside += self.pull().await?;
            let now = self.began.elapsed();
            starts.extend(std::iter::from_fn(|| self.stepper.attempt(now)));
            if starts.len() >= DEPENDENTS {
                break;
            }
        }
        let took = began.elapsed();
        ensure!(starts.len() == DEPENDENTS, "{} work items came", starts.len());
        let due: Vec<Arc<Due>> = starts.iter().map(|s| s.due.clone()).collect();
        carry_out(&self.store, &due).await?;
        self.pull().await?;
        for start in starts {
            let ended = Ended { id: start.id, finish: Finish::Done, written: None, answer: Some(Ok(())) };
            self.stepper.attempted(ended, self.began.elapsed());
        }
        ensure!(self.due().is_empty(), "all of it is as wanted again");
        Ok((took, inside))
    }
}

/// Registers agents and providers, and declares the deployments.
async fn declare(store: &Store, rows: usize) -> Result<(TenantId, ProjectId)> {
    let mut tx = store.system().await?;
    let tenant = tenants::insert(&mut tx, &change(), &Name::new("bench")?, &Labels::default()).await?.id();
    let name = Name::new("bench")?;
    let project = projects::insert(&mut tx, &change(), tenant, &name, &Labels::default(), None).await?.id();
    tx.commit().await?;
    let mut tx = store.tenant(tenant).await?;
    for n in 0..DEPENDENTS {
        let spec = serde_json::from_value(json!({ "platform": "local" }))?;
        let new = New { name: Name::new(format!("p{n}"))?, labels: Labels::default(), spec };
        providers::insert(&mut tx, &change(), project, &new).await?;
    }
    for n in 0..rows / DEPENDENTS {
        let new = New { name: Name::new(format!("a{n}"))?, labels: Labels::default(), spec: agent(0)? };
        artifacts::insert(&mut tx, &change(), project, &Tag::default(), &new).await?;
    }
    for n in 0..rows {
        let (agent, provider) = (n / DEPENDENTS, n % DEPENDENTS);
        let spec = json!({ "target": { "kind": "agent", "name": format!("a{agent}") }, "provider": format!("p{provider}") });
        let spec: DeploymentSpec = serde_json::from_value(spec)?;
        let new = New { name: Name::new(format!("d{n}"))?, labels: Labels::default(), spec };
        deployments::insert(&mut tx, &change(), project, &new, None).await?;
    }
    tx.commit().await?;
    Ok((tenant, project))
}

/// What runs then, in the words of all platforms.
fn thing(due: &Due, epoch: Epoch) -> Thing {
    let seen = ObservedWorkload {
        owner: Some(due.order.owner.id),
        project: None,
        fingerprint: Some(due.request.fingerprint.clone()),
        generation: None,
        epoch: Some(epoch),
        kind: None,
        image: None,
        readiness: Readiness::Ready,
        endpoints: Vec::new(),
        drift: Vec::new(),
    };
    Thing {
        kind: "container".into(),
        namespace: String::new(),
        name: due.order.owner.workload_name(),
        owner: seen.owner,
        workload: true,
        raw: json!(seen),
    }
}

fn normalise(_: Platform, found: &[Discovered]) -> Option<ObservedWorkload> {
    serde_json::from_value(found.first()?.raw.clone()).ok()
}

/// Writes down that what is due was carried out.
async fn carry_out(store: &Store, due: &[Arc<Due>]) -> Result<()> {
    let executor = Executor { id: Uuid::from_u128(1), start: Uuid::from_u128(2) };
    let mut tx = store.system().await?;
    let now = SystemClock.now();
    let lease: Lease =
        leases::acquire(&mut tx, "bench", executor.id, now, 3600, None).await?.context("a lease")?;
    for due in due {
        let (id, request) = (due.order.owner.id, &due.request);
        let wanted = Wanted { deployment_id: id, generation: request.generation, after: request.after };
        let claim = attempts::claim(&mut tx, wanted, &lease, executor, now).await?.context("a claim")?;
        let change = change();
        let event = ReconcileEvent {
            id: attempts::event_id(&change),
            generation: request.generation,
            epoch: claim.epoch,
            action: request.action,
            attempt: 1,
            outcome: AttemptOutcome::Success,
            causes: request.causes.clone(),
            error: None,
            fingerprint: request.fingerprint.clone(),
            started_at: now,
            completed_at: now,
            next_retry_at: None,
        };
        let attempted = Attempted {
            action: Some(request.action),
            epoch: claim.epoch,
            generation: request.generation,
            fingerprint: request.fingerprint.clone(),
            ..Attempted::default()
        };
        let applied = Applied {
            generation: request.generation,
            fingerprint: request.fingerprint.clone(),
            dependencies: request.dependencies.clone(),
            epoch: claim.epoch,
            endpoints: Vec::new(),
        };
        let record = Record {
            attempted: Some(attempted),
            applied: Applies::This(Box::new(applied)),
            next_retry_at: None,
            repair: false,
            event,
            seen: Some((Platform::Local, due.order.provider.id(), vec![thing(due, claim.epoch)])),
        };
        ensure!(attempts::record(&mut tx, &change, claim, &record).await?, "the claim stands");
    }
    tx.commit().await.map_err(Into::into)
}
