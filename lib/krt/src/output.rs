//! What a transform may return: rows, or rows or a reason why there are none.

use std::collections::BTreeMap;

use crate::{Failure, Key, Value};

/// The result of a transform that keeps its key: `Option<V>`, or `Result<Option<V>, Failure>`.
pub trait One {
    type Value: Value;

    fn into_one(self) -> Result<Option<Self::Value>, Failure>;
}

impl<V: Value> One for Option<V> {
    type Value = V;

    fn into_one(self) -> Result<Option<V>, Failure> {
        Ok(self)
    }
}

impl<V: Value> One for Result<Option<V>, Failure> {
    type Value = V;

    fn into_one(self) -> Result<Option<V>, Failure> {
        self
    }
}

/// Rows, each with its key.
pub type Keyed<M> = Vec<(<M as Many>::Key, <M as Many>::Value)>;

/// The result of a transform that makes any number of rows with keys of its own: `Vec<(K, V)>`, `BTreeMap<K, V>`,
/// or a `Result` of either with [`Failure`].
pub trait Many {
    type Key: Key;
    type Value: Value;

    fn into_many(self) -> Result<Keyed<Self>, Failure>;
}

impl<K: Key, V: Value> Many for Vec<(K, V)> {
    type Key = K;
    type Value = V;

    fn into_many(self) -> Result<Vec<(K, V)>, Failure> {
        Ok(self)
    }
}

impl<K: Key, V: Value> Many for BTreeMap<K, V> {
    type Key = K;
    type Value = V;

    fn into_many(self) -> Result<Vec<(K, V)>, Failure> {
        Ok(self.into_iter().collect())
    }
}

impl<M: Many> Many for Result<M, Failure> {
    type Key = M::Key;
    type Value = M::Value;

    fn into_many(self) -> Result<Keyed<M>, Failure> {
        self?.into_many()
    }
}
