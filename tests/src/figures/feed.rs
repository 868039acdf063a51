//! What the change feed's triggers cost writers.

use super::{Figure, Size, floor::pgbench, median};
use crate::oracles::psql;
use anyhow::Result;

const CONNECTIONS: usize = 32;

/// Inserts and updates of rows like a VM's, with the feed's triggers and without, in turns.
pub fn measure(owner_url: &str, size: &Size) -> Result<Vec<Figure>> {
    let make = |name: &str| {
        format!(
            "DROP TABLE IF EXISTS {name} CASCADE;
             CREATE TABLE {name} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, project_id uuid NOT NULL,
                name text NOT NULL, generation bigint NOT NULL, spec jsonb NOT NULL);"
        )
    };
    psql(owner_url, &make("plain_rows"))?;
    psql(owner_url, &make("watched_rows"))?;
    psql(owner_url, "SELECT feed_watch('watched_rows', 'r.id', 'r.tenant_id', 'r.project_id')")?;
    let spec = r#"{"cpus": 1, "memory_bytes": 268435456, "disks": [{"name": "root", "source": {"kind": "image", "image": "tiny"}}], "nics": [{"network": "lan"}]}"#;
    let script = |table: &str| {
        format!(
            "INSERT INTO {table} (tenant_id, project_id, name, generation, spec)
             VALUES ('00000000-0000-7000-8000-000000000001', '00000000-0000-7000-8000-000000000002', 'web', 1, '{spec}');\n"
        )
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
