//! Deployments: what each is to be made from, whether that runs, and what is to be done about it.
//!
//! ```text
//! discovered ─► sights ──────────────┐
//! deployments, what was tried ───────┼─► views ─┬─► due          ─► the hands (`platforms`)
//! artifacts, secrets, providers ─────┤          ├─► judged       ─► handlers/deployments
//! addresses (of what is referred to) ┘          └─► conditions, removals
//! ```

use super::{Inputs, status};
use crate::rows::{DiscoveredRow, PastRow, as_shown};
use basalt_adapters::Discovered;
use basalt_model::{
    ArtifactId, CapabilityReason, Condition, DeploymentId, Epoch, Generation, Name, ProjectId, ProviderId,
    SecretId, TenantId,
    artifacts::{ArtifactKind, ArtifactRef, ArtifactSpec, Env, EnvValue, Source, Transport},
    attempts::{Dependency, Standing},
    deployments::{
        DeploymentSpec, DesiredState, KubernetesSettings, LocalSettings, ObservedWorkload, Owner, Program,
        Resources,
    },
    providers::Platform,
};
use basalt_plan::deployments::{
    self, MISSES_GONE, Named, Next, Past, Place, Request, Seen, Situation, Target, not_registered,
};
use basalt_store::{
    artifacts::Artifact,
    conditions::Conditions,
    deployments::{Adopted, Deployment},
    discovered::MAX_FAILURES,
    providers::Provider,
    secrets::Secret,
};
use krt::{Builder, Collection, Ctx, Index};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// How what platforms show is read: pure functions of the adapters, or of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Eyes {
    /// What the things of one owner come to.
    pub normalise: fn(Platform, &[Discovered]) -> Option<ObservedWorkload>,
    /// How things are realised; when it grows, all is applied anew.
    pub revision: fn(Platform) -> u32,
}

impl Default for Eyes {
    fn default() -> Self {
        Self { normalise: basalt_adapters::normalise, revision: basalt_adapters::revision }
    }
}

/// What was seen of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// It is there.
    There(Box<ObservedWorkload>),
    /// It was not there at so many looks in a row.
    Absent(u32),
}

/// Where something is reached that others may refer to.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    project: ProjectId,
    target: ArtifactRef,
    provider: ProviderId,
    name: Name,
    url: String,
}

/// Everything that is said of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    tenant_id: Option<TenantId>,
    project_id: Option<ProjectId>,
    next: Next,
    standing: Standing,
    conditions: Vec<Condition>,
    order: Option<Order>,
}

/// An attempt that is due, with all that it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// What is to be done, and why.
    pub request: Request,
    /// All that it takes.
    pub order: Order,
}

/// What it takes to carry out an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The project, by whose names secrets are found.
    pub project_id: ProjectId,
    /// Where.
    pub provider: Arc<Provider>,
    /// Generation of the secret by which one gets in there.
    pub access: Option<Generation>,
    /// Whose it is.
    pub owner: Owner,
    /// What it takes over instead of being made, the first time.
    pub adopts: Option<Adopted>,
    /// What runs; none when it is taken away.
    pub draft: Option<Draft>,
}

/// A workload without the values of its secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What runs.
    pub target: ArtifactRef,
    /// The program.
    pub program: Program,
    /// Variables in plain text.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets.
    pub secret_env: BTreeMap<String, Name>,
    /// The generations of those secrets that count.
    pub secrets: BTreeMap<Name, Generation>,
    /// What it may use.
    pub resources: Resources,
    /// Settings that only Kubernetes has.
    pub kubernetes: KubernetesSettings,
    /// Settings that only a local engine has.
    pub local: LocalSettings,
}

/// What is read by others.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// Everything that is said of deployments.
    pub views: Collection<DeploymentId, View>,
    /// Attempts that are due, now or after a pause.
    pub due: Collection<DeploymentId, Due>,
    /// Standings that are not stored yet.
    pub judged: Collection<DeploymentId, Standing>,
    /// Conditions that are not stored yet, undated.
    pub conditions: Collection<Uuid, Conditions>,
    /// Deployments of which nothing is left but their rows.
    pub forgotten: Collection<DeploymentId, ()>,
}

