//! The tables on the feed: how each is read, whole or by key, and what a row of it is in the program.

use crate::{
    agent_conflicts::Conflict,
    artifacts::{self, Artifact},
    conditions::Conditions,
    deployments::{self, Deployment},
    discovered::{Discovered, ProviderStatus},
    drains,
    host_loss::DeathRow,
    hosts::{Certificate, Host, HostClaim, HostFactsRow},
    images::{self, Image, ImageFacts},
    manifests::{Fact, ItemRow, Revision},
    migrations::MigrationRow,
    networks::{self, Network},
    placements::Placement,
    pools::Pool,
    projects::{self, Project},
    providers::{self, Provider},
    routers::{self, Router},
    secrets::{self, Secret},
    security_groups::{self, SecurityGroup},
    tasks,
    tenants::Tenant,
    vms::{self, Vm, VmFacts},
    volumes::{self, Volume, VolumeFacts},
};
use basalt_model::{Metadata, ProjectId, TenantId, drains::Drain, tasks::Task};
use sqlx::{FromRow, postgres::PgRow};
use std::sync::Arc;

macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident($type:ty) = $source:literal, $read:expr, $select:expr, $keyed:expr;)+) => {
        /// A table on the feed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Table {
            $($(#[$doc])* $variant,)+
        }

        /// A row of a table on the feed, as it stands in the snapshot of the pull. All who keep it keep the same one.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Row {
            $($(#[$doc])* $variant(Arc<$type>),)+
        }

        impl Table {
            /// All tables on the feed.
            pub const ALL: &'static [Table] = &[$(Table::$variant),+];

            /// The table's name in the database.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $source,)+ }
            }

            pub(crate) fn by_name(name: &str) -> Option<Self> {
                match name { $($source => Some(Self::$variant),)+ _ => None }
            }

            /// Reads every row that somebody still acts on.
            pub(crate) fn select_all(self) -> &'static str {
                if self == Self::Task {
                    return tasks::LIVE_AND_AWAITED;
                }
                match self { $(Self::$variant => $select,)+ }
            }

            /// Reads the rows with the keys of `$1`, a `text[]`.
            pub(crate) fn select_keyed(self) -> &'static str {
                match self { $(Self::$variant => concat!($select, $keyed),)+ }
            }

            pub(crate) fn read(self, row: &PgRow) -> sqlx::Result<Row> {
                match self {
                    $(Self::$variant => Ok(Row::$variant(Arc::new(($read)(row)?))),)+
                }
            }
        }

        impl Row {
            /// The table it stands in.
            pub fn table(&self) -> Table {
                match self { $(Self::$variant(_) => Table::$variant,)+ }
            }
        }
    };
}

