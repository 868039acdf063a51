//! The loss of hosts: leases, proofs of death, and VMs that go elsewhere because of one.
//!
//! ```text
//! grant ─► (row of the host, one more grant) ─► the host is told        while a proof stands: refused,
//!   │ nobody sees another one for lease and window                      until the host knows what it lost
//!   ▼                                                                       ▲
//! declare (compare-and-set on the number of grants) ─► proof stands ─► evacuate, VM by VM ─► host back: ended
//! ```
//! Who grants, who declares and who ends a proof holds the row of the host's lease; who evacuates holds the proof. So a VM
//! is given away only under a proof that stands, and a host is given a lease only when it is told of all that was.

use crate::{
    Change, Error, Key, Result, SystemTx, audit_events, hosts,
    migrations::Stepped,
    placement_rules,
    placements::{self, Volume},
    row,
};
use basalt_model::{
    CapabilityReason, DateTime, Epoch, HostId, Name, VmId, VolumeId,
    host_loss::{DeathKind, HostDeath},
    hosts::FencerFacts,
};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The last lease of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLease {
    /// The host.
    pub host_id: HostId,
    /// Counts the grants.
    pub grants: i64,
    /// What stops VMs there when it has run out.
    pub fencer: Option<FencerFacts>,
    /// The boot of the host that asked.
    pub boot_id: Option<String>,
}

impl FromRow<'_, PgRow> for HostLease {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            host_id: row.try_get("host_id")?,
            grants: row.try_get("grants")?,
            fencer: row::json_option(row, "fencer")?,
            boot_id: row.try_get("boot_id")?,
        })
    }
}

/// A proof of death as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathRow(pub HostDeath);

impl FromRow<'_, PgRow> for DeathRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self(HostDeath {
            id: row.try_get("id")?,
            host_id: row.try_get("host_id")?,
            kind: row::from_word(row, "kind")?,
            evidence: row.try_get("evidence")?,
            boot_id: row.try_get("boot_id")?,
            at: row.try_get("at")?,
            ended_at: row.try_get("ended_at")?,
        }))
    }
}

/// Who asks for a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The start of the agent.
    pub agent_boot: Uuid,
    /// The boot of the host.
    pub boot_id: String,
    /// The manifest that it acts on.
    pub manifest_revision: Option<i64>,
    /// What stops VMs there when it has run out.
    pub fencer: Option<FencerFacts>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Granted {
    /// It holds once this is committed.
    Yes,
    /// A proof of the host's death stands; to be rolled back.
    Dead(CapabilityReason),
}

/// Gives a host its lease. A proof of its death ends first, once the host acts on a manifest that has nothing of what was
/// given away meanwhile.
pub async fn grant(tx: &mut SystemTx, change: &Change, host: HostId, ask: &Ask) -> Result<Granted> {
    let conn = tx.conn();
    sqlx::query(
        "INSERT INTO host_leases AS l (host_id, grants, agent_boot, boot_id, fencer, granted_at)
         VALUES ($1, 1, $2, $3, $4, $5)
         ON CONFLICT (host_id) DO UPDATE SET grants = l.grants + 1, agent_boot = $2, boot_id = $3, fencer = $4,
            granted_at = $5",
    )
    .bind(host)
    .bind(ask.agent_boot)
    .bind(&ask.boot_id)
    .bind(ask.fencer.as_ref().map(Json))
    .bind(change.now)
    .execute(&mut *conn)
    .await?;
    // Only now, under that row, is it told whether a proof was written.
    let death = standing(conn, host, " FOR UPDATE").await?;
    let Some(DeathRow(death)) = death else { return Ok(Granted::Yes) };
    let knows: bool = sqlx::query_scalar(
        "SELECT coalesce((SELECT revision FROM manifests WHERE host_id = $1), 0) = coalesce($2, -1)
            AND NOT EXISTS (SELECT FROM manifest_items i JOIN placements p ON p.vm_id = i.id
                WHERE i.host_id = $1 AND i.kind = 'vm' AND i.present AND p.host_id IS DISTINCT FROM $1
                    AND p.epoch >= i.epoch)",
    )
    .bind(host)
    .bind(ask.manifest_revision)
    .fetch_one(&mut *conn)
    .await?;
    if !knows {
        return Ok(Granted::Dead(given_up(host, &death)));
    }
    sqlx::query("UPDATE host_deaths SET ended_at = $2 WHERE id = $1")
        .bind(death.id)
        .bind(change.now)
        .execute(&mut *conn)
        .await?;
    let name: String =
        sqlx::query_scalar("SELECT name FROM hosts WHERE id = $1").bind(host).fetch_one(&mut *conn).await?;
    let entry = audit_events::Entry::new("host.returned", None, None, "host", host.0, &name);
    audit_events::write(conn, change, entry).await?;
    Ok(Granted::Yes)
}

