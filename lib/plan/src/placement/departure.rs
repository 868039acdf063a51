//! A VM that is on a host and is to go to another: what the other must have besides, so that it can come.

use super::{HostView, Request, VolumeRequest};
use basalt_model::{
    CapabilityReason, HostId, Name,
    hosts::{HostFacts, HostState},
    migrations::{MigrationMode, StallPolicy},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};
use uuid::Uuid;

/// Most missing CPU features that evidence names.
const NAMED_FEATURES: usize = 12;

/// Where a VM leaves from, as far as other hosts are judged by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub host: Name,
    /// How it goes.
    pub mode: MigrationMode,
    /// Whether it may go over to post-copy.
    post_copy: bool,
    /// What runs guests there: `kvm` or `tcg`.
    accelerator: String,
    cpu_features: BTreeSet<String>,
    qemu: String,
    /// Where overlays find the images under them; none when it has no overlay.
    images_at: Option<String>,
    /// Where the pools of its volumes are there, and which storage they are: a guest's definition is not rewritten on the way.
    pools: BTreeMap<Name, (String, Option<Uuid>)>,
    /// Storage that the target must see too: each volume's, in disk order. Empty when bytes are sent.
    shared: Vec<Uuid>,
    /// Nothing of it is left there that could be asked: it begins anew from its disks.
    lost: bool,
}

/// What a VM on its way asks of a target, or why it cannot go at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The request to choose with.
    pub request: Request,
    /// Whether the bytes of its volumes are sent.
    pub copies_storage: bool,
}

impl Leaving {
    /// Turns the request of a VM that is on a host into that for another one. `overlays`: some volume lies over an image.
    ///
    /// # Errors
    /// Why it cannot leave, whatever the target.
    pub fn new(
        request: Request,
        source: &HostView,
        (mode, on_stall): (MigrationMode, StallPolicy),
        overlays: bool,
    ) -> Result<Self, CapabilityReason> {
        let subject = format!("host/{}", source.name);
        let post_copy = mode == MigrationMode::Live && on_stall == StallPolicy::PostCopy;
        let Some(facts) = source.facts.as_deref().filter(|_| source.state != HostState::Unreachable) else {
            return Err(CapabilityReason::new(
                "host_unreachable",
                subject,
                "the host that it is on is not heard of, so nothing can leave it",
                "check its power, its network and its agent",
            ));
        };
        address(source, facts)?;
        if post_copy && !facts.post_copy {
            return Err(no_post_copy(subject));
        }
        let (shared, copies_storage) = storage(&request.volumes, facts, &subject)?;
        let volumes = match copies_storage {
            // Wanted in pools of the same names, where there is room for them.
            true => request.volumes.iter().map(moved).collect(),
            false => Vec::new(),
        };
        let departure = Departure {
            host_id: source.id,
            host: source.name.clone(),
            mode,
            post_copy,
            accelerator: facts.accelerator().map(|a| a.kind.clone()).unwrap_or_default(),
            cpu_features: facts.cpu_features.iter().cloned().collect(),
            qemu: facts.versions.qemu.clone(),
            pools: pools_of(&request.volumes, facts),
            images_at: facts.pools.first().map(|p| p.path.clone()).filter(|_| overlays),
            shared,
            lost: false,
        };
        let request = Request { volumes, departure: Some(departure), ..request };
        Ok(Self { request, copies_storage })
    }

