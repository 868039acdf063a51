//! Bodies about people, tokens and roles.

use basalt_model::{DateTime, Name, RoleBindingId, ServiceTokenId, UserId, roles::Grant};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Begins a session: with the first-boot token and the administrator to create, or with a password.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// User name.
    pub user: Name,
    /// Password, 12 to 256 characters.
    pub password: String,
    /// The token printed at the gateway's first start; creates `user` as administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_boot_token: Option<String>,
}

/// A bearer token, shown once.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct IssuedToken {
    /// Its id, for revocation.
    pub id: ServiceTokenId,
    /// Send it as `Authorization: Bearer …`.
    pub token: String,
    /// When it ends.
    pub expires_at: DateTime,
}

/// A token that a program uses.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ServiceToken {
    /// Its id.
    pub id: ServiceTokenId,
    /// What people call it.
    pub name: Name,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created_at: DateTime,
    /// When it ends.
    pub expires_at: DateTime,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime>,
}

/// Makes a token for a program.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateServiceToken {
    /// What people call it.
    pub name: Name,
    /// What it may do; never more than its maker may.
    pub grants: Vec<Grant>,
    /// Days until it ends, 1 to 366.
    #[serde(default = "default_days")]
    pub expires_in_days: u32,
}

fn default_days() -> u32 {
    30
}

/// A person.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// User name.
    pub name: Name,
    /// What they may do.
    pub grants: Vec<Grant>,
    /// When they were made known.
    pub created_at: DateTime,
}

/// Makes a person known.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// User name.
    pub name: Name,
    /// Password, 12 to 256 characters.
    pub password: String,
}

/// Gives a role to a user or service token.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRoleBinding {
    /// The user's or token's id.
    pub principal_id: Uuid,
    /// What and where.
    pub grant: Grant,
}

/// A role given to a principal.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct RoleBinding {
    /// Its id.
    pub id: RoleBindingId,
    /// The user's or token's id.
    pub principal_id: Uuid,
    /// What and where.
    pub grant: Grant,
    /// When it was given.
    pub created_at: DateTime,
}

/// Who the caller is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Whoami {
    /// `user` or `service_token`.
    pub kind: String,
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub grants: Vec<Grant>,
}
