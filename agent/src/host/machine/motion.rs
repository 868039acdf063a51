//! VMs that leave this machine for another, and those that come in.
//!
//! libvirt leaves the guest paused at the target. Only when it said that all of it is there, when this host was seen not to
//! execute it, and when the ledger keeps that, is the target told to let it go on: no answer that gets lost makes two run.

use super::Parts;
use crate::{
    Error,
    host::{
        With,
        libvirt::{DomainState, Sending},
        motion::{self as link, Arrivals, Call, Stream, instant},
        ovs::sink,
        storage::volumes,
    },
};
use basalt_model::{
    CapabilityReason, MigrationId, VmId, VolumeId,
    migrations::{MigrationMode, MotionProgress, StallPolicy},
};
use basalt_plan::host::{
    DiskSourceDefinition, DoorDefinition, PortDefinition, SendDefinition, Transit, VmDefinition, VolumeKey,
    stall::{Stall, Verdict},
};
use std::{path::PathBuf, time::Duration};
use tokio::time::sleep;

/// How often figures are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Figures of volumes are told each time so many bytes were sent.
const TOLD_BYTES: u64 = 8 * basalt_model::MIB;
/// How often somebody looks who waits for libvirt's last word.
const SOON: Duration = Duration::from_millis(20);
/// Longest that libvirt may take to put things back when it broke off.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// How one attempt ended.
enum Ended {
    Sent,
    /// It does not come to an end by itself.
    PostCopy,
    Stalled(CapabilityReason),
    Failed(String),
}

impl Parts {
    pub(super) async fn send(&self, send: &SendDefinition, with: &With) -> Result<(), Error> {
        if let Some(reason) = self.cannot_send() {
            return Err(Error::refused(reason));
        }
        let call =
            Call { vm: send.id, migration: send.migration_id, target: send.target, address: send.address };
        // Whoever does not answer now would not later: nothing was begun then.
        let line = call.line(&self.gate).await;
        let line =
            line.map_err(|e| refusal("migration_unreachable", "the target's agent does not take it", &e))?;
        if send.mode == MigrationMode::Cold {
            drop(line);
            return self.send_volumes(send, with, &call).await;
        }
        let relay = call.relay(&self.gate);
        let relay = relay.map_err(|e| refusal("migration_no_sockets", "its sockets cannot be made", &e))?;
        let mut ended = self.attempt(send, with, false).await;
        if matches!(ended, Ended::PostCopy) {
            // Whole again first: an attempt that may go over to post-copy leaves no guest paused at the target.
            self.settled(send.id).await;
            ended = self.attempt(send, with, true).await;
        }
        let returned = instant();
        self.gone(send, ended).await?;
        with.journal.handed_over(send.id, send.migration_id)?;
        // Too late to matter for who owns it: where this is lost the placement lets it go on.
        match line.go().await {
            Ok(pause) => {
                let hand_over = u64::try_from(returned.elapsed().as_millis()).unwrap_or(u64::MAX);
                let pause = pause.map(|p| p.saturating_add(hand_over));
                tracing::info!(vm = %send.id, ?pause, hand_over, "the guest goes on at the target");
                self.last_figures(send, with, pause).await;
            }
            Err(error) => tracing::warn!(vm = %send.id, %error, "the target was not told that it may go on"),
        }
        drop(relay);
        Ok(())
    }

