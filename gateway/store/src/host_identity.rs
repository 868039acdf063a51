//! How a host proves who it is: one-time join tokens, and certificates that can be revoked.

use crate::{
    Change, Error, Key, Result, SystemTx,
    hosts::{self, Host},
};
use basalt_model::{DateTime, HostId};
use sqlx::{FromRow, Row, postgres::PgRow};

/// A client certificate that was signed for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its serial number, as hex.
    pub serial: String,
    /// The host it names.
    pub host_id: HostId,
    /// When it was signed.
    pub issued_at: DateTime,
    /// When it ends.
    pub not_after: DateTime,
    /// When it was revoked.
    pub revoked_at: Option<DateTime>,
}

impl FromRow<'_, PgRow> for Certificate {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            serial: row.try_get("serial")?,
            host_id: row.try_get("host_id")?,
            issued_at: row.try_get("issued_at")?,
            not_after: row.try_get("not_after")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

/// Keeps the digest of a join token for a host; an earlier one ends.
pub async fn put_join_token(
    tx: &mut SystemTx,
    change: &Change,
    host: HostId,
    hash: &[u8],
    expires_at: DateTime,
) -> Result<()> {
    let host = hosts::lock(tx, &Key::from(host)).await?;
    if host.metadata.deletion_requested_at.is_some() {
        return Err(Error::Deleting { kind: "host", name: host.metadata.name.to_string() });
    }
    sqlx::query(
        "INSERT INTO join_tokens (host_id, hash, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (host_id) DO UPDATE SET hash = $2, expires_at = $3, used_at = NULL",
    )
    .bind(host.id())
    .bind(hash)
    .bind(expires_at)
    .execute(tx.conn())
    .await?;
    hosts::audit(tx, change, "host.join_token", &host).await
}

/// Uses a join token up and names its host. It works once and before its end.
pub async fn redeem_join_token(tx: &mut SystemTx, hash: &[u8], now: DateTime) -> Result<Host> {
    let host: Option<Host> = sqlx::query_as(
        "WITH used AS (
            UPDATE join_tokens SET used_at = $2 WHERE hash = $1 AND used_at IS NULL AND expires_at > $2
            RETURNING host_id)
         SELECT h.* FROM hosts h JOIN used ON used.host_id = h.id WHERE h.deletion_requested_at IS NULL",
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(tx.conn())
    .await?;
    host.ok_or(Error::TokenInvalid)
}

/// Keeps what was signed for a host.
pub async fn record_certificate(tx: &mut SystemTx, certificate: &Certificate) -> Result<()> {
    sqlx::query(
        "INSERT INTO host_certificates (serial, host_id, issued_at, not_after, revoked_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&certificate.serial)
    .bind(certificate.host_id)
    .bind(certificate.issued_at)
    .bind(certificate.not_after)
    .bind(certificate.revoked_at)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Revokes every certificate and join token of a host and returns how many certificates.
pub async fn revoke(tx: &mut SystemTx, change: &Change, host: HostId) -> Result<u64> {
    let host = hosts::lock(tx, &Key::from(host)).await?;
    sqlx::query("DELETE FROM join_tokens WHERE host_id = $1").bind(host.id()).execute(tx.conn()).await?;
    let revoked =
        sqlx::query("UPDATE host_certificates SET revoked_at = $2 WHERE host_id = $1 AND revoked_at IS NULL")
            .bind(host.id())
            .bind(change.now)
            .execute(tx.conn())
            .await?
            .rows_affected();
    hosts::audit(tx, change, "host.revoke", &host).await?;
    Ok(revoked)
}

/// A certificate by serial number.
pub async fn certificate(tx: &mut SystemTx, serial: &str) -> Result<Option<Certificate>> {
    let query = sqlx::query_as("SELECT * FROM host_certificates WHERE serial = $1").bind(serial);
    Ok(query.fetch_optional(tx.conn()).await?)
}

/// Revoked certificates that did not end by themselves yet.
pub async fn revoked(tx: &mut SystemTx, now: DateTime) -> Result<Vec<Certificate>> {
    let query = sqlx::query_as(
        "SELECT * FROM host_certificates WHERE revoked_at IS NOT NULL AND not_after > $1 ORDER BY serial",
    );
    Ok(query.bind(now).fetch_all(tx.conn()).await?)
}
