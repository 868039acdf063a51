//! How a Basalt process boots, logs, listens, serves TLS, drains and stops. Knows no noun.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// This crate is where the clock, the random source and the environment come in; the others are
// handed a [`Clock`].
#![allow(clippy::disallowed_methods)]

pub mod boot;
pub mod clock;
pub mod config;
pub mod drain;
pub mod listen;
pub mod peers;
pub mod pki;
pub mod tls;

pub use clock::{Clock, ManualClock, SystemClock};
pub use drain::Drain;

/// What can go wrong while a process boots or serves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration file cannot be used.
    #[error("{path}: {reason}; {remedy}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A socket cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address or name of the socket.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A key or certificate cannot be used.
    #[error("{what}: {reason}")]
    Tls {
        /// What was being done.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn tls(what: &str, reason: impl std::fmt::Display) -> Self {
        Self::Tls { what: what.into(), reason: reason.to_string() }
    }

    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.display().to_string(), source }
    }
}
