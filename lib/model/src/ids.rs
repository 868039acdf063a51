//! Identifiers: one UUIDv7 newtype for each noun, so that no id can stand where another is meant.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(transparent))]
        pub struct $name(pub Uuid);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map($name)
            }
        }
        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                $name(id)
            }
        }
        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }
    )+};
}

id! {
    /// A tenant: the wall of isolation.
    TenantId,
    /// A project of a tenant: the wall of quota.
    ProjectId,
    /// A person.
    UserId,
    /// A token that a program uses.
    ServiceTokenId,
    /// A role given to a principal at a scope.
    RoleBindingId,
    /// A machine that runs virtual machines.
    HostId,
    /// A virtual machine.
    VmId,
    /// A VM's way from one host to another.
    MigrationId,
    /// The emptying of a host.
    DrainId,
    /// A virtual network.
    NetworkId,
    /// A VM's connection to a network.
    PortId,
    /// Which traffic of guests is admitted.
    SecurityGroupId,
    /// A router between networks.
    RouterId,
    /// Storage on a host.
    PoolId,
    /// A disk.
    VolumeId,
    /// A disk image.
    ImageId,
    /// A long-running piece of work and its outcome.
    TaskId,
    /// One line of the audit trail.
    AuditId,
    /// One upload or download of the image service.
    TransferId,
    /// An agent or MCP server that deployments run.
    ArtifactId,
    /// A place where deployments run.
    ProviderId,
    /// A value that is kept encrypted.
    SecretId,
    /// An artifact that runs at a provider.
    DeploymentId,
}