fn given_up(host: HostId, death: &HostDeath) -> CapabilityReason {
    CapabilityReason::new(
        "proven_dead",
        format!("host/{host}"),
        "it was proven dead and its VMs may be elsewhere; it is told which ones before it may execute any that need a lease",
        "wait: it gets its lease with its newest manifest",
    )
    .with_evidence(format!("{} at {}: {}", death.kind.as_str(), death.at, death.evidence))
}

async fn standing(conn: &mut PgConnection, host: HostId, lock: &'static str) -> Result<Option<DeathRow>> {
    let statement = match lock {
        "" => "SELECT * FROM host_deaths WHERE host_id = $1 AND ended_at IS NULL",
        _ => "SELECT * FROM host_deaths WHERE host_id = $1 AND ended_at IS NULL FOR UPDATE",
    };
    Ok(sqlx::query_as(statement).bind(host).fetch_optional(conn).await?)
}

/// The last lease of every host that ever asked for one.
pub async fn leases(tx: &mut SystemTx) -> Result<Vec<HostLease>> {
    let query = sqlx::query_as("SELECT * FROM host_leases WHERE grants > 0 ORDER BY host_id");
    Ok(query.fetch_all(tx.conn()).await?)
}

/// The proof of a host's death that stands.
pub async fn death(tx: &mut SystemTx, host: HostId) -> Result<Option<HostDeath>> {
    Ok(standing(tx.conn(), host, "").await?.map(|row| row.0))
}

/// A proof that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The host.
    pub host_id: HostId,
    /// The last grant that was seen: with another one there is no proof.
    pub grants: i64,
    /// What it is proven by.
    pub evidence: String,
}

/// Writes down that a host's lease and its window are over. `false`: it has asked again, or is dead already.
pub async fn declare(tx: &mut SystemTx, change: &Change, proof: &Proof) -> Result<bool> {
    let conn = tx.conn();
    let boot: Option<Option<String>> = sqlx::query_scalar(
        "SELECT boot_id FROM host_leases WHERE host_id = $1 AND grants = $2 AND fencer IS NOT NULL FOR UPDATE",
    )
    .bind(proof.host_id)
    .bind(proof.grants)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(boot_id) = boot else { return Ok(false) };
    let death = HostDeath {
        id: (change.ids)(),
        host_id: proof.host_id,
        kind: DeathKind::LeaseExpired,
        evidence: proof.evidence.clone(),
        boot_id,
        at: change.now,
        ended_at: None,
    };
    write(conn, change, &death).await
}

