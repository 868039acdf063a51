//! Floors: what PostgreSQL itself does with the same rows on this machine, by pgbench, in the same run.

use crate::oracles::psql;
use anyhow::{Context, Result, bail};
use std::{io::Write, process::Command};

/// PostgreSQL's own load generator.
pub const PGBENCH: &str = "/usr/lib/postgresql/15/bin/pgbench";

/// What pgbench came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Floor {
    /// Transactions a second.
    pub rate: f64,
    /// Mean latency in milliseconds.
    pub latency_ms: f64,
}

/// Runs a script over so many connections.
pub fn pgbench(owner_url: &str, script: &str, connections: usize, seconds: u64) -> Result<Floor> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(script.as_bytes())?;
    let mut command = Command::new(PGBENCH);
    command.args(["--no-vacuum", "--protocol=prepared", "--jobs=2"]);
    command.arg(format!("--client={connections}")).arg(format!("--time={seconds}"));
    command.arg("--file").arg(file.path()).arg(owner_url);
    let output = command.output().with_context(|| format!("{PGBENCH} cannot be started"))?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("pgbench: {errors}");
    }
    let number = |key: &str| -> Option<f64> {
        let line = text.lines().find(|l| l.starts_with(key))?;
        line.split(['=']).nth(1)?.split_whitespace().next()?.parse().ok()
    };
    Ok(Floor {
        rate: number("tps").with_context(|| format!("no tps in {text}"))?,
        latency_ms: number("latency average").unwrap_or_default(),
    })
}

/// Makes tables like those that one create writes, with their indexes and without anything else, and a
/// template row of each; gives the script that writes one create's rows in one statement.
pub fn create_script(owner_url: &str) -> Result<String> {
    let tables = ["vms", "volumes", "ports", "tasks", "audit_events"];
    let mut sql = "DROP SCHEMA IF EXISTS floor CASCADE; CREATE SCHEMA floor;\n".to_owned();
    for table in tables {
        sql += &format!(
            "CREATE TABLE floor.{table} (LIKE public.{table} INCLUDING DEFAULTS INCLUDING INDEXES);
             CREATE TABLE floor.{table}_template AS SELECT * FROM {} LIMIT 1;\n",
            match table {
                "tasks" =>
                    "(TABLE public.tasks UNION ALL TABLE public.tasks_finished) t WHERE kind = 'vm_create'"
                        .to_owned(),
                _ => format!("public.{table}"),
            }
        );
    }
    sql += "CREATE TABLE floor.quotas AS SELECT * FROM public.quotas; ALTER TABLE floor.quotas ADD PRIMARY KEY (project_id);
            CREATE TABLE floor.cursors AS SELECT * FROM public.address_cursors; ALTER TABLE floor.cursors ADD PRIMARY KEY (network_id);
            CREATE TABLE floor.change_log (LIKE public.change_log INCLUDING INDEXES);";
    psql(owner_url, &sql)?;
    let mut parts = vec![
        "quota AS (UPDATE floor.quotas SET used_vms = used_vms + 1 RETURNING project_id)".to_owned(),
        "address AS (UPDATE floor.cursors SET used = used + 1 RETURNING network_id)".to_owned(),
        "log AS (INSERT INTO floor.change_log (xid, seq, source, key, op) SELECT pg_current_xact_id(), n, 'vms', gen_random_uuid()::text, 'insert'
            FROM generate_series(1, 3) n)".to_owned(),
    ];
    for table in tables {
        let columns = psql(owner_url, &format!(
            "SELECT attname || ' ' || format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'floor.{table}'::regclass
             AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"))?;
        let names: Vec<_> = columns.iter().filter_map(|c| c.split(' ').next()).collect();
        let values: Vec<_> = names
            .iter()
            .map(|name| match *name {
                "id" | "vm_id" | "subject_id" => "gen_random_uuid()".to_owned(),
                "name" | "mac" => "gen_random_uuid()::text".to_owned(),
                "address" => "('10.0.0.0'::inet + (random() * 4000000000)::bigint % 16000000)".to_owned(),
                "network_id" => "gen_random_uuid()".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        parts.push(format!(
            "{table} AS (INSERT INTO floor.{table} ({}) SELECT {} FROM floor.{table}_template)",
            names.join(", "),
            values.join(", ")
        ));
    }
    Ok(format!("WITH {}\nSELECT count(*) FROM quota;\n", parts.join(",\n")).replace(";\n\n", ";\n"))
}

/// Scripts that read a VM: by its key as superuser, and with everything that a request's transaction has (role,
/// tenant, row level security, the joins of the view) but the program around it; and a page of a hundred rows.
pub struct Reads {
    /// One row by its key.
    pub bare: String,
    /// The same transaction.
    pub whole: String,
    /// A hundred rows.
    pub page: String,
}

/// Numbers the VMs, so that a script can pick one at random.
pub fn read_scripts(owner_url: &str) -> Result<Reads> {
    psql(
        owner_url,
        "CREATE SCHEMA IF NOT EXISTS floor; DROP TABLE IF EXISTS floor.ids;
         CREATE TABLE floor.ids AS SELECT row_number() OVER () AS n, id FROM public.vms;
         ALTER TABLE floor.ids ADD PRIMARY KEY (n); ANALYZE; GRANT USAGE ON SCHEMA floor TO basalt_tenant;
         GRANT SELECT ON floor.ids TO basalt_tenant",
    )?;
    let rows = crate::oracles::count(owner_url, "SELECT count(*) FROM floor.ids")?;
    let tenant = psql(owner_url, "SELECT tenant_id FROM public.vms LIMIT 1")?;
    let tenant = tenant.first().context("there are VMs")?;
    let pick = format!("\\set n random(1, {rows})\n");
    let begin = format!(
        "\\startpipeline\nBEGIN READ ONLY;\nSET LOCAL ROLE basalt_tenant;\nSET LOCAL app.tenant = '{tenant}';\n\\endpipeline\n"
    );
    let one = "FROM floor.ids i JOIN public.vms v ON v.id = i.id";
    let joined =
        "LEFT JOIN public.placements p ON p.vm_id = v.id LEFT JOIN public.vm_observed o ON o.vm_id = v.id
        LEFT JOIN public.conditions c ON c.subject_id = v.id"
            .replace('\n', " ");
    Ok(Reads {
        bare: format!("{pick}SELECT v.* {one} WHERE i.n = :n;\n"),
        whole: format!(
            "{pick}{begin}SELECT v.*, p.host_id, p.epoch, o.observed, c.conditions {one} {joined} WHERE i.n = :n;\nROLLBACK;\n"
        ),
        page: format!(
            "{pick}SELECT v.* FROM public.vms v WHERE v.id > (SELECT id FROM floor.ids WHERE n = :n) ORDER BY v.id LIMIT 100;\n"
        ),
    })
}
