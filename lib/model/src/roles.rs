//! Roles: what a principal may do, and where.

use crate::{ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a principal may do. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes what runs: VMs, volumes, images, networks.
    Operator,
    /// Everything at its scope, including people, tokens, projects and quotas.
    Admin,
}

/// Where a role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Scope {
    /// Everywhere, including hosts and pools.
    System,
    /// One tenant and all its projects.
    Tenant {
        /// Which one.
        tenant_id: TenantId,
    },
    /// One project.
    Project {
        /// Its tenant.
        tenant_id: TenantId,
        /// Which one.
        project_id: ProjectId,
    },
}

/// A role at a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// What.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

impl Scope {
    /// Whether a grant here holds at `other`.
    pub fn covers(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::System, _) => true,
            (
                Scope::Tenant { tenant_id: a },
                Scope::Tenant { tenant_id: b } | Scope::Project { tenant_id: b, .. },
            ) => a == b,
            (Scope::Project { project_id: a, .. }, Scope::Project { project_id: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// Whether any grant gives `role` (or more) at `scope`.
pub fn allows(grants: &[Grant], role: Role, scope: &Scope) -> bool {
    grants.iter().any(|g| g.role >= role && g.scope.covers(scope))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_grant_holds_at_its_scope_and_below() {
        let (t, u) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let p = Scope::Project { tenant_id: t, project_id: ProjectId(Uuid::from_u128(3)) };
        let q = Scope::Project { tenant_id: u, project_id: ProjectId(Uuid::from_u128(4)) };
        let grants = [Grant { role: Role::Operator, scope: Scope::Tenant { tenant_id: t } }];
        assert!(allows(&grants, Role::Viewer, &p) && allows(&grants, Role::Operator, &p));
        assert!(!allows(&grants, Role::Admin, &p) && !allows(&grants, Role::Viewer, &q));
        assert!(!allows(&grants, Role::Viewer, &Scope::System));
    }
}
