//! One batch of the feed becomes one transaction of the graph: a revision of the graph is always a
//! state that the database was in.

use crate::{
    graph::{Inputs, Nodes},
    rows::{
        DiscoveredRow, Ended, FactRow, ItemAt, MigrationRow, PastRow, PlacementRow, ProjectName, VmRow,
        stored,
    },
};
use basalt_model::{HostId, RouterId, TaskId, providers::Platform, tasks::Task};
use basalt_plan::manifest::Stored;
use basalt_store::feed::{Batch, Change, Row, Table};
use basalt_wire::agent::manifest::ItemKind;
use krt::{Commit, Graph, Input, Key, Transaction, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// Hands a batch to the graph. A reload replaces everything; only real differences become changes.
pub fn apply(graph: &mut Graph, nodes: &Nodes, batch: &Batch) -> Commit {
    let inputs = &nodes.inputs;
    let named = named_dependencies(graph, nodes, batch);
    let mut tx = graph.transaction();
    if batch.reload {
        reload(&mut tx, inputs, batch, &named);
        tx.mark_synced(&inputs.hosts);
    } else {
        for change in &batch.changes {
            one(&mut tx, inputs, change, &named);
        }
    }
    tx.commit()
}

/// Tasks that live tasks wait for: their ends are kept, all other ends are of no use here.
fn named_dependencies(graph: &Graph, nodes: &Nodes, batch: &Batch) -> BTreeSet<TaskId> {
    let tasks = || {
        batch.changes.iter().filter_map(|change| match &change.row {
            Some(Row::Task(task)) => Some(task),
            _ => None,
        })
    };
    let snapshot = graph.snapshot();
    let is_awaited = |id: &TaskId| snapshot.lookup(&nodes.dependants, id).next().is_some();
    let here = tasks().map(|task| task.id).filter(is_awaited);
    let coming = tasks().filter(|task| !task.state.is_terminal()).flat_map(|task| task.depends_on.clone());
    here.chain(coming).collect()
}

fn one(tx: &mut Transaction<'_>, inputs: &Inputs, change: &Change, named: &BTreeSet<TaskId>) {
    match &change.row {
        Some(row) => put(tx, inputs, row, named),
        None => delete(tx, inputs, change.table, &change.key),
    }
}

fn put(tx: &mut Transaction<'_>, inputs: &Inputs, row: &Row, named: &BTreeSet<TaskId>) {
    match row {
        Row::Host(r) => tx.put(&inputs.hosts, r.metadata.id.into(), Arc::clone(r)),
        Row::HostFacts(r) => tx.put(&inputs.host_facts, r.host_id, Arc::clone(r)),
        Row::HostClaim(r) => tx.put(&inputs.claims, r.host_id, **r),
        Row::AgentConflict(r) => tx.put(&inputs.agent_conflicts, r.host_id, r.conflict.clone()),
        Row::HostDeath(r) => match r.0.ended_at {
            None => tx.put(&inputs.deaths, r.0.id, r.0.clone()),
            Some(_) => tx.delete(&inputs.deaths, &r.0.id),
        },
        Row::Pool(r) => tx.put(&inputs.pools, r.id, Arc::clone(r)),
        Row::Router(r) => tx.put(&inputs.routers, r.metadata.id.into(), Arc::clone(r)),
        Row::RouterPlacement(r) => tx.put(&inputs.router_placements, (r.router_id, r.slot), Arc::clone(r)),
        Row::Network(r) => tx.put(&inputs.networks, r.metadata.id.into(), Arc::clone(r)),
        Row::SecurityGroup(r) => tx.put(&inputs.security_groups, r.id(), Arc::clone(r)),
        Row::Volume(r) => tx.put(&inputs.volumes, r.metadata.id.into(), Arc::clone(r)),
        Row::VolumeFacts(r) => tx.put(&inputs.volume_facts, r.volume_id, Arc::clone(r)),
        Row::Image(r) => tx.put(&inputs.images, r.metadata.id.into(), Arc::clone(r)),
        Row::ImageFacts(r) => tx.put(&inputs.image_facts, r.image_id, Arc::clone(r)),
        Row::Vm(r) => tx.put(&inputs.vms, r.metadata.id.into(), VmRow(Arc::clone(r))),
        Row::Placement(r) => {
            let (id, row) = PlacementRow::read((**r).clone());
            tx.put(&inputs.placements, id, row);
        }
        Row::VmFacts(r) => tx.put(&inputs.vm_facts, r.vm_id, Arc::clone(r)),
        Row::Migration(r) => match MigrationRow::read(r) {
            Some(row) => tx.put(&inputs.migrations, r.migration.id, row),
            None => tx.delete(&inputs.migrations, &r.migration.id),
        },
        Row::Drain(r) if r.ended_at.is_none() => tx.put(&inputs.drains, r.id, Arc::clone(r)),
        Row::Drain(r) => tx.delete(&inputs.drains, &r.id),
        Row::Conditions(r) => tx.put(&inputs.conditions, r.subject_id, Arc::clone(r)),
        Row::ManifestItem(r) => {
            if let Some((at, item)) = item(r) {
                tx.put(&inputs.items, at, item);
            }
        }
        Row::ManifestFact(r) => {
            if let Some(kind) = ItemKind::parse(&r.kind) {
                tx.put(&inputs.facts, (r.host_id, kind, r.id), FactRow::read(r));
            }
        }
        Row::Task(r) => put_task(tx, inputs, r, named),
        Row::Manifest(r) => tx.put(&inputs.revisions, r.host_id, r.revision),
        Row::Project(r) => tx.put(&inputs.projects, r.id(), ProjectName(r.metadata.name.clone())),
        Row::Artifact(r) => tx.put(&inputs.artifacts, r.id(), Arc::clone(r)),
        Row::Secret(r) => tx.put(&inputs.secrets, r.id(), Arc::clone(r)),
        Row::Provider(r) => tx.put(&inputs.providers, r.id(), Arc::clone(r)),
        Row::ProviderStatus(r) => tx.put(&inputs.provider_status, r.provider_id, Arc::clone(r)),
        Row::Deployment(r) => tx.put(&inputs.deployments, r.id(), Arc::clone(r)),
        Row::DeploymentStatus(r) => {
            tx.put(&inputs.pasts, r.deployment_id, PastRow::read(r));
            match &r.standing {
                Some(standing) => tx.put(&inputs.standings, r.deployment_id, standing.clone()),
                None => tx.delete(&inputs.standings, &r.deployment_id),
            }
        }
        Row::DiscoveredLocal(_) | Row::DiscoveredKubernetes(_) | Row::DiscoveredBasalt(_) => {
            if let Some((id, row)) = discovered(row) {
                tx.put(&inputs.discovered, id, row);
            }
        }
        Row::Tenant(_) | Row::Certificate(_) => {}
    }
}

fn put_task(tx: &mut Transaction<'_>, inputs: &Inputs, task: &Arc<Task>, named: &BTreeSet<TaskId>) {
    if !task.state.is_terminal() {
        tx.put(&inputs.tasks, task.id, Arc::clone(task));
        return;
    }
    tx.delete(&inputs.tasks, &task.id);
    if named.contains(&task.id) {
        tx.put(&inputs.ended, task.id, Ended(task.state));
    }
}

/// A stored item. One whose body cannot be read is left out, loudly: whatever it was, it is put anew.
fn item(row: &basalt_store::manifests::ItemRow) -> Option<(ItemAt, Stored)> {
    let read = stored(&row.item);
    if read.is_none() {
        tracing::error!(host = %row.host_id, kind = %row.item.kind, id = %row.item.id, "a manifest item cannot be read");
    }
    read.map(|item| ((row.host_id, item.key.kind, item.key.id), item))
}

fn delete(tx: &mut Transaction<'_>, inputs: &Inputs, table: Table, key: &str) {
    match table {
        Table::Host => gone(tx, &inputs.hosts, key),
        Table::HostFacts => gone(tx, &inputs.host_facts, key),
        Table::HostClaim => gone(tx, &inputs.claims, key),
        Table::AgentConflict => gone(tx, &inputs.agent_conflicts, key),
        Table::HostDeath => gone(tx, &inputs.deaths, key),
        Table::Pool => gone(tx, &inputs.pools, key),
        Table::Router => gone(tx, &inputs.routers, key),
        Table::RouterPlacement => {
            if let Some(at) = router_at(key) {
                tx.delete(&inputs.router_placements, &at);
            }
        }
        Table::Network => gone(tx, &inputs.networks, key),
        Table::SecurityGroup => gone(tx, &inputs.security_groups, key),
        Table::Volume => gone(tx, &inputs.volumes, key),
        Table::VolumeFacts => gone(tx, &inputs.volume_facts, key),
        Table::Image => gone(tx, &inputs.images, key),
        Table::ImageFacts => gone(tx, &inputs.image_facts, key),
        Table::Vm => gone(tx, &inputs.vms, key),
        Table::Placement => gone(tx, &inputs.placements, key),
        Table::VmFacts => gone(tx, &inputs.vm_facts, key),
        Table::Migration => gone(tx, &inputs.migrations, key),
        Table::Drain => gone(tx, &inputs.drains, key),
        Table::Conditions => gone(tx, &inputs.conditions, key),
        Table::ManifestItem => {
            if let Some(at) = item_at(key) {
                tx.delete(&inputs.items, &at);
            }
        }
        Table::ManifestFact => {
            if let Some(at) = item_at(key) {
                tx.delete(&inputs.facts, &at);
            }
        }
        Table::Task => {
            gone(tx, &inputs.tasks, key);
            gone(tx, &inputs.ended, key);
        }
        Table::Manifest => gone(tx, &inputs.revisions, key),
        Table::Project => gone(tx, &inputs.projects, key),
        Table::Artifact => gone(tx, &inputs.artifacts, key),
        Table::Secret => gone(tx, &inputs.secrets, key),
        Table::Provider => gone(tx, &inputs.providers, key),
        Table::ProviderStatus => gone(tx, &inputs.provider_status, key),
        Table::Deployment => gone(tx, &inputs.deployments, key),
        Table::DeploymentStatus => {
            gone(tx, &inputs.pasts, key);
            gone(tx, &inputs.standings, key);
        }
        Table::DiscoveredLocal | Table::DiscoveredKubernetes | Table::DiscoveredBasalt => {
            gone(tx, &inputs.discovered, key)
        }
        Table::Tenant | Table::Certificate => {}
    }
}

fn gone<K: Key + From<Uuid>, V: Value>(tx: &mut Transaction<'_>, input: &Input<K, V>, key: &str) {
    match Uuid::parse_str(key) {
        Ok(id) => tx.delete(input, &K::from(id)),
        Err(_) => tracing::error!(key, "a key of the feed is no id"),
    }
}

/// Reads `router/slot`.
fn router_at(key: &str) -> Option<(RouterId, u8)> {
    let (router, slot) = key.split_once('/')?;
    Some((router.parse().ok()?, slot.parse().ok()?))
}

/// Reads `host/kind/id`.
fn item_at(key: &str) -> Option<ItemAt> {
    let mut parts = key.split('/');
    let host = HostId(Uuid::parse_str(parts.next()?).ok()?);
    let kind = ItemKind::parse(parts.next()?)?;
    let id = Uuid::parse_str(parts.next()?).ok()?;
    Some((host, kind, id))
}

/// What was seen at a platform, if a row is that.
fn discovered(row: &Row) -> Option<(Uuid, DiscoveredRow)> {
    let (row, platform) = match row {
        Row::DiscoveredLocal(r) => (r, Platform::Local),
        Row::DiscoveredKubernetes(r) => (r, Platform::Kubernetes),
        Row::DiscoveredBasalt(r) => (r, Platform::Basalt),
        _ => return None,
    };
    Some((row.id, DiscoveredRow(Arc::clone(row), platform)))
}

fn reload(tx: &mut Transaction<'_>, inputs: &Inputs, batch: &Batch, named: &BTreeSet<TaskId>) {
    let rows = batch.changes.iter().filter_map(|change| change.row.as_ref());
    tx.reset(&inputs.discovered, rows.filter_map(discovered).collect::<Vec<_>>());
    macro_rules! reset {
        ($($input:ident: $variant:ident($row:ident) => $pair:expr;)+) => {$(
            let rows: BTreeMap<_, _> = batch
                .changes
                .iter()
                .filter_map(|change| match &change.row {
                    Some(Row::$variant($row)) => $pair,
                    _ => None,
                })
                .collect();
            tx.reset(&inputs.$input, rows);
        )+};
    }
    reset! {
        hosts: Host(r) => Some((r.metadata.id.into(), Arc::clone(r)));
        host_facts: HostFacts(r) => Some((r.host_id, Arc::clone(r)));
        claims: HostClaim(r) => Some((r.host_id, **r));
        agent_conflicts: AgentConflict(r) => Some((r.host_id, r.conflict.clone()));
        deaths: HostDeath(r) => r.0.ended_at.is_none().then(|| (r.0.id, r.0.clone()));
        pools: Pool(r) => Some((r.id, Arc::clone(r)));
        routers: Router(r) => Some((r.metadata.id.into(), Arc::clone(r)));
        router_placements: RouterPlacement(r) => Some(((r.router_id, r.slot), Arc::clone(r)));
        networks: Network(r) => Some((r.metadata.id.into(), Arc::clone(r)));
        security_groups: SecurityGroup(r) => Some((r.id(), Arc::clone(r)));
        volumes: Volume(r) => Some((r.metadata.id.into(), Arc::clone(r)));
        volume_facts: VolumeFacts(r) => Some((r.volume_id, Arc::clone(r)));
        images: Image(r) => Some((r.metadata.id.into(), Arc::clone(r)));
        image_facts: ImageFacts(r) => Some((r.image_id, Arc::clone(r)));
        vms: Vm(r) => Some((r.metadata.id.into(), VmRow(Arc::clone(r))));
        placements: Placement(r) => Some(PlacementRow::read((**r).clone()));
        vm_facts: VmFacts(r) => Some((r.vm_id, Arc::clone(r)));
        conditions: Conditions(r) => Some((r.subject_id, Arc::clone(r)));
        revisions: Manifest(r) => Some((r.host_id, r.revision));
        items: ManifestItem(r) => item(r);
        facts: ManifestFact(r) => {
            ItemKind::parse(&r.kind).map(|kind| ((r.host_id, kind, r.id), FactRow::read(r)))
        };
        migrations: Migration(r) => MigrationRow::read(r).map(|row| (row.migration.id, row));
        drains: Drain(r) => r.ended_at.is_none().then(|| (r.id, Arc::clone(r)));
        projects: Project(r) => Some((r.id(), ProjectName(r.metadata.name.clone())));
        artifacts: Artifact(r) => Some((r.id(), Arc::clone(r)));
        secrets: Secret(r) => Some((r.id(), Arc::clone(r)));
        providers: Provider(r) => Some((r.id(), Arc::clone(r)));
        provider_status: ProviderStatus(r) => Some((r.provider_id, Arc::clone(r)));
        deployments: Deployment(r) => Some((r.id(), Arc::clone(r)));
        pasts: DeploymentStatus(r) => Some((r.deployment_id, PastRow::read(r)));
        standings: DeploymentStatus(r) => r.standing.clone().map(|s| (r.deployment_id, s));
        tasks: Task(r) => (!r.state.is_terminal()).then(|| (r.id, Arc::clone(r)));
        ended: Task(r) => {
            (r.state.is_terminal() && named.contains(&r.id)).then_some((r.id, Ended(r.state)))
        };
    }
}
