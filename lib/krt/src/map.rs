//! A persistent ordered map: a copy-on-write B+tree whose clones share nodes. A clone is one `Arc`; a change copies the
//! path from the root to one leaf, and only where a clone still holds it. It is what makes a snapshot cheap and immutable.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

/// Most entries of a leaf, and most children of a branch. A change beside a snapshot copies one node of each level, so wide
/// nodes cost there what narrow ones cost in depth and room: 16 instead of 32 takes a seventh off a published commit.
const WIDTH: usize = 16;
/// A node smaller than this is merged with a neighbour when the two fit into one node comfortably.
const SPARSE: usize = WIDTH / 4;
/// Entries that room is made for at once.
const GROWTH: usize = 4;
/// Sorted entries are merged in when they are at least one in so many, and inserted one by one when they are fewer.
const SCATTERED: usize = 16;

#[derive(Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// Children with their separators: no key of a child is smaller than its separator, nor reaches the next one.
    /// The first child's separator is not looked at.
    Branch(Vec<Child<K, V>>),
}

type Child<K, V> = (K, Arc<Node<K, V>>);

pub(crate) struct OrdMap<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

impl<K, V> Clone for OrdMap<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K, V> Default for OrdMap<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K, V> OrdMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { branches: Vec::new(), leaf: [].iter(), left: self.len };
        if let Some(root) = &self.root {
            iter.descend(root);
        }
        iter
    }
}

impl<K: Ord + Clone, V: Clone> OrdMap<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.get_entry(key).map(|(_, value)| value)
    }

    /// The value at `key` and the key as it is held.
    pub(crate) fn get_entry(&self, key: &K) -> Option<(&K, &V)> {
        self.find(|held| held.cmp(key))
    }

    /// The entry whose key is the one looked for, when `order` says how a held key stands to that. It lets a key be
    /// looked for that has not been made.
    pub(crate) fn find(&self, order: impl Fn(&K) -> Ordering) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|(held, _)| order(held)).ok()?;
                    return Some((&rows[at].0, &rows[at].1));
                }
                Node::Branch(children) => node = &children[child_of(children, &order)].1,
            }
        }
    }

    /// The value at `key`, to be changed in place; copies the path where it is shared.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find_mut(|held| held.cmp(key))
    }

    /// [`OrdMap::find`], to be changed in place.
    pub(crate) fn find_mut(&mut self, order: impl Fn(&K) -> Ordering) -> Option<&mut V> {
        // Looked up first: a miss must not copy anything.
        self.find(&order)?;
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|(held, _)| order(held)).ok()?;
                    return Some(&mut rows[at].1);
                }
                Node::Branch(children) => {
                    let at = child_of(children, &order);
                    node = Arc::make_mut(&mut children[at].1);
                }
            }
        }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![(key, value)])));
            self.len = 1;
            return None;
        };
        let (old, split) = insert_into(root, key, value);
        if let Some((separator, right)) = split {
            let left = Arc::clone(root);
            // The first separator of a branch is never compared, so the right one serves as well.
            self.root = Some(Arc::new(Node::Branch(vec![(separator.clone(), left), (separator, right)])));
        }
        if old.is_none() {
            self.len += 1;
        }
        old
    }

    /// Takes in `count` entries that come in key order, each key once: far cheaper than one by one where they are many,
    /// and nodes built from them are full.
    pub(crate) fn extend_sorted(&mut self, count: usize, entries: impl Iterator<Item = (K, V)>) {
        if count * SCATTERED < self.len {
            entries.for_each(|(key, value)| drop(self.insert(key, value)));
            return;
        }
        let mut nodes = match &mut self.root {
            None => {
                self.len = count;
                leaves(count, entries)
            }
            Some(root) => {
                let right = merge_into(root, &mut entries.peekable(), None, &mut self.len);
                let Some((separator, _)) = right.first() else { return };
                // The first separator of a branch is never compared, so the next one serves as well.
                let mut nodes = vec![(separator.clone(), Arc::clone(root))];
                nodes.extend(right);
                nodes
            }
        };
        while nodes.len() > 1 {
            let branches = pieces(nodes.len(), nodes.into_iter());
            nodes = branches.map(|piece| (piece[0].0.clone(), Arc::new(Node::Branch(piece)))).collect();
        }
        self.root = nodes.pop().map(|(_, root)| root);
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let root = self.root.as_mut()?;
        let old = remove_from(root, key);
        self.len -= 1;
        loop {
            let shrunk = match self.root.as_deref() {
                Some(Node::Branch(children)) if children.len() == 1 => Some(Arc::clone(&children[0].1)),
                _ => break,
            };
            self.root = shrunk;
        }
        if self.len == 0 {
            self.root = None;
        }
        old
    }
}

fn child_of<K, V>(children: &[Child<K, V>], order: impl Fn(&K) -> Ordering) -> usize {
    children[1..].partition_point(|(separator, _)| order(separator) != Ordering::Greater)
}

