//! Rows as the graph keeps them: what the feed brings, cut down to what decisions read.

use basalt_model::{
    CapabilityReason, DateTime, Epoch, Generation, HostId, Name, VmId, VolumeId,
    attempts::{Applied, Attempted},
    migrations::{Migration, Motion},
    providers::Platform,
    tasks::TaskState,
    vms::ObservedPower,
};
use basalt_plan::{deployments::REPAIRS_AN_HOUR, manifest::Stored};
use basalt_store::{
    deployments,
    discovered::{Discovered, Thing},
    manifests, migrations, placements, vms,
};
use basalt_wire::{
    agent::manifest::{Desired, Item, ItemKind},
    rest::PlacementExplanation,
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc};
use uuid::Uuid;

/// What names an item on a host.
pub type ItemAt = (HostId, ItemKind, Uuid);

/// A VM. Its user-data may carry secrets, so that dumps show only what it is.
#[derive(Clone, PartialEq)]
pub struct VmRow(pub Arc<vms::Vm>);

impl fmt::Debug for VmRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("name", &self.0.metadata.name)
            .field("generation", &self.0.metadata.generation.0)
            .field("power", &self.0.spec.power)
            .field("incarnation", &self.0.incarnation)
            .field("operation", &self.0.operation)
            .field("deletion_requested_at", &self.0.metadata.deletion_requested_at)
            .finish_non_exhaustive()
    }
}

/// An item of a manifest as it is wanted. A VM's body has its seed, so that dumps show only its age.
#[derive(Clone, PartialEq)]
pub struct ItemRow(pub Item);

impl fmt::Debug for ItemRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("kind", &self.0.kind)
            .field("generation", &self.0.generation.0)
            .field("epoch", &self.0.epoch.0)
            .field("absent", &self.0.is_absent())
            .finish_non_exhaustive()
    }
}

impl ItemRow {
    /// The stored form of an item.
    pub fn write(item: &Item) -> Result<manifests::Item, serde_json::Error> {
        Ok(manifests::Item {
            kind: item.kind.as_str().to_owned(),
            id: item.id,
            generation: item.generation,
            epoch: item.epoch,
            present: !item.is_absent(),
            body: serde_json::to_value(&item.desired)?,
        })
    }
}

/// Reads a stored item; none when its body is of no shape that is known here.
pub fn stored(row: &manifests::Item) -> Option<Stored> {
    let kind = ItemKind::parse(&row.kind)?;
    let desired = if row.present { Desired::deserialize(&row.body).ok()? } else { Desired::Absent };
    Some(Stored::of(&Item { kind, id: row.id, generation: row.generation, epoch: row.epoch, desired }))
}

/// What a host last said of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct FactRow {
    /// The generation that the host realises.
    pub generation: Generation,
    /// The epoch it acted on.
    pub epoch: Epoch,
    /// Nothing of it is left there.
    pub gone: bool,
    /// Whether an image, a network or a router is as it should be.
    pub ready: bool,
    /// Whether a router is active there.
    pub active: bool,
    /// Why the host cannot have it.
    pub blocked: Option<CapabilityReason>,
    /// What the host is doing for it.
    pub stage: String,
    /// What a VM does there.
    pub power: ObservedPower,
    /// A VM's part in a migration there.
    pub motion: Option<Box<Motion>>,
    /// A VM executes there only under the host's lease.
    pub leased: bool,
}

impl FactRow {
    /// Reads a stored fact. Only what every kind has is read here; VMs and volumes have rows of their own.
    pub fn read(row: &manifests::Fact) -> Self {
        let field = |name: &str| row.observed.get(name).cloned().unwrap_or(Value::Null);
        Self {
            generation: row.generation,
            epoch: row.epoch,
            gone: row.gone,
            ready: field("ready").as_bool().unwrap_or(false),
            active: field("active").as_bool().unwrap_or(false),
            blocked: serde_json::from_value(field("blocked")).ok(),
            stage: row.stage.clone(),
            power: serde_json::from_value(field("power")).unwrap_or_default(),
            motion: serde_json::from_value(field("motion")).unwrap_or_default(),
            leased: field("leased").as_bool().unwrap_or(false),
        }
    }
}

/// A migration that is not over.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationRow {
    /// What everybody sees.
    pub migration: Migration,
    /// Where its volumes go at the target.
    pub pools: BTreeMap<VolumeId, Name>,
    /// The source was told that it may begin.
    pub begun: bool,
    /// The target was told to let nothing in any more.
    pub closed: bool,
}

impl MigrationRow {
    /// Reads a stored migration; none when it is over.
    pub fn read(row: &migrations::MigrationRow) -> Option<Self> {
        let live = row.migration.ended_at.is_none();
        live.then(|| Self {
            migration: row.migration.clone(),
            pools: row.pools.clone(),
            begun: row.begun_at.is_some(),
            closed: row.closed_at.is_some(),
        })
    }
}

/// Where a VM was put, or why it is nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacementRow {
    /// The host, with its name.
    pub host: Option<(HostId, Name)>,
    /// Which placement it is.
    pub epoch: Epoch,
    /// The VM's generation that was judged.
    pub generation: Generation,
    /// Kept only while there is no host.
    pub explanation: Option<Box<PlacementExplanation>>,
}

impl PlacementRow {
    /// Reads a stored placement.
    pub fn read(row: placements::Placement) -> (VmId, Self) {
        let host = row.host_id.zip(row.host);
        let explanation = if host.is_some() { None } else { serde_json::from_value(row.explanation).ok() };
        (row.vm_id, Self { host, epoch: row.epoch, generation: row.generation, explanation })
    }
}

/// Whether a host is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It gave a sign of life within its lease.
    Alive,
    /// It did not.
    Silent,
}

/// What was tried for a deployment. How it was judged is no part of it: a judgement must not be its own reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PastRow {
    /// The newest attempt that began.
    pub begun: Epoch,
    /// The newest one whose end was written down.
    pub ended: Epoch,
    /// The last attempt that ended.
    pub attempted: Option<Attempted>,
    /// What was applied.
    pub applied: Option<Applied>,
    /// When it was repaired.
    pub repairs: Vec<DateTime>,
}

impl PastRow {
    /// Reads a stored status.
    pub fn read(row: &deployments::Status) -> Self {
        Self {
            begun: row.begun,
            ended: row.ended,
            attempted: row.attempted.clone(),
            applied: row.applied.clone(),
            repairs: row.repairs.clone(),
        }
    }

    /// Whether it was repaired too often within the hour before a time.
    pub fn is_flapping(&self, at: DateTime) -> bool {
        let hour = chrono::TimeDelta::hours(1);
        self.repairs.iter().filter(|r| **r > at - hour).count() > REPAIRS_AN_HOUR
    }
}

/// One thing at a platform, and which platform that is.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveredRow(pub Arc<Discovered>, pub Platform);

/// A thing at a platform, as adapters read it.
pub fn as_shown(thing: &Thing) -> basalt_adapters::Discovered {
    basalt_adapters::Discovered {
        kind: thing.kind.clone(),
        namespace: (!thing.namespace.is_empty()).then(|| thing.namespace.clone()),
        name: thing.name.clone(),
        owner: thing.owner,
        raw: thing.raw.clone(),
    }
}

/// A project's name: platforms write it on what they make.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectName(pub Name);

/// How a task ended that others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(pub TaskState);
