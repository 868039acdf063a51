//! One machine as a whole cluster: a private PostgreSQL, the image service, the gateway and hosts in namespaces.
//!
//! Everything lives under one data directory and in namespaces whose names are derived from it, so that
//! nothing of the machine's own is touched and several labs stand beside each other.
//! [`Lab`] is the whole; the other modules are its parts, each usable alone in tests.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bootstrap;
pub mod config;
pub mod control;
pub mod drill;
pub mod guest_http;
pub mod guest_image;
pub mod host;
pub mod host_count;
pub mod host_init;
pub mod journey;
mod lab;
pub mod layout;
pub mod leftovers;
pub mod netns;
pub mod postgres;
pub mod process;
pub mod sockets;
pub mod supervisor;
pub mod underlay;
pub mod up;

pub use lab::{
    AGENTS_SOCKET, Builder, CLIENTS_SOCKET, GATEWAY, IMAGE_SERVICE, Lab, Ports, USERS_SOCKET,
    default_data_dir,
};
