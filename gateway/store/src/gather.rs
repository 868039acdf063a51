//! Questions of many callers, answered together.
//!
//! While an answer is under way, who comes waits, and all who wait are answered by the next one. So a caller is never
//! answered from a look at the truth that began before it asked, and the more callers there are, the less each costs.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Callers in lines: those of one line are answered together.
pub(crate) struct Gather<L, Q, A> {
    lines: Mutex<HashMap<L, Line<Q, A>>>,
    /// Answers of one line that may be under way.
    at_once: usize,
    /// Questions of one answer.
    most: usize,
}

struct Line<Q, A> {
    under_way: usize,
    waiting: Vec<(Q, oneshot::Sender<A>)>,
}

impl<L, Q, A> Gather<L, Q, A>
where
    L: Clone + Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Send + 'static,
{
    pub(crate) fn new(at_once: usize, most: usize) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), at_once, most })
    }

    /// Asks, alone or with others. `answer` gives as many answers as it gets questions, in their order; it runs to its
    /// end even if all who asked went away. `None`: it panicked.
    pub(crate) async fn ask<F, R>(self: &Arc<Self>, line: L, question: Q, answer: F) -> Option<A>
    where
        F: Fn(L, Vec<Q>) -> R + Send + 'static,
        R: Future<Output = Vec<A>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let leads = {
            let mut lines = self.lines();
            let here = lines.entry(line.clone()).or_insert(Line { under_way: 0, waiting: Vec::new() });
            here.waiting.push((question, sender));
            let leads = here.under_way < self.at_once;
            here.under_way += usize::from(leads);
            leads
        };
        if leads {
            // A task of its own: others wait for it, so it must not end with the request that began it.
            tokio::spawn(Lead { gather: self.clone(), line, done: false }.run(answer));
        }
        receiver.await.ok()
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<L, Line<Q, A>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some that wait, without those that went away. `None` ends the one who asks for them.
    fn take(&self, line: &L) -> Option<Vec<(Q, oneshot::Sender<A>)>> {
        let mut lines = self.lines();
        let here = lines.get_mut(line)?;
        here.waiting.retain(|(_, sender)| !sender.is_closed());
        if here.waiting.is_empty() {
            Self::leave(&mut lines, line);
            return None;
        }
        let rest = here.waiting.split_off(self.most.min(here.waiting.len()));
        Some(mem::replace(&mut here.waiting, rest))
    }

    fn leave(lines: &mut HashMap<L, Line<Q, A>>, line: &L) {
        let Some(here) = lines.get_mut(line) else { return };
        here.under_way = here.under_way.saturating_sub(1);
        if here.under_way == 0 {
            lines.remove(line);
        }
    }
}

/// Answers a line until nobody waits in it.
struct Lead<L, Q, A>
where
    L: Clone + Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Send + 'static,
{
    gather: Arc<Gather<L, Q, A>>,
    line: L,
    done: bool,
}

impl<L, Q, A> Lead<L, Q, A>
where
    L: Clone + Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Send + 'static,
{
    async fn run<F, R>(mut self, answer: F)
    where
        F: Fn(L, Vec<Q>) -> R + Send + 'static,
        R: Future<Output = Vec<A>> + Send + 'static,
    {
        while let Some(batch) = self.gather.take(&self.line) {
            let (questions, senders): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let answers = answer(self.line.clone(), questions).await;
            for (sender, answer) in senders.into_iter().zip(answers) {
                // Who went away meanwhile is told nothing.
                let _ = sender.send(answer);
            }
        }
        self.done = true;
    }
}

impl<L, Q, A> Drop for Lead<L, Q, A>
where
    L: Clone + Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Send + 'static,
{
    /// After a panic its place is free, and who still waits in a line that nobody answers is let go.
    fn drop(&mut self) {
        if !self.done {
            Gather::leave(&mut self.gather.lines(), &self.line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    type Doubling = Arc<Gather<u8, u32, u32>>;

    async fn doubled(
        gather: &Doubling,
        line: u8,
        question: u32,
        gate: &Arc<Semaphore>,
        rounds: &Arc<AtomicUsize>,
    ) -> Option<u32> {
        let (gate, rounds) = (gate.clone(), rounds.clone());
        let answer = move |_, questions: Vec<u32>| {
            let (gate, rounds) = (gate.clone(), rounds.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                rounds.fetch_add(1, Ordering::Relaxed);
                assert!(!questions.contains(&13), "thirteen");
                questions.into_iter().map(|q| q * 2).collect()
            }
        };
        gather.ask(line, question, answer).await
    }

    fn ask(
        gather: &Doubling,
        line: u8,
        question: u32,
        gate: &Arc<Semaphore>,
        rounds: &Arc<AtomicUsize>,
    ) -> tokio::task::JoinHandle<Option<u32>> {
        let (gather, gate, rounds) = (gather.clone(), gate.clone(), rounds.clone());
        tokio::spawn(async move { doubled(&gather, line, question, &gate, &rounds).await })
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_waits_is_answered_together_and_by_nothing_that_began_before() {
        let (gather, gate, rounds) = (Gather::new(1, 3), Arc::new(Semaphore::new(0)), Arc::default());
        let first = ask(&gather, 0, 1, &gate, &rounds);
        settle().await;
        let others: Vec<_> = (2..7).map(|n| ask(&gather, 0, n, &gate, &rounds)).collect();
        let elsewhere = ask(&gather, 1, 50, &gate, &rounds);
        settle().await;
        gate.add_permits(100);
        assert_eq!(first.await.unwrap(), Some(2));
        for (n, other) in (2..7).zip(others) {
            assert_eq!(other.await.unwrap(), Some(n * 2));
        }
        assert_eq!(elsewhere.await.unwrap(), Some(100));
        // The first alone, three, two, and the other line.
        assert_eq!(rounds.load(Ordering::Relaxed), 4);
        settle().await;
        assert!(gather.lines().is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_is_not_asked_for_and_holds_nobody_up() {
        let (gather, gate, rounds) = (Gather::new(1, 8), Arc::new(Semaphore::new(0)), Arc::default());
        let first = ask(&gather, 0, 1, &gate, &rounds);
        settle().await;
        let (gone, stays) = (ask(&gather, 0, 13, &gate, &rounds), ask(&gather, 0, 3, &gate, &rounds));
        settle().await;
        gone.abort();
        first.abort();
        settle().await;
        gate.add_permits(100);
        assert_eq!(stays.await.unwrap(), Some(6));
    }

    #[tokio::test]
    async fn a_panic_lets_those_go_that_waited_for_it_and_the_next_begin_anew() {
        let (gather, gate, rounds) = (Gather::new(1, 1), Arc::new(Semaphore::new(0)), Arc::default());
        let bad = ask(&gather, 0, 13, &gate, &rounds);
        settle().await;
        let behind = ask(&gather, 0, 4, &gate, &rounds);
        settle().await;
        gate.add_permits(100);
        assert_eq!((bad.await.unwrap(), behind.await.unwrap()), (None, None));
        assert_eq!(doubled(&gather, 0, 5, &gate, &rounds).await, Some(10));
    }
}