type ByRef<V, K> = Index<K, V, (ProjectId, ArtifactRef)>;

#[derive(Clone, Copy)]
struct Known {
    artifacts: ByRef<Artifact, ArtifactId>,
    secrets: Index<SecretId, Secret, (ProjectId, Name)>,
    addresses: ByRef<Address, DeploymentId>,
    sights: Collection<DeploymentId, Sight>,
    revision: fn(Platform) -> u32,
}

/// Declares everything about deployments.
pub(super) fn declare(builder: &mut Builder, inputs: &Inputs, eyes: Eyes) -> Outputs {
    let inputs = *inputs;
    let artifacts = builder.index("artifacts_by_reference", &inputs.artifacts, |_, a: &Artifact| {
        a.metadata.project_id.map(|project| (project, reference(a)))
    });
    let secrets = builder.index("secrets_by_name", &inputs.secrets, |_, s: &Secret| {
        s.metadata.project_id.map(|project| (project, s.metadata.name.clone()))
    });
    let sights = sights(builder, &inputs, eyes);
    let addresses = addresses(builder, &inputs);
    let addresses = builder.index("addresses_by_target", &addresses, |_, a| [(a.project, a.target.clone())]);
    let known = Known { artifacts, secrets, addresses, sights, revision: eyes.revision };
    let views = builder.derive("deployment_views", &inputs.deployments, move |ctx, id, deployment| {
        view(ctx, &inputs, known, *id, deployment)
    });
    let due = builder.derive("deployments_due", &views, |_, _, view| match (&view.next, &view.order) {
        (Next::Attempt(request), Some(order)) => Some(Due { request: request.clone(), order: order.clone() }),
        _ => None,
    });
    let judged = builder.derive("deployments_judged", &views, move |ctx, id, view| {
        let stored = ctx.get(&inputs.standings, id);
        (stored.is_none_or(|s| **s != view.standing)).then(|| view.standing.clone())
    });
    let conditions = builder.derive_many("deployment_conditions", &views, move |ctx, id, view| {
        let of = Some((view.tenant_id, view.project_id));
        status::unless_stored(ctx, &inputs, "deployment", id.0, of, view.conditions.clone())
    });
    let forgotten = builder
        .derive("deployments_forgotten", &views, |_, _, view| (view.next == Next::Forget).then_some(()));
    Outputs { views, due, judged, conditions, forgotten }
}

fn reference(artifact: &Artifact) -> ArtifactRef {
    ArtifactRef {
        kind: artifact.spec.kind(),
        name: artifact.metadata.name.clone(),
        tag: artifact.tag.clone(),
    }
}

fn sights(builder: &mut Builder, inputs: &Inputs, eyes: Eyes) -> Collection<DeploymentId, Sight> {
    let owned =
        builder.index("discovered_by_owner", &inputs.discovered, |_, row: &DiscoveredRow| row.0.thing.owner);
    builder.derive("sights", &inputs.deployments, move |ctx, id, deployment| {
        let rows: Vec<&DiscoveredRow> = ctx
            .lookup(&owned, id)
            .map(|(_, row)| &**row)
            .filter(|row| row.0.provider_id == deployment.provider_id)
            .collect();
        let there: Vec<Discovered> =
            rows.iter().filter(|r| r.0.misses == 0).map(|r| as_shown(&r.0.thing)).collect();
        let fewest = rows.iter().map(|r| r.0.misses).min()?;
        if there.is_empty() {
            return Some(Sight::Absent(fewest.unsigned_abs()));
        }
        (eyes.normalise)(rows[0].1, &there).map(Box::new).map(Sight::There)
    })
}

