//! Why something of the agent failed; a variant exists where the caller acts differently.

use basalt_model::CapabilityReason;
use std::{path::PathBuf, time::Duration};

/// What can go wrong in an agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file says something that cannot be.
    #[error("{path}: {why}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to write instead.
        why: String,
    },
    /// A file of the agent's state could not be read or written.
    #[error("{path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host cannot do it and nothing was done; only a change of the host or of the intent helps.
    #[error("{0}")]
    Refused(Box<CapabilityReason>),
    /// It failed, or its answer was lost: what stands on the host decides what is done next.
    #[error("{what}: {why}")]
    Host {
        /// What was tried.
        what: String,
        /// What was said, stderr included.
        why: String,
    },
    /// The gateway asked for patience (429 or 503).
    #[error("the gateway asks to wait {} s", .0.as_secs())]
    Busy(Duration),
    /// The gateway does not take this identity any more.
    #[error("the gateway refuses this host: {0}")]
    Rejected(String),
    /// The gateway or the image service could not be reached, or answered something else.
    #[error("{what}: {why}")]
    Link {
        /// What was asked.
        what: String,
        /// What was said.
        why: String,
    },
    /// A certificate or key could not be made or read.
    #[error("identity: {0}")]
    Identity(String),
}

impl Error {
    /// The host cannot do it.
    pub fn refused(reason: CapabilityReason) -> Self {
        Self::Refused(Box::new(reason))
    }

    /// Something on the host failed.
    pub fn host(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Host { what: what.into(), why: why.to_string() }
    }

    /// Something between here and the gateway failed.
    pub fn link(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Link { what: what.into(), why: why.to_string() }
    }

    /// A file of the state failed.
    pub fn state(path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::State { path: path.into(), source: source.into() }
    }
}
