//! Bearer tokens of programs, and sessions of people: kept as digests, looked up on every request.

use crate::{
    Change, Error, List, Page, Result, SystemTx,
    audit_events::{self, Entry},
    error::named,
    role_bindings, row,
};
use basalt_model::{DateTime, Name, ServiceTokenId, UserId, roles::Grant};
use serde::Deserialize;
use sqlx::{FromRow, Row, postgres::PgRow};
use uuid::Uuid;

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceToken {
    /// Its id.
    pub id: ServiceTokenId,
    /// What people call it.
    pub name: Name,
    /// Whose session it is; absent for a program's token.
    pub user_id: Option<UserId>,
    /// When it was made.
    pub created_at: DateTime,
    /// When it ends.
    pub expires_at: DateTime,
    /// When it was revoked.
    pub revoked_at: Option<DateTime>,
}

impl FromRow<'_, PgRow> for ServiceToken {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            user_id: row.try_get("user_id")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct New<'a> {
    /// What people call it; a session carries its user's name.
    pub name: &'a Name,
    /// SHA-256 of the secret.
    pub hash: &'a [u8],
    /// Whose session it is.
    pub user_id: Option<UserId>,
    /// When it ends.
    pub expires_at: DateTime,
}

/// Who a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `user` or `service_token`.
    pub kind: &'static str,
    /// The user's or the token's id.
    pub id: Uuid,
    /// Its name.
    pub name: Name,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// The token itself.
    pub token_id: ServiceTokenId,
    /// When the token ends.
    pub expires_at: DateTime,
}

/// Keeps a new token.
pub async fn insert(tx: &mut SystemTx, change: &Change, new: &New<'_>) -> Result<ServiceToken> {
    let token: ServiceToken = sqlx::query_as(
        "INSERT INTO service_tokens (id, name, hash, user_id, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
    )
    .bind((change.ids)())
    .bind(new.name)
    .bind(new.hash)
    .bind(new.user_id)
    .bind(change.now)
    .bind(new.expires_at)
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| {
            (c == "service_tokens_name")
                .then(|| Error::NameTaken { kind: "service token", name: new.name.to_string() })
        })
    })?;
    let action = if new.user_id.is_some() { "user.login" } else { "service_token.create" };
    audit(tx, change, action, &token).await?;
    Ok(token)
}

async fn audit(tx: &mut SystemTx, change: &Change, action: &'static str, token: &ServiceToken) -> Result<()> {
    let entry = Entry::new(action, None, None, "service_token", token.id.0, token.name.as_str());
    audit_events::write(tx.conn(), change, entry).await
}

/// Tokens of programs, oldest first; sessions are left out.
pub async fn list(tx: &mut SystemTx, page: &Page) -> Result<List<ServiceToken>> {
    let tokens =
        sqlx::query_as("SELECT * FROM service_tokens WHERE id > $1 AND user_id IS NULL ORDER BY id LIMIT $2")
            .bind(page.after())
            .bind(page.fetch())
            .fetch_all(tx.conn())
            .await?;
    Ok(page.cut(tokens, |t: &ServiceToken| t.id.0))
}

/// A token by id, sessions included.
pub async fn get(tx: &mut SystemTx, id: ServiceTokenId) -> Result<ServiceToken> {
    sqlx::query_as("SELECT * FROM service_tokens WHERE id = $1")
        .bind(id)
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| Error::NotFound { kind: "service token", name: id.to_string() })
}

/// Ends a token or session. Ending it twice is no error.
pub async fn revoke(tx: &mut SystemTx, change: &Change, id: ServiceTokenId) -> Result<ServiceToken> {
    let token = get(tx, id).await?;
    if token.revoked_at.is_some() {
        return Ok(token);
    }
    sqlx::query("UPDATE service_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
        .bind(id)
        .bind(change.now)
        .execute(tx.conn())
        .await?;
    audit(tx, change, "service_token.revoke", &token).await?;
    Ok(ServiceToken { revoked_at: Some(change.now), ..token })
}

#[derive(Deserialize)]
struct Bound {
    role: basalt_model::roles::Role,
    tenant_id: Option<basalt_model::TenantId>,
    project_id: Option<basalt_model::ProjectId>,
}

/// Who a digest speaks for, with everything they may do: one round trip. `None` for unknown, expired and
/// revoked tokens alike.
pub async fn authenticate(tx: &mut SystemTx, hash: &[u8], now: DateTime) -> Result<Option<Principal>> {
    let row = sqlx::query(
        "SELECT s.id, s.user_id, s.expires_at, coalesce(u.name, s.name) AS name,
            (SELECT coalesce(jsonb_agg(jsonb_build_object('role', b.role, 'tenant_id', b.tenant_id,
                'project_id', b.project_id) ORDER BY b.id), '[]')
             FROM role_bindings b WHERE b.principal_id = coalesce(s.user_id, s.id)) AS grants
         FROM service_tokens s LEFT JOIN users u ON u.id = s.user_id
         WHERE s.hash = $1 AND s.revoked_at IS NULL AND s.expires_at > $2",
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (token_id, user_id): (ServiceTokenId, Option<UserId>) = (row.try_get("id")?, row.try_get("user_id")?);
    let bound: Vec<Bound> = row::json(&row, "grants")?;
    let grant = |b: Bound| Grant { role: b.role, scope: role_bindings::scope(b.tenant_id, b.project_id) };
    Ok(Some(Principal {
        kind: if user_id.is_some() { "user" } else { "service_token" },
        id: user_id.map_or(token_id.0, |u| u.0),
        name: row.try_get("name")?,
        grants: bound.into_iter().map(grant).collect(),
        token_id,
        expires_at: row.try_get("expires_at")?,
    }))
}
