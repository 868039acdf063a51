//! The graph: rows of the truth in, everything that should happen out.
//!
//! ```text
//! vms ─┬────────────► requests (VMs that are nowhere), peers  ─► handlers/placement
//!      ├─► vm items ─┐
//! volumes ─► items ──┼─► desired ─┐
//! holds ─► images,   │            ├─► edits ─► edits by host  ─► handlers/manifests
//!          networks, │   stored ──┘
//!          groups ───┘
//! facts ─► status ─┬─► conditions that differ                 ─► handlers/conditions
//!                  └─► task moves                             ─► handlers/tasks
//! tasks, how those ended that they wait for ─► starts         ─► handlers/tasks
//! drains, VMs on their hosts ─► steps                         ─► handlers/drains
//! deployments, artifacts, what platforms show                ─► graph/deployments.rs
//! deletions of which nothing is on a host any more            ─► handlers/finalise
//! ```
//!
//! Every output collection is a difference: its rows are what is still to be written, and they go
//! when the feed shows that it was.

pub mod deployments;
pub mod drains;
pub mod host_loss;
mod manifests;
pub mod migrations;
mod removals;
mod requests;
mod routers;
mod status;

use crate::rows::{
    DiscoveredRow, Ended, FactRow, ItemAt, ItemRow, Liveness, MigrationRow, PastRow, PlacementRow,
    ProjectName, VmRow,
};
use basalt_model::{
    ArtifactId, DeploymentId, DrainId, HostId, ImageId, MigrationId, Name, NetworkId, PoolId, ProjectId,
    ProviderId, RouterId, SecretId, SecurityGroupId, TaskId, TenantId, VmId, VolumeId,
    attempts::Standing,
    drains::Drain,
    host_loss::HostDeath,
    hosts::{AgentConflict, HostState},
    tasks::Task,
};
use basalt_plan::{
    conditions::{VmFacts, VolumeFacts},
    drains::{Clock, Next},
    host_loss::Verdict,
    manifest::{Edit, Stored},
    placement::HostView,
};
use basalt_store::{
    artifacts::Artifact, conditions::Conditions, deployments::Deployment, discovered::ProviderStatus,
    host_loss::Evacuation, hosts, images, networks, pools, providers::Provider, routers as stored,
    secrets::Secret, security_groups, volumes,
};
use basalt_wire::agent::manifest::{ItemKey, ItemKind};
use krt::{Builder, Collection, Ctx, Graph, Index, Input};
use uuid::Uuid;

pub use deployments::Eyes;
pub use removals::Removal;
pub use requests::{Peers, Request};
pub use routers::Move;

