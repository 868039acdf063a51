//! What the engine's own structures take, per collection. The accounts are kept as rows, entries and edges come and go,
//! so that looking costs nothing; a recount walks everything and must come to the same.

use crate::{Builder, Collection, Graph, Key, Value};

/// Bytes of one collection: the sizes of the structures that hold its rows, without what allocators and half-filled
/// nodes add, and without what keys and values own on the heap unless [`Builder::weigh`] says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Keys and the places of rows.
    pub rows: usize,
    /// The values themselves, which callers and other collections may share, and what [`Builder::weigh`] adds.
    pub values: usize,
    /// Index entries and groups.
    pub indexes: usize,
    /// Access paths that are read of this collection.
    pub paths: usize,
    /// Edges between these paths and their readers, on both sides.
    pub edges: usize,
    /// What is kept of each run: its source key, its rows and their claims.
    pub runs: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.overhead() + self.values
    }

    /// All but the values: what the engine adds to the rows.
    pub fn overhead(&self) -> usize {
        self.rows + self.indexes + self.paths + self.edges + self.runs
    }
}

/// What an `Arc` adds to its value.
pub(crate) const SHARED: usize = 2 * size_of::<usize>();

impl Builder {
    /// Say what a row owns on the heap besides its own size, for [`Graph::memory`]. It must depend on the row alone.
    pub fn weigh<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        weigh: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
    ) {
        if let Some(state) = self.state(collection, "weigh") {
            state.weigh = Some(std::sync::Arc::new(weigh));
        }
    }
}

impl Graph {
    /// Bytes per collection, in order of declaration, from the accounts.
    pub fn memory(&self) -> Vec<(&str, Memory)> {
        (0..self.names.len()).map(|node| (self.names[node].as_str(), self.memory_at(node, false))).collect()
    }

    /// The same, counted anew by walking everything: what [`Graph::memory`] must equal.
    pub fn recount_memory(&self) -> Vec<(&str, Memory)> {
        (0..self.names.len()).map(|node| (self.names[node].as_str(), self.memory_at(node, true))).collect()
    }

    pub(crate) fn memory_at(&self, node: usize, recount: bool) -> Memory {
        let mut memory = Memory { runs: self.logics[node].memory(recount), ..Memory::default() };
        self.states[node].memory(recount, &mut memory);
        self.watches[node].memory(recount, &mut memory);
        memory
    }
}