/// Where deployments are reached. It changes with what was applied, and not with how that is.
fn addresses(builder: &mut Builder, inputs: &Inputs) -> Collection<DeploymentId, Address> {
    let inputs = *inputs;
    builder.derive("addresses", &inputs.deployments, move |ctx, id, deployment| {
        let metadata = &deployment.metadata;
        let wanted = deployment.spec.desired_state == DesiredState::Deployed;
        if metadata.deletion_requested_at.is_some() || !wanted {
            return None;
        }
        let url = ctx.project(&inputs.pasts, id, |past: &PastRow| {
            past.applied.as_ref().and_then(|a| a.endpoints.first()).map(|e| e.url.clone())
        });
        Some(Address {
            project: metadata.project_id?,
            target: deployment.spec.target.clone(),
            provider: deployment.provider_id,
            name: metadata.name.clone(),
            url: url.flatten()?,
        })
    })
}

fn view(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    known: Known,
    id: DeploymentId,
    deployment: &Deployment,
) -> Option<View> {
    let (metadata, spec) = (&deployment.metadata, &deployment.spec);
    let project = metadata.project_id?;
    let provider = ctx.get(&inputs.providers, &deployment.provider_id)?;
    let artifact = find(ctx, known, project, &spec.target);
    let empty = PastRow::default();
    let past = ctx.get(&inputs.pasts, &id).map_or(&empty, |p| &**p);
    let (references, told) = references(ctx, known, project, deployment.provider_id, artifact);
    let env = env(artifact, spec);
    let secrets = secrets(ctx, known, project, &env);
    let unreachable = unreachable(ctx, inputs, provider);
    let access = provider.spec.secret().map(|named| secret(ctx, known, project, &named.secret));
    let situation = Situation {
        generation: metadata.generation,
        spec,
        deleting: metadata.deletion_requested_at.is_some(),
        orphan: deployment.orphan,
        force: deployment.force,
        target: target(artifact, &spec.target),
        place: place(known, provider, access.as_ref(), unreachable.as_ref()),
        references,
        secrets: secrets.clone(),
        past: Past {
            attempted: past.attempted.as_ref(),
            applied: past.applied.as_ref(),
            begun: past.begun,
            ended: past.ended,
            flapping: ctx.exists(&inputs.flapping, &id),
        },
        seen: seen(ctx, known, &id, past),
    };
    let next = deployments::next(&situation);
    let draft = |artifact: &Artifact| draft(artifact, deployment, env, &secrets, told);
    let order = matches!(next, Next::Attempt(_)).then(|| Order {
        project_id: project,
        provider: Arc::clone(provider),
        access: match access {
            Some(Named::Found((_, generation))) => Some(generation),
            _ => None,
        },
        owner: Owner {
            id,
            project: project_name(ctx, inputs, project),
            name: metadata.name.clone(),
            namespace: spec.namespace_at(&provider.spec),
        },
        adopts: deployment.adopts.clone().filter(|_| past.applied.is_none()),
        draft: artifact.map(draft),
    });
    Some(View {
        tenant_id: metadata.tenant_id,
        project_id: metadata.project_id,
        standing: deployments::standing(&situation, &next),
        conditions: deployments::conditions(&situation, &next),
        next,
        order,
    })
}

fn place<'a>(
    known: Known,
    provider: &'a Provider,
    access: Option<&Named<(SecretId, Generation)>>,
    unreachable: Option<&'a CapabilityReason>,
) -> Named<Place<'a>> {
    match access {
        Some(Named::Missing(reason)) => Named::Missing(reason.clone()),
        _ => Named::Found(Place {
            id: provider.id(),
            generation: provider.metadata.generation,
            spec: &provider.spec,
            revision: (known.revision)(provider.spec.platform()),
            unreachable,
        }),
    }
}

fn target<'a>(artifact: Option<&'a Artifact>, reference: &ArtifactRef) -> Named<Target<'a>> {
    match artifact {
        None => Named::Missing(not_registered(reference)),
        Some(artifact) => Named::Found(Target {
            id: artifact.id(),
            generation: artifact.metadata.generation,
            spec: &artifact.spec,
            content_hash: &artifact.content_hash,
        }),
    }
}

