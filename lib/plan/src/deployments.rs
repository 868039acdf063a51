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
    ArtifactId, CapabilityReason, Epoch, Generation, Name, ProviderId, SecretId,
    artifacts::{ArtifactKind, ArtifactRef, ArtifactSpec, Source},
    attempts::{Action, Applied, Attempted, Cause, Dependency},
    deployments::{DeploymentSpec, DesiredState, ErrorClass, ObservedWorkload, OnDrift},
    providers::ProviderSpec,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::Duration;
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

/// What is known of a deployment's past.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Past<'a> {
    /// The last attempt.
    pub attempted: Option<&'a Attempted>,
    /// What was applied; none when nothing was, or when it was taken away.
    pub applied: Option<&'a Applied>,
    /// The newest attempt that began, whatever became of it; 0 when none did.
    pub begun: Epoch,
    /// The newest one whose end is known.
    pub ended: Epoch,
    /// It was repaired more often within the last hour than [`REPAIRS_AN_HOUR`].
    pub flapping: bool,
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
    /// Generation of the deployment.
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
    /// Failed attempts in a row for these inputs before it.
    pub failures: u32,
    /// The attempt that it comes after; it gets a higher one.
    pub after: Epoch,
    /// The newest attempt whose end this was decided with.
    pub ended: Epoch,
    /// How long after the last attempt.
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
    if remote(of).is_some() && nothing_left(of) {
        return Next::Rest;
    }
    let causes = causes(of, &resolved);
    if !causes.is_empty() {
        return attempt(of, Action::Deploy, Some(resolved), causes);
    }
    if remote(of).is_some() {
        // Nothing of it is here to be seen.
        return Next::Rest;
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
    let took_away = |a: &Attempted| {
        a.action != Some(Action::Deploy) && a.error.is_none() && a.pause_ms == 0 && a.epoch == of.past.begun
    };
    // An attempt that failed, or of which nobody heard again, may have left something; that is taken away first.
    let clean = of.past.begun == Epoch::default() || of.past.attempted.is_some_and(took_away);
    clean && of.past.applied.is_none() && !matches!(of.seen, Seen::There(_))
}

/// The attempt that is written on what runs. After a restore of the database it may be higher than any known here.
fn seen_epoch(of: &Situation<'_>) -> Epoch {
    match &of.seen {
        Seen::There(seen) => seen.epoch.unwrap_or_default(),
        _ => Epoch::default(),
    }
}

/// The address of what runs elsewhere anyway: nothing is made for it.
pub fn remote<'a>(of: &'a Situation<'_>) -> Option<&'a str> {
    let Named::Found(target) = &of.target else { return None };
    let source = match target.spec {
        ArtifactSpec::Agent(agent) => &agent.source,
        ArtifactSpec::Server(server) => &server.source,
    };
    match source {
        Source::Remote { url } => Some(url),
        _ => None,
    }
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
        (a.action, a.generation, &a.fingerprint, a.force)
            == (Some(action), of.generation, &fingerprint, of.force)
    });
    let failed = before.and_then(|a| a.error.as_ref());
    if let Some(error) = failed.filter(|e| !e.class.is_retried() && action == Action::Deploy) {
        return Next::Failed(error.reason.clone());
    }
    let pause = match before {
        Some(a) if a.pause_ms > 0 => Duration::from_millis(a.pause_ms),
        _ if repair && of.past.flapping => FLAPPING_PAUSE,
        _ => Duration::ZERO,
    };
    Next::Attempt(Request {
        action,
        generation: of.generation,
        fingerprint,
        dependencies,
        force: of.force,
        causes,
        repair,
        failures: before.map_or(0, |a| a.failures),
        after: of.past.begun.max(seen_epoch(of)),
        ended: of.past.ended,
        pause,
    })
}

/// How long after so many failed attempts in a row the next one comes, before jitter. `asked` is how long the platform
/// wants to be left alone.
pub fn pause(class: ErrorClass, failures: u32, asked: Option<Duration>) -> Duration {
    // What takes away is tried again however it failed: deletion always ends.
    let first = if class.is_retried() { FIRST_PAUSE } else { LONGEST_PAUSE };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.max(asked.unwrap_or_default()).min(LONGEST_PAUSE)
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

mod standing;

pub use standing::{conditions, standing};

#[cfg(test)]
#[path = "deployments_tests.rs"]
mod tests;
