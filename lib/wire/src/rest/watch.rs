//! What `/v1/watch` streams (server-sent events, one JSON object each; the event id is the cursor).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a watch event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchKind {
    /// An object as it stood when the watch began.
    Snapshot,
    /// An object that appeared or changed.
    Upsert,
    /// An object that is gone.
    Delete,
    /// Everything up to this cursor was sent.
    Bookmark,
    /// The stream fell behind or the log is gone: forget everything and begin again.
    Resync,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WatchEvent {
    /// What happened.
    pub event: WatchKind,
    /// The noun: `vm`, `task`, `network` …; empty for bookmark and resync.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// The object as `GET` shows it; absent for delete, bookmark and resync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<serde_json::Value>,
    /// Resume after this point with `?cursor=` or `Last-Event-ID`.
    pub cursor: String,
}
