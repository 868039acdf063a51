//! Draining: one signal that everything long-running listens to.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Says when to stop. Clones say the same.
#[derive(Clone, Debug, Default)]
pub struct Drain(CancellationToken);

impl Drain {
    /// A drain that nobody has begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the drain; calling it again changes nothing.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Runs a future until it ends or the drain begins; `None` when the drain came first.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// Begins on SIGTERM or SIGINT.
    pub fn on_signals() -> std::io::Result<Self> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let drain = Self::new();
        let begin = drain.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            tracing::info!("stopping");
            begin.begin();
        });
        Ok(drain)
    }
}