/// Writes a proof, unless one stands.
async fn write(conn: &mut PgConnection, change: &Change, death: &HostDeath) -> Result<bool> {
    let name: Option<String> = sqlx::query_scalar(
        "INSERT INTO host_deaths (id, host_id, kind, evidence, boot_id, at)
         SELECT $1, h.id, $3, $4, $5, $6 FROM hosts h WHERE h.id = $2
         ON CONFLICT (host_id) WHERE ended_at IS NULL DO NOTHING
         RETURNING (SELECT name FROM hosts WHERE id = $2)",
    )
    .bind(death.id)
    .bind(death.host_id)
    .bind(death.kind.as_str())
    .bind(&death.evidence)
    .bind(&death.boot_id)
    .bind(death.at)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(name) = name else { return Ok(false) };
    let action = match death.kind {
        DeathKind::LeaseExpired => "host.proven_dead",
        DeathKind::PowerOffConfirmed => "host.confirm_power_off",
    };
    let entry = audit_events::Entry::new(action, None, None, "host", death.host_id.0, &name);
    audit_events::write(conn, change, entry).await?;
    Ok(true)
}

/// A person saw that the power of a host is off. Refused while the host gives signs of life.
pub async fn confirm_power_off(
    tx: &mut SystemTx,
    change: &Change,
    key: &Key,
    seen_at: Option<DateTime>,
    silent_seconds: i64,
) -> Result<HostDeath> {
    let host = hosts::lock(tx, key).await?;
    let conn = tx.conn();
    // Nobody gives it a lease meanwhile.
    let granted: DateTime = sqlx::query_scalar(
        "INSERT INTO host_leases AS l (host_id, grants, granted_at) VALUES ($1, 0, 'epoch')
         ON CONFLICT (host_id) DO UPDATE SET grants = l.grants RETURNING granted_at",
    )
    .bind(host.id())
    .fetch_one(&mut *conn)
    .await?;
    if let Some(DeathRow(death)) = standing(conn, host.id(), "").await? {
        return Ok(death);
    }
    let stored: Option<DateTime> =
        sqlx::query_scalar("SELECT seen_at FROM host_heartbeats WHERE host_id = $1")
            .bind(host.id())
            .fetch_optional(&mut *conn)
            .await?;
    let name = &host.metadata.name;
    // Stored times are of whichever gateway's clock. One that is ahead of ours says nothing about how long ago that was;
    // the caller noticed by its own clock whether they change.
    let past = |at: &DateTime| *at <= change.now;
    let seen = seen_at.or(stored).max(Some(granted)).filter(past).max(seen_at);
    if let Some(at) = seen.filter(|at| (change.now - *at).num_seconds() <= silent_seconds) {
        let reason = CapabilityReason::new(
            "host_alive",
            format!("host/{name}"),
            format!("{name} gave a sign of life within the last {silent_seconds} s, so its power is not off"),
            "look whether it is the right host; if it was switched off just now, say so again in half a minute",
        );
        return Err(Error::Refused(Box::new(reason.with_evidence(format!("last sign of life at {at}")))));
    }
    let boot: Option<String> =
        sqlx::query_scalar("SELECT facts ->> 'boot_id' FROM host_facts WHERE host_id = $1")
            .bind(host.id())
            .fetch_optional(&mut *conn)
            .await?
            .flatten();
    let death = HostDeath {
        id: (change.ids)(),
        host_id: host.id(),
        kind: DeathKind::PowerOffConfirmed,
        evidence: format!("{} saw that its power is off", change.actor.name),
        boot_id: boot,
        at: change.now,
        ended_at: None,
    };
    write(conn, change, &death).await?;
    Ok(death)
}

/// A VM that is to go elsewhere because its host is dead.
#[derive(Clone, Debug, PartialEq)]
pub struct Evacuation {
    /// The VM.
    pub vm_id: VmId,
    /// The proof.
    pub death_id: Uuid,
    /// The epoch that it has on the dead host.
    pub expected_epoch: Epoch,
    /// Where it goes.
    pub target: HostId,
    /// The pools there that are the same storage, for each of its volumes.
    pub pools: BTreeMap<VolumeId, Name>,
    /// Why there, and why not elsewhere.
    pub explanation: Value,
}

