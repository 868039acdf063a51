//! Placement: which host takes a VM, which pools take its volumes, and why every other host does not.
//!
//! Filter, then score. Every rejection is a [`CapabilityReason`] with the figures that show it and
//! what would turn it round. [`Verdict::Never`] is said only when no host that the VM's rules admit
//! could take it even if it were empty; everything else may change by itself or by an operator.

pub mod affinity;
pub mod departure;

use self::{affinity::Neighbours, departure::Departure};
use basalt_model::{
    CapabilityReason, HostId, ImageId, Labels, Name,
    hosts::{HostFacts, HostSpec, HostState},
    networks::Segment,
    pools::PoolFacts,
    quotas::Demand,
    vms::{Firmware, PlacementRules, PlacementStrategy},
};
use basalt_wire::rest::{PlacementCandidate, PlacementExplanation};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a cached image is worth, in thousandths of a host's capacity.
const CACHED_IMAGE_BONUS: i64 = 100;

/// What a VM needs of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Its volumes in disk order.
    pub volumes: Vec<VolumeRequest>,
    /// Images that must come to the host: under its volumes, or as discs.
    pub images: BTreeSet<ImageId>,
    /// Segments of the networks it is attached to.
    pub segments: Vec<Segment>,
    /// Where it may run.
    pub rules: PlacementRules,
    /// Its own labels: rules of other VMs may mean it.
    pub labels: Labels,
    /// All of its volumes must be in storage that other hosts see: it is started elsewhere when its host is lost.
    pub shared_storage: bool,
    /// Where it leaves from, when it is on a host already.
    pub departure: Option<Departure>,
}

/// What a volume needs of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name, for people.
    pub name: Name,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// A wanted pool.
    pub pool: Option<Name>,
    /// The host and pool that it is in already.
    pub bound: Option<(HostId, Name)>,
}

/// A host as placement sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HostView {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// What the operator wants of it.
    pub spec: HostSpec,
    /// Its state now.
    pub state: HostState,
    /// What its agent found out.
    pub facts: Option<Arc<HostFacts>>,
    /// What the VMs placed there were promised.
    pub claimed: Demand,
    /// Volume sizes promised, by pool, in bytes.
    pub pool_claims: BTreeMap<Name, u64>,
    /// Images that are in its cache, or that its manifest wants there.
    pub cached_images: BTreeSet<ImageId>,
}

/// What was decided for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it can be placed now, later, or never.
    pub verdict: Verdict,
    /// Every host that was looked at, and why.
    pub explanation: PlacementExplanation,
}

/// The short answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Place it here.
    Fits {
        /// The host.
        host_id: HostId,
        /// A pool for each volume, in disk order.
        pools: Vec<Name>,
    },
    /// No host takes it now; capacity, maintenance, labels and reachability change.
    Later(CapabilityReason),
    /// No host that the rules admit could take it even if it were empty.
    Never(CapabilityReason),
}

impl Verdict {
    /// The host and the pools.
    ///
    /// # Errors
    /// Why there is none.
    pub fn fits(self) -> Result<(HostId, Vec<Name>), CapabilityReason> {
        match self {
            Self::Fits { host_id, pools } => Ok((host_id, pools)),
            Self::Later(reason) | Self::Never(reason) => Err(reason),
        }
    }
}

impl HostView {
    /// Counts a VM as one that is promised a place here: what is chosen after it sees it.
    pub fn promise(&mut self, request: &Request) {
        self.claimed.vms = self.claimed.vms.saturating_add(1);
        self.claimed.cpus = self.claimed.cpus.saturating_add(request.cpus);
        self.claimed.memory_bytes = self.claimed.memory_bytes.saturating_add(request.memory_bytes);
    }

    /// Counts it no more.
    pub fn release(&mut self, request: &Request) {
        self.claimed.vms = self.claimed.vms.saturating_sub(1);
        self.claimed.cpus = self.claimed.cpus.saturating_sub(request.cpus);
        self.claimed.memory_bytes = self.claimed.memory_bytes.saturating_sub(request.memory_bytes);
    }
}

/// The code of [`not_known_yet`].
pub const NOT_KNOWN_YET: &str = "not_known_yet";

