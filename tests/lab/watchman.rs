//! Looks again and again, beside a test, whether two hosts execute one guest.

use basalt_lab::Lab;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

/// Counts the looks, and those that saw two hosts at it; ends when it is dropped.
pub struct Watchman {
    doubles: Arc<AtomicU32>,
    looks: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
}

impl Watchman {
    /// Looks every so often in a thread of its own; `look` says whether two execute it.
    pub fn new(lab: Arc<Lab>, every: Duration, mut look: impl FnMut(&Lab) -> bool + Send + 'static) -> Self {
        let watchman = Self { doubles: Arc::default(), looks: Arc::default(), end: Arc::default() };
        let (doubles, looks, end) = (watchman.doubles.clone(), watchman.looks.clone(), watchman.end.clone());
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                doubles.fetch_add(u32::from(look(&lab)), Ordering::Relaxed);
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(every);
            }
        });
        watchman
    }

    pub fn doubles(&self) -> u32 {
        self.doubles.load(Ordering::Relaxed)
    }

    pub fn looks(&self) -> u32 {
        self.looks.load(Ordering::Relaxed)
    }
}

impl Drop for Watchman {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}
