//! The loss of a host: whether it is dead or only not heard of, and what becomes of its VMs.
//!
//! ```text
//!  lease asked ─► granted: a row of the truth ─► ─ ─ HA_LEASE ─ ─ ► lapsed ─ ─ FENCE_WINDOW ─ ─► proven
//!  (agent: the lease counts from when it asked)                     │ its fencer kills QEMU      │ VMs elsewhere
//!  (reconciler: it counts from when it *saw* the last grant, by a clock that only goes forward)
//! ```
//! No two clocks are compared. Every grant is committed before the agent is told of it, so whoever saw no grant for the whole
//! of lease and window knows that the last one is over on the host, whatever its clock says. A reconciler that has just
//! begun saw nothing before: for it every lease counts as just renewed.

use basalt_model::{CapabilityReason, Name, host_loss::DeathKind};

/// Seconds that a lease holds, counted by the agent from when it asked for it.
pub const HA_LEASE_SECONDS: u32 = 20;
/// Seconds after the end of a lease in which a fencer is done: it looks four times a second and kills at once; the rest is
/// for a machine under load, and for clocks that do not run alike.
pub const FENCE_WINDOW_SECONDS: u32 = 5;
/// Seconds without a new grant that prove a lease and its window to be over.
pub const PROOF_SECONDS: u32 = HA_LEASE_SECONDS + FENCE_WINDOW_SECONDS;

/// The last grant of a lease to a host, as a reconciler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Seconds since this reconciler first saw it, without seeing a newer one.
    pub seen_for_seconds: u64,
    /// Whether something on the host stops VMs when the lease has run out, as the host said when it asked.
    pub fencer: bool,
}

/// What is known of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signs {
    /// It is heard of in some way: reports, polls.
    pub heard: bool,
    /// The last lease; none was ever given to a host that never asked for one.
    pub grant: Option<Grant>,
    /// A proof of its death stands already.
    pub proven: bool,
}

/// Whether a host is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is heard of.
    Alive,
    /// It is silent, and a lease or its window may still run.
    Waiting,
    /// It is silent, and nothing there would have stopped its VMs: it may be dead or only cut off.
    Unfenced,
    /// It is proven, and to be written down.
    Dead(DeathKind),
    /// The proof stands.
    Proven,
}

/// Decides. Pure and total: every combination is in the table test.
pub fn decide(signs: Signs) -> Verdict {
    match signs {
        Signs { proven: true, .. } => Verdict::Proven,
        Signs { heard: true, .. } => Verdict::Alive,
        Signs { grant: None | Some(Grant { fencer: false, .. }), .. } => Verdict::Unfenced,
        Signs { grant: Some(grant), .. } if grant.seen_for_seconds >= u64::from(PROOF_SECONDS) => {
            Verdict::Dead(DeathKind::LeaseExpired)
        }
        Signs { .. } => Verdict::Waiting,
    }
}

/// What a proof by lease says, for people.
pub fn evidence(seen_for_seconds: u64) -> String {
    format!(
        "no lease was given for {seen_for_seconds} s: {HA_LEASE_SECONDS} s of lease and {FENCE_WINDOW_SECONDS} s in which its \
         fencer stops what needs one are over"
    )
}

/// A VM on a host that is not heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stranded {
    /// Its policy is to be started elsewhere.
    pub restarts: bool,
    /// The host said of this placement that it executes it only under its lease.
    pub leased: bool,
    /// What is known of the host.
    pub verdict: Verdict,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is started elsewhere.
    Elsewhere,
    /// It stays, and why.
    Stays(Box<CapabilityReason>),
}

/// What becomes of a VM on a host that is not heard of. Pure and total.
pub fn fate(vm: Stranded, name: &Name, host: &Name) -> Fate {
    let stays = |code, message: String, remedy: String| {
        Fate::Stays(Box::new(CapabilityReason::new(code, format!("vm/{name}"), message, remedy)))
    };
    let back = format!("bring host {host} back");
    match vm {
        Stranded { restarts: false, .. } => stays(
            "no_ha_policy",
            format!("host {host} is not heard of, and its ha.policy is none"),
            format!(
                "{back}; ha.policy restart, given while its host is well, has it started elsewhere the next time"
            ),
        ),
        Stranded { leased: false, .. } => stays(
            "never_leased",
            format!(
                "host {host} never said that it lets it execute only under its lease: it may still execute there"
            ),
            back,
        ),
        Stranded { verdict: Verdict::Proven, .. } => Fate::Elsewhere,
        Stranded { verdict: Verdict::Unfenced, .. } => stays(
            "fencing_not_proven",
            format!(
                "host {host} is not heard of and has no fencer: it may be dead, or only cut off with its VMs running"
            ),
            format!(
                "{back}; or see that its power is off, and say so: basalt confirm-power-off {host}; run the fencer beside \
                 its agent from then on"
            ),
        ),
        Stranded { .. } => stays(
            "lease_running_out",
            format!(
                "host {host} is not heard of; its lease, and the time in which its fencer stops its VMs, may still run"
            ),
            format!("wait {PROOF_SECONDS} s; it is started elsewhere by itself"),
        ),
    }
}

#[cfg(test)]
#[path = "host_loss_tests.rs"]
mod tests;