/// A row that a decision needs has not come yet: it is decided anew when it has.
pub fn not_known_yet(what: &str) -> CapabilityReason {
    CapabilityReason::new(NOT_KNOWN_YET, what, "it is not known yet", "wait a moment")
}

/// Chooses a host and pools. The same inputs give the same decision; equal scores go to the lower host id.
pub fn choose<'a>(
    request: &Request,
    neighbours: &Neighbours,
    hosts: impl IntoIterator<Item = &'a HostView>,
) -> Decision {
    let mut fits: Vec<PlacementCandidate> = Vec::new();
    let mut rejected: Vec<(Judged, PlacementCandidate)> = Vec::new();
    for host in hosts {
        let judged = judge(request, neighbours, host);
        let score =
            judged.rejections.is_empty().then(|| score(request, host) + neighbours.score(request, host.id));
        let candidate = PlacementCandidate {
            host_id: host.id,
            host: host.name.clone(),
            score,
            pools: if score.is_some() { judged.pools.clone() } else { Vec::new() },
            rejections: judged.rejections.iter().map(|r| r.reason.clone()).collect(),
        };
        match score {
            Some(_) => fits.push(candidate),
            None => rejected.push((judged, candidate)),
        }
    }
    fits.sort_by_key(|c| (Reverse(c.score), c.host_id));
    rejected.sort_by(|a, b| {
        (a.0.rejections.len(), &a.1.host, a.1.host_id).cmp(&(b.0.rejections.len(), &b.1.host, b.1.host_id))
    });
    let chosen = fits.first().map(|c| (c.host_id, c.host.clone(), c.pools.clone()));
    let fitting = fits.len();
    let (verdict, summary) = match &chosen {
        Some((host_id, host, pools)) => {
            let text = format!("{host} takes it: best of {fitting} that fit, {} rejected", rejected.len());
            (Verdict::Fits { host_id: *host_id, pools: pools.clone() }, text)
        }
        None => {
            let verdict = refuse(request, &rejected);
            let text = match &verdict {
                Verdict::Later(r) | Verdict::Never(r) => r.to_string(),
                Verdict::Fits { .. } => String::new(),
            };
            (verdict, text)
        }
    };
    let candidates = fits.into_iter().chain(rejected.into_iter().map(|(_, c)| c)).collect();
    let (host_id, host) = chosen.map(|(id, name, _)| (id, name)).unzip();
    Decision { verdict, explanation: PlacementExplanation { host_id, host, summary, candidates } }
}

/// Why a rejection stands, and for how long.
#[derive(Clone, Debug)]
struct Rejection {
    reason: CapabilityReason,
    lasts: Lasts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    /// It changes by itself or by an operator.
    Now,
    /// The host, empty, could not take it.
    Always,
    /// The VM's own rules leave this host out.
    ByRule,
}

#[derive(Default)]
struct Judged {
    rejections: Vec<Rejection>,
    pools: Vec<Name>,
}

impl Judged {
    fn reject(&mut self, lasts: Lasts, reason: CapabilityReason) {
        self.rejections.push(Rejection { reason, lasts });
    }

    fn is_by_rule(&self) -> bool {
        self.rejections.iter().any(|r| r.lasts == Lasts::ByRule)
    }

    fn is_permanent(&self) -> bool {
        self.rejections.iter().any(|r| r.lasts == Lasts::Always)
    }
}

fn judge(request: &Request, neighbours: &Neighbours, host: &HostView) -> Judged {
    let mut out = Judged::default();
    rules(request, host, &mut out);
    for reason in neighbours.rejections(request, host) {
        out.reject(Lasts::Now, reason);
    }
    state(host, &mut out);
    let Some(facts) = &host.facts else {
        return out;
    };
    capability(request, host, facts, &mut out);
    for reason in request.departure.iter().flat_map(|d| departure::rejections(d, host, facts)) {
        out.reject(Lasts::Now, reason);
    }
    capacity(request, host, facts, &mut out);
    pools(request, host, facts, &mut out);
    out
}

fn subject(host: &HostView) -> String {
    format!("host/{}", host.name)
}

