//! What an agent remembers beside what it sees. Everything here may be lost: then reality and the
//! gateway say it again, at the price of an outcome that is called unknown.

use super::Resource;
use basalt_model::{CapabilityReason, DateTime, Epoch, Generation, VmId, vms::Operation, vms::OperationReport};
use basalt_wire::agent::ItemKey;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an agent remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The newest epoch and generation that were accepted of each item.
    pub accepted: BTreeMap<ItemKey, (Epoch, Generation)>,
    /// The generation that was last realised of each item.
    pub realised: BTreeMap<ItemKey, Generation>,
    /// Shutdowns that were asked for and did not end yet.
    pub stops: BTreeMap<VmId, StopRecord>,
    /// The last one-shot verb of each VM.
    pub operations: BTreeMap<VmId, OperationRecord>,
    /// Resources whose last action failed.
    pub back_off: BTreeMap<Resource, BackOff>,
    /// Resources that are being worked on now, and the stage to show: nothing is planned for them.
    pub in_flight: BTreeMap<Resource, String>,
}

/// A shutdown that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// When the guest was first asked; the grace counts from here.
    pub first_at: DateTime,
    /// When it was last asked.
    pub last_at: DateTime,
}

/// Seconds after which a guest that still runs is asked again: it may not have listened yet.
pub const SHUTDOWN_REPEAT_SECONDS: i64 = 10;

/// A one-shot verb, as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// What was asked.
    pub operation: Operation,
    /// When the ledger said "started".
    pub started_at: DateTime,
    /// What became of it; absent between "started" and its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<OperationReport>,
}

/// A resource whose last action failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Failures since the last success.
    pub failures: u32,
    /// Nothing is tried before.
    pub not_before: DateTime,
    /// The last failure.
    pub reason: CapabilityReason,
}

/// The first wait after a failure.
const FIRST_WAIT_MILLISECONDS: i64 = 500;
/// The longest wait.
const LONGEST_WAIT_MILLISECONDS: i64 = 60_000;

impl BackOff {
    /// Another failure. `jitter` is a share of 1: hosts that failed together do not retry together.
    pub fn after(before: Option<&Self>, reason: CapabilityReason, now: DateTime, jitter: f64) -> Self {
        let failures = before.map_or(0, |b| b.failures).saturating_add(1);
        let doubled = FIRST_WAIT_MILLISECONDS.saturating_mul(1 << (failures - 1).min(10));
        let wait = doubled.min(LONGEST_WAIT_MILLISECONDS);
        // Between three quarters and all of the wait: never longer than the bound that people are told.
        let wait = wait * 3 / 4 + (wait as f64 / 4.0 * jitter.clamp(0.0, 1.0)) as i64;
        Self { failures, not_before: now + TimeDelta::milliseconds(wait), reason }
    }
}
