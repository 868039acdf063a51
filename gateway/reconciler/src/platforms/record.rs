//! What the end of an attempt says: about what is there, about the next attempt, and for history. Pure.

use crate::{
    graph::{Eyes, deployments::Due},
    rows::as_shown,
};
use basalt_adapters::{Applied, Removed};
use basalt_model::{
    DateTime,
    attempts::{Action, AttemptError, AttemptOutcome, Attempted, ReconcileEvent},
    deployments::Endpoint,
    providers::Platform,
};
use basalt_plan::deployments::pause;
use basalt_store::{
    attempts::{Applies, Claim, Record},
    discovered::Look,
};
use std::time::Duration;
use uuid::Uuid;

/// Until something that was told to go is asked about again.
const GOING: Duration = Duration::from_secs(2);

/// What an attempt came to at the platform.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// It was applied, and was seen like this.
    Deployed(Applied, Look),
    /// Nothing of it is left.
    Removed(Removed),
    /// It was told to go.
    Going,
}

/// How an attempt ended.
pub(super) enum End {
    /// The platform answered, or did not.
    Answered(basalt_adapters::Result<Done>),
    /// Something else is wanted meanwhile.
    Superseded,
    /// Somebody else has it, or it is gone.
    Lost,
}

/// When.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// When it began.
    pub started_at: DateTime,
    /// When it ended.
    pub now: DateTime,
    /// 0 to 1.
    pub jitter: f64,
}

/// What is to be written down.
pub(super) fn of(due: &Due, claim: Claim, end: End, times: Times, id: Uuid, eyes: Eyes) -> Record {
    let request = &due.request;
    let provider = &due.order.provider;
    let (platform, place) = (provider.spec.platform(), provider.id());
    let mut attempted = Attempted {
        action: Some(request.action),
        epoch: claim.epoch,
        generation: request.generation,
        fingerprint: request.fingerprint.clone(),
        force: request.force,
        ..Attempted::default()
    };
    let (mut applied, mut seen, mut wait) = (Applies::Same, None, None);
    let outcome = match end {
        End::Answered(Ok(Done::Deployed(what, look))) => {
            applied = Applies::This(Box::new(basalt_model::attempts::Applied {
                generation: request.generation,
                fingerprint: request.fingerprint.clone(),
                dependencies: request.dependencies.clone(),
                epoch: claim.epoch,
                endpoints: endpoints(eyes, platform, &look),
            }));
            seen = Some((platform, place, look));
            match what {
                Applied::Changed => AttemptOutcome::Success,
                Applied::Unchanged => AttemptOutcome::Unchanged,
            }
        }
        End::Answered(Ok(Done::Removed(removed))) => {
            applied = Applies::Nothing;
            seen = Some((platform, place, Vec::new()));
            match removed {
                Removed::Absent => AttemptOutcome::Unchanged,
                _ => AttemptOutcome::Success,
            }
        }
        End::Answered(Ok(Done::Going)) => {
            wait = Some(GOING);
            AttemptOutcome::Going
        }
        End::Answered(Err(error)) => {
            attempted.failures = request.failures.saturating_add(1);
            let retried = error.class.is_retried() || request.action != Action::Deploy;
            let base = pause(error.class, attempted.failures, error.retry_after);
            wait = retried.then(|| base.mul_f64(0.8 + 0.4 * times.jitter));
            attempted.retry_after_seconds =
                error.retry_after.map(|d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
            attempted.error = Some(AttemptError { class: error.class, reason: error.reason });
            AttemptOutcome::Error
        }
        End::Superseded | End::Lost => AttemptOutcome::Superseded,
    };
    attempted.pause_ms = wait.map_or(0, |w| u64::try_from(w.as_millis()).unwrap_or(u64::MAX));
    let next_retry_at = wait.and_then(|w| times.now.checked_add_signed(chrono::TimeDelta::from_std(w).ok()?));
    let event = event(due, &attempted, outcome, times, (id, next_retry_at));
    Record {
        // What was superseded says nothing about what is wanted now.
        attempted: (outcome != AttemptOutcome::Superseded).then_some(attempted),
        repair: request.repair && matches!(applied, Applies::This(_)),
        applied,
        next_retry_at,
        event,
        seen,
    }
}

fn event(
    due: &Due,
    attempted: &Attempted,
    outcome: AttemptOutcome,
    times: Times,
    (id, next_retry_at): (Uuid, Option<DateTime>),
) -> ReconcileEvent {
    let request = &due.request;
    ReconcileEvent {
        id,
        generation: request.generation,
        epoch: attempted.epoch,
        action: request.action,
        attempt: request.failures.saturating_add(1),
        outcome,
        causes: request.causes.clone(),
        error: attempted.error.clone(),
        fingerprint: request.fingerprint.clone(),
        started_at: times.started_at,
        completed_at: times.now,
        next_retry_at,
    }
}

fn endpoints(eyes: Eyes, platform: Platform, look: &Look) -> Vec<Endpoint> {
    let all: Vec<_> = look.iter().map(as_shown).collect();
    (eyes.normalise)(platform, &all).map(|seen| seen.endpoints).unwrap_or_default()
}
