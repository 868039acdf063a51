//! Typed names of collections and indexes. A handle is a number and a type: `Copy`, sendable, and worth nothing without its graph.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::pair::Pair;

/// A collection without its types: what [`Subscribe::only`](crate::Subscribe::only) and dumps name it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    pub(crate) graph: u64,
    pub(crate) node: u32,
}

/// A collection of rows `V` by key `K`.
pub struct Collection<K, V> {
    pub(crate) id: NodeId,
    marker: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Collection<K, V> {
    pub(crate) fn new(graph: u64, node: u32) -> Self {
        Self { id: NodeId { graph, node }, marker: PhantomData }
    }

    pub fn id(&self) -> NodeId {
        self.id
    }
}

/// A collection that transactions write. It reads as a [`Collection`] wherever one is asked for.
pub struct Input<K, V>(pub(crate) Collection<K, V>);

impl<K, V> Deref for Input<K, V> {
    type Target = Collection<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// An index: rows of a collection by zero or more values `I` that a function extracts from each.
pub struct Index<K, V, I> {
    pub(crate) source: Collection<K, V>,
    pub(crate) slot: u32,
    marker: PhantomData<fn() -> I>,
}

impl<K, V, I> Index<K, V, I> {
    pub(crate) fn new(source: Collection<K, V>, slot: u32) -> Self {
        Self { source, slot, marker: PhantomData }
    }

    /// The collection it indexes.
    pub fn source(&self) -> Collection<K, V> {
        self.source
    }
}

/// Rows of a collection by their labels, inside a scope `S` (a namespace, a project, or `()`).
pub struct LabelIndex<K, V, S>(pub(crate) Index<K, V, Pair<S>>);

/// Rows of a collection by the labels they select, inside a scope `S`.
pub struct SelectorIndex<K, V, S>(pub(crate) Index<K, V, Pair<S>>);

macro_rules! copyable {
    ($($name:ident<$($parameter:ident),+>),+) => {$(
        impl<$($parameter),+> Clone for $name<$($parameter),+> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<$($parameter),+> Copy for $name<$($parameter),+> {}
    )+};
}
copyable!(Collection<K, V>, Input<K, V>, Index<K, V, I>, LabelIndex<K, V, S>, SelectorIndex<K, V, S>);

impl<K, V> fmt::Debug for Collection<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collection({}/{})", self.id.graph, self.id.node)
    }
}

impl<K, V> fmt::Debug for Input<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({}/{})", self.id.graph, self.id.node)
    }
}

impl<K, V, I> fmt::Debug for Index<K, V, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({}/{}#{})", self.source.id.graph, self.source.id.node, self.slot)
    }
}
