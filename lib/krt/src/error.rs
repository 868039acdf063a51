//! What can go wrong: building a graph, and one key of one transform.

use std::fmt;

use crate::Revision;

/// Why a graph could not be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Two collections have the same name.
    DuplicateCollection(String),
    /// Two indexes have the same name.
    DuplicateIndex(String),
    /// A handle of another graph was handed to this builder by the declaration named here.
    ForeignHandle(String),
    /// A collection of the previous revision that was told nothing to show, or told twice.
    Previous(String),
    /// A union or merge without members.
    NoMembers(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateCollection(name) => write!(f, "two collections are named {name}"),
            Self::DuplicateIndex(name) => write!(f, "two indexes are named {name}"),
            Self::ForeignHandle(name) => write!(f, "{name} was given a handle of another graph"),
            Self::Previous(name) => write!(f, "{name} must be told once which collection's past it shows"),
            Self::NoMembers(name) => write!(f, "{name} has no members"),
        }
    }
}

impl std::error::Error for Error {}

/// Why a transform has no rows for a key. In both cases the key's last good rows stay and its reads are recorded,
/// so that it reruns when the cause is repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The inputs are wrong.
    Err(String),
    /// The inputs are not complete yet; nothing is wrong.
    Keep(String),
}

impl Failure {
    /// A [`Failure::Err`] with this reason.
    pub fn err(reason: impl fmt::Display) -> Self {
        Self::Err(reason.to_string())
    }

    /// A [`Failure::Keep`] with this reason.
    pub fn keep(reason: impl fmt::Display) -> Self {
        Self::Keep(reason.to_string())
    }

    /// The reason, without its kind.
    pub fn reason(&self) -> &str {
        match self {
            Self::Err(reason) | Self::Keep(reason) => reason,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Err(reason)
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self::Err(reason.to_owned())
    }
}

/// The error a key of a derived collection is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// The key that was being transformed (the *source* key), as `Debug` prints it.
    pub key: String,
    pub failure: Failure,
    /// The transform panicked; the reason is the panic's message.
    pub panicked: bool,
    /// The revision at which the key came to be in this error.
    pub since: Revision,
}