fn seen<'a>(ctx: &Ctx<'a>, known: Known, id: &DeploymentId, past: &PastRow) -> Seen<'a> {
    match ctx.get(&known.sights, id).map(|s| &**s) {
        Some(Sight::There(seen)) => Seen::There(seen),
        Some(Sight::Absent(misses)) => Seen::Absent(*misses),
        // What was applied was seen; its rows went when it had not been there for long.
        None if past.applied.is_some() => Seen::Absent(MISSES_GONE),
        None => Seen::NotYet,
    }
}

fn project_name(ctx: &Ctx<'_>, inputs: &Inputs, project: ProjectId) -> Name {
    let known = ctx.project(&inputs.projects, &project, |p| p.0.clone());
    known.unwrap_or_else(|| Name::new(format!("p-{project}")).unwrap_or_else(|_| unreachable!("a DNS label")))
}

fn unreachable(ctx: &Ctx<'_>, inputs: &Inputs, provider: &Provider) -> Option<CapabilityReason> {
    let status = ctx.get(&inputs.provider_status, &provider.id())?;
    status.error.clone().filter(|_| status.failures >= MAX_FAILURES)
}

fn find<'a>(
    ctx: &Ctx<'a>,
    known: Known,
    project: ProjectId,
    reference: &ArtifactRef,
) -> Option<&'a Artifact> {
    ctx.lookup(&known.artifacts, &(project, reference.clone())).map(|(_, a)| &**a).next()
}

fn secret(ctx: &Ctx<'_>, known: Known, project: ProjectId, name: &Name) -> Named<(SecretId, Generation)> {
    let found = ctx.lookup(&known.secrets, &(project, name.clone())).map(|(_, s)| s).next();
    match found {
        Some(secret) => Named::Found((secret.id(), secret.metadata.generation)),
        None => Named::Missing(CapabilityReason::new(
            "secret_missing",
            format!("secret/{name}"),
            "there is no secret of this name",
            format!("basalt create secret {name} --file -"),
        )),
    }
}

/// Variables of the artifact, overruled by those of the deployment.
fn env(artifact: Option<&Artifact>, spec: &DeploymentSpec) -> Env {
    let mut env = artifact.map(|a| a.spec.env().clone()).unwrap_or_default();
    env.extend(spec.env.clone());
    env
}

type Secrets = Vec<(Name, Named<(SecretId, Generation)>)>;

fn secrets(ctx: &Ctx<'_>, known: Known, project: ProjectId, env: &Env) -> Secrets {
    let names = env.values().filter_map(|value| match value {
        EnvValue::Secret(named) => Some(&named.secret),
        EnvValue::Text(_) => None,
    });
    let names: BTreeSet<&Name> = names.collect();
    names.into_iter().map(|name| (name.clone(), secret(ctx, known, project, name))).collect()
}

/// What an artifact refers to: as something that it is made from, and by name and address for what it is told.
fn references(
    ctx: &Ctx<'_>,
    known: Known,
    project: ProjectId,
    provider: ProviderId,
    artifact: Option<&Artifact>,
) -> (Vec<Named<Dependency>>, Vec<(ArtifactRef, String)>) {
    let (mut found, mut told) = (Vec::new(), Vec::new());
    for reference in artifact.into_iter().flat_map(|a| a.spec.references()) {
        let Some(other) = find(ctx, known, project, &reference) else {
            found.push(Named::Missing(not_registered(&reference)));
            continue;
        };
        match address(ctx, known, project, provider, &reference, other) {
            None => found.push(Named::Missing(CapabilityReason::new(
                "not_deployed",
                reference.to_string(),
                "nothing of it is deployed yet, so it has no address to be told",
                format!("deploy it: basalt create deployment NAME --target {reference} --provider PROVIDER"),
            ))),
            Some(url) => {
                found.push(Named::Found(Dependency {
                    what: reference.to_string(),
                    id: other.metadata.id,
                    generation: other.metadata.generation,
                    value: format!("{} {url}", other.content_hash),
                }));
                told.push((reference, url));
            }
        }
    }
    (found, told)
}