/// What the feed and the sweeps write.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Hosts.
    pub hosts: Input<HostId, hosts::Host>,
    /// What agents found out.
    pub host_facts: Input<HostId, hosts::HostFactsRow>,
    /// What hosts promised.
    pub claims: Input<HostId, hosts::HostClaim>,
    /// Whether hosts are heard of.
    pub liveness: Input<HostId, Liveness>,
    /// Hosts with whose identity two agents act.
    pub agent_conflicts: Input<HostId, AgentConflict>,
    /// What is known of hosts that are silent.
    pub losses: Input<HostId, Verdict>,
    /// Proofs that hosts are dead, by their own ids.
    pub deaths: Input<Uuid, HostDeath>,
    /// Pools.
    pub pools: Input<PoolId, pools::Pool>,
    /// Networks.
    pub networks: Input<NetworkId, networks::Network>,
    /// Security groups.
    pub security_groups: Input<SecurityGroupId, security_groups::SecurityGroup>,
    /// Routers.
    pub routers: Input<RouterId, stored::Router>,
    /// Where routers are, by slot.
    pub router_placements: Input<(RouterId, u8), stored::Placement>,
    /// Volumes.
    pub volumes: Input<VolumeId, volumes::Volume>,
    /// What was seen of volumes.
    pub volume_facts: Input<VolumeId, volumes::VolumeFacts>,
    /// Images.
    pub images: Input<ImageId, images::Image>,
    /// What was seen of images.
    pub image_facts: Input<ImageId, images::ImageFacts>,
    /// VMs.
    pub vms: Input<VmId, VmRow>,
    /// Where VMs were put.
    pub placements: Input<VmId, PlacementRow>,
    /// Migrations that are not over.
    pub migrations: Input<MigrationId, MigrationRow>,
    /// Those of them whose deadline passed.
    pub overdue: Input<MigrationId, ()>,
    /// Hosts that are being emptied.
    pub drains: Input<DrainId, Drain>,
    /// What has passed since they were asked for.
    pub drain_clocks: Input<DrainId, Clock>,
    /// What was seen of VMs.
    pub vm_facts: Input<VmId, basalt_store::vms::VmFacts>,
    /// Conditions as they are stored, by subject.
    pub conditions: Input<Uuid, Conditions>,
    /// Revisions of manifests.
    pub revisions: Input<HostId, i64>,
    /// Manifest items as they are stored.
    pub items: Input<ItemAt, Stored>,
    /// What hosts said of items.
    pub facts: Input<ItemAt, FactRow>,
    /// Tasks that are not over.
    pub tasks: Input<TaskId, Task>,
    /// How tasks ended that others wait for.
    pub ended: Input<TaskId, Ended>,
    /// Names of projects.
    pub projects: Input<ProjectId, ProjectName>,
    /// Agents and servers.
    pub artifacts: Input<ArtifactId, Artifact>,
    /// Secrets, without their values.
    pub secrets: Input<SecretId, Secret>,
    /// Providers.
    pub providers: Input<ProviderId, Provider>,
    /// How the last looks at them went.
    pub provider_status: Input<ProviderId, ProviderStatus>,
    /// Deployments.
    pub deployments: Input<DeploymentId, Deployment>,
    /// What was tried for them.
    pub pasts: Input<DeploymentId, PastRow>,
    /// Those that were repaired too often within the last hour.
    pub flapping: Input<DeploymentId, ()>,
    /// How they were judged, as it is stored.
    pub standings: Input<DeploymentId, Standing>,
    /// What platforms show.
    pub discovered: Input<Uuid, DiscoveredRow>,
}

/// Indexes that several parts read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indexes {
    /// Stored items by what they are of, whatever the host.
    pub items_by_object: Index<ItemAt, Stored, (ItemKind, Uuid)>,
    /// Stored present images by host.
    pub cached_images: Index<ItemAt, Stored, HostId>,
    /// Stored items by what they name on their host.
    pub items_naming: Index<ItemAt, Stored, ItemAt>,
    /// Proofs by host.
    pub deaths_by_host: Index<Uuid, HostDeath, HostId>,
    /// Pools by host.
    pub pools_by_host: Index<PoolId, pools::Pool, HostId>,
    /// Migrations by VM.
    pub migrations_by_vm: migrations::ByVm,
    /// VMs by the host that they are on.
    pub placements_by_host: Index<VmId, PlacementRow, HostId>,
    /// Drains by host.
    pub drains_by_host: Index<DrainId, Drain, HostId>,
    /// Volumes by the VM that they go with.
    pub volumes_by_owner: Index<VolumeId, volumes::Volume, VmId>,
    /// Where routers are, by router.
    pub placements_of_router: Index<(RouterId, u8), stored::Placement, RouterId>,
}

impl Indexes {
    /// The live migration of a VM.
    pub(crate) fn migration<'a>(&self, ctx: &Ctx<'a>, vm: &VmId) -> Option<&'a MigrationRow> {
        ctx.lookup(&self.migrations_by_vm, vm).map(|(_, row)| &**row).next()
    }

    /// The proof that a host is dead.
    pub(crate) fn death<'a>(&self, ctx: &Ctx<'a>, host: &HostId) -> Option<&'a HostDeath> {
        ctx.lookup(&self.deaths_by_host, host).map(|(_, death)| &**death).next()
    }
}

