//! Incremental collections: declare inputs, derive collections, recompute exactly what a change touches.
//!
//! A [`Builder`] declares *inputs* (rows that only transactions change) and *derived* collections (stateless functions
//! of other rows). [`Builder::seal`] turns it into a [`Graph`]. A transaction over any number of inputs is one
//! [`Revision`]; the engine then reruns, in topological order and at most once each, exactly those (collection, key)
//! pairs whose recorded reads changed, and stops wherever an output is equal to what it was. Readers hold a
//! [`Snapshot`]: one revision across all collections, immutable, cheap to clone and to send.
//!
//! The engine is synchronous and pure: it has no clock, no threads, no IO. Time is an argument ([`Work`]) or an input
//! collection of ticks; the feed of inputs and the effects live outside.
//!
//! The [`guide`] goes through all of it with examples.
//!
//! # Worked example
//! ```
//! use krt::{Change, Failure, Graph};
//!
//! #[derive(Debug, Clone, PartialEq)]
//! struct Vm { host: u32, image: &'static str }
//! #[derive(Debug, PartialEq)]
//! struct Item { host: u32, text: String }
//!
//! let mut builder = Graph::builder();
//! let vms = builder.input::<u64, Vm>("vms");
//! let ports = builder.input::<u64, u64>("ports"); // port id -> vm id
//! let images = builder.input::<&'static str, String>("images");
//! let ports_by_vm = builder.index("ports_by_vm", &ports, |_port, vm| [*vm]);
//!
//! // One row per VM, from the VM's row and whatever it reads through `ctx`; every read is tracked.
//! let items = builder.derive("items", &vms, move |ctx, id, vm| {
//!     let image = ctx.get(&images, &vm.image)
//!         .ok_or_else(|| Failure::keep(format!("image {} is not ready", vm.image)))?;
//!     let ports = ctx.lookup(&ports_by_vm, id).count();
//!     Ok::<_, Failure>(Some(Item { host: vm.host, text: format!("{image} with {ports} ports") }))
//! });
//! let items_by_host = builder.index("items_by_host", &items, |_id, item| [item.host]);
//! let hosts = builder.group("hosts", &items_by_host, |_ctx, _host, members| Some(members.len()));
//!
//! let mut graph = builder.seal()?;
//! let mut changes = graph.subscribe(&krt::Subscribe::only([hosts.id()]).capacity(64));
//!
//! let mut tx = graph.transaction();
//! tx.put(&images, "debian", "debian-12".to_owned());
//! tx.put(&vms, 1, Vm { host: 7, image: "debian" });
//! tx.put(&ports, 10, 1);
//! tx.commit();
//!
//! let snapshot = graph.snapshot();
//! assert_eq!(snapshot.get(&items, &1).unwrap().text, "debian-12 with 1 ports");
//! assert_eq!(snapshot.lookup(&items_by_host, &7).count(), 1);
//! let Some(krt::Event::Batch(batch)) = changes.try_next() else { panic!() };
//! assert!(matches!(batch.changes(&hosts), [Change { key: 7, old: None, new: Some(_) }]));
//! assert!(graph.verify().is_empty());
//! # Ok::<(), krt::Error>(())
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod builder;
mod ctx;
mod error;
mod few;
mod filter;
mod graph;
pub mod guide;
mod handle;
mod held;
mod input;
mod introspect;
mod logic;
mod map;
mod memory;
mod operators;
mod output;
mod pair;
mod previous;
mod readers;
mod reduce;
#[cfg(doctest)]
pub mod refused;
mod slot_set;
mod slots;
mod snapshot;
mod state;
mod stream;
mod sync;
mod transaction;
mod verify;
mod watch;
mod work;

use std::fmt::Debug;
use std::sync::Arc;

pub use builder::Builder;
pub use ctx::Ctx;
pub use error::{Error, Failure, KeyError};
pub use filter::Filter;
pub use graph::{Counters, Graph};
pub use handle::{Collection, Index, Input, LabelIndex, NodeId, SelectorIndex};
pub use introspect::Explanation;
pub use memory::Memory;
pub use output::{Keyed, Many, One};
pub use previous::Previous;
pub use snapshot::{Rows, Snapshot, SnapshotReader};
pub use state::ErrorChange;
pub use stream::{Batch, Event, Subscribe, Subscription};
pub use transaction::{Commit, Transaction};
pub use verify::Difference;
pub use work::{Finish, Job, Work, WorkOptions};

/// What a key must be: ordered (every list, dump and event is in key order), cloneable, printable, sendable.
pub trait Key: Ord + Clone + Debug + Send + Sync + 'static {}
impl<T: Ord + Clone + Debug + Send + Sync + 'static> Key for T {}

/// What a row must be. Equality is the cutoff: an equal output stops there. [`Builder::cutoff`] overrides it.
/// `Debug` is what dumps and explanations print, so a type that carries a secret must not print it there.
pub trait Value: PartialEq + Debug + Send + Sync + 'static {}
impl<T: PartialEq + Debug + Send + Sync + 'static> Value for T {}

/// Labels of an object, or the conjunction a label query or selector asks for.
pub type Labels = std::collections::BTreeMap<String, String>;

/// The number of a committed state. It starts at 0 (sealed, nothing put) and grows by one with every commit that changed something.
pub type Revision = u64;

/// One row's change in one revision. `old` and `new` are never both `None`.
#[derive(Debug)]
pub struct Change<K, V> {
    pub key: K,
    pub old: Option<Arc<V>>,
    pub new: Option<Arc<V>>,
}

impl<K: Clone, V> Clone for Change<K, V> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), old: self.old.clone(), new: self.new.clone() }
    }
}

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
