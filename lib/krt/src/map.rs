//! A persistent ordered map: a copy-on-write B+tree whose clones share nodes. A clone is one `Arc`; a change copies the
//! path from the root to one leaf, and only where a clone still holds it. It is what makes a snapshot cheap and immutable.

use std::cmp::Ordering;
use std::sync::Arc;

/// Most entries of a leaf, and most children of a branch.
const WIDTH: usize = 32;
/// A node smaller than this is merged with a neighbour when the two fit into one node comfortably.
const SPARSE: usize = WIDTH / 4;

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
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|(probe, _)| probe.cmp(key)).ok()?;
                    return Some((&rows[at].0, &rows[at].1));
                }
                Node::Branch(children) => node = &children[child_of(children, key)].1,
            }
        }
    }

    /// The value at `key`, to be changed in place; copies the path where it is shared.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        // Looked up first: a miss must not copy anything.
        self.get(key)?;
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|(probe, _)| probe.cmp(key)).ok()?;
                    return Some(&mut rows[at].1);
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
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

fn child_of<K: Ord, V>(children: &[Child<K, V>], key: &K) -> usize {
    children[1..].partition_point(|(separator, _)| separator.cmp(key) != Ordering::Greater)
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
                // Rows that arrive in key order fill their leaves: split at the end then, else in the middle.
                let right = rows.split_off(if at == WIDTH { WIDTH } else { WIDTH / 2 });
                (None, Some((right[0].0.clone(), Arc::new(Node::Leaf(right)))))
            }
        },
        Node::Branch(children) => {
            let at = child_of(children, &key);
            let (old, split) = insert_into(&mut children[at].1, key, value);
            let Some(new) = split else { return (old, None) };
            make_room(children);
            children.insert(at + 1, new);
            if children.len() <= WIDTH {
                return (old, None);
            }
            let right = children.split_off(if at + 1 == WIDTH { WIDTH } else { WIDTH / 2 });
            (old, Some((right[0].0.clone(), Arc::new(Node::Branch(right)))))
        }
    }
}

/// Room for one more entry. A vector left to itself would double beyond what a node can ever hold, and stay so.
fn make_room<T>(entries: &mut Vec<T>) {
    if entries.len() == entries.capacity() {
        let wanted = (entries.len() * 2).clamp(4, WIDTH + 1).max(entries.len() + 1);
        entries.reserve_exact(wanted - entries.len());
    }
}

fn remove_from<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: &K) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            let at = rows.binary_search_by(|(probe, _)| probe.cmp(key)).ok()?;
            Some(rows.remove(at).1)
        }
        Node::Branch(children) => {
            let at = child_of(children, key);
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