    /// The guest is off: its volumes are sent file by file, and when the target keeps all of them it is the target's.
    async fn send_volumes(&self, send: &SendDefinition, with: &With, call: &Call) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| {
            refusal("migration_failed", "its volumes were not all sent, and it stays where it was", error)
        };
        let taken_back = self.gate.begin_sending(send.migration_id);
        let all = async {
            let mut files = Vec::new();
            for (id, path) in self.volume_files(&send.vm)? {
                let length = link::length(&path).map_err(|e| Error::state(&path, e))?;
                files.push((id, path, length));
            }
            let total_bytes = files.iter().map(|(_, _, length)| length).sum();
            let mut sent_bytes = 0;
            for (id, path, _) in &files {
                let told = |bytes| {
                    let before = sent_bytes / TOLD_BYTES;
                    sent_bytes += bytes;
                    if sent_bytes / TOLD_BYTES == before && sent_bytes != total_bytes {
                        return;
                    }
                    let remaining_bytes = u64::saturating_sub(total_bytes, sent_bytes);
                    let figures =
                        MotionProgress { total_bytes, sent_bytes, remaining_bytes, ..Default::default() };
                    (with.moved)(send.id, figures);
                };
                call.volume(&self.gate, *id, path, send.max_bytes_per_second, told).await?;
            }
            // A hand may have started it meanwhile: then what was sent is not what it has.
            match self.libvirt.domain(send.id).await? {
                None => Ok(()),
                Some(domain) if domain.state == DomainState::Off => Ok(()),
                Some(domain) => Err(Error::host("migrating", format!("it is {:?} here", domain.state))),
            }
        };
        let done = tokio::select! {
            biased;
            () = taken_back.cancelled() => Err(failed(&"it was taken back")),
            done = all => done.map_err(|e| failed(&e)),
        };
        self.gate.end_sending(send.migration_id);
        done?;
        with.journal.handed_over(send.id, send.migration_id)
    }

    /// Where the volumes of a VM are here.
    fn volume_files(&self, vm: &VmDefinition) -> Result<Vec<(VolumeId, PathBuf)>, Error> {
        let of = |source: &DiskSourceDefinition| match source {
            DiskSourceDefinition::Volume { id, incarnation, pool } => {
                let key = VolumeKey { id: *id, incarnation: *incarnation, pool: pool.clone() };
                Some(self.pools.here(pool).map(|pool| (*id, volumes::path(pool, &key))))
            }
            DiskSourceDefinition::Iso(_) => None,
        };
        vm.disks.iter().filter_map(|disk| of(&disk.source)).collect()
    }

    fn cannot_send(&self) -> Option<CapabilityReason> {
        self.gate.listen.is_none().then(|| {
            CapabilityReason::new(
                "migration_not_configured",
                "host",
                "this host has no address for migrations",
                "set [migration] listen in agent.toml and restart the agent",
            )
        })
    }

    /// One call of libvirt, looked after once a second.
    async fn attempt(&self, send: &SendDefinition, with: &With, post_copy: bool) -> Ended {
        let socket = |stream| format!("unix://{}", self.gate.socket(send.migration_id, stream).display());
        let libvirt = self.gate.socket(send.migration_id, Stream::Libvirt);
        let sending = Sending {
            libvirt: format!("qemu+unix:///system?socket={}", libvirt.display()),
            memory: socket(Stream::Memory),
            disks: send.copy_storage.then(|| socket(Stream::Disks)),
            bandwidth: send.max_bytes_per_second.map(|b| (b / basalt_model::MIB).max(1)),
            throttle: send.on_stall == StallPolicy::Throttle,
            post_copy,
        };
        let downtime = u64::from(send.max_pause_milliseconds);
        if let Err(error) = self.libvirt.set_max_downtime(send.id, downtime).await {
            tracing::debug!(%error, "the longest pause is set when sending has begun");
        }
        let migrate = self.libvirt.migrate(send.id, sending);
        tokio::pin!(migrate);
        let mut stall = Stall::new(send.on_stall);
        let (mut limited, mut switched, mut verdict) = (false, false, None);
        let mut next = instant() + SAMPLE_EVERY / 4;
        loop {
            tokio::select! {
                ended = &mut migrate => {
                    return match (ended, verdict) {
                        (Ok(()), _) => Ended::Sent,
                        (Err(_), Some(ended)) => ended,
                        (Err(error), None) => Ended::Failed(error.to_string()),
                    };
                }
                () = tokio::time::sleep_until(next) => {}
            }
            next = instant() + SAMPLE_EVERY;
            let Ok(Some(job)) = self.libvirt.job(send.id, false).await else { continue };
            if !limited {
                limited = self.libvirt.set_max_downtime(send.id, downtime).await.is_ok();
            }
            (with.moved)(send.id, job.progress);
            if post_copy && !switched {
                // Once all of it was sent: what is fetched as it is touched is then little.
                switched = job.progress.passes > 1 && self.libvirt.start_post_copy(send.id).await.is_ok();
                continue;
            }
            if switched || verdict.is_some() {
                continue;
            }
            verdict = match stall.sample(&job.progress, self.clock.now()) {
                Verdict::Go => None,
                Verdict::Abort(reason) => Some(Ended::Stalled(reason)),
                Verdict::PostCopy => Some(Ended::PostCopy),
            };
            if verdict.is_some()
                && let Err(error) = self.libvirt.abort_job(send.id).await
            {
                tracing::warn!(%error, "a migration that stands still was not stopped");
                verdict = None;
            }
        }
    }

    /// The last figures, with the pause as both sides saw it.
    async fn last_figures(&self, send: &SendDefinition, with: &With, pause_milliseconds: Option<u64>) {
        let total = send.vm.memory_bytes;
        let last = MotionProgress { total_bytes: total, sent_bytes: total, ..MotionProgress::default() };
        let last = match self.libvirt.job(send.id, true).await {
            Ok(Some(job)) => job.progress,
            _ => (with.last)(send.id).unwrap_or(last),
        };
        (with.moved)(send.id, MotionProgress { remaining_bytes: 0, pause_milliseconds, ..last });
    }

    /// What became of it here, whatever libvirt said.
    async fn gone(&self, send: &SendDefinition, ended: Ended) -> Result<(), Error> {
        let (state, transit) = self.settled(send.id).await;
        let off = matches!(state, None | Some(DomainState::Off));
        let whole =
            matches!(state, Some(DomainState::Running | DomainState::Paused)) && transit == Transit::Still;
        match ended {
            Ended::Sent if off => Ok(()),
            Ended::Sent => Err(Error::host("migrating", format!("it was sent and is still here: {state:?}"))),
            Ended::Stalled(reason) if whole => Err(Error::refused(reason)),
            Ended::Failed(why) if whole => {
                Err(refusal("migration_failed", "it was not sent, and goes on where it was", &why))
            }
            Ended::Failed(why) => Err(Error::host("migrating", why)),
            Ended::Stalled(_) | Ended::PostCopy => Err(Error::host("migrating", "it broke off")),
        }
    }

    /// What a domain is once libvirt has put back what broke off.
    async fn settled(&self, id: VmId) -> (Option<DomainState>, Transit) {
        let end = instant() + BACK_LIMIT;
        loop {
            let seen = match self.libvirt.domain(id).await {
                Ok(None) => return (None, Transit::Away),
                Ok(Some(domain)) => (Some(domain.state), domain.transit),
                Err(_) => (Some(DomainState::Unclear), Transit::Held),
            };
            let busy = matches!(seen.1, Transit::Sending | Transit::Held);
            if !busy || instant() > end {
                return seen;
            }
            sleep(SOON).await;
        }
    }

    /// Nothing is being sent any more when this returns.
    pub(super) async fn abort(&self, id: VmId, migration_id: MigrationId) -> Result<(), Error> {
        if self.gate.end_sending(migration_id) {
            return Ok(());
        }
        let end = instant() + BACK_LIMIT;
        loop {
            match self.libvirt.domain(id).await? {
                Some(domain) if matches!(domain.transit, Transit::Sending | Transit::Held) => {}
                _ => return Ok(()),
            }
            if let Err(error) = self.libvirt.abort_job(id).await {
                tracing::debug!(%error, "taking a migration back");
            }
            if instant() > end {
                return Err(Error::host("taking a migration back", "libvirt does not end it"));
            }
            sleep(SAMPLE_EVERY / 5).await;
        }
    }

    /// What came in in part goes; what came whole stays.
    pub(super) async fn discard(&self, id: VmId) -> Result<(), Error> {
        match self.libvirt.domain(id).await? {
            Some(domain) if matches!(domain.transit, Transit::Held | Transit::Stranded) => {
                Ok(self.libvirt.destroy(id).await?)
            }
            _ => Ok(()),
        }
    }
}

