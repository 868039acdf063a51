//! The readers of one access path: mostly one or a few, and now and then all rows of a collection.

/// A reader: the collection it belongs to and the slot of its source key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reader {
    pub(crate) node: u32,
    pub(crate) slot: u32,
}

/// A sorted set that is one reader, then a vector, until it grows.
pub(crate) enum Readers {
    None,
    One(Reader),
    Few(Vec<Reader>),
    /// Chunks that are sorted and follow each other; none is empty. Boxed: it is seldom, and every path has its place.
    Many(Box<Chunks>),
}

pub(crate) struct Chunks {
    chunks: Vec<Vec<Reader>>,
    len: usize,
}

/// Most readers of one vector.
const FEW: usize = 256;

impl Readers {
    /// Whether it was not in yet.
    pub(crate) fn insert(&mut self, reader: Reader) -> bool {
        match self {
            Self::None => {
                *self = Self::One(reader);
                true
            }
            Self::One(held) if *held == reader => false,
            Self::One(held) => {
                *self = Self::Few(vec![(*held).min(reader), (*held).max(reader)]);
                true
            }
            Self::Few(few) => {
                let Some(at) = place(few, reader) else { return false };
                if few.len() < FEW {
                    few.insert(at, reader);
                } else {
                    let mut many = Chunks { len: few.len(), chunks: vec![std::mem::take(few)] };
                    many.insert(reader);
                    *self = Self::Many(Box::new(many));
                }
                true
            }
            Self::Many(many) => many.insert(reader),
        }
    }

    /// Whether it was in.
    pub(crate) fn remove(&mut self, reader: Reader) -> bool {
        match self {
            Self::One(held) if *held == reader => {
                *self = Self::None;
                true
            }
            Self::None | Self::One(_) => false,
            Self::Few(few) => few.binary_search(&reader).map(|at| few.remove(at)).is_ok(),
            Self::Many(many) => many.remove(reader),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len,
        }
    }

    pub(crate) fn mark(&self, dirty: &mut [Vec<u32>]) {
        let mut push = |reader: &Reader| dirty[reader.node as usize].push(reader.slot);
        match self {
            Self::None => {}
            Self::One(reader) => push(reader),
            Self::Few(few) => few.iter().for_each(&mut push),
            Self::Many(many) => many.chunks.iter().flatten().for_each(&mut push),
        }
    }
}

/// Where a reader that is not in yet belongs. Readers mostly come in order, so the end is looked at first.
fn place(held: &[Reader], reader: Reader) -> Option<usize> {
    if held.last().is_none_or(|last| *last < reader) {
        return Some(held.len());
    }
    held.binary_search(&reader).err()
}

impl Chunks {
    /// The chunk that holds a reader, if any does.
    fn chunk_of(&self, reader: Reader) -> usize {
        let last = self.chunks.len().saturating_sub(1);
        if self.chunks.last().is_some_and(|chunk| chunk[0] <= reader) {
            return last;
        }
        self.chunks.partition_point(|chunk| chunk[0] <= reader).saturating_sub(1)
    }

    fn insert(&mut self, reader: Reader) -> bool {
        let at = self.chunk_of(reader);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(vec![reader]);
            self.len += 1;
            return true;
        };
        let Some(inside) = place(chunk, reader) else { return false };
        self.len += 1;
        if chunk.len() < FEW {
            chunk.insert(inside, reader);
            return true;
        }
        // Readers that come in order fill their chunks: split at the end then, else in the middle.
        let mut right = chunk.split_off(if inside == FEW { FEW } else { FEW / 2 });
        if inside < chunk.len() {
            chunk.insert(inside, reader);
        } else {
            right.insert(inside - chunk.len(), reader);
        }
        self.chunks.insert(at + 1, right);
        true
    }

    fn remove(&mut self, reader: Reader) -> bool {
        let at = self.chunk_of(reader);
        let Some(chunk) = self.chunks.get_mut(at) else { return false };
        let Ok(inside) = chunk.binary_search(&reader) else { return false };
        chunk.remove(inside);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(at);
        } else if chunk.len() < FEW / 4
            && let Some(next) = self.chunks.get(at + 1)
            && self.chunks[at].len() + next.len() <= FEW / 2
        {
            let next = self.chunks.remove(at + 1);
            self.chunks[at].extend(next);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn listed(readers: &Readers) -> Vec<u32> {
        let mut dirty = vec![Vec::new(); 2];
        readers.mark(&mut dirty);
        dirty.concat()
    }

    proptest! {
        /// It agrees with the standard set through any history, in order and out of it.
        #[test]
        fn agrees_with_the_standard_set(ops in prop::collection::vec((0u8..4, 0u32..2_000), 0..6_000), ordered in any::<bool>()) {
            let mut readers = Readers::None;
            let mut model = BTreeSet::new();
            for (step, (op, slot)) in (0u32..).zip(ops) {
                let slot = if ordered && op != 0 { step } else { slot };
                let reader = Reader { node: slot % 2, slot };
                if op == 0 {
                    prop_assert_eq!(readers.remove(reader), model.remove(&reader));
                } else {
                    prop_assert_eq!(readers.insert(reader), model.insert(reader));
                }
                prop_assert_eq!(readers.len(), model.len());
            }
            let expected: Vec<u32> = model.iter().map(|reader| reader.slot).collect();
            prop_assert_eq!(listed(&readers), expected.clone());
            for reader in model {
                prop_assert!(readers.remove(reader));
            }
            prop_assert_eq!((readers.len(), listed(&readers).len()), (0, 0));
        }
    }
}