fn rules(request: &Request, host: &HostView, out: &mut Judged) {
    if let Some(wanted) = &request.rules.host
        && *wanted != host.name
    {
        out.reject(
            Lasts::ByRule,
            CapabilityReason::new(
                "pinned_elsewhere",
                subject(host),
                format!("the VM is pinned to {wanted}"),
                "leave placement.host out, or name this host",
            ),
        );
    }
    let missing: Vec<_> = request
        .rules
        .host_labels
        .0
        .iter()
        .filter(|(k, v)| host.labels.get(k) != Some(v.as_str()))
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    if !missing.is_empty() {
        out.reject(
            Lasts::ByRule,
            CapabilityReason::new(
                "labels_missing",
                subject(host),
                format!("it does not carry {}", missing.join(", ")),
                format!("label the host {}, or change placement.host_labels", missing.join(" ")),
            ),
        );
    }
    for (volume, at) in request.volumes.iter().filter_map(|v| v.bound.as_ref().map(|b| (v, b.0))) {
        if at != host.id {
            out.reject(
                Lasts::ByRule,
                CapabilityReason::new(
                    "volume_elsewhere",
                    subject(host),
                    format!("volume {} is on another host", volume.name),
                    "run the VM where its volume is",
                )
                .with_evidence(format!("the volume is on host {at}")),
            );
        }
    }
}

fn state(host: &HostView, out: &mut Judged) {
    let (code, message, remedy): (&'static str, &str, &str) = match host.state {
        HostState::Ready => return,
        HostState::Enrolling => {
            ("host_enrolling", "its agent has not reported yet", "start the agent on it with its join token")
        }
        HostState::Degraded => ("host_degraded", "it has problems", "mend what its problems name"),
        HostState::Unreachable => {
            ("host_unreachable", "it is not heard of", "check its power, its network and its agent")
        }
        HostState::Maintenance => {
            ("host_in_maintenance", "it is in maintenance", "end the maintenance of the host")
        }
        HostState::Removed => ("host_removed", "it is on its way out", "add another host"),
    };
    let evidence = match (&host.facts, host.state) {
        (Some(facts), HostState::Degraded) => {
            let mut all: Vec<_> =
                facts.problems.iter().map(|p| format!("{}: {}", p.code, p.message)).collect();
            if facts.accelerator().is_none() {
                all.push("no accelerator was seen to start a guest".to_owned());
            }
            all.join("; ")
        }
        _ => String::new(),
    };
    out.reject(
        Lasts::Now,
        CapabilityReason::new(code, subject(host), message, remedy).with_evidence(evidence),
    );
}

fn capability(request: &Request, host: &HostView, facts: &HostFacts, out: &mut Judged) {
    if facts.accelerator().is_none() && host.state != HostState::Degraded {
        let seen: Vec<_> = facts.accelerators.iter().map(|a| format!("{}: {}", a.kind, a.evidence)).collect();
        let reason = CapabilityReason::new(
            "accelerator_missing",
            subject(host),
            "no accelerator was seen to start a guest",
            "install QEMU and see the evidence of the probe",
        );
        out.reject(Lasts::Now, reason.with_evidence(seen.join("; ")));
    }
    if request.firmware == Firmware::Uefi && !facts.uefi {
        let reason = CapabilityReason::new(
            "uefi_missing",
            subject(host),
            "it has no UEFI firmware",
            "install OVMF on it, or use firmware bios",
        );
        out.reject(Lasts::Always, reason);
    }
    if request.segments.is_empty() {
        return;
    }
    let bridges = || facts.bridges.iter().map(|b| b.name.as_str()).collect::<Vec<_>>().join(", ");
    if !facts.bridges.iter().any(|b| b.integration) {
        let reason = CapabilityReason::new(
            "integration_bridge_missing",
            subject(host),
            "it has no bridge that guests are attached to",
            "its agent makes the bridge when it starts: wait, or look at the agent's log",
        );
        // The agent makes it, so a host that lacks it now may have it in a moment.
        out.reject(Lasts::Now, reason.with_evidence(format!("bridges: {}", bridges())));
    }
    let uplinks: BTreeSet<&str> = request.segments.iter().filter_map(Segment::uplink).collect();
    for uplink in uplinks.into_iter().filter(|u| !facts.bridges.iter().any(|b| b.name == *u)) {
        let reason = CapabilityReason::new(
            "uplink_missing",
            subject(host),
            format!("it has no bridge {uplink}"),
            format!("create the bridge {uplink} on it, or use a network of another segment"),
        );
        out.reject(Lasts::Always, reason.with_evidence(format!("bridges: {}", bridges())));
    }
}

