//! The oracle: everything computed again from the inputs, or some keys at a time, and compared with what is there.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use crate::graph::Parts;
use crate::state::{AnyState, guarded};
use crate::watch::{AnyWatch, Read};
use crate::{Ctx, Failure, Graph};

/// One disagreement between the incremental state and a recomputation from the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub collection: String,
    pub key: String,
    pub incremental: String,
    pub recomputed: String,
}

impl Graph {
    /// The oracle: recompute everything from the inputs, and report what differs. Empty means right.
    ///
    /// A key in error keeps its last good rows, which the inputs do not tell; the recomputation takes those as given.
    pub fn verify(&self) -> Vec<Difference> {
        let parts = Parts {
            id: self.id,
            names: Vec::new(),
            states: self.states.iter().map(|state| state.fresh()).collect(),
            watches: self.watches.iter().map(|watch| watch.fresh()).collect(),
            logics: self.logics.iter().map(|logic| logic.fresh()).collect(),
            unsynced: BTreeSet::new(),
            feeds: Vec::new(),
        };
        let recomputed = Self::start(parts, Some(self));
        let mut differences = Vec::new();
        for (node, state) in self.states.iter().enumerate() {
            state.compare(recomputed.states[node].as_ref(), &self.names[node], &mut differences);
        }
        differences
    }

    /// The oracle for production: run a few source keys of every collection again, aside, and report what differs in
    /// rows, errors and reads. With a `turn` that grows by one each time, every key has its turn. It costs as much as
    /// these runs, and changes nothing.
    pub fn verify_some(&self, per_collection: usize, turn: u64) -> Vec<Difference> {
        let mut watches: Vec<Box<dyn AnyWatch>> = self.watches.iter().map(|watch| watch.fresh()).collect();
        let mut differences = Vec::new();
        for (node, logic) in (0u32..).zip(&self.logics) {
            let mut check = Recheck {
                original: self,
                node,
                states: &self.states,
                watches: &mut watches,
                per_collection,
                turn,
                differences: &mut differences,
            };
            logic.recheck(&mut check);
        }
        differences
    }
}

/// What a collection may look at when some of its keys are run again.
pub(crate) struct Recheck<'a> {
    original: &'a Graph,
    pub(crate) node: u32,
    pub(crate) states: &'a [Arc<dyn AnyState>],
    /// Not those of the graph: what is read here is nobody's dependency.
    watches: &'a mut [Box<dyn AnyWatch>],
    per_collection: usize,
    turn: u64,
    differences: &'a mut Vec<Difference>,
}

impl Recheck<'_> {
    /// Whose turn it is out of `len`.
    pub(crate) fn turns(&self, len: usize) -> Vec<usize> {
        let count = self.per_collection.min(len);
        let rounds = len.div_ceil(count.max(1)).max(1) as u64;
        let first = usize::try_from(self.turn % rounds).unwrap_or(0) * count;
        (first..(first + count).min(len)).collect()
    }

    /// The result of a run, and what it read.
    pub(crate) fn run<T>(&mut self, run: impl FnOnce(&Ctx<'_>) -> T) -> (Result<T, Failure>, Vec<String>) {
        let before = self.node as usize;
        let watches = &mut self.watches[..before];
        let ctx = Ctx::new(self.original.id, &self.states[..before], watches, Vec::new());
        let ran = guarded(|| run(&ctx));
        let mut reads = ctx.into_reads();
        reads.sort_unstable();
        reads.dedup();
        (ran, self.describe_by(self.watches, &reads))
    }

    /// What the graph's own run read.
    pub(crate) fn describe(&self, reads: &[Read]) -> Vec<String> {
        self.describe_by(&self.original.watches, reads)
    }

    /// Without the paths that depend on what was narrowest when the run was made.
    fn describe_by(&self, watches: &[Box<dyn AnyWatch>], reads: &[Read]) -> Vec<String> {
        let fixed = reads.iter().filter(|read| !watches[read.node as usize].is_choice(read.path));
        self.original.describe_by(watches, &fixed.copied().collect::<Vec<_>>())
    }

    pub(crate) fn differ(&mut self, key: &str, incremental: &dyn Debug, recomputed: &dyn Debug) {
        self.differences.push(Difference {
            collection: self.original.names[self.node as usize].clone(),
            key: key.to_owned(),
            incremental: format!("{incremental:?}"),
            recomputed: format!("{recomputed:?}"),
        });
    }
}
