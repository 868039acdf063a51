//! Leases: what must run once in a cluster of gateways. The epoch fences a holder that woke up late.

use crate::{Result, SystemTx};
use basalt_model::DateTime;
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

/// A lease that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who holds it.
    pub holder: Uuid,
    /// Grows with every change of holder.
    pub epoch: i64,
    /// When it ends unless it is renewed.
    pub expires_at: DateTime,
}

/// Takes a free or expired lease, or renews one's own. `None`: somebody else holds it. `silent` is another's that did not
/// move for as long as one lasts: if it still stands so, it is over, whatever the clock that wrote it said.
pub async fn acquire(
    tx: &mut SystemTx,
    name: &str,
    holder: Uuid,
    now: DateTime,
    ttl_seconds: i64,
    silent: Option<&Lease>,
) -> Result<Option<Lease>> {
    let row = sqlx::query(
        "INSERT INTO leases AS l (name, holder, epoch, expires_at) VALUES ($1, $2, 1, $4)
         ON CONFLICT (name) DO UPDATE SET holder = $2, expires_at = $4,
            epoch = l.epoch + CASE WHEN l.holder = $2 AND l.expires_at > $3 THEN 0 ELSE 1 END
         WHERE l.holder = $2 OR l.expires_at <= $3 OR (l.epoch = $5 AND l.expires_at = $6)
         RETURNING epoch, expires_at",
    )
    .bind(name)
    .bind(holder)
    .bind(now)
    .bind(now + chrono::TimeDelta::seconds(ttl_seconds))
    .bind(silent.map(|lease| lease.epoch))
    .bind(silent.map(|lease| lease.expires_at))
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        let (epoch, expires_at) = (row.try_get("epoch")?, row.try_get("expires_at")?);
        Ok(Lease { name: name.to_string(), holder, epoch, expires_at })
    })
    .transpose()
}

/// The lease as it stands, whoever holds it.
pub async fn held(tx: &mut SystemTx, name: &str) -> Result<Option<Lease>> {
    let row = sqlx::query("SELECT name, holder, epoch, expires_at FROM leases WHERE name = $1")
        .bind(name)
        .fetch_optional(tx.conn())
        .await?;
    let lease = |row: PgRow| -> sqlx::Result<Lease> {
        let (name, holder) = (row.try_get("name")?, row.try_get("holder")?);
        Ok(Lease { name, holder, epoch: row.try_get("epoch")?, expires_at: row.try_get("expires_at")? })
    };
    Ok(row.map(lease).transpose()?)
}

/// Gives a lease back, if it is still one's own.
pub async fn release(tx: &mut SystemTx, lease: &Lease, now: DateTime) -> Result<()> {
    sqlx::query("UPDATE leases SET expires_at = $4 WHERE name = $1 AND holder = $2 AND epoch = $3 AND expires_at > $4")
        .bind(&lease.name)
        .bind(lease.holder)
        .bind(lease.epoch)
        .bind(now)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Whether a lease is still whose it was; whoever asks keeps it so until the transaction ends.
pub(crate) async fn stands(conn: &mut PgConnection, lease: &Lease) -> Result<bool> {
    let found = sqlx::query("SELECT FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE")
        .bind(&lease.name)
        .bind(lease.holder)
        .bind(lease.epoch)
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}