tables! {
    /// Tenants.
    Tenant(Tenant) = "tenants", Tenant::from_row, "SELECT * FROM tenants x", " WHERE x.id = ANY($1::uuid[])";
    /// Projects. A change of the quota's use alone is no news.
    Project(Project) = "projects", Project::from_row, projects::select!(), " WHERE p.id = ANY($1::uuid[])";
    /// Hosts.
    Host(Host) = "hosts", Host::from_row, "SELECT * FROM hosts x", " WHERE x.id = ANY($1::uuid[])";
    /// Facts of hosts.
    HostFacts(HostFactsRow) = "host_facts", HostFactsRow::from_row, "SELECT * FROM host_facts x",
        " WHERE x.host_id = ANY($1::uuid[])";
    /// What hosts can promise, and promised.
    HostClaim(HostClaim) = "host_claims", HostClaim::from_row, "SELECT * FROM host_claims x",
        " WHERE x.host_id = ANY($1::uuid[])";
    /// Certificates of hosts.
    Certificate(Certificate) = "host_certificates", Certificate::from_row, "SELECT * FROM host_certificates x",
        " WHERE x.serial = ANY($1)";
    /// Two agents with one identity.
    AgentConflict(Conflict) = "agent_conflicts", Conflict::from_row, "SELECT * FROM agent_conflicts x",
        " WHERE x.host_id = ANY($1::uuid[])";
    /// Proofs that hosts are dead.
    HostDeath(DeathRow) = "host_deaths", DeathRow::from_row, "SELECT * FROM host_deaths x",
        " WHERE x.id = ANY($1::uuid[])";
    /// Pools of hosts.
    Pool(Pool) = "pools", Pool::from_row, "SELECT p.*, h.name AS host FROM pools p JOIN hosts h ON h.id = p.host_id",
        " WHERE p.id = ANY($1::uuid[])";
    /// Networks.
    Network(Network) = "networks", Network::from_row, concat!("SELECT ", networks::columns!(), " FROM networks x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// Security groups.
    SecurityGroup(SecurityGroup) = "security_groups", SecurityGroup::from_row,
        concat!("SELECT ", security_groups::columns!(), " FROM security_groups x"), " WHERE x.id = ANY($1::uuid[])";
    /// Routers.
    Router(Router) = "routers", Router::from_row, concat!("SELECT ", routers::columns!(), " FROM routers x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// Where routers are.
    RouterPlacement(routers::Placement) = "router_placements", routers::Placement::from_row,
        "SELECT x.* FROM router_placements x",
        " JOIN unnest($1::text[]) k ON x.router_id = split_part(k, '/', 1)::uuid
            AND x.slot = split_part(k, '/', 2)::smallint";
    /// Images.
    Image(Image) = "images", Image::from_row, concat!("SELECT ", images::columns!(), " FROM images x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// What the image service reported.
    ImageFacts(ImageFacts) = "image_observed", ImageFacts::from_row, "SELECT * FROM image_observed x",
        " WHERE x.image_id = ANY($1::uuid[])";
    /// Volumes.
    Volume(Volume) = "volumes", Volume::from_row, concat!("SELECT ", volumes::columns!(), " FROM volumes x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// Facts of volumes.
    VolumeFacts(VolumeFacts) = "volume_observed", VolumeFacts::from_row, "SELECT * FROM volume_observed x",
        " WHERE x.volume_id = ANY($1::uuid[])";
    /// VMs.
    Vm(Vm) = "vms", Vm::from_row, concat!("SELECT ", vms::columns!(), " FROM vms x"), " WHERE x.id = ANY($1::uuid[])";
    /// Where VMs run.
    // Why a VM is where it is, hosts and their reasons, is long, and needed by nobody who follows the feed.
    Placement(Placement) = "placements", Placement::from_row, "SELECT x.vm_id, x.tenant_id, x.project_id, x.host_id, x.host,
        x.epoch, x.generation, x.decided_at, CASE WHEN x.host_id IS NULL THEN x.explanation ELSE 'null' END AS explanation
        FROM placements x",
        " WHERE x.vm_id = ANY($1::uuid[])";
    /// VMs on their way.
    Migration(MigrationRow) = "migrations", MigrationRow::from_row, "SELECT * FROM migrations x",
        " WHERE x.id = ANY($1::uuid[])";
    /// The emptying of hosts.
    Drain(Drain) = "drains", drains::read, "SELECT * FROM drains x", " WHERE x.id = ANY($1::uuid[])";
    /// Facts of VMs.
    VmFacts(VmFacts) = "vm_observed", VmFacts::from_row, "SELECT * FROM vm_observed x",
        " WHERE x.vm_id = ANY($1::uuid[])";
    /// Conditions of objects.
    Conditions(Conditions) = "conditions", Conditions::from_row, "SELECT * FROM conditions x",
        " WHERE x.subject_id = ANY($1::uuid[])";
    /// Newest revisions of manifests.
    Manifest(Revision) = "manifests", Revision::from_row, "SELECT * FROM manifests x",
        " WHERE x.host_id = ANY($1::uuid[])";
    /// Items of manifests.
    ManifestItem(ItemRow) = "manifest_items", ItemRow::from_row, "SELECT x.* FROM manifest_items x",
        " JOIN unnest($1::text[]) k ON x.host_id = split_part(k, '/', 1)::uuid AND x.kind = split_part(k, '/', 2)
            AND x.id = split_part(k, '/', 3)::uuid";
    /// What hosts said of items.
    ManifestFact(Fact) = "manifest_facts", Fact::from_row, "SELECT x.* FROM manifest_facts x",
        " JOIN unnest($1::text[]) k ON x.host_id = split_part(k, '/', 1)::uuid AND x.kind = split_part(k, '/', 2)
            AND x.id = split_part(k, '/', 3)::uuid";
    /// Agents and servers.
    Artifact(Artifact) = "artifacts", Artifact::from_row, concat!("SELECT ", artifacts::columns!(), " FROM artifacts x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// Secrets, without their values.
    Secret(Secret) = "secrets", Secret::from_row, concat!("SELECT ", secrets::columns!(), " FROM secrets x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// Providers.
    Provider(Provider) = "providers", Provider::from_row, concat!("SELECT ", providers::columns!(), " FROM providers x"),
        " WHERE x.id = ANY($1::uuid[])";
    /// How the last looks at providers went.
    ProviderStatus(ProviderStatus) = "provider_status", ProviderStatus::from_row, "SELECT * FROM provider_status x",
        " WHERE x.provider_id = ANY($1::uuid[])";
    /// Deployments.
    Deployment(Deployment) = "deployments", Deployment::from_row,
        concat!("SELECT ", deployments::columns!(), " FROM deployments x"), " WHERE x.id = ANY($1::uuid[])";
    /// What was tried for deployments.
    DeploymentStatus(deployments::Status) = "deployment_status", deployments::Status::from_row,
        "SELECT * FROM deployment_status x", " WHERE x.deployment_id = ANY($1::uuid[])";
    /// What local engines show.
    DiscoveredLocal(Discovered) = "discovered_local", Discovered::from_row, "SELECT * FROM discovered_local x",
        " WHERE x.id = ANY($1::uuid[])";
    /// What clusters show.
    DiscoveredKubernetes(Discovered) = "discovered_kubernetes", Discovered::from_row,
        "SELECT * FROM discovered_kubernetes x", " WHERE x.id = ANY($1::uuid[])";
    /// What projects of Basalt show.
    DiscoveredBasalt(Discovered) = "discovered_basalt", Discovered::from_row, "SELECT * FROM discovered_basalt x",
        " WHERE x.id = ANY($1::uuid[])";
    /// Tasks: the live ones, and how those ended that live ones wait for. By key also those that just ended.
    Task(Task) = "tasks", tasks::read, concat!("SELECT * FROM (", tasks::all!(tasks::columns!(), ""), ") t"),
        " WHERE t.id = ANY($1::uuid[])";
}

impl Row {
    /// The row's key, as the log has it.
    pub fn key(&self) -> String {
        match self {
            Self::Tenant(r) => r.metadata.id.to_string(),
            Self::Project(r) => r.metadata.id.to_string(),
            Self::Host(r) => r.metadata.id.to_string(),
            Self::HostFacts(r) => r.host_id.to_string(),
            Self::HostClaim(r) => r.host_id.to_string(),
            Self::Certificate(r) => r.serial.clone(),
            Self::AgentConflict(r) => r.host_id.to_string(),
            Self::HostDeath(r) => r.0.id.to_string(),
            Self::Pool(r) => r.id.to_string(),
            Self::Network(r) => r.metadata.id.to_string(),
            Self::SecurityGroup(r) => r.metadata.id.to_string(),
            Self::Router(r) => r.metadata.id.to_string(),
            Self::RouterPlacement(r) => format!("{}/{}", r.router_id, r.slot),
            Self::Image(r) => r.metadata.id.to_string(),
            Self::ImageFacts(r) => r.image_id.to_string(),
            Self::Volume(r) => r.metadata.id.to_string(),
            Self::VolumeFacts(r) => r.volume_id.to_string(),
            Self::Vm(r) => r.metadata.id.to_string(),
            Self::Placement(r) => r.vm_id.to_string(),
            Self::Migration(r) => r.migration.id.to_string(),
            Self::Drain(r) => r.id.to_string(),
            Self::VmFacts(r) => r.vm_id.to_string(),
            Self::Conditions(r) => r.subject_id.to_string(),
            Self::Manifest(r) => r.host_id.to_string(),
            Self::ManifestItem(r) => format!("{}/{}/{}", r.host_id, r.item.kind, r.item.id),
            Self::ManifestFact(r) => format!("{}/{}/{}", r.host_id, r.kind, r.id),
            Self::Artifact(r) => r.metadata.id.to_string(),
            Self::Secret(r) => r.metadata.id.to_string(),
            Self::Provider(r) => r.metadata.id.to_string(),
            Self::ProviderStatus(r) => r.provider_id.to_string(),
            Self::Deployment(r) => r.metadata.id.to_string(),
            Self::DeploymentStatus(r) => r.deployment_id.to_string(),
            Self::DiscoveredLocal(r) | Self::DiscoveredKubernetes(r) | Self::DiscoveredBasalt(r) => {
                r.id.to_string()
            }
            Self::Task(r) => r.id.to_string(),
        }
    }

    /// Who may see the row: its tenant and project; neither for what belongs to the system.
    pub fn scope(&self) -> (Option<TenantId>, Option<ProjectId>) {
        let of = |m: &Metadata| (m.tenant_id, m.project_id);
        match self {
            Self::Tenant(r) => (Some(r.id()), None),
            Self::Project(r) => (r.metadata.tenant_id, Some(r.id())),
            Self::Network(r) => of(&r.metadata),
            Self::SecurityGroup(r) => of(&r.metadata),
            Self::Router(r) => of(&r.metadata),
            Self::RouterPlacement(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::Image(r) => of(&r.metadata),
            Self::Volume(r) => of(&r.metadata),
            Self::Vm(r) => of(&r.metadata),
            Self::ImageFacts(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::VolumeFacts(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::Placement(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::VmFacts(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::Migration(r) => (Some(r.migration.tenant_id), Some(r.migration.project_id)),
            Self::Conditions(r) => (r.tenant_id, r.project_id),
            Self::Artifact(r) => of(&r.metadata),
            Self::Secret(r) => of(&r.metadata),
            Self::Provider(r) => of(&r.metadata),
            Self::ProviderStatus(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::Deployment(r) => of(&r.metadata),
            Self::DeploymentStatus(r) => (Some(r.tenant_id), Some(r.project_id)),
            Self::DiscoveredLocal(r) | Self::DiscoveredKubernetes(r) | Self::DiscoveredBasalt(r) => {
                (Some(r.tenant_id), Some(r.project_id))
            }
            Self::Task(r) => (r.tenant_id, r.project_id),
            Self::Host(_)
            | Self::HostFacts(_)
            | Self::HostClaim(_)
            | Self::Certificate(_)
            | Self::AgentConflict(_)
            | Self::Drain(_)
            | Self::HostDeath(_)
            | Self::Pool(_)
            | Self::Manifest(_)
            | Self::ManifestItem(_)
            | Self::ManifestFact(_) => (None, None),
        }
    }
}
