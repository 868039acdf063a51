//! Domains on their way between hosts, as libvirt has them and as it sends them.
//!
//! The library's binding reads job statistics in a way that a job's end in between makes unsafe, and lacks some verbs; those
//! go through `virsh`.

use super::connection::{Connection, LibvirtError};
use crate::{Error, host::program::Program};
use basalt_model::{VmId, migrations::MotionProgress};
use basalt_plan::host::Transit;
use std::{collections::BTreeMap, time::Duration};
use virt::{
    connect::Connect,
    domain::{Domain as Handle, MigrateParameters},
    sys,
};

/// How a domain is sent.
#[derive(Clone, Debug, Default)]
pub struct Sending {
    /// Where the target's libvirt is reached: a URI over a unix socket.
    pub libvirt: String,
    /// Where its memory goes: `unix://…`.
    pub memory: String,
    /// Where blocks of its disks go, if they go: `unix://…`.
    pub disks: Option<String>,
    /// MiB in a second at most.
    pub bandwidth: Option<u64>,
    /// Slow its virtual CPUs down if it writes too much.
    pub throttle: bool,
    /// Ready for post-copy: it goes on at the target by itself.
    pub post_copy: bool,
}

/// Figures of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// As people are told.
    pub progress: MotionProgress,
    /// The pause as the hypervisor counts it, in milliseconds.
    pub downtime: Option<u64>,
}

impl Connection {
    /// Sends a domain; takes as long as that takes, on a connection of its own. It is left paused at the target, unless
    /// it may go over to post-copy.
    ///
    /// # Errors
    /// What libvirt said; what is so then the domain tells.
    pub async fn migrate(&self, id: VmId, sending: Sending) -> Result<(), LibvirtError> {
        let uri = self.uri().to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let failed = |e: virt::error::Error| LibvirtError::Failed(e.message().to_owned());
            let mut connect = Connect::open(Some(&uri)).map_err(failed)?;
            let sent = Handle::lookup_by_uuid(&connect, id.0).and_then(|domain| {
                let (parameters, flags) = (sending.parameters(), sending.flags());
                domain.migrate_to_uri3(Some(&sending.libvirt), parameters, flags)
            });
            if let Err(error) = connect.close() {
                tracing::debug!(%error, "closing a connection to libvirt");
            }
            sent.map_err(failed)
        });
        work.await.unwrap_or_else(|panic| Err(LibvirtError::Failed(format!("the call was lost: {panic}"))))
    }

    /// The longest pause at the switch that is aimed at.
    ///
    /// # Errors
    /// When libvirt does not take it.
    pub async fn set_max_downtime(&self, id: VmId, milliseconds: u64) -> Result<(), LibvirtError> {
        self.look(move |connect| {
            Handle::lookup_by_uuid(connect, id.0)?.migrate_set_max_downtime(milliseconds, 0).map(drop)
        })
        .await
    }

    /// Figures of the job that a domain has now, or (`completed`) of its last one.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn job(&self, id: VmId, completed: bool) -> Result<Option<Job>, Error> {
        let verb = self.virsh().args(["domjobinfo", "--rawstats"]).args(completed.then_some("--completed"));
        let said = verb.arg(id.to_string()).run().await?;
        Ok(read_job(&String::from_utf8_lossy(&said)))
    }

    /// Takes the job of a domain back.
    ///
    /// # Errors
    /// When it has none, or it is too late.
    pub async fn abort_job(&self, id: VmId) -> Result<(), Error> {
        self.virsh().args(["domjobabort", &id.to_string()]).run().await.map(drop)
    }

    /// What is being sent goes on at the target at once.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_post_copy(&self, id: VmId) -> Result<(), Error> {
        self.virsh().args(["migrate-postcopy", &id.to_string()]).run().await.map(drop)
    }

    fn virsh(&self) -> Program {
        Program::new("virsh").args(["--quiet", "--connect", self.uri()]).limit(Duration::from_secs(8))
    }
}

impl Sending {
    fn flags(&self) -> u32 {
        let mut flags = sys::VIR_MIGRATE_LIVE
            | sys::VIR_MIGRATE_PEER2PEER
            | sys::VIR_MIGRATE_PERSIST_DEST
            | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
        // libvirt knows no shared directory but those of cluster file systems; the caller knows better. Disks are opened
        // without the page cache, or both hosts are one machine's.
        flags |= if self.disks.is_some() { sys::VIR_MIGRATE_NON_SHARED_INC } else { sys::VIR_MIGRATE_UNSAFE };
        flags |= if self.post_copy { sys::VIR_MIGRATE_POSTCOPY } else { sys::VIR_MIGRATE_PAUSED };
        if self.throttle {
            flags |= sys::VIR_MIGRATE_AUTO_CONVERGE;
        }
        flags
    }

    fn parameters(&self) -> MigrateParameters {
        MigrateParameters {
            uri: Some(self.memory.clone()),
            disks_uri: self.disks.clone(),
            bandwidth: self.bandwidth,
            ..MigrateParameters::default()
        }
    }
}