/// Entries of one level in as few nodes as hold them, which then hold about as many each.
fn pieces<T>(count: usize, mut entries: impl Iterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    let nodes = count.div_ceil(WIDTH);
    (0..nodes).map(move |at| {
        let size = (count * (at + 1) / nodes) - (count * at / nodes);
        let mut piece = Vec::with_capacity(size);
        piece.extend(entries.by_ref().take(size));
        piece
    })
}

fn leaves<K: Clone, V>(count: usize, entries: impl Iterator<Item = (K, V)>) -> Vec<Child<K, V>> {
    pieces(count, entries).map(|piece| (piece[0].0.clone(), Arc::new(Node::Leaf(piece)))).collect()
}

/// Takes those of the sorted entries into a node that come before `bound`. Gives the nodes that follow it from now on.
fn merge_into<K: Ord + Clone, V: Clone, I: Iterator<Item = (K, V)>>(
    node: &mut Arc<Node<K, V>>,
    entries: &mut Peekable<I>,
    bound: Option<&K>,
    len: &mut usize,
) -> Vec<Child<K, V>> {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            let mut new = Vec::new();
            let mut from = 0;
            while let Some((key, value)) = entries.next_if(|(key, _)| bound.is_none_or(|bound| key < bound)) {
                match rows[from..].binary_search_by(|(held, _)| held.cmp(&key)) {
                    Ok(at) => {
                        from += at + 1;
                        rows[from - 1].1 = value;
                    }
                    Err(at) => {
                        from += at;
                        new.push((key, value));
                    }
                }
            }
            if new.is_empty() {
                return Vec::new();
            }
            *len += new.len();
            let mut all = leaves(rows.len() + new.len(), merged(std::mem::take(rows), new));
            let right = all.split_off(1);
            if let Some((_, first)) = all.pop() {
                *node = first;
            }
            right
        }
        Node::Branch(children) => {
            let mut at = 0;
            while at < children.len() {
                let (before, after) = children.split_at_mut(at + 1);
                let bound = after.first().map(|(separator, _)| separator).or(bound);
                let Some((key, _)) = entries.peek() else { break };
                at += 1;
                if bound.is_none_or(|bound| key < bound) {
                    let right = merge_into(&mut before[at - 1].1, entries, bound, len);
                    let grown = at + right.len();
                    children.splice(at..at, right);
                    at = grown;
                }
            }
            if children.len() <= WIDTH {
                return Vec::new();
            }
            let mut all = pieces(children.len(), std::mem::take(children).into_iter());
            *children = all.next().unwrap_or_default();
            all.map(|piece| (piece[0].0.clone(), Arc::new(Node::Branch(piece)))).collect()
        }
    }
}

/// Two sorted lists without a key in common, as one.
fn merged<K: Ord, V>(left: Vec<(K, V)>, right: Vec<(K, V)>) -> impl Iterator<Item = (K, V)> {
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some((key, _)), Some((other, _))) if key < other => left.next(),
        (_, Some(_)) => right.next(),
        (_, None) => left.next(),
    })
}

type Split<K, V> = Option<Child<K, V>>;

fn insert_into<K: Ord + Clone, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    key: K,
    value: V,
) -> (Option<V>, Split<K, V>) {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => match rows.binary_search_by(|(probe, _)| probe.cmp(&key)) {
            Ok(at) => (Some(std::mem::replace(&mut rows[at].1, value)), None),
            Err(at) => {
                make_room(rows);
                rows.insert(at, (key, value));
                if rows.len() <= WIDTH {
                    return (None, None);
                }
                let right = right_of(rows, at);
                (None, Some((right[0].0.clone(), Arc::new(Node::Leaf(right)))))
            }
        },
        Node::Branch(children) => {
            let at = child_of(children, |separator| separator.cmp(&key));
            let (old, split) = insert_into(&mut children[at].1, key, value);
            let Some(new) = split else { return (old, None) };
            make_room(children);
            children.insert(at + 1, new);
            if children.len() <= WIDTH {
                return (old, None);
            }
            let right = right_of(children, at + 1);
            (old, Some((right[0].0.clone(), Arc::new(Node::Branch(right)))))
        }
    }
}

/// Room for a few entries more. A vector left to itself would double, and nodes stay half empty.
fn make_room<T>(entries: &mut Vec<T>) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(GROWTH);
    }
}

/// The right part of a node that is too wide. Neither part keeps room that it may never need.
fn right_of<T>(entries: &mut Vec<T>, inserted: usize) -> Vec<T> {
    // Entries that arrive in key order fill their nodes: split at the end then, else in the middle.
    let right = entries.split_off(if inserted == WIDTH { WIDTH } else { WIDTH / 2 });
    entries.shrink_to(entries.len() + GROWTH);
    right
}

