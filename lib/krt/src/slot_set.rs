//! Slots of access paths, as small as they can be kept: there are some for every key that anybody reads.

use std::collections::BTreeSet;

/// The slot of a path, if it is read. As large as the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) const NONE: Self = Self(u32::MAX);

    pub(crate) fn new(slot: u32) -> Self {
        debug_assert!(slot != u32::MAX, "the last number stands for none");
        Self(slot)
    }

    pub(crate) fn get(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }

    /// No longer this one.
    pub(crate) fn release(&mut self, slot: u32) {
        if self.0 == slot {
            *self = Self::NONE;
        }
    }
}

/// A sorted set of slots: mostly none or one, seldom many. Boxed from two on, so that it is as large as one in its place.
#[derive(Clone, Default)]
pub(crate) enum SlotSet {
    #[default]
    None,
    One(u32),
    #[expect(clippy::box_collection, reason = "nearly all others would be larger by it")]
    Few(Box<Vec<u32>>),
    #[expect(clippy::box_collection, reason = "nearly all others would be larger by it")]
    Many(Box<BTreeSet<u32>>),
}

/// Most slots of a vector.
const FEW: usize = 16;

impl SlotSet {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (listed, many) = match self {
            Self::None => (&[][..], None),
            Self::One(slot) => (std::slice::from_ref(slot), None),
            Self::Few(few) => (few.as_slice(), None),
            Self::Many(many) => (&[][..], Some(many)),
        };
        listed.iter().chain(many.into_iter().flat_map(|many| many.iter())).copied()
    }

    pub(crate) fn insert(&mut self, slot: u32) {
        match self {
            Self::None => *self = Self::One(slot),
            Self::One(held) if *held == slot => {}
            Self::One(held) => *self = Self::Few(Box::new(vec![slot.min(*held), slot.max(*held)])),
            Self::Few(few) => {
                let Err(at) = few.binary_search(&slot) else { return };
                if few.len() < FEW {
                    few.reserve_exact(1);
                    few.insert(at, slot);
                } else {
                    *self = Self::Many(Box::new(few.iter().copied().chain([slot]).collect()));
                }
            }
            Self::Many(many) => {
                many.insert(slot);
            }
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        let is_left = match self {
            Self::None => return,
            Self::One(held) => *held != slot,
            Self::Few(few) => {
                few.retain(|held| *held != slot);
                !few.is_empty()
            }
            Self::Many(many) => {
                many.remove(&slot);
                !many.is_empty()
            }
        };
        if !is_left {
            *self = Self::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn they_are_small() {
        assert_eq!((size_of::<Slot>(), size_of::<SlotSet>()), (4, 16));
    }

    proptest! {
        /// It agrees with the standard set through any history.
        #[test]
        fn agrees_with_the_standard_set(ops in prop::collection::vec((any::<bool>(), 0u32..40), 0..400)) {
            let (mut set, mut model) = (SlotSet::default(), BTreeSet::new());
            for (insert, slot) in ops {
                if insert {
                    set.insert(slot);
                    model.insert(slot);
                } else {
                    set.remove(slot);
                    model.remove(&slot);
                }
                prop_assert!(set.iter().eq(model.iter().copied()));
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
        }
    }
}
