//! Where a deployment is: one word, one sentence, an address, and the conditions behind them.

use super::{FAILED_AFTER, Named, Next, Seen, Situation, remote};
use crate::conditions::Draft;
use basalt_model::{
    CapabilityReason, Condition, ConditionStatus,
    attempts::{Action, Cause, DeploymentPhase, Standing},
    deployments::{DesiredState, Endpoint, Readiness},
};

/// Where it is.
pub fn standing(of: &Situation<'_>, next: &Next) -> Standing {
    let phase = phase(of, next);
    Standing {
        phase,
        message: message(of, next, phase),
        observed_generation: of.generation,
        endpoints: endpoints(of),
    }
}

fn endpoints(of: &Situation<'_>) -> Vec<Endpoint> {
    if of.spec.desired_state == DesiredState::Undeployed || of.deleting {
        return Vec::new();
    }
    match (&of.seen, of.past.applied) {
        _ if remote(of).is_some() => {
            remote(of).map(|url| Endpoint { name: "mcp".into(), url: url.into() }).into_iter().collect()
        }
        (Seen::There(seen), _) if !seen.endpoints.is_empty() => seen.endpoints.clone(),
        (_, Some(applied)) => applied.endpoints.clone(),
        _ => Vec::new(),
    }
}

/// Why its provider cannot be reached.
fn unreachable<'a>(of: &'a Situation<'_>) -> Option<&'a CapabilityReason> {
    match &of.place {
        Named::Found(place) => place.unreachable,
        Named::Missing(_) => None,
    }
}

/// What is wrong with what runs.
fn ill<'a>(of: &'a Situation<'_>) -> Option<&'a CapabilityReason> {
    match &of.seen {
        Seen::There(seen) => match &seen.readiness {
            Readiness::NotReady { reason } => Some(reason),
            Readiness::Ready | Readiness::Starting => None,
        },
        _ => None,
    }
}

fn is_ready(of: &Situation<'_>) -> bool {
    remote(of).is_some() || matches!(&of.seen, Seen::There(seen) if seen.readiness == Readiness::Ready)
}

/// The last attempt at what is wanted now, if it failed: why.
fn last_error<'a>(of: &'a Situation<'_>) -> Option<&'a CapabilityReason> {
    let last = of.past.attempted.filter(|a| a.generation == of.generation)?;
    last.error.as_ref().map(|e| &e.reason)
}

/// One word; the first that fits.
fn phase(of: &Situation<'_>, next: &Next) -> DeploymentPhase {
    use DeploymentPhase as P;
    let attempted = of.past.attempted;
    let undeployed = of.spec.desired_state == DesiredState::Undeployed;
    match next {
        _ if of.deleting => P::Deleting,
        _ if unreachable(of).is_some() && remote(of).is_none() => P::Unknown,
        Next::Blocked(_) if of.past.applied.is_none() => P::Blocked,
        Next::Failed(_) => P::Failed,
        _ if undeployed && *next == Next::Rest => P::Undeployed,
        _ if undeployed => P::Undeploying,
        Next::Attempt(r) if r.failures >= FAILED_AFTER => P::Failed,
        Next::Attempt(r) if r.repair => P::Degraded,
        Next::Attempt(_) if attempted.is_none_or(|a| a.generation < of.generation) => P::Pending,
        Next::Attempt(_) => P::Deploying,
        Next::Report(_) => P::Degraded,
        _ if of.past.flapping || ill(of).is_some() => P::Degraded,
        _ if is_ready(of) => P::Deployed,
        _ => P::Deploying,
    }
}

