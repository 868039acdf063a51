//! An API server of Kubernetes for tests: real HTTP and TLS, used by an unchanged client.
//!
//! It does what the adapter leans on, as real API servers do it: server-side apply with owners of fields and lists
//! merged by key, optimistic concurrency, list and watch with bookmarks and compaction, finalizers and owners, rights,
//! logs, and a small controller that makes pods of deployments. What a real server does otherwise is a bug here. It
//! keeps nothing on disk, and everything that can go wrong on the way can be asked for ([`Faults`]).

mod apply;
mod controller;
mod defaults;
mod faults;
mod handle;
mod http;
mod kinds;
mod logs;
mod rbac;
mod requests;
mod select;
mod state;
mod status;
mod tls;
mod validate;
mod verbs;
mod watch;

pub use controller::Behaviour;
pub use faults::{Action, Fault, Faults, Recorded};
pub use handle::{Handle, Server};
pub use rbac::Rule;
pub use status::Status;

use std::time::Duration;

/// How a server is.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it says it is.
    pub version: String,
    /// The namespaces that are there.
    pub namespaces: Vec<String>,
    /// Whether the kinds of kagent are served.
    pub kagent: bool,
    /// Whether the kinds of `apps/v1` are served.
    pub apps: bool,
    /// What pods do whose image has no behaviour of its own.
    pub behaviour: Behaviour,
    /// How long a pod takes to go.
    pub termination: Duration,
    /// How long a pod takes to be ready.
    pub start: Duration,
    /// What a container prints as it begins.
    pub start_lines: Vec<String>,
    /// How long a watch lasts at most.
    pub watch_timeout: Duration,
    /// How often a watch tells where it is.
    pub bookmark_interval: Duration,
    /// Most objects of one page, whatever is asked for.
    pub page_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: "v1.36.2".to_owned(),
            namespaces: vec!["default".to_owned()],
            kagent: false,
            apps: true,
            behaviour: Behaviour::Ready,
            termination: Duration::from_millis(20),
            start: Duration::from_millis(10),
            start_lines: vec!["started".to_owned()],
            watch_timeout: Duration::from_secs(300),
            bookmark_interval: Duration::from_millis(200),
            page_size: 500,
        }
    }
}
