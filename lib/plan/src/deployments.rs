//! Deployments: whether what runs at a provider is what is wanted, what is to be done about it, and why.
//!
//! ```text
//!  declared ─► target, dependencies, secrets, provider resolved? ─no─► blocked, and named
//!                      │ yes
//!              fingerprint ─ the one that was applied, and seen? ─yes─► nothing
//!                      │ no                          │ seen to differ, or gone
//!                      ▼                             ▼ on_drift
//!                 an attempt ◄── back-off ── failed ── reapply, slower when it flaps | report
//! ```
//!
//! The clock is no input. What is to be tried again says how long after the last attempt, and whoever carries it out counts
//! that by time that only goes forward.

use basalt_model::{
    ArtifactId, CapabilityReason, DeploymentId, Epoch, Generation, Name, ProviderId, SecretId,
    artifacts::{ArtifactKind, ArtifactRef, ArtifactSpec},
    deployments::{DeploymentSpec, DesiredState, ErrorClass, ObservedWorkload, OnDrift, Readiness},
    providers::ProviderSpec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, time::Duration};
use uuid::Uuid;

/// First pause after an attempt that failed; it doubles.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// After so many failed attempts in a row it is called failed; it is tried on all the same.
pub const FAILED_AFTER: u32 = 5;
/// More repairs of drift than this within an hour are flapping.
pub const REPAIRS_AN_HOUR: usize = 6;
/// Pause between repairs of what flaps.
pub const FLAPPING_PAUSE: Duration = Duration::from_secs(600);
/// Looks in a row at which something was not there before it counts as gone: a listing may leave out once what is there.
pub const MISSES_GONE: u32 = 2;

/// What an attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Makes the platform run it.
    Deploy,
    /// Takes it away; the deployment stays.
    Undeploy,
    /// Takes it away, and the deployment with it.
    Delete,
}

/// One thing that what runs was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependency {
    /// `agent/planner:latest`, `secret/model-key`, `provider/cluster`.
    pub what: String,
    /// Its id: one that was removed and made anew is another.
    pub id: Uuid,
    /// Its generation.
    pub generation: Generation,
    /// What it comes to, where there is more to it than its generation: a hash, an address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// Something that a deployment names.
#[derive(Clone, Debug, PartialEq)]
pub enum Named<T> {
    /// It is there.
    Found(T),
    /// It is not: why, and what would help.
    Missing(CapabilityReason),
}

/// What is registered under a reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Target<'a> {
    /// Its id.
    pub id: ArtifactId,
    /// Its generation.
    pub generation: Generation,
    /// What it is.
    pub spec: &'a ArtifactSpec,
    /// SHA-256 of what runs.
    pub content_hash: &'a str,
}

/// Where it is to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Place<'a> {
    /// The provider.
    pub id: ProviderId,
    /// Its generation.
    pub generation: Generation,
    /// What it is.
    pub spec: &'a ProviderSpec,
    /// How the adapter realises things, see its `revision`.
    pub revision: u32,
    /// Why it cannot be reached, past the time for which that is nobody's business.
    pub unreachable: Option<&'a CapabilityReason>,
}

/// The last attempt, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempted {
    /// What it did.
    pub action: Option<Action>,
    /// Generation that it was for.
    pub generation: Generation,
    /// What its inputs came to.
    pub fingerprint: String,
    /// The word by which it was asked for again, if it was.
    pub force: Option<Uuid>,
    /// Failed attempts in a row for these inputs.
    pub failures: u32,
    /// How the last one failed.
    pub error: Option<(ErrorClass, CapabilityReason)>,
    /// How long the platform asked us to stay away.
    pub retry_after_seconds: Option<u32>,
}

/// What was applied last, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Generation that it was made from.
    pub generation: Generation,
    /// What its inputs came to.
    pub fingerprint: String,
    /// The inputs themselves.
    pub dependencies: Vec<Dependency>,
    /// The attempt.
    pub epoch: Epoch,
}

/// What is known of a deployment's past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past<'a> {
    /// The last attempt.
    pub attempted: Option<&'a Attempted>,
    /// What was applied; none when nothing was, or when it was taken away.
    pub applied: Option<&'a Applied>,
    /// Repairs of drift in the last hour.
    pub repairs: usize,
}

/// What the last looks at the platform showed.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<'a> {
    /// Nobody looked since it was applied.
    NotYet,
    /// It is there.
    There(&'a ObservedWorkload),
    /// It was not there at so many looks in a row, each of all that is there.
    Absent(u32),
}

