//! A list that is mostly of one: it takes no allocation then, and no spare room otherwise.

use std::ops::{Deref, DerefMut};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Few<T> {
    One(T),
    /// None, or several.
    Some(Box<[T]>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Some(Box::default())
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Some(some) => some,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Some(some) => some,
        }
    }
}

/// As a sorted set.
impl<T: Ord> Few<T> {
    pub(crate) fn put(&mut self, item: T) {
        let Err(at) = self.binary_search(&item) else { return };
        let mut list = self.take();
        list.insert(at, item);
        *self = list.into();
    }

    pub(crate) fn remove(&mut self, item: &T) {
        let Ok(at) = self.binary_search(item) else { return };
        let mut list = self.take();
        list.remove(at);
        *self = list.into();
    }

    fn take(&mut self) -> Vec<T> {
        match std::mem::take(self) {
            Self::One(one) => vec![one],
            Self::Some(some) => some.into_vec(),
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut list: Vec<T>) -> Self {
        match list.pop() {
            Some(one) if list.is_empty() => Self::One(one),
            last => {
                list.extend(last);
                Self::Some(list.into_boxed_slice())
            }
        }
    }
}

impl<T: Copy> From<&[T]> for Few<T> {
    fn from(list: &[T]) -> Self {
        match list {
            [one] => Self::One(*one),
            list => Self::Some(list.into()),
        }
    }
}

impl<T> From<Option<T>> for Few<T> {
    fn from(one: Option<T>) -> Self {
        one.map_or_else(Self::default, Self::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// It agrees with the standard set through any history.
        #[test]
        fn agrees_with_the_standard_set(ops in prop::collection::vec((any::<bool>(), 0u8..6), 0..60)) {
            let (mut few, mut model) = (Few::default(), BTreeSet::new());
            for (put, item) in ops {
                if put {
                    few.put(item);
                    model.insert(item);
                } else {
                    few.remove(&item);
                    model.remove(&item);
                }
                prop_assert!(few.iter().eq(&model));
                prop_assert_eq!(matches!(few, Few::One(_)), model.len() == 1);
            }
        }
    }
}
