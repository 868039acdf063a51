//! Reports: what agents saw, taken in once, in order, and only where it belongs to what was asked of them.

use crate::{Ids, Result, SystemTx, hosts, pools, row};
use basalt_model::{
    CapabilityReason, DateTime, Epoch, Generation, HostId,
    hosts::HostFacts,
    vms::{ObservedPower, VmObserved},
    volumes::{VolumeObserved, VolumeState},
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row, types::Json};
use uuid::Uuid;

/// What a host says.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Made anew with every start of the agent.
    pub agent_boot: Uuid,
    /// Counts the reports of this start, from 1.
    pub sequence: i64,
    /// The revision of the manifest that the agent acts on.
    pub manifest_revision: Option<i64>,
    /// Why the newest manifest was refused whole.
    pub manifest_refused: Option<CapabilityReason>,
    /// The host's facts, when they changed.
    pub facts: Option<HostFacts>,
    /// Items whose facts changed.
    pub items: Vec<ItemFact>,
}

/// What was seen of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemFact {
    /// `security_group`, `network`, `image`, `volume`, `vm` or `router`.
    pub kind: String,
    /// The object's id.
    pub id: Uuid,
    /// The generation that the host now realises.
    pub generation: Generation,
    /// The epoch that was acted on.
    pub epoch: Epoch,
    /// What was seen.
    pub seen: Seen,
    /// What is going on.
    pub stage: String,
}

