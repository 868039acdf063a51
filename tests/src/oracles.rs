//! What must be so after every scenario, counted anew from the rows by the database itself.
//!
//! `sqlx` lives in the store alone, and an oracle that used the store's own functions would share
//! their mistakes: `psql` asks instead.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// Each query names what must not be; a row is a finding.
pub(crate) const QUERIES: &[(&str, &str)] = &[
    (
        "a VM without its create task",
        "SELECT name FROM vms v WHERE NOT EXISTS (SELECT FROM (SELECT * FROM tasks UNION ALL SELECT * FROM tasks_finished) t WHERE t.subject_id = v.id
           AND t.kind IN ('vm_create', 'vm_adopt'))",
    ),
    (
        "a VM without its create in the audit trail, or with two",
        "SELECT name FROM vms v WHERE 1 <> (SELECT count(*) FROM audit_events a WHERE a.subject_id = v.id
           AND a.action IN ('vm.create', 'vm.adopt'))",
    ),
    (
        "a create task or audit row without its VM, when nothing deleted it",
        "SELECT subject_name FROM audit_events a WHERE action IN ('vm.create', 'vm.adopt') AND NOT EXISTS (SELECT FROM vms v WHERE v.id = a.subject_id)
           AND NOT EXISTS (SELECT FROM audit_events d WHERE d.subject_id = a.subject_id AND d.action = 'vm.delete')
           AND NOT EXISTS (SELECT FROM audit_events d JOIN (SELECT * FROM tasks UNION ALL SELECT * FROM tasks_finished) t ON t.id = d.subject_id WHERE t.subject_id = a.subject_id AND d.action = 'task.cancel')",
    ),
    (
        "a VM with another number of ports or volumes than it declares",
        "SELECT name FROM vms v WHERE json_array_length(spec->'nics') <> (SELECT count(*) FROM ports p WHERE p.vm_id = v.id)
            OR json_array_length(spec->'disks') <> (SELECT count(*) FROM volumes d WHERE d.vm_id = v.id)
               + (SELECT count(*) FROM json_array_elements(v.spec->'disks') e WHERE e->'source'->>'kind' = 'iso')",
    ),
    (
        "a quota that is not the sum of what is there",
        "SELECT p.name, q.used_vms, q.used_cpus, q.used_memory_bytes, q.used_storage_bytes, s.* FROM quotas q JOIN projects p ON p.id = q.project_id,
           LATERAL (SELECT count(*) AS vms, coalesce(sum((spec->>'cpus')::bigint), 0) AS cpus, coalesce(sum((spec->>'memory_bytes')::bigint), 0) AS memory,
             (SELECT coalesce(sum(size_bytes), 0) FROM volumes d WHERE d.project_id = p.id) AS storage FROM vms v WHERE v.project_id = p.id) s
         WHERE (q.used_vms, q.used_cpus, q.used_memory_bytes, q.used_storage_bytes) IS DISTINCT FROM (s.vms, s.cpus, s.memory, s.storage)",
    ),
    (
        "a host's claim that is not the sum of its placements",
        "SELECT h.name, c.claimed_vms, c.claimed_cpus, c.claimed_memory_bytes, s.* FROM host_claims c JOIN hosts h ON h.id = c.host_id,
           LATERAL (SELECT count(*) AS vms, coalesce(sum((v.spec->>'cpus')::bigint), 0) AS cpus, coalesce(sum((v.spec->>'memory_bytes')::bigint), 0) AS memory
             FROM placements p JOIN vms v ON v.id = p.vm_id WHERE p.host_id = h.id) s
         WHERE (c.claimed_vms, c.claimed_cpus, c.claimed_memory_bytes) IS DISTINCT FROM (s.vms, s.cpus, s.memory)",
    ),
    (
        "a host that promised more than it has",
        "SELECT host_id FROM host_claims WHERE claimed_cpus > max_cpus OR claimed_memory_bytes > max_memory_bytes",
    ),
    (
        "a pool's claim that is not the sum of its volumes",
        "SELECT l.name, l.claimed_bytes, s.* FROM pools l, LATERAL (SELECT coalesce(sum(size_bytes), 0) AS bytes FROM volumes v
           WHERE v.host_id = l.host_id AND v.pool = l.name) s WHERE l.claimed_bytes <> s.bytes",
    ),
    (
        "an address count that is not the number of ports",
        "SELECT c.network_id, c.used FROM address_cursors c WHERE c.used <> (SELECT count(*) FROM ports p WHERE p.network_id = c.network_id)",
    ),
    (
        "a VM that two hosts are told to have",
        "SELECT id FROM manifest_items WHERE kind = 'vm' AND present GROUP BY id HAVING count(*) > 1",
    ),
    (
        "a task that ended without a time, or has one and did not end",
        "SELECT id, state FROM (SELECT * FROM tasks UNION ALL SELECT * FROM tasks_finished) t WHERE (finished_at IS NOT NULL) <> (state IN ('completed', 'failed', 'timed_out', 'cancelled'))",
    ),
];

/// Asks PostgreSQL as the schema's owner; columns are parted by `|`.
pub fn psql(owner_url: &str, sql: &str) -> Result<Vec<String>> {
    let mut command = Command::new("/usr/lib/postgresql/15/bin/psql");
    command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--set=ON_ERROR_STOP=1"]);
    let output = command.args(["--command", sql, owner_url]).output().context("psql cannot be started")?;
    if !output.status.success() {
        bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|l| !l.is_empty()).map(str::to_owned).collect())
}

/// One number.
pub fn count(owner_url: &str, sql: &str) -> Result<i64> {
    let lines = psql(owner_url, sql)?;
    lines.first().with_context(|| format!("{sql}: no row"))?.parse().context(sql.to_owned())
}

/// Every finding of every oracle; empty when all is well.
pub fn findings(owner_url: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, sql) in QUERIES {
        for row in psql(owner_url, sql)? {
            found.push(format!("{what}: {row}"));
        }
    }
    Ok(found)
}

/// As [`findings`], in a transaction that does harm first and is rolled back.
pub fn findings_after(owner_url: &str, harm: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, sql) in QUERIES {
        let rows = psql(owner_url, &format!("BEGIN; {harm}; {sql}; ROLLBACK"))?;
        found.extend(rows.into_iter().map(|row| format!("{what}: {row}")));
    }
    Ok(found)
}

/// What is left in the database of VMs that are gone.
pub fn leftovers(owner_url: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for table in ["vms", "ports", "volumes", "placements", "vm_observed", "volume_observed", "manifest_items"]
    {
        let filter = if table == "manifest_items" { " WHERE kind IN ('vm', 'volume')" } else { "" };
        let n = count(owner_url, &format!("SELECT count(*) FROM {table}{filter}"))?;
        if n != 0 {
            found.push(format!("{n} rows in {table}"));
        }
    }
    Ok(found)
}