/// Where what is referred to is reached: at the same provider if it is there, else at any.
fn address(
    ctx: &Ctx<'_>,
    known: Known,
    project: ProjectId,
    provider: ProviderId,
    reference: &ArtifactRef,
    artifact: &Artifact,
) -> Option<String> {
    if let Source::Remote { url } = source(&artifact.spec) {
        return Some(url.clone());
    }
    let all = ctx.lookup(&known.addresses, &(project, reference.clone())).map(|(_, address)| address);
    let nearest = all.min_by_key(|address| (address.provider != provider, &address.name))?;
    Some(nearest.url.clone())
}

fn source(spec: &ArtifactSpec) -> &Source {
    match spec {
        ArtifactSpec::Agent(agent) => &agent.source,
        ArtifactSpec::Server(server) => &server.source,
    }
}

fn program(spec: &ArtifactSpec) -> Program {
    match spec {
        ArtifactSpec::Agent(agent) => Program {
            source: agent.source.clone(),
            transport: Transport::StreamableHttp { port: agent.port, path: "/".into() },
            command: agent.command.clone(),
            args: agent.args.clone(),
            health: agent.health.clone(),
        },
        ArtifactSpec::Server(server) => Program {
            source: server.source.clone(),
            transport: server.transport.clone(),
            command: server.command.clone(),
            args: server.args.clone(),
            health: server.health.clone(),
        },
    }
}

fn draft(
    artifact: &Artifact,
    deployment: &Deployment,
    env: Env,
    secrets: &Secrets,
    told: Vec<(ArtifactRef, String)>,
) -> Draft {
    let spec = &deployment.spec;
    let (mut plain, mut secret_env) = (BTreeMap::new(), BTreeMap::new());
    for (kind, variable) in [(ArtifactKind::Server, "BASALT_SERVERS"), (ArtifactKind::Agent, "BASALT_AGENTS")]
    {
        let of_kind = told.iter().filter(|(reference, _)| reference.kind == kind);
        let by_name: serde_json::Map<String, serde_json::Value> = of_kind
            .map(|(reference, url)| (reference.name.to_string(), serde_json::json!({ "url": url })))
            .collect();
        if !by_name.is_empty() {
            plain.insert(variable.to_owned(), serde_json::Value::Object(by_name).to_string());
        }
    }
    for (name, value) in env {
        match value {
            EnvValue::Text(text) => drop(plain.insert(name, text)),
            EnvValue::Secret(named) => drop(secret_env.insert(name, named.secret)),
        }
    }
    let generation = |(name, found): &(Name, Named<(SecretId, Generation)>)| match found {
        Named::Found((_, generation)) => Some((name.clone(), *generation)),
        Named::Missing(_) => None,
    };
    Draft {
        target: spec.target.clone(),
        program: program(&artifact.spec),
        env: plain,
        secret_env,
        secrets: secrets.iter().filter_map(generation).collect(),
        resources: spec.resources.clone(),
        kubernetes: spec.kubernetes.clone().unwrap_or_default(),
        local: spec.local.clone().unwrap_or_default(),
    }
}

impl Due {
    /// Whether an attempt that was begun for the other one is for this one too.
    pub fn is_for(&self, other: &Self) -> bool {
        let of = |due: &Self| {
            let r = &due.request;
            (r.action, r.generation, r.fingerprint.clone(), r.force)
        };
        of(self) == of(other)
    }

    /// The attempt that it comes after.
    pub fn after(&self) -> Epoch {
        self.request.after
    }

    /// Where.
    pub fn provider_id(&self) -> ProviderId {
        self.order.provider.id()
    }
}