/// What the handlers and the tests read.
#[derive(Clone, Copy, Debug)]
pub struct Nodes {
    /// The inputs.
    pub inputs: Inputs,
    /// States of hosts.
    pub host_states: Collection<HostId, HostState>,
    /// Hosts as placement sees them.
    pub host_views: Collection<HostId, HostView>,
    /// Placed VMs that others may have to be with, or away from.
    pub peers: Peers,
    /// VMs that are to be placed.
    pub requests: Collection<VmId, Request>,
    /// Where migrations are.
    pub migration_status: Collection<MigrationId, migrations::Status>,
    /// Steps of migrations that are to be written.
    pub migration_steps: Collection<MigrationId, migrations::Step>,
    /// What is to be done for drains.
    pub drain_steps: Collection<DrainId, Next>,
    /// Proofs by host.
    pub deaths_by_host: Index<Uuid, HostDeath, HostId>,
    /// VMs on hosts that are not heard of.
    pub stranded: Collection<VmId, host_loss::Stranding>,
    /// VMs of dead hosts that are to go elsewhere.
    pub evacuations: Collection<VmId, Evacuation>,
    /// Routers that are to be on other hosts.
    pub router_moves: Collection<RouterId, Move>,
    /// Items that hosts should have.
    pub desired: Collection<ItemAt, ItemRow>,
    /// Rows of manifests that must change, by host.
    pub edits_by_host: Collection<HostId, Edits>,
    /// VMs as conditions and tasks see them.
    pub vm_status: Collection<VmId, VmFacts>,
    /// Volumes as conditions and tasks see them.
    pub volume_status: Collection<VolumeId, VolumeFacts>,
    /// Conditions that are not stored yet, undated.
    pub conditions: Collection<Uuid, Conditions>,
    /// Moves of tasks that are not stored yet.
    pub task_moves: Collection<TaskId, basalt_model::tasks::TaskMove>,
    /// Tasks that waited for others, and start now.
    pub task_starts: Collection<TaskId, TenantId>,
    /// Live tasks by what they wait for.
    pub dependants: Index<TaskId, Task, TaskId>,
    /// Objects of which nothing is left but their rows.
    pub removals: Collection<Removal, ()>,
    /// Everything about deployments.
    pub deployments: deployments::Outputs,
}

/// Edits of one host's manifest. A VM's body has its seed, so that dumps show only keys.
#[derive(Clone, PartialEq)]
pub struct Edits(pub Vec<Edit>);

impl std::fmt::Debug for Edits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(Edit::key)).finish()
    }
}

/// Declares the graph.
pub fn build(eyes: Eyes) -> Result<(Graph, Nodes), krt::Error> {
    let mut builder = Graph::builder();
    let inputs = inputs(&mut builder);
    let indexes = indexes(&mut builder, &inputs);
    let host_states = requests::host_states(&mut builder, &inputs);
    let host_views = requests::host_views(&mut builder, &inputs, &indexes, host_states);
    let peers = requests::peers(&mut builder, &inputs);
    let requests = requests::requests(&mut builder, &inputs);
    let stranded = host_loss::stranded(&mut builder, &inputs, &indexes, host_states, host_views, peers);
    let evacuations = host_loss::evacuations(&mut builder, stranded);
    let migration_status =
        migrations::status(&mut builder, &inputs, &indexes, host_states, host_views, peers);
    let migration_steps = migrations::steps(&mut builder, migration_status);
    let drain_steps = drains::steps(&mut builder, &inputs, &indexes, host_views, peers);
    let router_moves = routers::moves(&mut builder, &inputs, &indexes, host_states);
    let desired = manifests::desired(&mut builder, &inputs, &indexes);
    let edits_by_host = manifests::edits_by_host(&mut builder, &inputs, &indexes, desired);
    let vm_status = status::vms(&mut builder, &inputs, host_states);
    let volume_status = status::volumes(&mut builder, &inputs, host_states);
    let seen = status::Seen { host_states, vm_status, volume_status, migration_status, stranded };
    let deployments = deployments::declare(&mut builder, &inputs, eyes);
    let conditions = status::conditions(&mut builder, &inputs, &indexes, seen, deployments.conditions);
    let task_moves = status::task_moves(&mut builder, &inputs, &indexes, seen);
    let task_starts = status::task_starts(&mut builder, &inputs);
    let dependants = builder.index("dependants", &inputs.tasks, |_, task: &Task| task.depends_on.clone());
    let removals = removals::removals(&mut builder, &inputs, &indexes, deployments.forgotten);
    let nodes = Nodes {
        inputs,
        host_states,
        host_views,
        peers,
        requests,
        migration_status,
        migration_steps,
        drain_steps,
        deaths_by_host: indexes.deaths_by_host,
        stranded,
        evacuations,
        router_moves,
        desired,
        edits_by_host,
        vm_status,
        volume_status,
        conditions,
        task_moves,
        task_starts,
        dependants,
        removals,
        deployments,
    };
    Ok((builder.seal()?, nodes))
}

