//! Writing declared VMs: rows of six tables, the quota claim and the audit trail, in one statement however many they are.

use crate::{
    Error, Key, Result,
    error::refused,
    placement_rules,
    quotas::{self, Delta},
    row::{self, bigint, uuids},
    security_groups,
    vm_insert::{Draft, NewNic},
};
use basalt_model::{DateTime, ImageId, Labels, ProjectId};
use sqlx::{PgConnection, Row, types::Json};
use std::collections::HashMap;
use uuid::Uuid;

const WRITE: &str = "
WITH claim AS (
    UPDATE quotas SET used_vms = used_vms + $1, used_cpus = used_cpus + $2, used_memory_bytes = used_memory_bytes + $3,
        used_storage_bytes = used_storage_bytes + $4
    WHERE project_id = $5 AND used_vms + $1 <= max_vms AND used_cpus + $2 <= max_cpus
        AND used_memory_bytes + $3 <= max_memory_bytes AND used_storage_bytes + $4 <= max_storage_bytes
    RETURNING tenant_id, project_id
), held AS (
    SELECT hold_image(i.id) AS id FROM claim, unnest($6::uuid[]) i(id)
), nic AS (
    SELECT n.vm_id, n.ord, n.port_id, n.network_id, n.network, n.mac, n.address6, n.security_groups,
        claim_address(n.network_id, n.wanted::inet, $14::text[]::inet[]) AS address
    FROM claim, unnest($7::uuid[], $8::int[], $9::uuid[], $10::uuid[], $11::text[], $12::text[], $13::text[],
        $39::text[], $40::jsonb[])
        n(vm_id, ord, port_id, network_id, network, mac, wanted, address6, security_groups)
), asked AS (
    SELECT a.*, c.tenant_id, c.project_id FROM claim c, unnest($15::uuid[], $16::text[], $17::jsonb[],
        $18::timestamptz[], $19::jsonb[], $20::jsonb[], $21::uuid[], $22::timestamptz[], $23::jsonb[], $24::uuid[],
        $25::text[], $26::uuid[], $27::text[], $28::text[], $38::jsonb[])
        a(id, name, labels, at, spec, disks, task_id, deadline, actor, event_id, actor_kind, actor_id, actor_name,
            request_id, placement_rules)
), vm AS (
    INSERT INTO vms (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, incarnation,
        nics, disks, placement_rules)
    SELECT a.id, a.tenant_id, a.project_id, a.name, a.labels, 1, a.at, a.at, a.spec, 0,
        coalesce((SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('port_id', n.port_id,
            'network_id', n.network_id, 'network', n.network, 'mac', n.mac, 'address', host(n.address),
            'address6', n.address6, 'security_groups', n.security_groups)) ORDER BY n.ord)
            FROM nic n WHERE n.vm_id = a.id), '[]'), a.disks, a.placement_rules
    FROM asked a WHERE (SELECT count(h.id) FROM held h) >= 0
    RETURNING id, nics
), port AS (
    INSERT INTO ports (id, tenant_id, project_id, network_id, vm_id, nic_index, mac, address)
    SELECT n.port_id, c.tenant_id, c.project_id, n.network_id, n.vm_id, n.ord, n.mac, n.address FROM nic n, claim c
), used AS (
    INSERT INTO security_group_uses (group_id, tenant_id, project_id, vm_id)
    SELECT u.group_id, c.tenant_id, c.project_id, u.vm_id FROM claim c, unnest($41::uuid[], $42::uuid[]) u(group_id, vm_id)
), volume AS (
    INSERT INTO volumes (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, size_bytes,
        image_id, vm_id, owned, incarnation)
    SELECT v.id, c.tenant_id, c.project_id, v.name, '{}', 1, v.at, v.at, v.spec, v.size_bytes, v.image_id, v.vm_id, true,
        0
    FROM claim c, unnest($29::uuid[], $30::text[], $31::jsonb[], $32::bigint[], $33::uuid[], $34::uuid[],
        $35::timestamptz[]) v(id, name, spec, size_bytes, image_id, vm_id, at)
), attached AS (
    UPDATE volumes v SET vm_id = a.vm_id FROM unnest($36::uuid[], $37::uuid[]) a(id, vm_id)
    WHERE v.id = a.id AND num_nonnulls(v.vm_id, v.deletion_requested_at) = 0 AND EXISTS (SELECT FROM claim)
    RETURNING v.id
), task AS (
    INSERT INTO tasks (id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name, generation, state,
        progress, stage, depends_on, deadline, attempt, actor, created_at)
    SELECT a.task_id, a.tenant_id, a.project_id, 'vm_create', 'vm', a.id, a.name, 1, 'pending', 0, '', '{}', a.deadline,
        1, a.actor, a.at
    FROM asked a
), audit AS (
    INSERT INTO audit_events (id, at, tenant_id, project_id, actor_kind, actor_id, actor_name, action, subject_kind,
        subject_id, subject_name, request_id)
    SELECT a.event_id, a.at, a.tenant_id, a.project_id, a.actor_kind, a.actor_id, a.actor_name, 'vm.create', 'vm', a.id,
        a.name, a.request_id
    FROM asked a
)
SELECT vm.id, vm.nics, (SELECT count(*) FROM attached) AS attached FROM vm";

