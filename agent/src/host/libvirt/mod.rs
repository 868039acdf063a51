//! libvirt: definitions of domains, the connection to the daemon, and what it has.
//!
//! Foreign words (domain, UUID of a domain, shut off) stop here; what leaves is a VM's.

pub mod connection;
pub mod definition;
pub mod domains;
pub mod motion;
pub mod shape;
pub mod stamp;
pub mod xml;

pub use connection::{Connection, LibvirtError};
pub use definition::{Accelerator, Backing, Definition, Disk, Format, VolumeDisk, domain_name, tap_name};
pub use domains::{Domain, DomainState, LiveNic};
pub use motion::{Job, Sending};
pub use shape::Shape;
pub use stamp::Marks;