/// Everything that decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Situation<'a> {
    /// The deployment.
    pub id: DeploymentId,
    /// Its generation.
    pub generation: Generation,
    /// What is wanted.
    pub spec: &'a DeploymentSpec,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// It is forgotten without being taken away.
    pub orphan: bool,
    /// The word by which it was asked for again, if it was.
    pub force: Option<Uuid>,
    /// What runs.
    pub target: Named<Target<'a>>,
    /// Where.
    pub place: Named<Place<'a>>,
    /// What the target refers to: artifacts with their addresses.
    pub references: Vec<Named<Dependency>>,
    /// Secrets that its variables name.
    pub secrets: Vec<(Name, Named<(SecretId, Generation)>)>,
    /// What was done so far.
    pub past: Past<'a>,
    /// What was seen.
    pub seen: Seen<'a>,
}

/// Why an attempt is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Nothing of it was applied yet.
    New,
    /// Its own spec changed.
    Spec {
        /// What was applied.
        old: Generation,
        /// What is wanted.
        new: Generation,
    },
    /// Something that it is made from changed.
    Changed {
        /// Which.
        what: String,
        /// What was applied.
        old: Generation,
        /// What there is.
        new: Generation,
        /// It is another one of the same name.
        replaced: bool,
    },
    /// It is made from something that it was not made from before.
    Added {
        /// Which.
        what: String,
    },
    /// Something is no part of it any more.
    Removed {
        /// Which.
        what: String,
    },
    /// The same is realised otherwise than before.
    Revision,
    /// Somebody asked for it.
    Forced,
    /// It is not there any more.
    Gone,
    /// What runs is not what was applied.
    Drifted {
        /// Field by field.
        fields: Vec<String>,
    },
    /// It is not wanted any more.
    Unwanted,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("nothing of it was applied yet"),
            Self::Spec { old, new } => write!(f, "its spec changed: generation {} to {}", old.0, new.0),
            Self::Changed { what, old, new, replaced: false } if old != new => {
                write!(f, "{what} changed: generation {} to {}", old.0, new.0)
            }
            Self::Changed { what, replaced: false, .. } => write!(f, "{what} is reached elsewhere"),
            Self::Changed { what, .. } => write!(f, "{what} is another one of the same name"),
            Self::Added { what } => write!(f, "it is made from {what} too"),
            Self::Removed { what } => write!(f, "it is not made from {what} any more"),
            Self::Revision => f.write_str("the same is realised otherwise by this version"),
            Self::Forced => f.write_str("somebody asked for it"),
            Self::Gone => f.write_str("it is not there any more"),
            Self::Drifted { fields } => write!(f, "what runs differs: {}", fields.join(", ")),
            Self::Unwanted => f.write_str("it is not wanted any more"),
        }
    }
}

/// An attempt that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What it does.
    pub action: Action,
    /// Generation that it is for.
    pub generation: Generation,
    /// What its inputs come to; empty when it takes away.
    pub fingerprint: String,
    /// The inputs themselves.
    pub dependencies: Vec<Dependency>,
    /// The word by which it was asked for again, if it was.
    pub force: Option<Uuid>,
    /// Why.
    pub causes: Vec<Cause>,
    /// It repairs what nobody asked to change.
    pub repair: bool,
    /// How long after the last attempt, before jitter.
    pub pause: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing: all is as it is wanted.
    Rest,
    /// Nothing, until what is named changes.
    Blocked(Vec<CapabilityReason>),
    /// Nothing, until an input changes: it failed in a way that no time mends.
    Failed(CapabilityReason),
    /// Nothing: it differs, and that is only to be said.
    Report(Vec<Cause>),
    /// An attempt.
    Attempt(Request),
    /// Nothing of it is left, or is to be looked after: its rows go.
    Forget,
}

/// Everything that it is made from, or what is missing.
pub fn resolve(of: &Situation<'_>) -> Result<(String, Vec<Dependency>), Vec<CapabilityReason>> {
    let mut missing: Vec<CapabilityReason> = Vec::new();
    let mut all = Vec::new();
    let mut material = Material::default();
    match &of.place {
        Named::Missing(reason) => missing.push(reason.clone()),
        Named::Found(place) => {
            material.add("platform", &(place.spec.platform().as_str(), place.revision));
            material.add("provider", &(place.id, place.spec));
            all.push(dependency(format!("provider/{}", of.spec.provider), place.id.0, place.generation, ""));
        }
    }
    match &of.target {
        Named::Missing(reason) => missing.push(reason.clone()),
        Named::Found(target) => {
            material.add("target", &(target.id, target.content_hash));
            let hash = target.content_hash;
            all.push(dependency(of.spec.target.to_string(), target.id.0, target.generation, hash));
        }
    }
    for reference in &of.references {
        match reference {
            Named::Missing(reason) => missing.push(reason.clone()),
            Named::Found(found) => all.push(found.clone()),
        }
    }
    for (name, secret) in &of.secrets {
        match secret {
            Named::Missing(reason) => missing.push(reason.clone()),
            Named::Found((id, generation)) => {
                all.push(dependency(format!("secret/{name}"), id.0, *generation, ""));
            }
        }
    }
    if !missing.is_empty() {
        missing.sort();
        missing.dedup();
        return Err(missing);
    }
    all.sort();
    all.dedup();
    let spec = of.spec;
    material.add("spec", &(&spec.target, &spec.env, &spec.resources, &spec.kubernetes, &spec.local));
    // Of what is made from, its generation counts where nothing says what it comes to; labels and status are in neither.
    let parts: Vec<_> = all
        .iter()
        .filter(|d| !d.what.starts_with("provider/"))
        .map(|d| (&d.what, d.id, if d.value.is_empty() { d.generation.0 } else { 0 }, &d.value))
        .collect();
    material.add("dependencies", &parts);
    Ok((material.fingerprint(), all))
}

