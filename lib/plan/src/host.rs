//! What is to be done on a host: manifest, what was seen, what is remembered → actions and reasons.
//!
//! ```text
//! network ─┐                                   removal runs the other way:
//! image ───┴► volume ─► seed, definition ─► start      VM ─► volume ─► image, network
//! ```
//!
//! - Only what stands in the manifest is touched; only its `absent` items remove; the rest is foreign.
//! - A listing that failed or is partial makes nothing of its section, and removes nothing of it.
//! - Each resource is judged on its own: what is wrong with one never stops another.

mod action;
mod memory;
mod observed;

pub use action::*;
pub use memory::*;
pub use observed::*;
