//! `GET /v1/watch`: objects as they are and as they change, over server-sent events.
//!
//! ```text
//! snapshot* bookmark (upsert | delete | bookmark)* ──fell behind──► resync snapshot* bookmark …
//! ```
//! The permission is that of now: every two seconds the token is looked up past all memory, and the
//! stream ends when the token was revoked or what it may do has changed (S6).

use crate::{
    App, Error,
    authentication::{self, Permit},
    hub::{Delivery, Event, Filter, Subscription},
    metrics::Held,
    query::Query,
    rows::Noun,
};
use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use basalt_model::FieldError;
use basalt_wire::rest::{WatchEvent, WatchKind};
use futures::FutureExt;
use serde::Deserialize;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Interval, MissedTickBehavior};
use utoipa::IntoParams;

/// Most streams at once.
const MAX_STREAMS: i64 = 2000;
const RECHECK: Duration = Duration::from_secs(2);

/// What to watch.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WatchParams {
    /// Nouns joined by commas: `vm,task`; default: all.
    #[serde(default)]
    pub kinds: Option<String>,
    /// Only this project: name or id.
    #[serde(default)]
    pub project: Option<String>,
    /// Resume after this position; `Last-Event-ID` does the same.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Streams objects as they are and as they change.
#[utoipa::path(get, path = "/v1/watch", tag = "watch", params(WatchParams),
    responses((status = 200, description = "Server-sent events; `id` is the cursor, `data` one WatchEvent", body = WatchEvent, content_type = "text/event-stream"), crate::openapi::Problems))]
pub async fn watch(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<WatchParams>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    if !app.hub.is_synced() {
        return Err(Error::NotReady("the truth is being read".into()));
    }
    let open = open(&app)?;
    let nouns = params.kinds.as_deref().map_or_else(|| Ok(Noun::ALL.into()), parse_kinds)?;
    let project = match &params.project {
        None => None,
        Some(text) => Some(authentication::find_project(&app, &permit.principal.grants, text).await?.id),
    };
    let filter = Filter { nouns, project, scopes: permit.scopes() };
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    let from = last.or(params.cursor.as_deref());
    let mut recheck = tokio::time::interval(RECHECK);
    recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let subscription = app.hub.subscribe(filter.clone(), from);
    let stream = Stream {
        app,
        permit,
        filter,
        ready: VecDeque::new(),
        first: Vec::new().into_iter(),
        subscription: None,
        recheck,
        _open: open,
    };
    let stream = stream.begin(subscription);
    let events = futures::stream::unfold(stream, |mut stream| async move {
        stream.next().await.map(|e| (Ok::<_, Infallible>(e), stream))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response())
}

fn parse_kinds(text: &str) -> Result<std::collections::BTreeSet<Noun>, Error> {
    let parse = |word: &str| {
        Noun::parse(word.trim()).ok_or_else(|| {
            let known = Noun::ALL.map(Noun::as_str).join(", ");
            Error::Query(FieldError::new(
                "kinds",
                "unknown_value",
                format!("{word:?} cannot be watched"),
                format!("give some of {known}, joined by commas"),
            ))
        })
    };
    text.split(',').map(parse).collect()
}

/// Counts an open stream, if there may be one more.
fn open(app: &App) -> Result<Held, Error> {
    match Held::begin(&app.metrics.watches) {
        (_, before) if before >= MAX_STREAMS => Err(Error::TooMany("watch streams")),
        (held, _) => Ok(held),
    }
}

struct Stream {
    app: App,
    permit: Permit,
    filter: Filter,
    ready: VecDeque<SseEvent>,
    first: std::vec::IntoIter<Arc<Event>>,
    subscription: Option<Subscription>,
    recheck: Interval,
    _open: Held,
}

impl Stream {
    fn begin(mut self, subscription: Subscription) -> Self {
        self.take(subscription);
        self
    }

    fn take(&mut self, mut subscription: Subscription) {
        if subscription.resync {
            self.ready.push_back(mark(WatchKind::Resync, &subscription.cursor));
        }
        self.first = std::mem::take(&mut subscription.first).into_iter();
        self.subscription = Some(subscription);
        if self.first.len() == 0 {
            self.mark_position();
        }
    }

    /// The next event; `None` ends the stream. Objects are written out one by one as the client reads.
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            // Also between the events of a long snapshot that is read slowly.
            if self.recheck.tick().now_or_never().is_some()
                && !authentication::is_unchanged(&self.app, &self.permit).await
            {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if let Some(event) = self.first.next() {
                if self.first.len() == 0 {
                    self.mark_position();
                }
                return Some(written(&event));
            }
            let subscription = self.subscription.as_mut()?;
            tokio::select! {
                biased;
                () = self.app.drain.begun() => return None,
                _ = self.recheck.tick() => {
                    if !authentication::is_unchanged(&self.app, &self.permit).await {
                        return None;
                    }
                }
                delivery = subscription.deliveries.recv() => match delivery {
                    Some(delivery) => self.deliver(&delivery),
                    None => self.begin_again(),
                }
            }
        }
    }

    fn mark_position(&mut self) {
        if let Some(subscription) = &self.subscription {
            self.ready.push_back(mark(WatchKind::Bookmark, &subscription.cursor));
        }
    }

    fn deliver(&mut self, delivery: &Delivery) {
        self.ready.extend(delivery.events.iter().map(|e| written(e)));
        self.ready.push_back(mark(WatchKind::Bookmark, &delivery.cursor));
    }

    /// The watcher fell behind, or the truth was read anew.
    fn begin_again(&mut self) {
        self.app.metrics.resyncs.inc();
        let mut subscription = self.app.hub.subscribe(self.filter.clone(), None);
        subscription.resync = true;
        self.take(subscription);
    }
}

fn written(event: &Event) -> SseEvent {
    SseEvent::default().event(word(event.kind())).id(event.cursor()).data(&*event.text())
}

fn mark(kind: WatchKind, cursor: &str) -> SseEvent {
    let event =
        WatchEvent { event: kind, kind: String::new(), id: None, object: None, cursor: cursor.into() };
    SseEvent::default().event(word(kind)).id(cursor).data(serde_json::to_string(&event).unwrap_or_default())
}

fn word(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::Snapshot => "snapshot",
        WatchKind::Upsert => "upsert",
        WatchKind::Delete => "delete",
        WatchKind::Bookmark => "bookmark",
        WatchKind::Resync => "resync",
    }
}