fn dependency(what: String, id: Uuid, generation: Generation, value: &str) -> Dependency {
    Dependency { what, id, generation, value: value.to_owned() }
}

/// What a fingerprint is taken of: named parts, each as the JSON text of sorted members.
#[derive(Default)]
struct Material(String);

impl Material {
    fn add(&mut self, name: &str, part: &impl Serialize) {
        let value = serde_json::to_value(part).unwrap_or_default();
        self.0.push_str(&format!("{name} {value}\n"));
    }

    fn fingerprint(&self) -> String {
        Sha256::digest(&self.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Decides.
pub fn next(of: &Situation<'_>) -> Next {
    if of.deleting && (of.orphan || nothing_left(of)) {
        return Next::Forget;
    }
    if of.deleting {
        return attempt(of, Action::Delete, None, vec![Cause::Unwanted]);
    }
    if of.spec.desired_state == DesiredState::Undeployed {
        return if nothing_left(of) {
            Next::Rest
        } else {
            attempt(of, Action::Undeploy, None, vec![Cause::Unwanted])
        };
    }
    let resolved = match resolve(of) {
        Ok(resolved) => resolved,
        Err(missing) => return Next::Blocked(missing),
    };
    let causes = causes(of, &resolved);
    if !causes.is_empty() {
        return attempt(of, Action::Deploy, Some(resolved), causes);
    }
    let differs = differences(of, &resolved.0);
    match (differs.is_empty(), of.spec.on_drift) {
        (true, _) => Next::Rest,
        (false, OnDrift::Report) => Next::Report(differs),
        (false, OnDrift::Reapply) => attempt(of, Action::Deploy, Some(resolved), differs),
    }
}

/// Nothing of it was ever applied, or what was is taken away.
fn nothing_left(of: &Situation<'_>) -> bool {
    let tried = of.past.attempted.is_some_and(|a| a.action == Some(Action::Deploy));
    let seen = matches!(of.seen, Seen::There(_));
    // An attempt that failed may have left something; it is taken away before it counts as nothing.
    of.past.applied.is_none() && !tried && !seen
}

/// Why it is to be applied though it is there as it was applied.
fn causes(of: &Situation<'_>, (fingerprint, dependencies): &(String, Vec<Dependency>)) -> Vec<Cause> {
    let Some(applied) = of.past.applied else { return vec![Cause::New] };
    let mut causes = Vec::new();
    if of.force.is_some() && of.past.attempted.is_none_or(|a| a.force != of.force) {
        causes.push(Cause::Forced);
    }
    if applied.fingerprint == *fingerprint {
        return causes;
    }
    for new in dependencies {
        match applied.dependencies.iter().find(|old| old.what == new.what) {
            None => causes.push(Cause::Added { what: new.what.clone() }),
            Some(old) if (old.id, &old.value, old.generation) != (new.id, &new.value, new.generation) => {
                causes.push(Cause::Changed {
                    what: new.what.clone(),
                    old: old.generation,
                    new: new.generation,
                    replaced: old.id != new.id,
                });
            }
            Some(_) => {}
        }
    }
    let gone = applied.dependencies.iter().filter(|old| !dependencies.iter().any(|new| new.what == old.what));
    causes.extend(gone.map(|old| Cause::Removed { what: old.what.clone() }));
    if applied.generation != of.generation {
        causes.push(Cause::Spec { old: applied.generation, new: of.generation });
    }
    if causes.is_empty() {
        causes.push(Cause::Revision);
    }
    causes
}

/// What was seen to differ from what was applied.
fn differences(of: &Situation<'_>, fingerprint: &str) -> Vec<Cause> {
    match &of.seen {
        Seen::NotYet => Vec::new(),
        Seen::Absent(misses) if *misses < MISSES_GONE => Vec::new(),
        Seen::Absent(_) => vec![Cause::Gone],
        Seen::There(seen) => {
            let mut fields = seen.drift.clone();
            if seen.fingerprint.as_deref().is_some_and(|there| there != fingerprint) {
                fields.push("it was made from other inputs".into());
            }
            if fields.is_empty() { Vec::new() } else { vec![Cause::Drifted { fields }] }
        }
    }
}

fn attempt(
    of: &Situation<'_>,
    action: Action,
    resolved: Option<(String, Vec<Dependency>)>,
    causes: Vec<Cause>,
) -> Next {
    let (fingerprint, dependencies) = resolved.unwrap_or_default();
    let repair = causes.iter().any(|c| matches!(c, Cause::Gone | Cause::Drifted { .. }));
    // Only an attempt for the same inputs says something about this one.
    let before = of.past.attempted.filter(|a| {
        (a.action, a.generation, &a.fingerprint) == (Some(action), of.generation, &fingerprint)
            && a.force == of.force
    });
    let failed = before.filter(|a| a.failures > 0).and_then(|a| a.error.as_ref().map(|e| (a, e)));
    let pause = match failed {
        Some((_, (class, reason))) if !class.is_retried() && action == Action::Deploy => {
            return Next::Failed(reason.clone());
        }
        Some((a, _)) => pause(a),
        None if repair && of.past.repairs > REPAIRS_AN_HOUR => FLAPPING_PAUSE,
        None => Duration::ZERO,
    };
    let generation = of.generation;
    Next::Attempt(Request {
        action,
        generation,
        fingerprint,
        dependencies,
        force: of.force,
        causes,
        repair,
        pause,
    })
}

/// How long after an attempt that failed the next one comes, before jitter.
pub fn pause(after: &Attempted) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << after.failures.saturating_sub(1).min(16));
    let asked = Duration::from_secs(after.retry_after_seconds.unwrap_or_default().into());
    doubled.max(asked).min(LONGEST_PAUSE)
}

/// One word for a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentPhase {
    /// Its deletion was asked for.
    Deleting,
    /// Its provider cannot be reached, so nobody can say.
    Unknown,
    /// Nothing was done for its newest generation yet.
    Pending,
    /// Something that it names is not there.
    Blocked,
    /// It is being taken away.
    Undeploying,
    /// Nothing of it is left at the provider.
    Undeployed,
    /// Attempts fail.
    Failed,
    /// It runs, and not as it should.
    Degraded,
    /// It runs, as it is wanted.
    Deployed,
    /// It was applied and is not ready yet.
    Deploying,
}

