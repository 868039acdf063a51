//! What costs a probe: whoever asks while one goes on waits for its result, and a result that serves is kept.
//!
//! A probe runs on a task of its own. A caller that is not polled any more (a future left aside in a `select!` whose
//! other branch goes on) then holds nothing that others wait for.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
};
use tokio::sync::watch;

/// A probe that goes on, or its result.
type Probing<T> = watch::Receiver<Option<Result<T, String>>>;

/// The last probe.
pub struct Probe<T>(Mutex<Option<Probing<T>>>);

impl<T> Default for Probe<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone + Send + Sync + 'static> Probe<T> {
    /// The result of the probe that goes on, or of the last one if it `serves`, or of a new one. One that failed is
    /// asked again: the host may just have been overloaded.
    pub async fn result<F>(&self, serves: impl Fn(&T) -> bool, probe: impl FnOnce() -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let mut probing = self.probing(serves, probe);
        let ended = match probing.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            Err(_) => None,
        };
        ended.unwrap_or_else(|| Err("the probe was given up".into()))
    }

    fn probing<F>(&self, serves: impl Fn(&T) -> bool, probe: impl FnOnce() -> F) -> Probing<T>
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probing) = last.as_ref().filter(|probing| is_good(probing, &serves)) {
            return probing.clone();
        }
        let (done, probing) = watch::channel(None);
        let probe = probe();
        tokio::spawn(async move {
            let probed = probe.await;
            done.send_replace(Some(probed));
        });
        *last = Some(probing.clone());
        probing
    }
}

fn is_good<T>(probing: &Probing<T>, serves: &impl Fn(&T) -> bool) -> bool {
    let given_up = probing.has_changed().is_err();
    match &*probing.borrow() {
        None => !given_up,
        Some(Ok(result)) => serves(result),
        Some(Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    async fn slow(count: Arc<AtomicU32>, result: Result<u32, String>) -> Result<u32, String> {
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        result
    }

    /// The agent hung so: its loop left the gathering of facts aside, half way, to look at the host, and the look
    /// waited for the probe that only the gathering would have driven on.
    #[tokio::test]
    async fn who_asked_and_is_not_polled_any_more_keeps_nobody_waiting() {
        let (probe, count) = (Probe::default(), Arc::new(AtomicU32::new(0)));
        let ask = || probe.result(|_| true, || slow(count.clone(), Ok(7)));
        let mut aside = std::pin::pin!(ask());
        assert_eq!(aside.as_mut().now_or_never(), None, "begun and left");
        let answer = tokio::time::timeout(Duration::from_secs(5), ask()).await;
        assert_eq!(answer.expect("nobody waits for who was left aside"), Ok(7));
        assert_eq!((aside.await, count.load(Ordering::Relaxed)), (Ok(7), 1), "probed once");
    }

    #[tokio::test]
    async fn a_result_that_does_not_serve_and_a_failure_are_asked_again() {
        let (probe, count) = (Probe::default(), Arc::new(AtomicU32::new(0)));
        let ask = async |serves: bool, result| probe.result(|_| serves, || slow(count.clone(), result)).await;
        assert_eq!(ask(true, Err("busy".into())).await, Err("busy".into()));
        assert_eq!(ask(true, Ok(1)).await, Ok(1));
        assert_eq!(ask(true, Ok(2)).await, Ok(1), "kept");
        assert_eq!(ask(false, Ok(3)).await, Ok(3));
        assert_eq!(count.load(Ordering::Relaxed), 3);
        let died = probe.result(|_| false, || async { panic!("in the middle") }).await;
        assert_eq!(died, Err("the probe was given up".into()));
        assert_eq!(ask(true, Ok(4)).await, Ok(4));
    }
}