fn capacity(request: &Request, host: &HostView, facts: &HostFacts, out: &mut Judged) {
    let limit = host.spec.capacity(facts);
    let figures = [
        ("cpus", "CPUs", u64::from(request.cpus), u64::from(host.claimed.cpus), u64::from(limit.cpus)),
        ("memory", "bytes of memory", request.memory_bytes, host.claimed.memory_bytes, limit.memory_bytes),
    ];
    for (what, unit, asked, claimed, most) in figures {
        let evidence = format!("asked {asked}, claimed {claimed}, limit {most} {unit}");
        if asked > most {
            let reason = CapabilityReason::new(
                format!("host_too_small_{what}"),
                subject(host),
                format!("even empty it has fewer than {asked} {unit}"),
                format!("ask for at most {most} {unit}, raise the host's overcommit, or add a larger host"),
            );
            out.reject(Lasts::Always, reason.with_evidence(evidence));
        } else if claimed.saturating_add(asked) > most {
            let free = most.saturating_sub(claimed);
            let reason = CapabilityReason::new(
                format!("insufficient_{what}"),
                subject(host),
                format!("{free} {unit} are free, {asked} are asked"),
                "delete or shrink VMs there, raise the host's overcommit, or add a host",
            );
            out.reject(Lasts::Now, reason.with_evidence(evidence));
        }
    }
}

/// What a pool can still promise, and its size. A volume must fit beside what is promised, and on the disk as it is now:
/// others may have filled it.
fn room(host: &HostView, facts: &HostFacts, pool: &Name) -> Option<(u64, u64)> {
    let seen = facts.pool(pool)?;
    let claimed = host.pool_claims.get(pool).copied().unwrap_or(0);
    Some((seen.capacity_bytes.saturating_sub(claimed).min(seen.available_bytes), seen.capacity_bytes))
}

/// A volume that names a pool of which no host has room now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullPool {
    /// Position in [`Request::volumes`].
    pub volume: usize,
    /// What is free where, and what would help.
    pub reason: CapabilityReason,
}

/// Most hosts that a full pool's evidence names.
const FULL_HOSTS: usize = 8;

/// The volumes that name a pool of which no host that the rules admit has room now: what is promised counts, and so do
/// the volumes before it that name the same pool. A pool that no known host has is no matter of room.
pub fn full_pools<'a>(request: &Request, hosts: impl IntoIterator<Item = &'a HostView>) -> Vec<FullPool> {
    let admitted: Vec<(&HostView, &HostFacts)> = hosts
        .into_iter()
        .filter(|host| host.state != HostState::Removed && admits(request, host))
        .filter_map(|host| Some((host, host.facts.as_deref()?)))
        .collect();
    let mut asked: BTreeMap<&Name, u64> = BTreeMap::new();
    let mut full = Vec::new();
    for (index, volume) in request.volumes.iter().enumerate() {
        let Some(pool) = volume.pool.as_ref().filter(|_| volume.bound.is_none()) else { continue };
        let sum = asked.entry(pool).or_default();
        *sum = sum.saturating_add(volume.size_bytes);
        let mut free: Vec<(u64, &Name)> =
            admitted.iter().filter_map(|(h, f)| Some((room(h, f, pool)?.0, &h.name))).collect();
        free.sort_by_key(|(bytes, host)| (Reverse(*bytes), *host));
        if free.first().is_some_and(|(most, _)| *most < *sum) {
            full.push(FullPool { volume: index, reason: pool_full(pool, *sum, &free) });
        }
    }
    full
}

fn admits(request: &Request, host: &HostView) -> bool {
    let mut judged = Judged::default();
    rules(request, host, &mut judged);
    judged.rejections.is_empty()
}

fn pool_full(pool: &Name, asked: u64, free: &[(u64, &Name)]) -> CapabilityReason {
    let mut places: Vec<_> =
        free.iter().take(FULL_HOSTS).map(|(bytes, host)| format!("{bytes} bytes on {host}")).collect();
    if free.len() > FULL_HOSTS {
        places.push(format!("less on {} more hosts", free.len() - FULL_HOSTS));
    }
    let most = free.first().map_or(0, |f| f.0);
    CapabilityReason::new(
        "pool_full",
        format!("pool/{pool}"),
        format!("no host has room for {asked} bytes in its pool {pool}"),
        format!(
            "ask for at most {most} bytes, leave the pool out or name another, or delete volumes of this one"
        ),
    )
    .with_evidence(format!("free: {}", places.join(", ")))
}