/// Gives a VM of a dead host to another one: placement, volumes and claims in one.
pub async fn evacuate(tx: &mut SystemTx, change: &Change, to: &Evacuation) -> Result<Stepped> {
    let conn = tx.conn();
    let Some(vm) = placements::lock(conn, to.vm_id).await? else { return Ok(Stepped::Stale) };
    let from: Option<(HostId, String)> = sqlx::query_as(
        "SELECT d.host_id, p.host FROM host_deaths d JOIN placements p ON p.host_id = d.host_id
            JOIN vms v ON v.id = p.vm_id JOIN vm_observed o ON o.vm_id = p.vm_id
         WHERE d.id = $1 AND d.ended_at IS NULL AND p.vm_id = $2 AND p.epoch = $3
            AND v.spec -> 'ha' ->> 'policy' = 'restart'
            AND o.host_id = d.host_id AND o.epoch = $3 AND (o.observed ->> 'leased')::bool
            AND NOT EXISTS (SELECT FROM migrations m WHERE m.vm_id = p.vm_id AND m.ended_at IS NULL)
         FOR SHARE OF d FOR UPDATE OF p, o",
    )
    .bind(to.death_id)
    .bind(to.vm_id)
    .bind(to.expected_epoch)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((dead, dead_name)) = from.filter(|(dead, _)| *dead != to.target) else {
        return Ok(Stepped::Stale);
    };
    let volumes = placements::volumes(conn, to.vm_id).await?;
    let mut bind: Vec<(&Volume, &Name)> = Vec::new();
    for volume in &volumes {
        match to.pools.get(&volume.id) {
            Some(pool) => bind.push((volume, pool)),
            None => return Ok(Stepped::Stale),
        }
    }
    sqlx::query("SAVEPOINT evacuate").execute(&mut *conn).await?;
    // The bytes are promised already, where they are now.
    if let Some(reason) = placements::claim(conn, to.target, &vm, &[]).await? {
        sqlx::query("ROLLBACK TO SAVEPOINT evacuate").execute(&mut *conn).await?;
        return Ok(Stepped::Full(reason));
    }
    let target: Option<String> = sqlx::query_scalar(
        "WITH claims AS (
            UPDATE host_claims h SET claimed_vms = claimed_vms - 1, claimed_cpus = h.claimed_cpus - p.claimed_cpus,
                claimed_memory_bytes = h.claimed_memory_bytes - p.claimed_memory_bytes
            FROM placements p WHERE p.vm_id = $1 AND h.host_id = p.host_id)
         UPDATE placements p SET host_id = t.id, host = t.name, epoch = p.epoch + 1, decided_at = $3, explanation = $4,
            claimed_cpus = $5, claimed_memory_bytes = $6
         FROM hosts t WHERE p.vm_id = $1 AND t.id = $2 AND t.deletion_requested_at IS NULL RETURNING p.host",
    )
    .bind(to.vm_id)
    .bind(to.target)
    .bind(change.now)
    .bind(Json(&to.explanation))
    .bind(vm.cpus)
    .bind(vm.memory_bytes)
    .fetch_optional(&mut *conn)
    .await?;
    let broken = match &target {
        Some(host) => placement_rules::broken(conn, to.vm_id, host).await?,
        None => None,
    };
    let Some(target) = target.filter(|_| broken.is_none()) else {
        sqlx::query("ROLLBACK TO SAVEPOINT evacuate").execute(&mut *conn).await?;
        return Ok(broken.map_or(Stepped::Stale, Stepped::Full));
    };
    for (volume, pool) in bind {
        placements::rebind(conn, volume, to.target, pool).await?;
    }
    let entry = vm.entry("vm.restart_elsewhere", to.vm_id);
    audit_events::write(conn, change, entry).await?;
    tracing::warn!(vm = %to.vm_id, from = %dead_name, host = %dead, to = %target, "the VM of a dead host is started elsewhere");
    Ok(Stepped::Done)
}