/// Writes VMs of one project: all or none.
pub(crate) async fn write(
    conn: &mut PgConnection,
    project: ProjectId,
    drafts: &mut [Draft<'_>],
) -> Result<()> {
    let asked = asked(drafts);
    let rows = bind(project, &asked, drafts).fetch_all(&mut *conn).await.map_err(|e| match drafts {
        [one] => words(e, one),
        _ => security_groups::went(e),
    })?;
    if rows.is_empty() {
        return Err(quotas::exceeded(conn, project, asked).await?);
    }
    let volumes: usize = drafts.iter().map(|d| d.disks.attached.len()).sum();
    let mut nics: HashMap<Uuid, _> = HashMap::new();
    for row in &rows {
        if usize::try_from(row.try_get::<i64, _>("attached")?).ok() != Some(volumes) {
            // Somebody took a volume between the two statements. The caller rolls back.
            tracing::debug!(%project, "a volume was taken while a VM was declared");
            return Err(Error::Conflict(sqlx::Error::RowNotFound));
        }
        nics.insert(row.try_get("id")?, row::json(row, "nics")?);
    }
    for draft in drafts {
        draft.vm.nics = nics.remove(&draft.id()).ok_or(sqlx::Error::RowNotFound)?;
    }
    Ok(())
}

fn asked(drafts: &[Draft<'_>]) -> Delta {
    let mut sum = Delta { vms: 0, cpus: 0, memory_bytes: 0, storage_bytes: 0 };
    for draft in drafts {
        let demand = draft.vm.spec.demand(draft.disks.bytes());
        sum.vms += 1;
        sum.cpus += i64::from(demand.cpus);
        sum.memory_bytes = sum.memory_bytes.saturating_add(bigint(demand.memory_bytes));
        sum.storage_bytes = sum.storage_bytes.saturating_add(bigint(demand.storage_bytes));
    }
    sum
}

type Statement<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(project: ProjectId, asked: &Delta, drafts: &'q [Draft<'_>]) -> Statement<'q> {
    let vms = || drafts.iter().map(|d| &d.vm);
    let changes = || drafts.iter().map(|d| d.change);
    let nics = || drafts.iter().flat_map(|d| d.nics.iter().enumerate().map(|(i, n)| (d.id(), i, n)));
    let volumes = || drafts.iter().flat_map(|d| d.disks.new.iter().map(move |v| (d, v)));
    let attached = || drafts.iter().flat_map(|d| d.disks.attached.iter().map(|v| (d.id(), v.0)));
    let mut held: Vec<ImageId> = drafts.iter().flat_map(|d| d.disks.held.iter().copied()).collect();
    held.sort_unstable();
    held.dedup();
    let uses = || drafts.iter().flat_map(|d| d.security_groups.iter().map(|g| (d.id(), g.0)));
    let wanted = |n: &NewNic| n.wanted.map(|a| a.to_string());
    sqlx::query(WRITE)
        .bind(asked.vms)
        .bind(asked.cpus)
        .bind(asked.memory_bytes)
        .bind(asked.storage_bytes)
        .bind(project)
        .bind(uuids(&held))
        .bind(nics().map(|(vm, ..)| vm).collect::<Vec<_>>())
        .bind(nics().map(|(_, i, _)| i32::try_from(i).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| n.port_id.0).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| n.network_id.0).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| n.network.as_str()).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| n.mac.as_str()).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| wanted(n)).collect::<Vec<_>>())
        .bind(nics().filter_map(|(.., n)| wanted(n)).collect::<Vec<_>>())
        .bind(vms().map(|v| v.metadata.id).collect::<Vec<_>>())
        .bind(vms().map(|v| v.metadata.name.as_str()).collect::<Vec<_>>())
        .bind(vms().map(|v| Json::<&Labels>(&v.metadata.labels)).collect::<Vec<_>>())
        .bind(changes().map(|c| c.now).collect::<Vec<DateTime>>())
        .bind(vms().map(|v| Json(&v.spec)).collect::<Vec<_>>())
        .bind(vms().map(|v| Json(&v.disks)).collect::<Vec<_>>())
        .bind(drafts.iter().map(|d| d.task.id.0).collect::<Vec<_>>())
        .bind(drafts.iter().map(|d| d.task.deadline).collect::<Vec<_>>())
        .bind(drafts.iter().map(|d| Json(&d.task.actor)).collect::<Vec<_>>())
        .bind(changes().map(|c| (c.ids)()).collect::<Vec<_>>())
        .bind(changes().map(|c| c.actor.kind.as_str()).collect::<Vec<_>>())
        .bind(changes().map(|c| c.actor.id).collect::<Vec<_>>())
        .bind(changes().map(|c| c.actor.name.as_str()).collect::<Vec<_>>())
        .bind(changes().map(|c| c.request_id.as_deref()).collect::<Vec<_>>())
        .bind(volumes().map(|(_, v)| v.id.0).collect::<Vec<_>>())
        .bind(volumes().map(|(_, v)| v.name.as_str()).collect::<Vec<_>>())
        .bind(volumes().map(|(_, v)| Json(&v.spec)).collect::<Vec<_>>())
        .bind(volumes().map(|(_, v)| bigint(v.spec.size_bytes)).collect::<Vec<_>>())
        .bind(volumes().map(|(_, v)| v.image_id.map(Uuid::from)).collect::<Vec<_>>())
        .bind(volumes().map(|(d, _)| d.id()).collect::<Vec<_>>())
        .bind(volumes().map(|(d, _)| d.change.now).collect::<Vec<_>>())
        .bind(attached().map(|(_, volume)| volume).collect::<Vec<_>>())
        .bind(attached().map(|(vm, _)| vm).collect::<Vec<_>>())
        .bind(vms().map(|v| placement_rules::column(&v.spec.placement)).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| n.address6.map(|a| a.to_string())).collect::<Vec<_>>())
        .bind(nics().map(|(.., n)| Json(&n.security_groups)).collect::<Vec<_>>())
        .bind(uses().map(|(_, group)| group).collect::<Vec<_>>())
        .bind(uses().map(|(vm, _)| vm).collect::<Vec<_>>())
}

