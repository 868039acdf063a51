//! The seed's choices, and clocks that differ from the world's.

use basalt_daemon::{Clock, ManualClock};
use basalt_model::DateTime;
use chrono::TimeDelta;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use uuid::Uuid;

/// Choices of a seed, the same on every machine.
pub struct Dice(StdRng);

impl Dice {
    /// The choices of one seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n.max(1)
    }

    /// An index into something of that length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

/// The clock of one node: the world's, and as much before or behind as a fault has set it.
pub struct NodeClock {
    world: Arc<ManualClock>,
    skew_seconds: AtomicI64,
}

impl NodeClock {
    /// A clock that goes right.
    pub fn new(world: Arc<ManualClock>) -> Self {
        Self { world, skew_seconds: AtomicI64::new(0) }
    }

    /// Sets it so far before (or behind, if negative) the world's.
    pub fn set(&self, skew_seconds: i64) {
        self.skew_seconds.store(skew_seconds, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn now(&self) -> DateTime {
        self.world.now() + TimeDelta::seconds(self.skew_seconds.load(Ordering::Relaxed))
    }

    fn new_id(&self) -> Uuid {
        // Random bits from the world, time from here: what a node with a wrong clock makes.
        let random = self.world.secret();
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&random[..10]);
        let millis = self.now().timestamp_millis().unsigned_abs();
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    fn secret(&self) -> [u8; 32] {
        self.world.secret()
    }

    fn jitter(&self) -> f64 {
        self.world.jitter()
    }
}
