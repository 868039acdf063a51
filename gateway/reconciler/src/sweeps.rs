//! What happens by the clock: each sweep is one short piece of work, started when it is due and
//! never twice at once.

pub mod conflicts;
pub mod lease;
pub mod liveness;
pub mod prune;
pub mod tasks;

use basalt_model::{DateTime, HostId};
use basalt_store::{Error, Feed, Store, feed::Cursor, host_loss::HostLease, leases::Lease};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// The sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sweep {
    /// Take or renew the lease under which effects are carried out.
    Lease,
    /// Read signs of life.
    Liveness,
    /// Say how far this gateway has read the change log.
    Hold,
    /// End conflicts of agents in which nobody tries any more.
    Conflicts,
    /// End tasks whose deadline passed.
    Tasks,
    /// Drop what nobody needs any more.
    Prune,
}

impl Sweep {
    /// All of them.
    pub const ALL: [Sweep; 6] =
        [Sweep::Lease, Sweep::Liveness, Sweep::Hold, Sweep::Conflicts, Sweep::Tasks, Sweep::Prune];

    /// How often it runs.
    pub fn interval(self) -> Duration {
        match self {
            Sweep::Lease => Duration::from_secs(1),
            Sweep::Liveness => Duration::from_secs(2),
            Sweep::Hold => Duration::from_secs(5),
            Sweep::Conflicts => Duration::from_secs(5),
            Sweep::Tasks => Duration::from_secs(30),
            Sweep::Prune => Duration::from_secs(60),
        }
    }

    /// Whether only the holder of the lease runs it.
    pub fn is_exclusive(self) -> bool {
        matches!(self, Sweep::Conflicts | Sweep::Tasks | Sweep::Prune)
    }
}

/// What a sweep needs.
#[derive(Clone)]
pub struct Context {
    /// The truth.
    pub store: Store,
    /// The feed, to say how far it was read.
    pub feed: Arc<Feed>,
    /// Who this gateway is.
    pub holder: Uuid,
    /// How far the feed was read.
    pub cursor: Option<Cursor>,
    /// The lease, while it is held.
    pub lease: Option<Lease>,
    /// Another's, that did not move for as long as one lasts.
    pub silent: Option<Lease>,
    /// Days for which finished tasks are kept.
    pub keep_tasks_days: u32,
    /// The time.
    pub now: DateTime,
}

/// What a sweep found.
#[derive(Clone, Debug)]
pub enum Swept {
    /// The lease, or another's who has it.
    Lease(lease::Claim),
    /// The last signs of life, and the last leases.
    Liveness(Vec<(HostId, DateTime)>, Vec<HostLease>),
    /// So many rows were changed or dropped.
    Rows(u64),
}

/// Runs a sweep.
pub async fn run(sweep: Sweep, context: Context) -> Result<Swept, Error> {
    match sweep {
        Sweep::Lease => lease::renew(&context).await.map(Swept::Lease),
        Sweep::Liveness => {
            liveness::read(&context).await.map(|(beats, leases)| Swept::Liveness(beats, leases))
        }
        Sweep::Hold => prune::hold(&context).await.map(Swept::Rows),
        Sweep::Conflicts => conflicts::clear(&context).await.map(Swept::Rows),
        Sweep::Tasks => tasks::time_out(&context).await.map(Swept::Rows),
        Sweep::Prune => prune::prune(&context).await.map(Swept::Rows),
    }
}
