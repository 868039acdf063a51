//! The hands on one host: everything that knows libvirt, Open vSwitch or a file lies behind [`Host`].
//!
//! `plan::host` decides in neutral words; a `Host` looks ([`Host::observe`]) and does
//! ([`Host::act`]). It chooses nothing, remembers nothing that it could not read back from the host
//! after a restart, and never touches what no action names.

pub mod console;
pub mod facts;
pub mod images;
pub mod libvirt;
pub mod machine;
pub mod motion;
pub mod netns;
pub mod ovs;
pub mod process;
pub mod program;
pub mod router;
pub mod seed;
pub mod sim;
pub mod storage;

use crate::Error;
use basalt_model::{
    CapabilityReason, ImageId, MigrationId, PortId, VmId, hosts::HostFacts, migrations::MotionProgress,
    networks::Counters,
};
use basalt_plan::host::{Action, Observed};
use basalt_wire::agent::console::Mode;
use bytes::Bytes;
use console::Console;
use futures::{future::BoxFuture, stream::BoxStream};
use std::{
    future::Future,
    sync::{Arc, Weak},
};
use tokio::sync::watch;

/// One host, real or simulated.
///
/// Rules for every implementation:
/// - `observe` never fails as a whole: a listing that could not be had is `Section::failed`, one
///   with holes is `Section::partial`; only a listing that surely is whole is `Section::complete`.
/// - `act` is idempotent: it looks first, and an action whose end is already so answers `Ok`.
/// - `Ok` means that it is so now. [`Error::Refused`] means that nothing was done and that trying
///   again does not help until the host or the intent changes. Any other error means that it may or
///   may not have happened; the next `observe` tells.
/// - Actions of different resources run at the same time, those of one resource never do.
/// - The caller gives up on an action that takes too long (see [`Limits`]); whatever still runs then
///   must leave the host in a state that `observe` can describe.
pub trait Host: Send + Sync + 'static {
    /// Looks at everything; called after every action and on every event, so it should be cheap.
    fn observe(&self) -> impl Future<Output = Observed> + Send;

    /// Finds out what the host is and can do. `foreign` may stay empty: the agent fills it from
    /// `plan::host`. The accelerator probe boots a guest, so its result may be kept until the boot
    /// id or QEMU's version changes.
    fn facts(&self) -> impl Future<Output = HostFacts> + Send;

    /// Carries out one action.
    fn act(&self, action: &Action, with: &With) -> impl Future<Output = Result<(), Error>> + Send;

    /// A VM's serial console. The log can be had of a VM that is off, too; to attach it must run, else
    /// [`Error::Refused`]. Any number may be attached at once; each ends when it is dropped, and all with the VM.
    fn console(&self, id: VmId, mode: Mode) -> impl Future<Output = Result<Console, Error>> + Send;

    /// What a guest's port carried and what was dropped, from the guest's side; [`Error::Refused`] while no device of a
    /// guest is behind it.
    fn counters(&self, id: PortId) -> impl Future<Output = Result<Counters, Error>> + Send;

    /// Changes with every piece of news (a domain's event, a port that went, a process that died).
    /// Carries no meaning; losing one costs only time, because a slow full look follows anyway.
    fn news(&self) -> watch::Receiver<u64>;
}

/// What an action may use besides the host.
#[derive(Clone)]
pub struct With {
    /// Says what is going on, for people: `downloading image (45 %)`. Call it at most once a second.
    pub progress: Arc<dyn Fn(String) + Send + Sync>,
    /// Where the bytes of images come from.
    pub downloads: Arc<dyn Downloads>,
    /// Says how far the sending of a VM is. Call it at most once a second.
    pub moved: Arc<dyn Fn(VmId, MotionProgress) + Send + Sync>,
    /// What was last said by that.
    pub last: Arc<dyn Fn(VmId) -> Option<MotionProgress> + Send + Sync>,
    /// Keeps what must be durable in the midst of an action.
    pub journal: Arc<dyn Journal>,
    /// Ends with the agent: what an action leaves behind in this process is good as long as it.
    pub life: Weak<()>,
}

/// Keeps what must be durable in the midst of an action.
pub trait Journal: Send + Sync + 'static {
    /// A VM was handed over to another host whole and does not execute here. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::State`]: it is not kept, so the target must not be told to let it execute.
    fn handed_over(&self, id: VmId, migration_id: MigrationId) -> Result<(), Error>;
}

/// Where the bytes of images come from.
pub trait Downloads: Send + Sync + 'static {
    /// Opens an image's bytes from an offset. Fetches a grant from the gateway and redeems it with
    /// the image service; a download that broke is resumed by calling again with the new offset.
    fn open(&self, image_id: ImageId, offset: u64) -> BoxFuture<'_, Result<Download, Error>>;
}

/// The bytes of an image, from the offset that was asked for.
pub struct Download {
    /// Length of the whole image in bytes.
    pub size_bytes: u64,
    /// The bytes.
    pub bytes: BoxStream<'static, Result<Bytes, Error>>,
}

/// How long the agent waits for an action before it counts as failed, in seconds.
pub struct Limits;

impl Limits {
    /// Downloads and image conversions.
    pub const LONG_SECONDS: u64 = 4 * 3600;
    /// A VM that is sent: longer than any deadline that a user can give.
    pub const SEND_SECONDS: u64 = 25 * 3600;
    /// Everything else.
    pub const SHORT_SECONDS: u64 = 120;

    /// The limit of an action.
    pub fn of(action: &Action) -> std::time::Duration {
        std::time::Duration::from_secs(match action {
            Action::EnsureImage(_) | Action::EnsureVolume(_) => Self::LONG_SECONDS,
            Action::SendVm(_) => Self::SEND_SECONDS,
            _ => Self::SHORT_SECONDS,
        })
    }
}

/// No device of a guest is behind a port.
fn not_attached(id: PortId) -> Error {
    Error::refused(CapabilityReason::new(
        "port_not_attached",
        format!("port/{id}"),
        "no device of a running guest is behind the port, so nothing is counted",
        "start the VM; when it runs, see its conditions",
    ))
}
