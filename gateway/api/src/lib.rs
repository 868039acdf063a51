//! The door: HTTP for users, agents and the image service. Writes intent, reads state, streams.
//! Decides nothing.
//!
//! One noun, one file. A request passes [`door`] (which names it, asks the table in
//! [`authorization`], and writes refusals as problems), is parsed strictly ([`body`], [`query`]),
//! is stored in one transaction ([`intent`]), and is answered. What changes is told by [`hub`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adoption;
mod agent;
mod agent_identity;
mod agents;
mod apply;
mod artifacts;
mod audit;
pub mod authentication;
pub mod authorization;
pub mod body;
mod consoles;
mod counters;
mod debug;
mod deployment_history;
mod deployment_logs;
mod deployments;
mod directory;
mod door;
mod drains;
mod enrolment;
mod error;
mod explain;
mod health;
mod host_loss;
mod hosts;
pub mod hub;
mod image_events;
mod image_work;
mod images;
mod intent;
mod links;
mod login;
mod login_limit;
mod members;
mod metrics;
mod migrations;
mod networks;
pub mod openapi;
mod pages;
mod passwords;
mod pools;
mod ports;
mod projects;
mod providers;
pub mod query;
mod readiness;
mod role_bindings;
mod routers;
mod routes;
pub mod rows;
mod secrets;
mod security_groups;
mod servers;
mod service_tokens;
mod sim;
mod store_problem;
mod task_logs;
mod tasks;
mod tenants;
mod unstick;
mod users;
mod vm_verbs;
mod vms;
mod volumes;
mod watch;

pub use debug::Ask;
pub use deployment_logs::{LogLines, Logs, LogsAsked};
pub use error::Error;
pub use hub::Hub;
pub use login::{FIRST_BOOT_HOURS, first_boot_token};
pub use metrics::{Metrics, SharedRegistry};
pub use readiness::Readiness;
pub use service_tokens::create_local;

use axum::Router;
use basalt_daemon::{Clock, Drain, pki::Authority};
use basalt_model::Name;
use basalt_store::{Ids, Store, secrets::SealingKeys};
use basalt_wire::upload_token::Keyring;
use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::{Arc, OnceLock},
};

/// Where the image service is, and the keys that sign its tokens.
#[derive(Clone, Debug)]
pub struct ImageDoor {
    /// Its address for agents.
    pub url: String,
    /// Its address for users.
    pub public_url: String,
    /// Signs tokens.
    pub keys: Keyring,
}

/// What the doors need.
pub struct Options {
    /// The truth.
    pub store: Store,
    /// Time, ids and secrets.
    pub clock: Arc<dyn Clock>,
    /// Signs the certificates of agents.
    pub authority: Arc<Authority>,
    /// The image service.
    pub images: ImageDoor,
    /// Ends streams and long polls.
    pub drain: Drain,
    /// Whether the process can serve.
    pub readiness: Readiness,
    /// Where metrics are registered.
    pub registry: SharedRegistry,
    /// Given every batch of the feed by whoever pulls it.
    pub hub: Hub,
    /// Who answers operators' questions about the graph.
    pub ask: Option<Ask>,
    /// Keys that secrets are sealed with.
    pub sealing_keys: Arc<SealingKeys>,
    /// Container engines that the configuration names.
    pub engines: BTreeSet<Name>,
    /// Who reads the logs of deployments from their platforms.
    pub logs: Option<Logs>,
}

/// What every handler shares. Clones are the same.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts behind [`App`].
pub struct Parts {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Ids,
    pub(crate) authority: Arc<Authority>,
    pub(crate) images: ImageDoor,
    pub(crate) drain: Drain,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) passwords: passwords::Passwords,
    pub(crate) logins: login_limit::LoginLimit,
    pub(crate) tokens: authentication::Tokens,
    pub(crate) projects: authentication::Projects,
    pub(crate) links: links::Links,
    pub(crate) started_at: basalt_model::DateTime,
    pub(crate) consoles: consoles::Desk,
    pub(crate) questions: counters::Questions,
    pub(crate) hub: Hub,
    pub(crate) ask: Option<Ask>,
    pub(crate) sealing_keys: Arc<SealingKeys>,
    pub(crate) engines: BTreeSet<Name>,
    pub(crate) logs: Option<Logs>,
}

/// Routes without their document, which takes longer to write than all else of a door and is the same for each: a process
/// with many doors, as a simulator is, puts them together once.
fn bare(routes: fn(utoipa::openapi::OpenApi) -> utoipa_axum::router::OpenApiRouter<App>) -> Router<App> {
    routes(Default::default()).split_for_parts().0
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Puts the doors together; nothing runs yet.
    pub fn new(options: Options) -> Self {
        let (clock, started_at) = (options.clock.clone(), options.clock.now());
        let ids: Ids = Arc::new(move || clock.new_id());
        Self(Arc::new(Parts {
            store: options.store,
            clock: options.clock,
            ids,
            authority: options.authority,
            images: options.images,
            drain: options.drain,
            readiness: options.readiness,
            metrics: Metrics::new(options.registry),
            passwords: passwords::Passwords::default(),
            logins: login_limit::LoginLimit::default(),
            tokens: authentication::Tokens::default(),
            projects: authentication::Projects::default(),
            links: links::Links::default(),
            started_at,
            consoles: consoles::Desk::default(),
            questions: counters::Questions::default(),
            hub: options.hub,
            ask: options.ask,
            sealing_keys: options.sealing_keys,
            engines: options.engines,
            logs: options.logs,
        }))
    }

    /// The hub that the doors listen to.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The users' door.
    pub fn users(&self) -> Router {
        static ROUTES: OnceLock<Router<App>> = OnceLock::new();
        self.serve(ROUTES.get_or_init(|| bare(routes::users)))
    }

    /// The door of agents and image service.
    pub fn agents(&self) -> Router {
        static ROUTES: OnceLock<Router<App>> = OnceLock::new();
        self.serve(ROUTES.get_or_init(|| bare(routes::agents)))
    }

    /// Writes heartbeats down, all hosts in one statement, until the drain begins.
    pub async fn run(self, drain: Drain) {
        while drain.or(tokio::time::sleep(links::FLUSH)).await.is_some() {
            self.step().await;
        }
        self.step().await;
    }

    /// One step of [`Self::run`]: writes down the heartbeats since the last one.
    pub async fn step(&self) {
        self.links.flush(self).await;
    }

    fn serve(&self, routes: &Router<App>) -> Router {
        let router = routes.clone();
        router
            .fallback(door::no_route)
            .method_not_allowed_fallback(door::no_method)
            .layer(axum::middleware::from_fn_with_state(self.clone(), door::enter))
            .with_state(self.clone())
    }
}