fn remove_from<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: &K) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            let at = rows.binary_search_by(|(probe, _)| probe.cmp(key)).ok()?;
            Some(rows.remove(at).1)
        }
        Node::Branch(children) => {
            let at = child_of(children, |separator| separator.cmp(key));
            let old = remove_from(&mut children[at].1, key);
            let size = children[at].1.size();
            if size == 0 {
                children.remove(at);
            } else if size < SPARSE && children.len() > 1 {
                let left = at.saturating_sub(1);
                if children[left].1.size() + children[left + 1].1.size() <= WIDTH - SPARSE {
                    let (separator, right) = children.remove(left + 1);
                    append(&mut children[left].1, separator, &right);
                }
            }
            old
        }
    }
}

/// Moves the entries of `right`, whose keys all follow, to the end of `left`. Both are of one kind: the tree is of even depth.
fn append<K: Ord + Clone, V: Clone>(left: &mut Arc<Node<K, V>>, separator: K, right: &Node<K, V>) {
    match (Arc::make_mut(left), right) {
        (Node::Leaf(left), Node::Leaf(right)) => left.extend(right.iter().cloned()),
        (Node::Branch(left), Node::Branch(right)) => {
            let joint = left.len();
            left.extend(right.iter().cloned());
            // The first separator of `right` was not kept exact; in the middle of a branch it must be.
            left[joint].0 = separator;
        }
        _ => unreachable!("leaves of a B+tree are all at one depth"),
    }
}

impl<K, V> Node<K, V> {
    fn size(&self) -> usize {
        match self {
            Node::Leaf(rows) => rows.len(),
            Node::Branch(children) => children.len(),
        }
    }
}

/// Entries in key order.
pub(crate) struct Iter<'a, K, V> {
    branches: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn descend(&mut self, mut node: &'a Node<K, V>) {
        loop {
            match node {
                Node::Leaf(rows) => {
                    self.leaf = rows.iter();
                    return;
                }
                Node::Branch(children) => {
                    let mut children = children.iter();
                    let Some((_, first)) = children.next() else { return };
                    self.branches.push(children);
                    node = first;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                self.left -= 1;
                return Some((key, value));
            }
            let next = loop {
                let branch = self.branches.last_mut()?;
                match branch.next() {
                    Some((_, child)) => break child,
                    None => {
                        self.branches.pop();
                    }
                }
            };
            self.descend(next);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// The map agrees with the standard one through any history, and clones taken on the way never change.
        #[test]
        fn agrees_with_the_standard_map(ops in prop::collection::vec((any::<bool>(), 0u16..400, any::<u8>()), 0..1500)) {
            let mut map = OrdMap::default();
            let mut model = BTreeMap::new();
            let mut kept: Vec<(OrdMap<u16, u8>, BTreeMap<u16, u8>)> = Vec::new();
            for (step, (insert, key, value)) in ops.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                let (mine, theirs) = (map.get_mut(&(key / 2)), model.get_mut(&(key / 2)));
                prop_assert_eq!(mine.is_some(), theirs.is_some());
                if let (Some(mine), Some(theirs)) = (mine, theirs) {
                    *mine = mine.wrapping_add(1);
                    *theirs = theirs.wrapping_add(1);
                }
                if step % 97 == 0 {
                    kept.push((map.clone(), model.clone()));
                }
            }
            kept.push((map, model));
            for (map, model) in &kept {
                prop_assert!(map.iter().eq(model.iter()));
                for key in 0..400 {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                }
            }
        }
    }

    proptest! {
        /// Sorted entries taken in at once give the same map as one by one, at any density, and leave clones alone.
        #[test]
        fn taking_in_sorted_entries_is_as_one_by_one(
            batches in prop::collection::vec(
                (prop::collection::btree_map(0u16..3000, any::<u8>(), 0..1500), prop::collection::vec(0u16..3000, 0..300)),
                1..6,
            )
        ) {
            let (mut map, mut model) = (OrdMap::default(), BTreeMap::new());
            for (coming, leaving) in batches {
                let (kept, same) = (map.clone(), model.clone());
                map.extend_sorted(coming.len(), coming.clone().into_iter());
                model.extend(coming);
                prop_assert!(map.iter().eq(model.iter()));
                for key in leaving {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter()));
                for key in 0..3000 {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                }
                prop_assert!(kept.iter().eq(same.iter()));
                prop_assert!(map.root.as_deref().is_none_or(|root| widest(root) <= WIDTH));
            }
        }
    }

    fn widest(node: &Node<u16, u8>) -> usize {
        match node {
            Node::Leaf(rows) => rows.len(),
            Node::Branch(children) => {
                children.iter().map(|(_, child)| widest(child)).max().unwrap_or(0).max(children.len())
            }
        }
    }

    #[test]
    fn filling_and_emptying_leaves_nothing() {
        let mut map = OrdMap::default();
        for key in 0..10_000u32 {
            map.insert(key.wrapping_mul(7919) % 10_007, key);
        }
        let keys: Vec<u32> = map.iter().map(|(key, _)| *key).collect();
        assert!(keys.is_sorted() && keys.len() == 10_000);
        for key in keys {
            assert!(map.remove(&key).is_some());
        }
        assert!(map.is_empty() && map.root.is_none());
    }
}