/// A volume that is on the host already.
fn bound(request: &Request, host: &HostView, facts: &HostFacts, pool: &Name, out: &mut Judged) {
    match facts.pool(pool) {
        None => out.reject(Lasts::Now, pool_missing(host, facts, pool)),
        Some(p) if request.shared_storage && p.shared_id.is_none() => {
            out.reject(Lasts::Always, local_storage(host, facts, Some(pool)));
        }
        Some(_) => {}
    }
}

fn pools(request: &Request, host: &HostView, facts: &HostFacts, out: &mut Judged) {
    let mut taken: BTreeMap<&Name, u64> = BTreeMap::new();
    for volume in &request.volumes {
        if let Some((at, pool)) = &volume.bound {
            if *at == host.id {
                bound(request, host, facts, pool, out);
            }
            out.pools.push(pool.clone());
            continue;
        }
        let eligible = |p: &&PoolFacts| !request.shared_storage || p.shared_id.is_some();
        let choice = match &volume.pool {
            Some(name) => facts.pool(name),
            None => facts.pools.iter().filter(eligible).max_by_key(|p| {
                let free = room(host, facts, &p.name)
                    .map_or(0, |r| r.0)
                    .saturating_sub(taken.get(&p.name).copied().unwrap_or(0));
                (free, Reverse(&p.name))
            }),
        };
        let refused = choice.is_some_and(|p| !eligible(&p));
        let Some(pool) = choice.filter(|_| !refused) else {
            let reason = match &volume.pool {
                wanted if refused || request.shared_storage && wanted.is_none() => {
                    local_storage(host, facts, wanted.as_ref())
                }
                Some(name) => pool_missing(host, facts, name),
                None => CapabilityReason::new(
                    "no_pool",
                    subject(host),
                    "it has no storage pool",
                    "declare a pool in its agent's configuration",
                ),
            };
            out.reject(Lasts::Always, reason);
            continue;
        };
        let before = taken.get(&pool.name).copied().unwrap_or(0);
        let (free, size) = room(host, facts, &pool.name).unwrap_or((0, 0));
        let free = free.saturating_sub(before);
        if volume.size_bytes > free {
            // The largest pool decides, unless one was named: another order of volumes may fit.
            let largest = facts.pools.iter().map(|p| p.capacity_bytes).max().unwrap_or(0);
            let never = match volume.pool {
                Some(_) => before.saturating_add(volume.size_bytes) > size,
                None => volume.size_bytes > largest,
            };
            let claimed = host.pool_claims.get(&pool.name).copied().unwrap_or(0);
            let reason = CapabilityReason::new(
                if never { "pool_too_small" } else { "insufficient_storage" },
                format!("pool/{}/{}", host.name, pool.name),
                format!(
                    "{free} bytes can still be promised, volume {} asks for {}",
                    volume.name, volume.size_bytes
                ),
                "ask for a smaller disk, delete volumes of the pool, or add a pool",
            )
            .with_evidence(format!(
                "claimed {claimed}, size {size}, free on disk {} bytes",
                pool.available_bytes
            ));
            out.reject(if never { Lasts::Always } else { Lasts::Now }, reason);
            continue;
        }
        *taken.entry(&pool.name).or_default() += volume.size_bytes;
        out.pools.push(pool.name.clone());
    }
}

fn pool_missing(host: &HostView, facts: &HostFacts, pool: &Name) -> CapabilityReason {
    let have: Vec<_> = facts.pools.iter().map(|p| p.name.as_str()).collect();
    CapabilityReason::new(
        "pool_missing",
        subject(host),
        format!("it has no pool {pool}"),
        "name a pool that it has, or leave the pool out",
    )
    .with_evidence(format!("pools: {}", have.join(", ")))
}