/// The word for where a deployment is; the first that fits.
pub fn phase(of: &Situation<'_>, next: &Next) -> DeploymentPhase {
    use DeploymentPhase as P;
    let attempted = of.past.attempted;
    let undeployed = of.spec.desired_state == DesiredState::Undeployed;
    let ready = matches!(&of.seen, Seen::There(seen) if seen.readiness == Readiness::Ready);
    let running = of.past.applied.is_some();
    match next {
        _ if of.deleting => P::Deleting,
        _ if matches!(&of.place, Named::Found(place) if place.unreachable.is_some()) => P::Unknown,
        Next::Blocked(_) if !running => P::Blocked,
        Next::Failed(_) => P::Failed,
        _ if undeployed && *next == Next::Rest => P::Undeployed,
        _ if undeployed => P::Undeploying,
        _ if attempted.is_some_and(|a| a.failures >= FAILED_AFTER) => P::Failed,
        _ if attempted.is_none_or(|a| a.generation < of.generation)
            && !matches!(next, Next::Rest | Next::Blocked(_)) =>
        {
            P::Pending
        }
        Next::Report(_) => P::Degraded,
        Next::Attempt(r) if r.repair => P::Degraded,
        Next::Attempt(_) => P::Deploying,
        _ if of.past.repairs > REPAIRS_AN_HOUR => P::Degraded,
        _ if ready => P::Deployed,
        _ if matches!(&of.seen, Seen::There(s) if matches!(s.readiness, Readiness::NotReady { .. })) => {
            P::Degraded
        }
        _ => P::Deploying,
    }
}

/// Why what is referred to is not there.
pub fn not_registered(of: &ArtifactRef) -> CapabilityReason {
    let plural = match of.kind {
        ArtifactKind::Agent => "agents",
        ArtifactKind::Server => "servers",
    };
    CapabilityReason::new(
        "not_registered",
        of.to_string(),
        format!("there is no {} of this name and tag", of.kind),
        format!("register it, or name one of: basalt get {plural}"),
    )
}

#[cfg(test)]
#[path = "deployments_tests.rs"]
mod tests;