/// What was seen of an item. Kept in the form in which the agent sent it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Seen {
    /// Nothing of it is left.
    Gone,
    /// A VM.
    Vm(Box<VmObserved>),
    /// A volume.
    Volume(VolumeObserved),
    /// An image in the cache.
    Image {
        /// Whether it can be used.
        ready: bool,
        /// Why it cannot be had.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
    /// A network.
    Network {
        /// Whether it stands.
        ready: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
    /// A security group.
    SecurityGroup {
        /// Whether its rules are in the flows.
        ready: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
    /// A router.
    Router {
        /// Whether it stands.
        ready: bool,
        /// Whether it is the one that routes.
        active: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `false`: it came too late and was dropped.
    pub accepted: bool,
    /// It was dropped because another start of the agent followed the one that sent it.
    pub followed: bool,
    /// The agent must say everything again.
    pub send_full: bool,
}

/// Takes a report in. It is also a sign of life. What says the same as before is not written.
pub async fn apply(
    tx: &mut SystemTx,
    host: HostId,
    report: &Report,
    ids: &Ids,
    now: DateTime,
) -> Result<Applied> {
    let applied = link(tx.conn(), host, report).await?;
    hosts::beat(tx, &[(host, now)]).await?;
    if !applied.accepted {
        return Ok(applied);
    }
    let conn = tx.conn();
    if let Some(facts) = &report.facts {
        write_facts(conn, host, facts, now).await?;
        pools::observe(conn, host, &facts.pools, ids, now).await?;
    }
    let late = late_goodbyes(conn, host, report).await?;
    let items: Vec<&ItemFact> = report.items.iter().filter(|i| !late.contains(&i.id)).collect();
    if !items.is_empty() {
        write_items(conn, host, &items, now).await?;
        write_vms(conn, host, &items, now).await?;
        write_volumes(conn, host, &items, now).await?;
    }
    Ok(Applied { accepted: true, followed: false, send_full: applied.send_full || !late.is_empty() })
}

/// Decides whether the report is news: of one start they count up, and a start that was followed by another
/// says nothing any more. Starts are named in their order, so one that was never heard of is known as the older one, too:
/// its report was late, and taking it would fence the agent that runs.
async fn link(conn: &mut PgConnection, host: HostId, report: &Report) -> Result<Applied> {
    let row = sqlx::query(
        "SELECT agent_boot, sequence, send_full, $2 = ANY(former_boots) AS former FROM host_links
         WHERE host_id = $1 FOR UPDATE",
    )
    .bind(host)
    .bind(report.agent_boot)
    .fetch_optional(&mut *conn)
    .await?;
    let mut send_full = report.sequence != 1;
    if let Some(row) = row {
        let counts: Uuid = row.try_get("agent_boot")?;
        let same = counts == report.agent_boot;
        let late = same && report.sequence <= row.try_get::<i64, _>("sequence")?;
        let older = report.agent_boot < counts || row.try_get::<bool, _>("former")?;
        let followed = !same && older;
        if late || followed {
            return Ok(Applied { accepted: false, followed, send_full: false });
        }
        if same {
            send_full = row.try_get("send_full")?;
        }
    }
    sqlx::query(
        "INSERT INTO host_links AS l (host_id, agent_boot, sequence, manifest_revision, manifest_refused)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (host_id) DO UPDATE SET agent_boot = $2, sequence = $3, send_full = false,
            manifest_revision = $4, manifest_refused = $5,
            former_boots = CASE WHEN l.agent_boot = $2 THEN l.former_boots
                ELSE (ARRAY[l.agent_boot] || l.former_boots)[1:16] END",
    )
    .bind(host)
    .bind(report.agent_boot)
    .bind(report.sequence)
    .bind(report.manifest_revision)
    .bind(report.manifest_refused.as_ref().map(Json))
    .execute(conn)
    .await?;
    Ok(Applied { accepted: true, followed: false, send_full })
}

async fn write_facts(conn: &mut PgConnection, host: HostId, facts: &HostFacts, now: DateTime) -> Result<()> {
    sqlx::query(
        "INSERT INTO host_facts AS f (host_id, facts, reported_at) VALUES ($1, $2, $3)
         ON CONFLICT (host_id) DO UPDATE SET facts = $2, reported_at = $3 WHERE f.facts IS DISTINCT FROM $2",
    )
    .bind(host)
    .bind(Json(facts))
    .bind(now)
    .execute(&mut *conn)
    .await?;
    hosts::set_limits(conn, host).await
}

/// Items that the report calls gone and the manifest has again since: said about what was asked before.
async fn late_goodbyes(conn: &mut PgConnection, host: HostId, report: &Report) -> Result<Vec<Uuid>> {
    let gone: Vec<Uuid> = report.items.iter().filter(|i| i.seen == Seen::Gone).map(|i| i.id).collect();
    if gone.is_empty() {
        return Ok(gone);
    }
    let late = sqlx::query_scalar(
        "SELECT id FROM manifest_items WHERE host_id = $1 AND id = ANY($2) AND present AND revision > $3",
    )
    .bind(host)
    .bind(gone)
    .bind(report.manifest_revision.unwrap_or(0))
    .fetch_all(conn)
    .await?;
    Ok(late)
}

/// Each item is looked up by its own key (so says the `LIMIT`, here and below): joined, the server may read all that the
/// host has.
async fn write_items(
    conn: &mut PgConnection,
    host: HostId,
    items: &[&ItemFact],
    now: DateTime,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO manifest_facts AS f (host_id, kind, id, generation, epoch, gone, observed, stage, reported_at)
         SELECT $1, n.kind, n.id, n.generation, n.epoch, n.gone, n.observed, n.stage, $9
         FROM unnest($2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bool[], $7::jsonb[], $8::text[])
            n(kind, id, generation, epoch, gone, observed, stage)
         CROSS JOIN LATERAL
            (SELECT FROM manifest_items WHERE host_id = $1 AND kind = n.kind AND id = n.id LIMIT 1) asked_for
         ON CONFLICT (host_id, kind, id) DO UPDATE SET generation = excluded.generation, epoch = excluded.epoch,
            gone = excluded.gone, observed = excluded.observed, stage = excluded.stage, reported_at = $9
         WHERE excluded.epoch >= f.epoch AND (f.generation, f.epoch, f.gone, f.observed, f.stage)
            IS DISTINCT FROM (excluded.generation, excluded.epoch, excluded.gone, excluded.observed, excluded.stage)",
    )
    .bind(host)
    .bind(items.iter().map(|i| i.kind.as_str()).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.id).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.generation.0).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.epoch.0).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.seen == Seen::Gone).collect::<Vec<_>>())
    .bind(items.iter().map(|i| Json(&i.seen)).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.stage.as_str()).collect::<Vec<_>>())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Facts of VMs count only from the host and the epoch that they are placed at now.