fn inputs(builder: &mut Builder) -> Inputs {
    Inputs {
        hosts: builder.input_unsynced("hosts"),
        host_facts: builder.input("host_facts"),
        claims: builder.input("claims"),
        liveness: builder.input("liveness"),
        agent_conflicts: builder.input("agent_conflicts"),
        losses: builder.input("losses"),
        deaths: builder.input("host_deaths"),
        pools: builder.input("pools"),
        networks: builder.input("networks"),
        security_groups: builder.input("security_groups"),
        routers: builder.input("routers"),
        router_placements: builder.input("router_placements"),
        volumes: builder.input("volumes"),
        volume_facts: builder.input("volume_facts"),
        images: builder.input("images"),
        image_facts: builder.input("image_facts"),
        vms: builder.input("vms"),
        placements: builder.input("placements"),
        migrations: builder.input("migrations"),
        overdue: builder.input("overdue"),
        drains: builder.input("drains"),
        drain_clocks: builder.input("drain_clocks"),
        vm_facts: builder.input("vm_facts"),
        conditions: builder.input("stored_conditions"),
        revisions: builder.input("revisions"),
        items: builder.input("items"),
        facts: builder.input("facts"),
        tasks: builder.input("tasks"),
        ended: builder.input("ended"),
        projects: builder.input("projects"),
        artifacts: builder.input("artifacts"),
        secrets: builder.input("secrets"),
        providers: builder.input("providers"),
        provider_status: builder.input("provider_status"),
        deployments: builder.input("deployments"),
        pasts: builder.input("deployment_pasts"),
        flapping: builder.input("flapping"),
        standings: builder.input("standings"),
        discovered: builder.input("discovered"),
    }
}

fn indexes(builder: &mut Builder, inputs: &Inputs) -> Indexes {
    Indexes {
        items_by_object: builder.index("items_by_object", &inputs.items, |at, _| [(at.1, at.2)]),
        cached_images: builder.index("cached_images", &inputs.items, |at, row| {
            (at.1 == ItemKind::Image && !row.absent).then_some(at.0)
        }),
        items_naming: builder.index("items_naming", &inputs.items, |at, row| naming(at, &row.names)),
        deaths_by_host: builder.index("deaths_by_host", &inputs.deaths, |_, death| [death.host_id]),
        pools_by_host: builder.index("pools_by_host", &inputs.pools, |_, pool| [pool.host_id]),
        placements_of_router: builder.index(
            "placements_of_router",
            &inputs.router_placements,
            |at, _| [at.0],
        ),
        migrations_by_vm: builder
            .index("migrations_by_vm", &inputs.migrations, |_, row| [row.migration.vm_id]),
        placements_by_host: builder.index("placements_by_host", &inputs.placements, |_, row| {
            row.host.as_ref().map(|(host, _)| *host)
        }),
        drains_by_host: builder.index("drains_by_host", &inputs.drains, |_, drain| [drain.host_id]),
        volumes_by_owner: builder.index("volumes_by_owner", &inputs.volumes, |_, volume| owner(volume)),
    }
}

/// The items on the same host that an item names.
fn naming(at: &ItemAt, names: &[ItemKey]) -> Vec<ItemAt> {
    names.iter().map(|key| (at.0, key.kind, key.id)).collect()
}

/// The VM that a volume goes with, if it goes with one.
fn owner(volume: &volumes::Volume) -> Option<VmId> {
    volume.vm_id.filter(|_| volume.owned)
}

/// The host and pool that a volume was given.
fn bound(volume: &volumes::Volume) -> Option<(HostId, &Name)> {
    volume.host_id.zip(volume.pool.as_ref())
}
