//! Ten thousand deployments: what an edit costs, and that a pass over what is unchanged costs nothing. The stepper alone.

use crate::{
    platform::{EYES, observed},
    world::name,
};
use basalt_model::{
    DateTime, Epoch, Generation, Labels, Metadata, ProjectId, ProviderId, TenantId,
    artifacts::{ArtifactSpec, Tag},
    attempts::{Action, Applied, Attempted},
    deployments::ObservedWorkload,
};
use basalt_reconciler::{graph::deployments::Due, step::Stepper};
use basalt_store::{
    artifacts::Artifact,
    conditions::Conditions,
    deployments::{Deployment, Status},
    discovered::{Discovered, Thing},
    feed::{Batch, Change, Row},
    providers::Provider,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

const DEPLOYMENTS: u128 = 10_000;
const OF_EACH_AGENT: u128 = 10;
const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const PROJECT: ProjectId = ProjectId(Uuid::from_u128(2));
const PROVIDER: ProviderId = ProviderId(Uuid::from_u128(3));

fn batch(reload: bool, rows: Vec<Row>) -> Batch {
    let change = |row: Row| Change {
        table: row.table(),
        key: row.key(),
        tenant_id: Some(TENANT),
        project_id: Some(PROJECT),
        row: Some(row),
    };
    Batch { cursor: "test:1:1:".parse().unwrap(), reload, changes: rows.into_iter().map(change).collect() }
}

fn metadata(id: u128, of: &str) -> Metadata {
    Metadata {
        id: Uuid::from_u128(id),
        tenant_id: Some(TENANT),
        project_id: Some(PROJECT),
        name: name(of),
        labels: Labels::default(),
        generation: Generation::FIRST,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
        deletion_requested_at: None,
    }
}

fn agent(n: u128, generation: i64, image: &str) -> Row {
    let spec = json!({ "source": { "type": "image", "image": image } });
    let mut metadata = metadata(1_000_000 + n, &format!("a{n}"));
    metadata.generation = Generation(generation);
    Row::Artifact(Arc::new(Artifact {
        metadata,
        tag: Tag::default(),
        spec: ArtifactSpec::Agent(serde_json::from_value(spec).unwrap()),
        content_hash: image.into(),
    }))
}

fn declared() -> Vec<Row> {
    let spec = serde_json::from_value(json!({ "platform": "local" })).unwrap();
    let mut rows = vec![Row::Provider(Arc::new(Provider { metadata: metadata(3, "here"), spec }))];
    rows.extend((0..DEPLOYMENTS / OF_EACH_AGENT).map(|n| agent(n, 1, "one")));
    rows.extend((0..DEPLOYMENTS).map(|n| {
        let target = format!("a{}", n / OF_EACH_AGENT);
        Row::Deployment(Arc::new(Deployment {
            metadata: metadata(2_000_000 + n, &format!("d{n}")),
            spec: crate::deployed::spec(&target, json!({})),
            provider_id: PROVIDER,
            force: None,
            orphan: false,
            adopts: None,
        }))
    }));
    rows
}

/// What is stored and seen once an attempt went well.
fn carried_out(due: &Due) -> [Row; 2] {
    let (id, request) = (due.order.owner.id, &due.request);
    let attempted = Attempted {
        action: Some(Action::Deploy),
        epoch: Epoch(1),
        generation: request.generation,
        fingerprint: request.fingerprint.clone(),
        ..Attempted::default()
    };
    let applied = Applied {
        generation: request.generation,
        fingerprint: request.fingerprint.clone(),
        dependencies: request.dependencies.clone(),
        epoch: Epoch(1),
        endpoints: Vec::new(),
    };
    let seen = ObservedWorkload {
        owner: Some(id),
        fingerprint: Some(request.fingerprint.clone()),
        epoch: Some(Epoch(1)),
        ..observed()
    };
    let status = Status {
        deployment_id: id,
        tenant_id: TENANT,
        project_id: PROJECT,
        begun: Epoch(1),
        ended: Epoch(1),
        attempted: Some(attempted),
        applied: Some(applied),
        next_retry_at: None,
        repairs: Vec::new(),
        standing: None,
    };
    let discovered = Discovered {
        id: Uuid::from_u128(id.0.as_u128() + 1_000_000),
        tenant_id: TENANT,
        project_id: PROJECT,
        provider_id: PROVIDER,
        thing: Thing {
            kind: "container".into(),
            namespace: String::new(),
            name: due.order.owner.workload_name(),
            owner: Some(id),
            workload: true,
            raw: json!({ "seen": seen }),
        },
        misses: 0,
    };
    [Row::DeploymentStatus(Arc::new(status)), Row::DiscoveredLocal(Arc::new(discovered))]
}

/// Everything deployed, judged and written down.
fn at_rest() -> (Stepper, Vec<Row>) {
    let mut stepper = Stepper::with_eyes(EYES).unwrap();
    let mut rows = declared();
    stepper.take(&batch(true, rows.clone()), Duration::ZERO);
    let (snapshot, nodes) = stepper.snapshot();
    assert_eq!(snapshot.len(&nodes.deployments.due), DEPLOYMENTS as usize, "all are new");
    let done: Vec<Row> =
        snapshot.rows(&nodes.deployments.due).flat_map(|(_, due)| carried_out(due)).collect();
    stepper.take(&batch(false, done.clone()), Duration::ZERO);
    let (snapshot, nodes) = stepper.snapshot();
    let judged: Vec<Row> = done
        .into_iter()
        .map(|row| match row {
            Row::DeploymentStatus(status) => {
                let standing = snapshot.get(&nodes.deployments.judged, &status.deployment_id);
                let standing = standing.map(|s| (**s).clone());
                Row::DeploymentStatus(Arc::new(Status { standing, ..(*status).clone() }))
            }
            other => other,
        })
        .collect();
    rows.extend(judged);
    rows.extend(
        snapshot.rows(&nodes.conditions).map(|(_, c)| Row::Conditions(Arc::new(Conditions::clone(c)))),
    );
    stepper.take(&batch(true, rows.clone()), Duration::ZERO);
    (stepper, rows)
}

/// How many attempts and writes there are to be made.
fn work(stepper: &mut Stepper) -> (usize, usize) {
    let now = Duration::from_secs(1);
    let attempts = std::iter::from_fn(|| stepper.attempt(now)).count();
    let writes = std::iter::from_fn(|| stepper.step(now)).map(|effect| effect.len()).sum();
    (attempts, writes)
}

fn runs(stepper: &Stepper, of: &str) -> u64 {
    let counters = stepper.graph().counters();
    let found = counters.iter().find(|(name, _)| *name == of).unwrap();
    found.1.runs
}

#[test]
fn dp52_an_edit_of_one_agent_is_the_work_of_its_ten_deployments() {
    let (mut stepper, _) = at_rest();
    assert_eq!(work(&mut stepper), (0, 0));
    let before = runs(&stepper, "deployment_views");
    stepper.take(&batch(false, vec![agent(7, 2, "two")]), Duration::ZERO);
    assert_eq!(runs(&stepper, "deployment_views") - before, 10);
    let (snapshot, nodes) = stepper.snapshot();
    assert_eq!(snapshot.len(&nodes.deployments.due), 10);
    let (attempts, _) = work(&mut stepper);
    assert!((4..=10).contains(&attempts), "four at once at one provider: {attempts}");
}

#[test]
fn dp17_dp53_a_pass_over_what_is_unchanged_asks_and_writes_nothing() {
    let (mut stepper, rows) = at_rest();
    let before = runs(&stepper, "deployment_views");
    stepper.take(&batch(true, rows), Duration::ZERO);
    assert_eq!(work(&mut stepper), (0, 0));
    assert_eq!(runs(&stepper, "deployment_views"), before, "equal rows are no news");
    // An agent that nobody runs.
    stepper.take(&batch(false, vec![agent(900_000, 1, "one")]), Duration::ZERO);
    assert_eq!(runs(&stepper, "deployment_views"), before);
    assert_eq!(work(&mut stepper), (0, 0));
}