/// An HA policy asks for storage that survives the host.
fn local_storage(host: &HostView, facts: &HostFacts, pool: Option<&Name>) -> CapabilityReason {
    let message = match pool {
        Some(pool) => {
            format!("its pool {pool} is its own: if it is lost, so are the volumes, and ha.policy is restart")
        }
        None => "it has no pool that other hosts see, and ha.policy is restart".to_owned(),
    };
    let shared: Vec<_> =
        facts.pools.iter().filter(|p| p.shared_id.is_some()).map(|p| p.name.as_str()).collect();
    CapabilityReason::new(
        "ha_local_storage",
        subject(host),
        message,
        "keep its disks in pools of kind shared_directory that several hosts mount, or leave ha.policy at none",
    )
    .with_evidence(format!("shared pools: {}", if shared.is_empty() { "none".into() } else { shared.join(", ") }))
}

/// Thousandths of the scarcer of CPU and memory that stay free; packing turns it round.
fn score(request: &Request, host: &HostView) -> i64 {
    let Some(facts) = &host.facts else { return 0 };
    let limit = host.spec.capacity(facts);
    let free = |claimed: u64, asked: u64, most: u64| {
        let left = most.saturating_sub(claimed).saturating_sub(asked);
        i64::try_from(u128::from(left) * 1000 / u128::from(most.max(1))).unwrap_or(1000)
    };
    let free = free(host.claimed.cpus.into(), request.cpus.into(), limit.cpus.into()).min(free(
        host.claimed.memory_bytes,
        request.memory_bytes,
        limit.memory_bytes,
    ));
    let base = match request.rules.strategy {
        PlacementStrategy::Spread => free,
        PlacementStrategy::Pack => 1000 - free,
    };
    let cached = !request.images.is_empty() && request.images.is_subset(&host.cached_images);
    base + if cached { CACHED_IMAGE_BONUS } else { 0 }
}

/// The answer when no host fits. Hosts that the rules leave out say nothing about "never", unless they are all there are.
fn refuse(request: &Request, rejected: &[(Judged, PlacementCandidate)]) -> Verdict {
    if rejected.is_empty() {
        return Verdict::Later(CapabilityReason::new(
            "no_hosts",
            "hosts",
            "there is no host yet",
            "add a host and start its agent",
        ));
    }
    let admitted: Vec<_> = rejected.iter().filter(|(j, _)| !j.is_by_rule()).collect();
    let Some((nearest, _)) = admitted.first() else {
        return match &request.rules.host {
            Some(name) if !rejected.iter().any(|(_, c)| c.host == *name) => Verdict::Never(
                CapabilityReason::new(
                    "pinned_host_unknown",
                    "spec.placement.host",
                    format!("there is no host {name}"),
                    "name a host that exists, or leave placement.host out",
                )
                .with_evidence(format!("{} hosts are known", rejected.len())),
            ),
            _ => Verdict::Later(summary(
                "no_host_admitted",
                "the VM's rules leave out every host",
                rejected.iter().map(|r| &r.0),
            )),
        };
    };
    let all = admitted.iter().map(|r| &r.0);
    if admitted.iter().all(|(j, _)| j.is_permanent()) {
        let mut reason = summary("no_host_can", "no host could take it, even empty", all);
        if let Some(only) = nearest.rejections.iter().find(|r| r.lasts == Lasts::Always) {
            reason.remedy = only.reason.remedy.clone();
        }
        return Verdict::Never(reason);
    }
    Verdict::Later(summary("no_host_fits", "no host takes it now", all))
}

/// One reason out of many: how often each code stands, and the remedy of the nearest host.
fn summary<'a>(
    code: &'static str,
    message: &str,
    judged: impl Iterator<Item = &'a Judged>,
) -> CapabilityReason {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut hosts = 0;
    let mut remedy = None;
    for one in judged {
        hosts += 1;
        for rejection in &one.rejections {
            *counts.entry(&rejection.reason.code).or_default() += 1;
            remedy.get_or_insert_with(|| rejection.reason.remedy.clone());
        }
    }
    let evidence: Vec<_> = counts.iter().map(|(code, n)| format!("{code} on {n} of {hosts}")).collect();
    CapabilityReason::new(code, "placement", message, remedy.unwrap_or_default())
        .with_evidence(evidence.join(", "))
}

#[cfg(test)]
#[path = "placement_tests.rs"]
pub(crate) mod tests;
