//! "202 means durable": clients create VMs while the real gateway is killed at random moments; then
//! everything that was acknowledged is looked for, and everything that is there is counted anew.

use crate::{House, api::Api, oracles, wait};
use anyhow::{Result, bail};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// How hard to try.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Creates that must be acknowledged.
    pub creates: usize,
    /// Clients at once.
    pub clients: usize,
    /// Kills, spread over the run.
    pub kills: usize,
    /// Seed of the moments.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Creates that were answered with 202.
    pub accepted: usize,
    /// Requests that ended without an answer.
    pub unanswered: usize,
    /// Kills of the gateway.
    pub kills: usize,
    /// Acknowledged VMs that are not there.
    pub lost: Vec<String>,
    /// What the oracles found: a VM without task, audit row, port, volume, or a sum that is wrong.
    pub half_made: Vec<String>,
    /// VMs that do not run in the end.
    pub not_running: Vec<String>,
}

struct Shared {
    accepted: Mutex<BTreeSet<Uuid>>,
    unanswered: AtomicUsize,
    next: AtomicUsize,
    over: AtomicBool,
}

/// Runs a plan on a house whose gateway is the real program.
///
/// # Errors
/// When the house itself fails; what was lost is in the outcome.
pub async fn run(house: &mut House, plan: &Plan) -> Result<Outcome> {
    let shared = Arc::new(Shared {
        accepted: Mutex::default(),
        unanswered: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..plan.clients)
        .map(|_| tokio::spawn(client(house.api.clone(), shared.clone(), plan.creates)))
        .collect();
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut kills = 0;
    while kills < plan.kills && !shared.over.load(Ordering::Relaxed) {
        // A kill each time another share of the creates was acknowledged, at a moment of its own.
        let share = plan.creates * (kills + 1) / (plan.kills + 1);
        wait::within(Duration::from_secs(600), "the next share of creates", || async {
            let n = shared.accepted.lock().unwrap_or_else(PoisonError::into_inner).len();
            Ok((n >= share || shared.over.load(Ordering::Relaxed)).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
        house.gateway.kill()?;
        tokio::time::sleep(Duration::from_micros(rng.next_u64() % 50_000)).await;
        house.gateway.start()?;
        kills += 1;
    }
    for client in clients {
        client.await??;
    }
    house.ready().await?;
    let accepted = std::mem::take(&mut *shared.accepted.lock().unwrap_or_else(PoisonError::into_inner));
    let unanswered = shared.unanswered.load(Ordering::Relaxed);
    judge(house, &accepted, Outcome { accepted: accepted.len(), unanswered, kills, ..Outcome::default() })
        .await
}

/// Creates one VM after another until enough were acknowledged; names are never used twice.
async fn client(api: Api, shared: Arc<Shared>, creates: usize) -> Result<()> {
    while !shared.over.load(Ordering::Relaxed) {
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        let body = crate::api::vm(&format!("vm-{n}"), json!({"memory_bytes": 64 << 20}));
        match api.try_post(&api.path("vms"), &body).await {
            Ok(answer) if answer.status.as_u16() == 202 => {
                let id = serde_json::from_value(answer.body["object"]["id"].clone())?;
                let mut accepted = shared.accepted.lock().unwrap_or_else(PoisonError::into_inner);
                accepted.insert(id);
                if accepted.len() >= creates {
                    shared.over.store(true, Ordering::Relaxed);
                }
            }
            Ok(answer) if answer.status.is_client_error() => bail!("{answer:?}"),
            // Killed, starting, or busy: nothing was promised, so nothing is owed.
            _ => {
                shared.unanswered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    Ok(())
}

async fn judge(house: &House, accepted: &BTreeSet<Uuid>, mut outcome: Outcome) -> Result<Outcome> {
    let url = house.owner_url();
    let there: BTreeSet<Uuid> =
        oracles::psql(url, "SELECT id FROM vms")?.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    outcome.lost = accepted.difference(&there).map(Uuid::to_string).collect();
    let waiting = "SELECT v.name || ': ' || coalesce(o.observed->>'power', 'nothing seen') FROM vms v
        LEFT JOIN vm_observed o ON o.vm_id = v.id WHERE coalesce(o.observed->>'power', '') <> 'running'";
    let patience = Duration::from_secs(30) + Duration::from_millis(20) * u32::try_from(there.len())?;
    let converged = wait::within(patience, "every VM runs", || async {
        Ok(oracles::psql(url, waiting)?.is_empty().then_some(()))
    })
    .await;
    if converged.is_err() {
        outcome.not_running = oracles::psql(url, waiting)?;
    }
    let open = "SELECT count(*) FROM (TABLE tasks UNION ALL TABLE tasks_finished) t WHERE kind = 'vm_create' AND state <> 'completed'";
    wait::within(patience, "every create task completed", || async {
        Ok((oracles::count(url, open)? == 0).then_some(()))
    })
    .await?;
    outcome.half_made = oracles::findings(url)?;
    house.runs_once()?;
    Ok(outcome)
}
