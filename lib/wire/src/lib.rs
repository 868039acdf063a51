//! Every byte that crosses a process: REST objects, agent manifest and report, image events, tokens.
//!
//! What is here is frozen in checked-in artefacts (`openapi.json`, the manifest's JSON form in its
//! tests); a change that another process would notice is a change of protocol.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod image;
pub mod rest;
pub mod upload_token;
