//! Idempotency keys: the first request's answer is kept and given again to its repeats.

use crate::{Error, Handle, Result, SystemTx};
use basalt_model::{DateTime, TenantId};
use serde_json::Value;
use sqlx::{Row, types::Json};
use uuid::Uuid;

/// What a key means for this request.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// Do it, and [`finish`] in the same transaction.
    Fresh,
    /// It was done; this was the answer.
    Replay {
        /// HTTP status.
        status: u16,
        /// The `Location` header.
        location: Option<String>,
        /// The body.
        body: Value,
    },
}

/// Claims a key for a principal, or finds the answer kept under it. A twin that is under way is waited for.
/// `digest` stands for the whole request; another one under the same key is refused.
pub async fn begin(
    tx: &mut impl Handle,
    tenant: Option<TenantId>,
    principal: Uuid,
    key: &str,
    digest: &[u8],
    now: DateTime,
) -> Result<Begin> {
    let claimed = sqlx::query(
        "INSERT INTO idempotency_keys (principal_id, key, tenant_id, digest, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (principal_id, key) DO NOTHING",
    )
    .bind(principal)
    .bind(key)
    .bind(tenant)
    .bind(digest)
    .bind(now)
    .execute(tx.conn())
    .await?
    .rows_affected();
    if claimed == 1 {
        return Ok(Begin::Fresh);
    }
    let row = sqlx::query(
        "SELECT digest, status, location, body FROM idempotency_keys WHERE principal_id = $1 AND key = $2",
    )
    .bind(principal)
    .bind(key)
    .fetch_optional(tx.conn())
    .await?;
    // No row: the key stands in another tenant of the same principal, which is another request.
    let reused = || Error::IdempotencyReused { key: key.to_string() };
    let row = row.ok_or_else(reused)?;
    let status: Option<i32> = row.try_get("status")?;
    match status {
        Some(status) if row.try_get::<Vec<u8>, _>("digest")? == digest => Ok(Begin::Replay {
            status: u16::try_from(status).map_err(|e| crate::row::unreadable("status", e))?,
            location: row.try_get("location")?,
            body: row.try_get::<Option<Json<Value>>, _>("body")?.map_or(Value::Null, |j| j.0),
        }),
        _ => Err(reused()),
    }
}

/// Keeps the answer under a key that [`begin`] claimed in this transaction.
pub async fn finish(
    tx: &mut impl Handle,
    principal: Uuid,
    key: &str,
    status: u16,
    location: Option<&str>,
    body: &Value,
) -> Result<()> {
    sqlx::query("UPDATE idempotency_keys SET status = $3, location = $4, body = $5 WHERE principal_id = $1 AND key = $2")
        .bind(principal)
        .bind(key)
        .bind(i32::from(status))
        .bind(location)
        .bind(Json(body))
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Forgets keys that were claimed before a moment.
pub async fn prune(tx: &mut SystemTx, before: DateTime) -> Result<u64> {
    let query = sqlx::query("DELETE FROM idempotency_keys WHERE created_at < $1").bind(before);
    Ok(query.execute(tx.conn()).await?.rows_affected())
}
