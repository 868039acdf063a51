//! Answers that go on: watches and followed logs.

use crate::{
    handle::Shared, kinds::Kind, logs::Wanted, requests::Asked, select::Selector, state::Change,
    status::Status, verbs,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// One piece of an answer, or the end of the connection.
pub(crate) type Piece = Result<Bytes, io::Error>;

/// What is watched.
pub(crate) struct Watched {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub selector: Selector,
    pub from: String,
    pub bookmarks: bool,
    pub metadata_only: bool,
    pub timeout: Duration,
}

impl Watched {
    pub fn timeout(asked: &Asked, most: Duration) -> Duration {
        let wanted = asked.param("timeoutSeconds").and_then(|t| t.parse().ok()).map(Duration::from_secs);
        wanted.unwrap_or(most).min(most)
    }

    fn event(&self, what: &str, object: &Value) -> Bytes {
        let object = if self.metadata_only { verbs::metadata_only(object) } else { object.clone() };
        Bytes::from(json!({ "type": what, "object": object }).to_string() + "\n")
    }

    fn bookmark(&self, version: u64) -> Bytes {
        let object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": { "resourceVersion": version.to_string(), "creationTimestamp": null },
        });
        Bytes::from(json!({ "type": "BOOKMARK", "object": object }).to_string() + "\n")
    }

    /// What a change is to those who see only what the selector selects.
    fn seen(&self, change: &Change) -> Option<Bytes> {
        let here = self.namespace.as_ref().is_none_or(|n| *n == change.key.namespace);
        if change.key.resource != self.kind.resource() || !here {
            return None;
        }
        let matches = |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|o| self.selector.matches(o));
        match (matches(&change.before), matches(&change.after)) {
            (false, true) => Some(self.event("ADDED", &change.last)),
            (true, true) => Some(self.event("MODIFIED", &change.last)),
            (true, false) => Some(self.event("DELETED", &change.last)),
            (false, false) => None,
        }
    }
}

fn expired(from: u64, compacted: u64) -> Bytes {
    let status = Status::gone(format!("too old resource version: {from} ({compacted})"));
    Bytes::from(json!({ "type": "ERROR", "object": status.body() }).to_string() + "\n")
}

/// Tells changes until the time is up, somebody cuts it, or nobody listens.
pub(crate) async fn watch(shared: Arc<Shared>, watched: Watched, out: mpsc::Sender<Piece>) {
    let deadline = Instant::now() + watched.timeout;
    let (mut changed, mut cut) = (shared.changed.subscribe(), shared.cut.subscribe());
    cut.mark_unchanged();
    let mut at: u64 = watched.from.parse().unwrap_or(0);
    if at == 0 {
        let (version, objects) = {
            let state = shared.state.lock();
            let all: Vec<Arc<Value>> = state
                .list(watched.kind, watched.namespace.as_deref())
                .filter(|o| watched.selector.matches(o))
                .cloned()
                .collect();
            (state.version, all)
        };
        at = version;
        for object in objects {
            if out.send(Ok(watched.event("ADDED", &object))).await.is_err() {
                return;
            }
        }
    }
    let mut bookmarks = tokio::time::interval(shared.bookmark_interval);
    loop {
        changed.mark_unchanged();
        let (pieces, version, compacted) = {
            let state = shared.state.lock();
            let from = state.history.partition_point(|change| change.version <= at);
            let new =
                state.history[from..].iter().filter_map(|change| watched.seen(change)).collect::<Vec<_>>();
            (new, state.version, state.compacted)
        };
        if at < compacted {
            _ = out.send(Ok(expired(at, compacted))).await;
            return;
        }
        for piece in pieces {
            if out.send(Ok(piece)).await.is_err() {
                return;
            }
        }
        at = version;
        tokio::select! {
            _ = changed.changed() => {}
            _ = bookmarks.tick(), if watched.bookmarks => {
                if out.send(Ok(watched.bookmark(at))).await.is_err() {
                    return;
                }
            }
            _ = cut.changed() => {
                // In the middle of a line, so that half an event is what is left of it.
                _ = out.send(Ok(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"obj"))).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                _ = out.send(Err(io::Error::other("cut"))).await;
                return;
            }
            () = tokio::time::sleep_until(deadline) => return,
            () = out.closed() => return,
        }
    }
}

/// Prints a pod's lines; with `follow` until the pod is gone.
pub(crate) async fn follow(
    shared: Arc<Shared>,
    asked: Asked,
    namespace: String,
    pod: String,
    out: mpsc::Sender<Piece>,
) {
    let since = asked.param("sinceTime").and_then(|t| chrono::DateTime::parse_from_rfc3339(&t).ok());
    let seconds = asked.param("sinceSeconds").and_then(|s| s.parse().ok());
    let before = seconds.map(|s| chrono::Utc::now() - chrono::TimeDelta::seconds(s));
    let wanted = Wanted {
        tail: asked.param("tailLines").and_then(|t| t.parse().ok()),
        since: since.map(|s| s.to_utc()).or(before),
        timestamps: asked.flag("timestamps"),
    };
    let (mut changed, mut cut) = (shared.changed.subscribe(), shared.cut.subscribe());
    cut.mark_unchanged();
    let mut from = None;
    loop {
        changed.mark_unchanged();
        let (text, there) = {
            let state = shared.state.lock();
            let log = state.logs.of(&namespace, &pod);
            let lines = if asked.flag("previous") { log.before.unwrap_or_default() } else { log.now };
            let (text, next) = wanted.take(&lines, from);
            from = Some(next);
            (text, state.get(&crate::kinds::POD, &namespace, &pod).is_some())
        };
        if !text.is_empty() && out.send(Ok(Bytes::from(text))).await.is_err() {
            return;
        }
        if !asked.flag("follow") || !there {
            return;
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = cut.changed() => {
                _ = out.send(Err(io::Error::other("cut"))).await;
                return;
            }
            () = out.closed() => return,
        }
    }
}
