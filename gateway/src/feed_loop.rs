//! The gateway's one pull of the change feed, told to the watch hub and to the reconciler.
//!
//! It wakes when somebody in this process committed, and once a second in case somebody else did. A
//! pull that fails is tried again from the same cursor; nothing is skipped.

use basalt_api::{Hub, Readiness};
use basalt_daemon::{Clock, Drain};
use basalt_store::{
    Error, Feed, Store,
    feed::{Batch, Cursor},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How long to sleep at most.
const FLOOR: Duration = Duration::from_secs(1);
/// How often the cursor is held and the log pruned.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// After how many seconds of silence another gateway's cursor holds the log no longer.
const IDLE_SECONDS: i64 = 60;

/// Who is told.
pub struct FeedLoop {
    /// The truth.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Watchers and long polls.
    pub hub: Hub,
    /// The reconciler; a bounded channel, so that it slows the pull down and loses nothing.
    pub reconciler: mpsc::Sender<Arc<Batch>>,
    /// Says when the truth was read.
    pub readiness: Readiness,
}

impl FeedLoop {
    /// Pulls until the drain begins.
    pub async fn run(self, drain: Drain) {
        let feed = Feed::new(&self.store);
        let (me, mut changed) = (self.clock.new_id(), self.store.changed());
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut cursor: Option<Cursor> = None;
        let mut failures = 0u32;
        while !drain.has_begun() {
            changed.mark_unchanged();
            match self.pull(&feed, cursor.as_ref()).await {
                Ok(next) => {
                    (cursor, failures) = (Some(next), 0);
                    let housekeep = tokio::select! {
                        () = drain.begun() => return,
                        _ = changed.changed() => false,
                        () = tokio::time::sleep(FLOOR) => false,
                        _ = housekeeping.tick() => true,
                    };
                    if let (true, Some(cursor)) = (housekeep, &cursor) {
                        self.housekeep(&feed, me, cursor).await;
                    }
                }
                Err(e) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(error = %e, "the feed cannot be pulled; trying again");
                    }
                    let pause = Duration::from_millis(50 * u64::from(failures.min(20)));
                    if drain.or(tokio::time::sleep(pause.mul_f64(0.5 + self.clock.jitter()))).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn pull(&self, feed: &Feed, cursor: Option<&Cursor>) -> Result<Cursor, Error> {
        let batch = match cursor {
            Some(cursor) => feed.pull(cursor).await?,
            None => feed.bootstrap().await?,
        };
        let next = batch.cursor.clone();
        if batch.reload || !batch.changes.is_empty() {
            // The hub first: it wakes the agents' polls, and takes microseconds.
            self.hub.apply(&batch);
            if self.reconciler.send(Arc::new(batch)).await.is_err() {
                tracing::debug!("the reconciler has stopped");
            }
        }
        self.readiness.ready("feed");
        Ok(next)
    }

    async fn housekeep(&self, feed: &Feed, me: uuid::Uuid, cursor: &Cursor) {
        let now = self.clock.now();
        let done = async {
            feed.hold(me, cursor, now).await?;
            feed.prune(now, IDLE_SECONDS).await
        };
        if let Err(e) = done.await {
            tracing::debug!(error = %e, "the change log was not pruned");
        }
    }
}
