//! Storage: directory pools, the volumes in them, and the cache of images under overlays.
//!
//! ```text
//! <pool>/volumes/<volume id>.<incarnation>.qcow2
//! <pool>/images/<image id>.<sha256>.<format>      cache, in the first pool only; root's, mode 0444
//! <pool>/seeds/<vm id>.<hash>.iso                 in the first pool only
//! ```
//! Every file is made under a name that begins with a dot, made durable, and renamed: what is listed is whole.

pub mod files;
pub mod pools;
pub mod qcow2;
pub mod volumes;

pub use pools::{Pool, Pools};