async fn write_vms(conn: &mut PgConnection, host: HostId, items: &[&ItemFact], now: DateTime) -> Result<()> {
    let seen = |i: &&ItemFact| match &i.seen {
        Seen::Vm(observed) => Some((i.id, i.generation.0, i.epoch.0, (**observed).clone(), i.stage.clone())),
        Seen::Gone if i.kind == "vm" => {
            let observed = VmObserved { power: ObservedPower::Absent, ..VmObserved::default() };
            Some((i.id, i.generation.0, i.epoch.0, observed, i.stage.clone()))
        }
        _ => None,
    };
    let mut vms: Vec<_> = items.iter().filter_map(seen).collect();
    if vms.is_empty() {
        return Ok(());
    }
    for vm in &mut vms {
        vm.3.host_id = Some(host);
    }
    sqlx::query(
        "INSERT INTO vm_observed AS o (vm_id, tenant_id, project_id, host_id, epoch, observed_generation, observed, stage,
            reported_at)
         SELECT p.vm_id, p.tenant_id, p.project_id, $1, p.epoch, n.generation, n.observed, n.stage, $7
         FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::jsonb[], $6::text[])
            n(id, generation, epoch, observed, stage)
         CROSS JOIN LATERAL (SELECT * FROM placements WHERE vm_id = n.id LIMIT 1) p
         WHERE p.host_id = $1 AND p.epoch = n.epoch
         ON CONFLICT (vm_id) DO UPDATE SET host_id = excluded.host_id, epoch = excluded.epoch,
            observed_generation = excluded.observed_generation, observed = excluded.observed, stage = excluded.stage,
            reported_at = excluded.reported_at
         WHERE (o.host_id, o.epoch, o.observed_generation, o.observed::text, o.stage) IS DISTINCT FROM
            (excluded.host_id, excluded.epoch, excluded.observed_generation, excluded.observed::text, excluded.stage)",
    )
    .bind(host)
    .bind(vms.iter().map(|v| v.0).collect::<Vec<_>>())
    .bind(vms.iter().map(|v| v.1).collect::<Vec<_>>())
    .bind(vms.iter().map(|v| v.2).collect::<Vec<_>>())
    .bind(vms.iter().map(|v| Json(&v.3)).collect::<Vec<_>>())
    .bind(vms.iter().map(|v| v.4.as_str()).collect::<Vec<_>>())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Facts of volumes count only from the host that they are bound to.
async fn write_volumes(
    conn: &mut PgConnection,
    host: HostId,
    items: &[&ItemFact],
    now: DateTime,
) -> Result<()> {
    let seen = |i: &&ItemFact| match &i.seen {
        Seen::Volume(observed) => Some((i.id, i.generation.0, observed.clone(), i.stage.clone())),
        Seen::Gone if i.kind == "volume" => {
            let observed = VolumeObserved { state: VolumeState::Absent, ..VolumeObserved::default() };
            Some((i.id, i.generation.0, observed, i.stage.clone()))
        }
        _ => None,
    };
    let volumes: Vec<_> = items.iter().filter_map(seen).collect();
    if volumes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO volume_observed AS o (volume_id, tenant_id, project_id, host_id, observed_generation, observed,
            stage, reported_at)
         SELECT v.id, v.tenant_id, v.project_id, $1, n.generation, n.observed, n.stage, $6
         FROM unnest($2::uuid[], $3::bigint[], $4::jsonb[], $5::text[]) n(id, generation, observed, stage)
         CROSS JOIN LATERAL (SELECT * FROM volumes WHERE id = n.id LIMIT 1) v
         WHERE v.host_id = $1
         ON CONFLICT (volume_id) DO UPDATE SET host_id = excluded.host_id,
            observed_generation = excluded.observed_generation, observed = excluded.observed, stage = excluded.stage,
            reported_at = excluded.reported_at
         WHERE (o.host_id, o.observed_generation, o.observed, o.stage) IS DISTINCT FROM
            (excluded.host_id, excluded.observed_generation, excluded.observed, excluded.stage)",
    )
    .bind(host)
    .bind(volumes.iter().map(|v| v.0).collect::<Vec<_>>())
    .bind(volumes.iter().map(|v| v.1).collect::<Vec<_>>())
    .bind(volumes.iter().map(|v| Json(&v.2)).collect::<Vec<_>>())
    .bind(volumes.iter().map(|v| v.3.as_str()).collect::<Vec<_>>())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Which revision of its manifest a host acts on, and why it refused a newer one.
pub async fn manifest_state(
    tx: &mut SystemTx,
    host: HostId,
) -> Result<Option<(Option<i64>, Option<CapabilityReason>)>> {
    let row = sqlx::query("SELECT manifest_revision, manifest_refused FROM host_links WHERE host_id = $1")
        .bind(host)
        .fetch_optional(tx.conn())
        .await?;
    row.map(|row| Ok((row.try_get("manifest_revision")?, row::json_option(&row, "manifest_refused")?)))
        .transpose()
}
