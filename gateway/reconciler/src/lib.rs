//! The will: feed → graph → plan, then write back. See `graph.rs` for what is derived and
//! `step.rs` for the state machine without clock or IO; here is the driver that runs it.
//!
//! The driver also pulls the feed, once for the whole gateway: every batch is handed to
//! [`Options::on_batch`] before the graph takes it in.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod debug;
pub mod dispatch;
mod driver;
pub mod feed;
pub mod graph;
pub mod handlers;
pub mod lane;
pub mod metrics;
pub mod platforms;
pub mod rows;
pub mod step;
pub mod sweeps;

use basalt_daemon::{Clock, Drain};
use basalt_model::{HostId, ProviderId};
use basalt_store::{Store, feed::Batch};
use platforms::Platforms;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use debug::Question;

/// Called with every batch, where the feed is pulled: it must be quick.
pub type OnBatch = Arc<dyn Fn(&Batch) + Send + Sync>;

/// Is told of a manifest that was written, with its revision.
pub type OnManifest = Arc<dyn Fn(HostId, i64) + Send + Sync>;

/// When the graph is compared with a recomputation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// After every transaction; a difference ends the reconciler. For tests.
    Always,
    /// A few keys of every collection at a time, when nothing else is to be done, until all had their turn; a difference
    /// is counted and the graph is built anew. All at once, the recomputation is a second graph in memory, and nothing
    /// else goes on meanwhile.
    Sampled {
        /// Between two times.
        every: Duration,
        /// Keys of each collection.
        keys: usize,
    },
}

/// What a reconciler is made of.
#[derive(Clone)]
pub struct Options {
    /// The truth.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who this gateway is. One that keeps its identity over a restart has its lease again at once.
    pub holder: Uuid,
    /// Who else wants the feed.
    pub on_batch: Option<OnBatch>,
    /// Who wants to know at once which manifests this reconciler wrote; the feed tells it a moment later.
    pub on_manifest: Option<OnManifest>,
    /// The oracle.
    pub verify: Verify,
    /// Days for which finished tasks and their logs are kept.
    pub keep_tasks_days: u32,
    /// How what platforms show is read.
    pub eyes: graph::Eyes,
    /// Between two looks at a provider that tells nothing by itself.
    pub look_every: Duration,
    /// What it takes to reach platforms; without it deployments are only judged.
    pub hands: Option<platforms::Hands>,
}

impl Options {
    /// With everything as in production.
    pub fn new(store: Store, clock: Arc<dyn Clock>, holder: Uuid) -> Self {
        Self {
            store,
            clock,
            holder,
            on_batch: None,
            on_manifest: None,
            verify: Verify::Sampled { every: Duration::from_secs(1), keys: 4 },
            keep_tasks_days: 30,
            eyes: graph::Eyes::default(),
            look_every: Duration::from_secs(10),
            hands: None,
        }
    }
}

/// What ends a reconciler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The graph is declared wrongly.
    #[error("the graph cannot be built: {0}")]
    Graph(#[from] krt::Error),
    /// The graph is not what a recomputation gives, under [`Verify::Always`].
    #[error("the graph differs from a recomputation: {0}")]
    Diverged(String),
}

/// The long-running part.
pub struct Reconciler {
    options: Options,
    shared: Arc<Shared>,
    questions: mpsc::Receiver<(Question, oneshot::Sender<String>)>,
    /// Platforms, and what changed there; none where nobody may reach any.
    platforms: Option<(Arc<Platforms>, mpsc::Receiver<ProviderId>)>,
}

/// What others see of a running reconciler.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    platforms: Option<Arc<Platforms>>,
    questions: mpsc::Sender<(Question, oneshot::Sender<String>)>,
}

struct Shared {
    synced: AtomicBool,
    /// Why the feed cannot be read now.
    trouble: Mutex<Option<String>>,
    metrics: metrics::Metrics,
}

impl Reconciler {
    /// A reconciler that does not run yet, and its handle.
    pub fn new(options: Options) -> (Self, Handle) {
        let shared = Arc::new(Shared {
            synced: AtomicBool::new(false),
            trouble: Mutex::new(None),
            metrics: metrics::Metrics::default(),
        });
        let (ask, questions) = mpsc::channel(4);
        let reach = |hands| Platforms::new(options.store.clone(), options.clock.clone(), hands, options.eyes);
        let platforms = options.hands.clone().map(reach);
        let reached = platforms.as_ref().map(|(platforms, _)| Arc::clone(platforms));
        let handle = Handle { shared: Arc::clone(&shared), platforms: reached, questions: ask };
        (Self { options, shared, questions, platforms }, handle)
    }

    /// Runs until the drain begins. The database may come and go meanwhile.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        driver::Driver::new(self)?.run(drain).await
    }
}

impl Handle {
    /// Whether the truth was read once and can be read now; if not, why.
    pub fn readiness(&self) -> Result<(), String> {
        if !self.shared.synced.load(Ordering::Acquire) {
            return Err("the truth is being read for the first time".into());
        }
        match self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    /// What platforms are reached by, where any may be.
    pub fn platforms(&self) -> Option<&Arc<Platforms>> {
        self.platforms.as_ref()
    }

    /// The counters.
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.shared.metrics
    }

    /// Asks about the graph; `None` when the reconciler does not run. For operators: nothing here is shaped for programs.
    pub async fn ask(&self, question: Question) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        self.questions.send((question, answer)).await.ok()?;
        answered.await.ok()
    }
}
