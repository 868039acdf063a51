//! Whether the gateway can serve: parts say what they still wait for, `/readyz` asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Parts of the process and what each still waits for. Clones share the same state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Readiness {
    /// Nothing is waited for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part says why it cannot serve (again).
    pub fn waiting(&self, part: &'static str, why: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, Some(why.into()));
    }

    /// A part can serve.
    pub fn ready(&self, part: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, None);
    }

    /// Parts that cannot serve, with their reasons.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter_map(|(part, why)| why.as_ref().map(|w| (*part, w.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_must_be_ready() {
        let readiness = Readiness::new();
        readiness.waiting("graph", "reading the truth");
        readiness.ready("feed");
        assert_eq!(readiness.missing(), [("graph", "reading the truth".to_owned())]);
        readiness.ready("graph");
        assert!(readiness.missing().is_empty());
    }
}