fn causes(causes: &[Cause]) -> String {
    causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What differs, and what is wrong with what runs.
fn repairs(of: &Situation<'_>, differs: &[Cause]) -> String {
    match ill(of) {
        Some(reason) => format!("{}; {reason}", causes(differs)),
        None => causes(differs),
    }
}

fn reasons(reasons: &[CapabilityReason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn message(of: &Situation<'_>, next: &Next, phase: DeploymentPhase) -> String {
    use DeploymentPhase as P;
    let error = last_error(of).map(ToString::to_string);
    match (phase, next) {
        (P::Unknown, _) => unreachable(of).map(ToString::to_string).unwrap_or_default(),
        (P::Blocked, Next::Blocked(missing)) => reasons(missing),
        (P::Failed, Next::Failed(reason)) => {
            format!("{reason}. It is not tried again until something changes")
        }
        (_, Next::Attempt(request)) => match error {
            Some(error) => format!("{error}. It is tried again by itself"),
            None if of.past.flapping && request.repair => format!(
                "{}. It was repaired too often within an hour, so it is repaired more slowly: find out who changes or ends it",
                repairs(of, &request.causes)
            ),
            None => match request.action {
                Action::Deploy if request.repair => {
                    format!("to be put right: {}", repairs(of, &request.causes))
                }
                Action::Deploy => format!("to be applied: {}", causes(&request.causes)),
                Action::Undeploy | Action::Delete => "to be taken away".to_owned(),
            },
        },
        (_, Next::Report(differs)) => {
            format!("{}. It is left so, because on_drift is report: retry applies it again", causes(differs))
        }
        (P::Undeployed, _) => "nothing of it is left at its provider".to_owned(),
        (P::Deleting, _) => "nothing of it is left at its provider; its rows go".to_owned(),
        (P::Degraded, _) if ill(of).is_some() => ill(of).map(ToString::to_string).unwrap_or_default(),
        (P::Degraded, _) => "it was repaired again and again within the last hour".to_owned(),
        (P::Deployed, _) if remote(of).is_some() => "it runs elsewhere; nothing is made for it".to_owned(),
        (P::Deployed, _) => "it runs as it is wanted".to_owned(),
        _ => "it was applied and begins".to_owned(),
    }
}

/// What is true of it, undated.
pub fn conditions(of: &Situation<'_>, next: &Next) -> Vec<Condition> {
    use ConditionStatus::{False, True, Unknown};
    let mut say = Draft::at(of.generation);
    let phase = phase(of, next);
    match next {
        Next::Failed(reason) => say.no("Accepted", &reason.code, reason.to_string()),
        _ => say.yes("Accepted", "accepted", "it is carried out"),
    }
    dependencies(next, &mut say);
    match unreachable(of) {
        Some(reason) => say.no("ProviderReachable", &reason.code, reason.to_string()),
        None => say.yes("ProviderReachable", "answers", "the provider answers"),
    }
    match next {
        Next::Attempt(request) => {
            let word = if request.failures > 0 { "retrying" } else { request.action.as_str() };
            say.yes("Progressing", word, message(of, next, phase));
        }
        _ => say.no("Progressing", "nothing_to_do", "nothing is to be done"),
    }
    ready(of, &mut say);
    match (ill(of), of.past.flapping) {
        (_, true) => say.yes(
            "Degraded",
            "flapping",
            "it was repaired too often within an hour, and is repaired more slowly: find out who changes or ends it",
        ),
        (Some(reason), false) => say.yes("Degraded", &reason.code, reason.to_string()),
        (None, false) => say.no("Degraded", "nothing_wrong", "nothing wrong was seen"),
    }
    match next {
        Next::Report(differs) => say.yes("Drifted", "differs", causes(differs)),
        Next::Attempt(r) if r.repair => say.yes("Drifted", "differs", causes(&r.causes)),
        _ => say.no("Drifted", "as_applied", "what runs is what was applied"),
    }
    let behind = matches!(next, Next::Attempt(r) if !r.repair && r.action == Action::Deploy);
    match behind {
        true => say.yes("SourceOutOfSync", "behind", message(of, next, phase)),
        false => say.no("SourceOutOfSync", "in_sync", "nothing that it is made from changed since"),
    }
    match &of.seen {
        Seen::There(_) => say.say("Discovered", True, "seen", "it was seen at its provider"),
        Seen::NotYet => say.say("Discovered", Unknown, "not_yet", "nobody looked yet"),
        Seen::Absent(_) => say.say("Discovered", False, "not_seen", "it was not seen at its provider"),
    }
    say.out
}

fn dependencies(next: &Next, say: &mut Draft) {
    match next {
        Next::Blocked(missing) => {
            let code = missing.first().map_or("missing", |m| &m.code);
            say.no("DependenciesReady", code, reasons(missing));
        }
        _ => say.yes("DependenciesReady", "resolved", "everything that it names is there"),
    }
}

fn ready(of: &Situation<'_>, say: &mut Draft) {
    let newest = of.past.applied.is_some_and(|a| a.generation == of.generation) || remote(of).is_some();
    match (&of.seen, unreachable(of)) {
        (_, Some(reason)) if remote(of).is_none() => {
            say.say("Ready", ConditionStatus::Unknown, &reason.code, reason.to_string());
        }
        _ if is_ready(of) && newest => say.yes("Ready", "ready", "it runs and is well"),
        _ if is_ready(of) => say.no("Ready", "older", "an older generation of it runs and is well"),
        (Seen::There(seen), _) => match &seen.readiness {
            Readiness::NotReady { reason } => say.no("Ready", &reason.code, reason.to_string()),
            _ => say.no("Ready", "starting", "it begins"),
        },
        (Seen::NotYet, _) => say.say("Ready", ConditionStatus::Unknown, "not_yet", "nobody looked yet"),
        (Seen::Absent(_), _) => say.no("Ready", "absent", "nothing of it runs"),
    }
}
