//! Whether the gateway can serve: parts of the process are asked, `/readyz` tells.

use std::sync::{Arc, Mutex, PoisonError};

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Checks of the process's parts. Clones share the same checks.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<(&'static str, Check)>>>);

impl Readiness {
    /// Nothing is asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part that says why it cannot serve, if it cannot. It must answer at once.
    pub fn check(&self, part: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((part, Box::new(check)));
    }

    /// The parts that cannot serve now, with their reasons.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let checks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checks.iter().filter_map(|(part, check)| Some((*part, check().err()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn every_part_must_be_ready() {
        let (readiness, read) = (Readiness::new(), Arc::new(AtomicBool::new(false)));
        let seen = read.clone();
        readiness.check("graph", move || {
            if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("reading the truth".into()) }
        });
        readiness.check("feed", || Ok(()));
        assert_eq!(readiness.missing(), [("graph", "reading the truth".to_owned())]);
        read.store(true, Ordering::Relaxed);
        assert!(readiness.missing().is_empty());
    }
}