    /// Turns the request of a VM whose host is proven dead into that for another one, where it begins anew from its disks.
    ///
    /// # Errors
    /// Why it cannot be had elsewhere, whatever the target.
    pub fn of_dead(request: Request, source: &HostView, overlays: bool) -> Result<Self, CapabilityReason> {
        let subject = format!("host/{}", source.name);
        let no_others = || {
            CapabilityReason::new(
                "ha_local_storage",
                subject.clone(),
                "some of its volumes are on the lost host alone",
                "start that host again; keep disks in pools of kind shared_directory from the start",
            )
        };
        let facts = source.facts.as_deref().ok_or_else(no_others)?;
        let (shared, copies) = storage(&request.volumes, facts, &subject).map_err(|_| no_others())?;
        if copies {
            return Err(no_others());
        }
        let departure = Departure {
            host_id: source.id,
            host: source.name.clone(),
            mode: MigrationMode::Cold,
            post_copy: false,
            accelerator: String::new(),
            cpu_features: BTreeSet::new(),
            qemu: String::new(),
            pools: BTreeMap::new(),
            images_at: facts.pools.first().map(|p| p.path.clone()).filter(|_| overlays),
            shared,
            lost: true,
        };
        let request =
            Request { volumes: Vec::new(), departure: Some(departure), shared_storage: false, ..request };
        Ok(Self { request, copies_storage: false })
    }

    /// The pools at a target, in disk order: those that were chosen, or those that are the same storage.
    pub fn pools(&self, chosen: &[Name], target: &HostFacts) -> Vec<Name> {
        let shared = self.request.departure.iter().flat_map(|d| &d.shared);
        let same = shared.filter_map(|id| target.pools.iter().find(|p| p.shared_id == Some(*id)));
        if self.copies_storage { chosen.to_vec() } else { same.map(|p| p.name.clone()).collect() }
    }
}

fn pools_of(volumes: &[VolumeRequest], facts: &HostFacts) -> BTreeMap<Name, (String, Option<Uuid>)> {
    let pools = volumes.iter().filter_map(|v| facts.pool(&v.bound.as_ref()?.1));
    pools.map(|p| (p.name.clone(), (p.path.clone(), p.shared_id))).collect()
}

fn moved(volume: &VolumeRequest) -> VolumeRequest {
    let pool = volume.bound.as_ref().map(|(_, pool)| pool.clone()).or(volume.pool.clone());
    VolumeRequest { pool, bound: None, ..volume.clone() }
}

/// Where a host takes VMs in.
///
/// # Errors
/// When it takes none.
pub fn address(host: &HostView, facts: &HostFacts) -> Result<SocketAddr, CapabilityReason> {
    facts.migration_address.ok_or_else(|| {
        CapabilityReason::new(
            "migration_unavailable",
            format!("host/{}", host.name),
            "its agent takes no VMs in from other hosts and sends none",
            "give [migration] listen in its agent.toml and restart the agent",
        )
    })
}

fn storage(
    volumes: &[VolumeRequest],
    facts: &HostFacts,
    subject: &str,
) -> Result<(Vec<Uuid>, bool), CapabilityReason> {
    let seen_by_others = |v: &VolumeRequest| facts.pool(&v.bound.as_ref()?.1)?.shared_id;
    let shared: Vec<Uuid> = volumes.iter().filter_map(seen_by_others).collect();
    match shared.len() {
        0 => Ok((shared, !volumes.is_empty())),
        n if n == volumes.len() => Ok((shared, false)),
        n => Err(CapabilityReason::new(
            "mixed_storage",
            subject,
            "some of its volumes are in storage that other hosts see and some are not",
            "move its volumes to pools of one kind: redeploy it with all disks in shared pools, or none",
        )
        .with_evidence(format!("{n} of {} volumes are in shared pools", volumes.len()))),
    }
}

