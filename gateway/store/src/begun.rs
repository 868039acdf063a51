//! Transactions that are begun before anybody needs them.
//!
//! `BEGIN` is a round trip, and what the reconciler does is a chain of transactions of two or three statements each: a
//! fifth of the time from an intent to its host's manifest went into beginning them. So of each kind of the system's
//! transactions one is kept begun while nobody uses it. It has no snapshot before its first statement, so it holds
//! nothing up and sees everything that was committed before that; it is never older than [`RENEW`].

use crate::{Result, Store, tenant::Tx};
use sqlx::PgPool;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{interval, timeout},
};

/// How old one gets that nobody takes: far less than the server lets a transaction stand idle.
const RENEW: Duration = Duration::from_secs(3);
/// How long a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the system begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Reads and writes.
    System,
    /// What is derived; not waited for on disk.
    Derived,
    /// One snapshot for everything that is read.
    Snapshot,
}

impl Kind {
    const ALL: [Self; 3] = [Self::System, Self::Derived, Self::Snapshot];

    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::System => "BEGIN; SET LOCAL ROLE basalt_system",
            Self::Derived => "BEGIN; SET LOCAL ROLE basalt_system; SET LOCAL synchronous_commit = off",
            Self::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL ROLE basalt_system",
        }
    }
}

/// At most one of each kind, and the connections of those that were taken and have ended: they are begun anew, past the
/// pool, which would ask each whether it still lives.
#[derive(Default)]
pub(crate) struct Begun {
    held: Mutex<Held>,
    ended: Notify,
}

#[derive(Default)]
struct Held {
    /// Whether somebody keeps them.
    kept: bool,
    ready: BTreeMap<Kind, Tx>,
    ended: Vec<Tx>,
}

impl Begun {
    /// The one that is ready. Who needs another one of the kind meanwhile begins it.
    pub(crate) fn take(&self, kind: Kind) -> Option<Tx> {
        self.held().ready.remove(&kind)
    }

    /// Takes back one that has ended, or is to be rolled back.
    pub(crate) fn give_back(&self, tx: Tx) {
        let mut held = self.held();
        if held.kept && held.ready.len() + held.ended.len() < Kind::ALL.len() {
            held.ended.push(tx);
            self.ended.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> Vec<Kind> {
        let held = self.held();
        Kind::ALL.into_iter().filter(|kind| !held.ready.contains_key(kind)).collect()
    }

    async fn begin(&self, pool: &PgPool, kind: Kind) -> Result<()> {
        let statement = kind.begin().to_string();
        let ended = self.held().ended.pop();
        let again = match ended {
            Some(mut tx) => tx.again(statement.clone()).await.ok().map(|()| tx),
            None => None,
        };
        let tx = match again {
            Some(tx) => tx,
            // A pool that has none to spare must not keep the others from being renewed.
            None => match timeout(PATIENCE, Tx::open(pool, statement)).await {
                Ok(opened) => opened?,
                Err(_) => return Ok(()),
            },
        };
        self.held().ready.insert(kind, tx);
        Ok(())
    }
}

/// Gives the connections back when nobody keeps them any more.
struct Keeper<'a>(&'a Begun);

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        *self.0.held() = Held::default();
    }
}

impl Store {
    /// Keeps transactions of the system begun, for as long as it is polled.
    pub async fn keep_begun(&self) -> Infallible {
        let begun = self.begun();
        let _keeper = Keeper(begun);
        begun.held().kept = true;
        let mut renew = interval(RENEW);
        loop {
            for kind in begun.missing() {
                // When there is none, whoever needs it begins it, and says what is wrong.
                let _ = begun.begin(self.pool(), kind).await;
            }
            tokio::select! {
                () = begun.ended.notified() => {}
                _ = renew.tick() => {
                    let mut held = begun.held();
                    let old = mem::take(&mut held.ready);
                    held.ended.extend(old.into_values());
                }
            }
        }
    }
}
