//! What label and selector indexes are by: one label inside a scope, or the scope as a whole. Most of what a lookup costs
//! is comparing, so a digest is compared first, and what is looked for is borrowed until it must be kept.

use std::cmp::Ordering;
use std::fmt;

use crate::{Key, Labels};

/// A label inside a scope. An empty name, which no label has, stands for the whole scope.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair<S> {
    digest: u64,
    scope: S,
    name: Box<str>,
    value: Box<str>,
}

impl<S: Key> Pair<S> {
    pub(crate) fn whole(scope: &S) -> Self {
        Probe::whole(scope).owned()
    }

    /// The labels inside a scope, in the order of their names.
    pub(crate) fn all<'a>(scope: &'a S, labels: &'a Labels) -> impl Iterator<Item = Self> {
        Probe::all(scope, labels).map(|probe| probe.owned())
    }
}

/// By digest, then by everything: the order is total, the same on every machine, and of no meaning to anybody.
impl<S: Key> Ord for Pair<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        let probe =
            Probe { digest: other.digest, scope: &other.scope, name: &other.name, value: &other.value };
        probe.order(self)
    }
}

impl<S: Key> PartialOrd for Pair<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Without the digest, which tells a reader nothing.
impl<S: Key> fmt::Debug for Pair<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (&self.scope, &self.name, &self.value).fmt(f)
    }
}

/// A [`Pair`] that is looked for.
pub(crate) struct Probe<'a, S> {
    digest: u64,
    scope: &'a S,
    name: &'a str,
    value: &'a str,
}

impl<'a, S: Key> Probe<'a, S> {
    pub(crate) fn whole(scope: &'a S) -> Self {
        Self { digest: 0, scope, name: "", value: "" }
    }

    pub(crate) fn all(scope: &'a S, labels: &'a Labels) -> impl Iterator<Item = Self> {
        labels.iter().map(move |(name, value)| Self { digest: digest([(name, value)]), scope, name, value })
    }
}

/// What an index value can be looked up by.
pub(crate) trait Sought<I> {
    /// How a held value stands to the one looked for.
    fn order(&self, held: &I) -> Ordering;
    fn owned(&self) -> I;
}

impl<I: Key> Sought<I> for I {
    fn order(&self, held: &I) -> Ordering {
        held.cmp(self)
    }

    fn owned(&self) -> I {
        self.clone()
    }
}

impl<S: Key> Sought<Pair<S>> for Probe<'_, S> {
    fn order(&self, held: &Pair<S>) -> Ordering {
        held.digest
            .cmp(&self.digest)
            .then_with(|| held.scope.cmp(self.scope))
            .then_with(|| (*held.name).cmp(self.name))
            .then_with(|| (*held.value).cmp(self.value))
    }

    fn owned(&self) -> Pair<S> {
        Pair {
            digest: self.digest,
            scope: self.scope.clone(),
            name: self.name.into(),
            value: self.value.into(),
        }
    }
}

/// Labels that a path is interned by, the digest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LabelSet {
    digest: u64,
    labels: Labels,
}

impl LabelSet {
    pub(crate) fn new(labels: &Labels) -> Self {
        Self { digest: digest(labels), labels: labels.clone() }
    }

    /// How this set stands to the labels that have this digest.
    pub(crate) fn order(&self, digest: u64, labels: &Labels) -> Ordering {
        self.digest.cmp(&digest).then_with(|| self.labels.cmp(labels))
    }
}

/// A digest of names and values. It only orders: two texts with the same one are compared as texts, so whoever makes
/// them collide gains nothing but the comparisons that there would be without it. It need not resist anybody.
pub(crate) fn digest<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut digest = 0u64;
    let mut mix = |word: u64| digest = (digest.rotate_left(26) ^ word).wrapping_mul(ODD);
    for text in labels.into_iter().flat_map(|(name, value)| [name, value]) {
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        // The length keeps what ends one text and what begins the next apart.
        mix(rest.iter().fold(text.len() as u64, |word, byte| (word << 8) | u64::from(*byte)));
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_probe_stands_to_held_pairs_as_the_pair_it_makes() {
        let sets = [
            labels(&[]),
            labels(&[("app", "web")]),
            labels(&[("app", "webs")]),
            labels(&[("appw", "eb")]),
            labels(&[("app", ""), ("a-name-longer-than-a-word", "and-a-value-that-is-longer-still")]),
        ];
        for scope in 0..3u8 {
            let of = |scope: u8| {
                let pairs = sets.iter().flat_map(move |set| Pair::all(&scope, set).collect::<Vec<_>>());
                pairs.chain([Pair::whole(&scope)]).collect::<Vec<_>>()
            };
            for held in of(1) {
                for (set, probe) in sets.iter().flat_map(|set| Probe::all(&scope, set).map(move |p| (set, p)))
                {
                    let order = probe.order(&held);
                    assert_eq!(
                        order,
                        held.cmp(&probe.owned()),
                        "{held:?} and {:?} of {set:?}",
                        probe.owned()
                    );
                    assert_eq!(order == Ordering::Equal, held == probe.owned());
                }
            }
        }
    }

    #[test]
    fn a_pair_prints_what_it_is() {
        let pair = Pair::all(&7u8, &labels(&[("app", "web")])).next().unwrap();
        assert_eq!(format!("{pair:?}"), r#"(7, "app", "web")"#);
        assert_eq!(format!("{:?}", Pair::whole(&7u8)), r#"(7, "", "")"#);
    }

    #[test]
    fn texts_that_collide_are_still_told_apart() {
        let pair = |value: &str| Pair { digest: 5, scope: (), name: "app".into(), value: value.into() };
        assert!(pair("a") < pair("b"));
        let sets = [labels(&[("app", "a")]), labels(&[("app", "b")])];
        let held = LabelSet { digest: 5, labels: sets[0].clone() };
        assert_eq!(held.order(5, &sets[0]), Ordering::Equal);
        assert_eq!(held.order(5, &sets[1]), Ordering::Less);
    }
}
