//! The conformance lines of krt, each a test named after its number, in the order of the list: A collections, B events,
//! C transforms, D dependencies, E indexes, F unions, G inputs, H and I status and sync, J consistency, K errors,
//! L and M lifecycle and introspection, N keyed work, O oracle; P are the operators that the list names by their design.
#![allow(clippy::unwrap_used)]
#![allow(clippy::type_complexity, reason = "a helper gives a graph and its handles, once")]

mod a_collections;
mod b_events;
mod c_transforms;
mod d_dependencies;
mod e_indexes;
mod f_unions;
mod g_inputs;
mod i_sync;
mod j_consistency;
mod k_errors;
mod l_lifecycle;
mod m_introspection;
mod n_work;
mod o_checks;
mod o_oracle;
mod p_operators;
#[path = "../../examples/soak/world.rs"]
mod soak_world;

use krt::{Batch, Collection, Event, Graph, Input, Key, Subscription, Value};

/// One transaction that puts one row.
pub fn put<K: Key, V: Value>(graph: &mut Graph, input: &Input<K, V>, key: K, value: V) {
    let mut tx = graph.transaction();
    tx.put(input, key, value);
    tx.commit();
}

/// One transaction that deletes one row.
pub fn delete<K: Key, V: Value>(graph: &mut Graph, input: &Input<K, V>, key: &K) {
    let mut tx = graph.transaction();
    tx.delete(input, key);
    tx.commit();
}

/// How often a collection has run so far.
pub fn runs<K: Key, V: Value>(graph: &Graph, collection: &Collection<K, V>) -> u64 {
    graph.counters_of(collection).runs
}

/// All rows, copied.
pub fn rows<K: Key, V: Value + Clone>(graph: &Graph, collection: &Collection<K, V>) -> Vec<(K, V)> {
    let snapshot = graph.snapshot();
    snapshot.rows(collection).map(|(key, value)| (key.clone(), V::clone(value))).collect()
}

/// The next event, which must be a batch.
pub fn batch(subscription: &mut Subscription) -> Batch {
    match subscription.try_next() {
        Some(Event::Batch(batch)) => batch,
        Some(Event::Lagged { .. }) => panic!("lagged"),
        None => panic!("no event"),
    }
}

/// A change as (key, old, new).
pub type Flat<K, V> = (K, Option<V>, Option<V>);

pub fn flat<K: Key, V: Value + Clone>(batch: &Batch, collection: &Collection<K, V>) -> Vec<Flat<K, V>> {
    let copy = |value: &Option<std::sync::Arc<V>>| value.as_deref().cloned();
    batch
        .changes(collection)
        .iter()
        .map(|change| (change.key.clone(), copy(&change.old), copy(&change.new)))
        .collect()
}

/// The oracle agrees.
pub fn sound(graph: &Graph) {
    assert_eq!(graph.verify(), []);
}
