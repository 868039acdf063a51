//! The notifier: tells the other gateways on this database that something was committed here, and hears it of them.
//!
//! One connection of each gateway does both, outside of every write: a NOTIFY inside the writing transaction makes
//! all writers wait for one lock (measured: a tenth of the commits). What is said has no content, and nothing
//! depends on it being heard: whoever pulls the feed also pulls once a second.

use crate::{Result, Store};
use sqlx::{Executor, postgres::PgListener};
use std::{convert::Infallible, future::Future, time::Duration};
use tokio::time::{sleep, timeout};

const LISTEN: &str = "basalt_changed";
const NOTIFY: &str = "NOTIFY basalt_changed";
/// Commits within so long are told once.
const APART: Duration = Duration::from_millis(15);
/// A connection on which nothing happened for so long is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the server may take for an answer before the connection counts as dead.
const ANSWER: Duration = Duration::from_secs(5);
/// The wait after the first connection that broke; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How long to wait before the n-th attempt in a row, `jitter` in `[0, 1)`: between half of it and the whole, so that
/// gateways that lost the server together do not come back together.
pub fn backoff(attempt: u32, jitter: f64) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(BACKOFF_MAX);
    whole.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

impl Store {
    /// Exchanges news with the other gateways, for as long as it is polled. A connection that breaks is made anew.
    pub async fn exchange_news(&self, jitter: impl Fn() -> f64) -> Infallible {
        let mut attempt = 0;
        loop {
            let Err(error) = self.exchange(&mut attempt).await;
            let wait = backoff(attempt, jitter());
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                ?wait,
                "no news from other gateways; theirs is found by polling meanwhile"
            );
            sleep(wait).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn exchange(&self, attempt: &mut u32) -> Result<Infallible> {
        let mut listener = PgListener::connect_with(self.pool()).await?;
        listener.eager_reconnect(false);
        listener.listen(LISTEN).await?;
        let own: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut listener).await?;
        let mut committed = self.committed();
        *attempt = 0;
        // Whatever was said while nobody listened.
        self.wake();
        let mut resting = false;
        let mut timer = Box::pin(sleep(SILENCE));
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    None => return Err(sqlx::Error::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)).into()),
                    Some(news) if u32::try_from(own) != Ok(news.process_id()) => self.wake(),
                    Some(_) => {}
                },
                Ok(()) = committed.changed(), if !resting => {
                    answered(listener.execute(NOTIFY)).await?;
                    (resting, timer) = (true, Box::pin(sleep(APART)));
                }
                () = &mut timer => {
                    if !std::mem::take(&mut resting) {
                        answered(listener.execute("SELECT 1")).await?;
                    }
                    timer = Box::pin(sleep(SILENCE));
                }
            }
        }
    }
}

async fn answered<T>(work: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match timeout(ANSWER, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(sqlx::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_a_reconnect_storm_backs_off_with_jitter() {
        let spread: Vec<Duration> = (0..10).map(|n| backoff(3, f64::from(n) / 10.0)).collect();
        assert!(spread.windows(2).all(|w| w[0] < w[1]), "no two at one moment: {spread:?}");
        assert_eq!((spread[0], backoff(3, 1.0)), (Duration::from_millis(400), Duration::from_millis(800)));
        assert_eq!((backoff(0, 1.0), backoff(60, 1.0)), (BACKOFF_MIN, BACKOFF_MAX), "first and longest");
    }
}
