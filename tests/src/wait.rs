//! Waiting for something to become so, with a bound and a word for what did not.

use anyhow::{Result, bail};
use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How long something may take before a scenario gives up, far above what it takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is `Some`; `what` completes "it did not come: …".
pub async fn until<T, F>(what: &str, ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    within(PATIENCE, what, ask).await
}

/// As [`until`], with another bound.
pub async fn within<T, F>(patience: Duration, what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + patience;
    loop {
        let said = ask().await;
        if let Ok(Some(value)) = said {
            return Ok(value);
        }
        if Instant::now() > end {
            match said {
                Err(e) => bail!("it did not come within {patience:?}: {what}; at last {e:#}"),
                Ok(_) => bail!("it did not come within {patience:?}: {what}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks until it is true.
pub async fn until_true(what: &str, mut ask: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !ask() {
        if Instant::now() > end {
            bail!("it did not come within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