/// Why a host cannot take it in; nothing when it can.
pub(super) fn rejections(departure: &Departure, host: &HostView, facts: &HostFacts) -> Vec<CapabilityReason> {
    let subject = || format!("host/{}", host.name);
    if departure.host_id == host.id {
        return vec![CapabilityReason::new("same_host", subject(), "the VM is on it", "name another host")];
    }
    let mut out: Vec<CapabilityReason> =
        address(host, facts).err().filter(|_| !departure.lost).into_iter().collect();
    if departure.mode == MigrationMode::Live {
        out.extend(execution(departure, host, facts));
    }
    if departure.post_copy && !facts.post_copy {
        out.push(no_post_copy(subject()));
    }
    if let Some(at) = &departure.images_at
        && let Some(here) = facts.pools.first().map(|p| &p.path).filter(|here| *here != at)
    {
        let reason = CapabilityReason::new(
            "image_path_differs",
            subject(),
            "its cached images are at another path, and the volumes name theirs",
            "give the first pool of both hosts the same path",
        );
        out.push(reason.with_evidence(format!("{at} on {}, {here} here", departure.host)));
    }
    for (name, (at, shared)) in &departure.pools {
        let same = match shared {
            Some(_) => facts.pools.iter().find(|p| p.shared_id == *shared),
            None => facts.pool(name),
        };
        if let Some(pool) = same.filter(|pool| pool.path != *at) {
            let reason = CapabilityReason::new(
                "pool_path_differs",
                subject(),
                format!("its pool {} is at another path than the VM's is where it runs", pool.name),
                "give pools of the same name the same path on all hosts",
            );
            out.push(reason.with_evidence(format!("{at} on {}, {} here", departure.host, pool.path)));
        }
    }
    let sees = |id: &&Uuid| !facts.pools.iter().any(|p| p.shared_id == Some(**id));
    if departure.shared.iter().any(|id| sees(&id)) {
        let reason = CapabilityReason::new(
            "shared_pool_missing",
            subject(),
            "it does not see the storage that the VM's volumes are in",
            "mount that storage on it and declare it as a pool of kind shared_directory",
        );
        out.push(reason);
    }
    out
}

fn no_post_copy(subject: String) -> CapabilityReason {
    CapabilityReason::new(
        "post_copy_unavailable",
        subject,
        "its QEMU may not fetch a guest's memory as the guest touches it (userfaultfd)",
        "let QEMU's account use userfaultfd on both hosts (docs/operating/migration.md), or choose another on_stall",
    )
}

/// Whether a guest that executes could go on there: the same accelerator, all CPU features, a QEMU that is not older.
fn execution(departure: &Departure, host: &HostView, facts: &HostFacts) -> Vec<CapabilityReason> {
    let subject = format!("host/{}", host.name);
    let mut out = Vec::new();
    let here = facts.accelerator().map(|a| a.kind.as_str()).unwrap_or_default();
    if here != departure.accelerator && !here.is_empty() {
        let reason = CapabilityReason::new(
            "accelerator_differs",
            subject.clone(),
            "it executes guests in another way, and one that executes cannot change that",
            "migrate cold, or choose a host with the same accelerator",
        );
        out.push(
            reason.with_evidence(format!("{} on {}, {here} here", departure.accelerator, departure.host)),
        );
    }
    let have: BTreeSet<&str> = facts.cpu_features.iter().map(String::as_str).collect();
    // Under TCG the guest's CPU is made up and the same everywhere.
    let wanted = departure.cpu_features.iter().filter(|_| departure.accelerator == "kvm");
    let missing: Vec<&str> = wanted.map(String::as_str).filter(|f| !have.contains(f)).collect();
    if !missing.is_empty() {
        let named = missing.iter().take(NAMED_FEATURES).copied().collect::<Vec<_>>().join(" ");
        let reason = CapabilityReason::new(
            "cpu_features_missing",
            subject.clone(),
            format!("its CPU lacks {} features that the guest may be using", missing.len()),
            "migrate cold, or choose a host with the same CPU or a newer one",
        );
        out.push(reason.with_evidence(named));
    }
    if older(&facts.versions.qemu, &departure.qemu) {
        let reason = CapabilityReason::new(
            "qemu_older",
            subject,
            "its QEMU is older than the one that the guest runs in",
            "update the host, or migrate cold",
        );
        let evidence = format!("{} on {}, {} here", departure.qemu, departure.host, facts.versions.qemu);
        out.push(reason.with_evidence(evidence));
    }
    out
}

/// Whether the first two numbers of a version are below those of another. What is no version is not judged.
fn older(here: &str, there: &str) -> bool {
    let read = |text: &str| -> Option<(u32, u32)> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    read(here).zip(read(there)).is_some_and(|(here, there)| here < there)
}

#[cfg(test)]
#[path = "departure_tests.rs"]
mod tests;
