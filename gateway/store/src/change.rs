//! What every write is told (who, when, which ids), and the shapes that all nouns share.

use crate::{Error, Result};
use basalt_model::{
    DateTime, Generation, Labels, Name, Selector,
    tasks::{Actor, Task},
};
use std::{fmt, sync::Arc};
use uuid::Uuid;

/// A source of new UUIDv7s.
pub type Ids = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// Who changes something, when, and where new ids come from.
#[derive(Clone)]
pub struct Change {
    /// Who asked.
    pub actor: Actor,
    /// The request that asked, for the audit trail.
    pub request_id: Option<String>,
    /// Now.
    pub now: DateTime,
    /// New ids.
    pub ids: Ids,
}

impl Change {
    /// A new id.
    pub fn id<T: From<Uuid>>(&self) -> T {
        T::from((self.ids)())
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("actor", &self.actor).field("request_id", &self.request_id).finish()
    }
}

/// How a caller names an object: by id, or by its name in its project (or tenant, or system).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// By id.
    Id(Uuid),
    /// By name.
    Name(Name),
}

impl Key {
    /// Reads what stands in a path: an id if it looks like one, else a name.
    pub fn parse(kind: &'static str, text: &str) -> Result<Self> {
        if let Ok(id) = Uuid::parse_str(text) {
            return Ok(Self::Id(id));
        }
        match Name::new(text) {
            Ok(name) => Ok(Self::Name(name)),
            Err(_) => Err(Error::NotFound { kind, name: text.chars().take(80).collect() }),
        }
    }

    pub(crate) fn id(&self) -> Option<Uuid> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(_) => None,
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(name.as_str()),
        }
    }

    pub(crate) fn missing(&self, kind: &'static str) -> Error {
        Error::NotFound { kind, name: self.to_string() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl<T: Into<Uuid> + Copy> From<T> for Key {
    fn from(id: T) -> Self {
        Self::Id(id.into())
    }
}

/// Which part of a list to read.
#[derive(Clone, Debug)]
pub struct Page {
    /// At most this many, 1 to 1000.
    pub limit: u32,
    /// Only ids above this one: the `next` of the page before.
    pub after: Option<Uuid>,
    /// Only objects with these labels.
    pub selector: Selector,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: 100, after: None, selector: Selector::default() }
    }
}

impl Page {
    /// One row more than asked tells whether there is a next page.
    pub(crate) fn fetch(&self) -> i64 {
        i64::from(self.limit.clamp(1, 1000)) + 1
    }

    pub(crate) fn after(&self) -> Uuid {
        self.after.unwrap_or_default()
    }

    /// Cuts the extra row off. `id` names an item.
    pub(crate) fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> List<T> {
        let limit = (self.fetch() - 1) as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(id) } else { None };
        List { items, next }
    }
}

/// One page, ascending by id.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Give it as `after` to read on; absent on the last page.
    pub next: Option<Uuid>,
}

/// What a user declares.
#[derive(Clone, Debug, PartialEq)]
pub struct New<S> {
    /// Unique among its kind in its project (or system).
    pub name: Name,
    /// What people attach.
    pub labels: Labels,
    /// What is wanted.
    pub spec: S,
}

/// What a user changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Update<S> {
    /// Refuse unless the object still has this generation.
    pub expected: Option<Generation>,
    /// Replaces the labels; left out, they stay.
    pub labels: Option<Labels>,
    /// Replaces the spec.
    pub spec: S,
}

/// An accepted intent and the task that ends when it is real.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted<T> {
    /// The object as declared.
    pub object: T,
    /// What to follow.
    pub task: Task,
}

/// Whether nothing of a deleted object is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalized {
    /// Its rows are gone.
    Done,
    /// Something of it may still be on a host, or somebody needs it.
    Waiting,
}

/// Refuses a change that was meant for another generation.
pub(crate) fn expect(expected: Option<Generation>, current: Generation) -> Result<()> {
    match expected {
        Some(expected) if expected != current => Err(Error::GenerationMismatch { expected, current }),
        _ => Ok(()),
    }
}