/// What the database refused, in the words of the spec.
fn words(e: sqlx::Error, draft: &Draft<'_>) -> Error {
    let Draft { vm, disks, nics, .. } = draft;
    let Some((constraint, details)) = refused(&e) else { return e.into() };
    let about = details.detail().and_then(|d| Uuid::parse_str(d).ok());
    let nic = |of: &dyn Fn(&NewNic) -> bool| nics.iter().position(of).map(|i| (i, &nics[i]));
    let error = match constraint {
        "vms_name" => Some(Error::NameTaken { kind: "vm", name: vm.metadata.name.to_string() }),
        "volumes_name" => Some(Error::NameTaken {
            kind: "volume",
            name: disks.new.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(" or "),
        }),
        "vms_project" => vm.metadata.project_id.map(|p| Key::from(p).missing("project")),
        "subnet_exhausted" => nic(&|n| Some(n.network_id.0) == about && n.wanted.is_none()).map(|(i, n)| {
            Error::SubnetExhausted { network: n.network.clone(), field: format!("spec.nics[{i}].network") }
        }),
        "network_closed" => nic(&|n| Some(n.network_id.0) == about)
            .map(|(_, n)| Error::Deleting { kind: "network", name: n.network.to_string() }),
        "image_going" => about.map(|id| Error::Deleting { kind: "image", name: id.to_string() }),
        // Free addresses are found under the network's lock, so only a wanted one can be taken.
        "ports_address" => nic(&|n| n.wanted.is_some()).map(|(i, _)| {
            let all: Vec<&NewNic> = nics.iter().filter(|n| n.wanted.is_some()).collect();
            Error::AddressTaken {
                address: all
                    .iter()
                    .filter_map(|n| n.wanted)
                    .map(|a| a.to_string())
                    .collect::<Vec<_>>()
                    .join(" or "),
                network: all.iter().map(|n| n.network.as_str()).collect::<Vec<_>>().join(" or "),
                field: format!("spec.nics[{i}].address"),
            }
        }),
        _ => None,
    };
    error.unwrap_or_else(|| security_groups::went(e))
}
