//! What the change feed's triggers cost writers.

use super::{Figure, Size, floor::pgbench, median};
use crate::oracles::psql;
use anyhow::Result;

const CONNECTIONS: usize = 32;

/// Inserts of rows like a VM's into tables like the VMs', with the feed's triggers and without, in turns.
pub fn measure(owner_url: &str, size: &Size) -> Result<Vec<Figure>> {
    for name in ["plain_rows", "watched_rows"] {
        let make = "(LIKE public.vms INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)";
        psql(owner_url, &format!("DROP TABLE IF EXISTS {name} CASCADE; CREATE TABLE {name} {make}"))?;
    }
    psql(owner_url, "SELECT feed_watch('watched_rows', 'r.id', 'r.tenant_id', 'r.project_id')")?;
    let spec = crate::api::vm("web", serde_json::json!({}))["spec"].to_string();
    let script = |table: &str| {
        format!(
            "INSERT INTO {table} (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, incarnation, nics, disks)
             SELECT gen_random_uuid(), '00000000-0000-7000-8000-000000000001', '00000000-0000-7000-8000-000000000002',
                gen_random_uuid()::text, '{{}}', 1, now(), now(), '{spec}', 0, '[]', '[]';\n"
        )
        .replace("\n    ", " ")
    };
    let (mut plain, mut watched) = (vec![], vec![]);
    for _ in 0..size.runs.max(3) {
        plain.push(pgbench(owner_url, &script("plain_rows"), CONNECTIONS, size.seconds)?.rate);
        watched.push(pgbench(owner_url, &script("watched_rows"), CONNECTIONS, size.seconds)?.rate);
    }
    for table in ["plain_rows", "watched_rows"] {
        psql(owner_url, &format!("DROP TABLE {table} CASCADE"))?;
    }
    psql(owner_url, "DELETE FROM change_log WHERE source = 'watched_rows'")?;
    let (plain, watched) = (median(plain), median(watched));
    let share = 100.0 * watched / plain;
    Ok(vec![
        Figure::new(format!("writes with the feed, {CONNECTIONS} connections"), format!("{watched:.0}/s"))
            .target("≥ 80 % of without", share >= 80.0)
            .floor(format!("{plain:.0}/s without: {share:.0} %")),
    ])
}
