//! Time, ids and secrets as an argument, so that a simulator can hand in its own.

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// Where a process takes time and randomness from.
pub trait Clock: Send + Sync + 'static {
    /// The time now, in whole microseconds (what the database keeps).
    fn now(&self) -> DateTime<Utc>;
    /// A new UUIDv7: sorts by creation.
    fn new_id(&self) -> Uuid;
    /// 32 bytes that nobody can guess.
    fn secret(&self) -> [u8; 32];
    /// A number in `0.0..1.0`, for jitter.
    fn jitter(&self) -> f64;
}

/// The machine's clock and its random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        truncate(Utc::now())
    }
    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }
    fn secret(&self) -> [u8; 32] {
        rand::random()
    }
    fn jitter(&self) -> f64 {
        rand::random()
    }
}

/// A clock that stands until it is moved, with a seeded random source.
#[derive(Debug)]
pub struct ManualClock(Mutex<(DateTime<Utc>, StdRng)>);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: DateTime<Utc>, seed: u64) -> Self {
        Self(Mutex::new((truncate(now), StdRng::seed_from_u64(seed))))
    }

    /// Moves it on.
    pub fn advance(&self, by: TimeDelta) {
        self.with(|(now, _)| *now += by);
    }

    fn with<T>(&self, f: impl FnOnce(&mut (DateTime<Utc>, StdRng)) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.with(|(now, _)| *now)
    }
    fn new_id(&self) -> Uuid {
        self.with(|(now, rng)| {
            let mut random = [0; 10];
            rng.fill_bytes(&mut random);
            uuid::Builder::from_unix_timestamp_millis(now.timestamp_millis().unsigned_abs(), &random)
                .into_uuid()
        })
    }
    fn secret(&self) -> [u8; 32] {
        self.with(|(_, rng)| {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            secret
        })
    }
    fn jitter(&self) -> f64 {
        self.with(|(_, rng)| f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0))
    }
}

fn truncate(t: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(t.timestamp_micros()).unwrap_or(t)
}