impl Arrivals for Parts {
    async fn go(&self, door: &DoorDefinition) -> Result<Option<u64>, Error> {
        let Some(domain) = self.libvirt.domain(door.id).await? else {
            return Err(Error::host("letting it go on", "it is not here"));
        };
        if domain.transit == Transit::PartHere || domain.state == DomainState::Running {
            return Ok(None);
        }
        if domain.transit != Transit::Still || domain.state != DomainState::Paused {
            return Err(Error::host("letting it go on", format!("it is {:?}", domain.transit)));
        }
        // Its devices are where they belong before it executes; usually they are, since it came in.
        for nic in &domain.nics {
            if !(sink::is_isolated(self.datapath, &nic.tap) && sink::is_up(&nic.tap))
                && let Some(wanted) = door.vm.nics.iter().find(|n| n.port_id.to_string() == nic.interface_id)
            {
                let port = PortDefinition { port_id: wanted.port_id, vm_id: door.id, mac: nic.mac.clone() };
                self.attach(&port).await?;
            }
        }
        self.libvirt.resume(door.id).await?;
        // The source counts until it is answered, and from here on the guest executes.
        let resumed = instant();
        let downtime = self.libvirt.job(door.id, true).await.ok().flatten().and_then(|job| job.downtime);
        let after = u64::try_from(resumed.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(downtime.map(|ms| ms.saturating_sub(after)))
    }

    async fn file(&self, door: &DoorDefinition, volume: VolumeId) -> Result<PathBuf, Error> {
        let what = "taking a volume in";
        match self.libvirt.domain(door.id).await? {
            Some(domain) if domain.state != DomainState::Off => {
                return Err(Error::host(what, format!("the VM is {:?} here", domain.state)));
            }
            _ => {}
        }
        let mut files = self.volume_files(&door.vm)?.into_iter();
        let found = files.find(|(id, _)| *id == volume);
        found.map(|(_, path)| path).ok_or_else(|| Error::host(what, format!("the VM has no volume {volume}")))
    }
}

fn refusal(code: &'static str, message: &str, why: &dyn std::fmt::Display) -> Error {
    let remedy = "see the agents' and libvirt's logs of both hosts; the guest goes on, migrate it again";
    Error::refused(CapabilityReason::new(code, "migration", message, remedy).with_evidence(why.to_string()))
}

/// Where libvirt's socket is, of a URI that names one.
pub(super) fn socket_of(uri: &str) -> std::path::PathBuf {
    let named = uri.split_once("socket=").map(|(_, rest)| rest.split('&').next().unwrap_or(rest));
    named.unwrap_or("/run/libvirt/libvirt-sock").into()
}