/// Reads what `virsh domjobinfo --rawstats` says; `None` where there is no job.
fn read_job(said: &str) -> Option<Job> {
    let values: BTreeMap<&str, &str> =
        said.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
    let number = |name: &str| values.get(name).and_then(|v| v.parse::<u64>().ok());
    let total = number("data_total")?;
    let page = number("memory_page_size").unwrap_or(4096);
    let progress = MotionProgress {
        total_bytes: total,
        sent_bytes: number("data_processed").unwrap_or_default(),
        remaining_bytes: number("data_remaining").unwrap_or_default(),
        dirty_bytes_per_second: number("memory_dirty_rate").unwrap_or_default() * page,
        sent_bytes_per_second: number("memory_bps").unwrap_or_default()
            + number("disk_bps").unwrap_or_default(),
        passes: number("memory_iteration").and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        pause_milliseconds: number("downtime"),
        throttle_percent: number("auto_converge_throttle")
            .and_then(|n| n.try_into().ok())
            .unwrap_or_default(),
    };
    Some(Job { progress, downtime: number("downtime") })
}

/// Where a domain is on its way, of its state, libvirt's reason for it, and whether a job of it is under way.
pub fn transit(state: sys::virDomainState, reason: i32, has_job: impl FnOnce() -> bool) -> Transit {
    let reason = u32::try_from(reason).unwrap_or(u32::MAX);
    match (state, reason) {
        (sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
        | (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED) => Transit::Torn,
        (sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_POSTCOPY) => Transit::PartHere,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_POSTCOPY) => Transit::PartThere,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION) => {
            if has_job() {
                Transit::Held
            } else {
                Transit::Stranded
            }
        }
        // Seen for a moment of one that comes in, and of one that is started here, which has no such job.
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_STARTING_UP) => {
            if has_job() {
                Transit::Held
            } else {
                Transit::Still
            }
        }
        // Stopped by hand while it is sent it is on its way all the same.
        (sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED | sys::VIR_DOMAIN_PAUSED, _) => {
            if has_job() {
                Transit::Sending
            } else {
                Transit::Still
            }
        }
        (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_MIGRATED) => Transit::Away,
        (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_UNKNOWN) => Transit::Unexplained,
        _ => Transit::Still,
    }
}

/// Whether a job that may be a migration is under way.
pub(super) fn has_job(handle: &Handle) -> bool {
    handle.get_job_info().is_ok_and(|job| {
        let kind = u32::try_from(job.r#type).unwrap_or_default();
        matches!(kind, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_each_reason_of_libvirt_is_told_from_an_ordinary_pause() {
        let of = |state, reason: u32, job| transit(state, i32::try_from(reason).unwrap(), || job);
        let paused = sys::VIR_DOMAIN_PAUSED;
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_USER, false), Transit::Still);
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_MIGRATION, true), Transit::Held);
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_MIGRATION, false), Transit::Stranded);
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_STARTING_UP, true), Transit::Held);
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_STARTING_UP, false), Transit::Still);
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_POSTCOPY, true), Transit::PartThere);
        assert_eq!(of(paused, sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, true), Transit::Torn);
        let running = sys::VIR_DOMAIN_RUNNING;
        assert_eq!(of(running, sys::VIR_DOMAIN_RUNNING_BOOTED, true), Transit::Sending);
        assert_eq!(of(running, sys::VIR_DOMAIN_RUNNING_BOOTED, false), Transit::Still);
        assert_eq!(of(running, sys::VIR_DOMAIN_RUNNING_POSTCOPY, true), Transit::PartHere);
        assert_eq!(of(running, sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED, true), Transit::Torn);
        let off = sys::VIR_DOMAIN_SHUTOFF;
        assert_eq!(of(off, sys::VIR_DOMAIN_SHUTOFF_MIGRATED, false), Transit::Away);
        assert_eq!(of(off, sys::VIR_DOMAIN_SHUTOFF_UNKNOWN, false), Transit::Unexplained);
        assert_eq!(of(off, sys::VIR_DOMAIN_SHUTOFF_CRASHED, false), Transit::Still);
    }

    #[test]
    fn m1_figures_are_read_as_virsh_prints_them() {
        let said = "  operation: 5\n  time_elapsed: 1203\n  data_total: 277815296\n  data_processed: 100\n  data_remaining: 50\n\
                    \x20 memory_bps: 7\n  memory_dirty_rate: 3\n  memory_page_size: 4096\n  memory_iteration: 2\n  downtime: 41\n";
        let job = read_job(said).unwrap();
        assert_eq!((job.progress.total_bytes, job.progress.remaining_bytes), (277_815_296, 50));
        assert_eq!((job.progress.dirty_bytes_per_second, job.progress.passes), (3 * 4096, 2));
        assert_eq!((job.downtime, job.progress.pause_milliseconds), (Some(41), Some(41)));
        assert_eq!(read_job("Job type: 0\n"), None);
    }
}
