//! The rows of one run, as small as they can be kept: there is one of these for every source key of every collection.

use std::any::Any;
use std::sync::Arc;

use crate::Key;
use crate::few::Few;

pub(crate) enum Held<K, V> {
    None,
    /// The one row of a source key, under that key.
    Own(Arc<V>),
    /// Rows with keys of their own, sorted by them. Boxed, or all entries would be as large as the largest.
    Many(Box<Few<(K, Arc<V>)>>),
}

impl<K: Key, V> Held<K, V> {
    pub(crate) fn many(rows: Few<(K, Arc<V>)>) -> Self {
        if rows.is_empty() { Self::None } else { Self::Many(Box::new(rows)) }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Own(_) => 1,
            Self::Many(rows) => rows.len(),
        }
    }

    /// The row at a key. The one under the source key is nobody else's.
    pub(crate) fn get(&self, key: &K) -> Option<&Arc<V>> {
        match self {
            Self::None => None,
            Self::Own(value) => Some(value),
            Self::Many(rows) => {
                let at = rows.binary_search_by(|(held, _)| held.cmp(key)).ok()?;
                Some(&rows[at].1)
            }
        }
    }

    pub(crate) fn own(self) -> Option<Arc<V>> {
        match self {
            Self::Own(value) => Some(value),
            Self::None | Self::Many(_) => None,
        }
    }

    /// Rows with keys of their own.
    pub(crate) fn list(&self) -> &[(K, Arc<V>)] {
        match self {
            Self::None | Self::Own(_) => &[],
            Self::Many(rows) => rows,
        }
    }

    /// All rows with their keys.
    pub(crate) fn listed<S: Key>(&self, source_key: &S) -> Few<(K, Arc<V>)> {
        match self {
            Self::None => Few::default(),
            Self::Own(value) => Few::One((own_key::<S, K>(source_key).clone(), Arc::clone(value))),
            Self::Many(rows) => (**rows).clone(),
        }
    }
}

/// The source key as the key of its own row: where a run gives one row under the key that it is run for, both are of one
/// type.
pub(crate) fn own_key<S: Key, K: Key>(source_key: &S) -> &K {
    let key = (source_key as &dyn Any).downcast_ref();
    key.expect("a row under its source key has the source key's type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Held<[u64; 5], [u64; 9]>>(), 16);
    }
}
