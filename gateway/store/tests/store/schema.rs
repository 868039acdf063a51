//! The schema: frozen in `schema.sql`, the same from every start, and complete where completeness is a rule.

use basalt_store::{
    Error, Options, Store,
    feed::Table,
    testkit::{self, Database},
};
use sqlx::{Connection, Executor, PgConnection, Row};
use std::{collections::BTreeSet, fs, path::Path};

/// Everything that the migrations make, as statements in a stable order, from the catalog itself.
const CATALOG: &[(&str, &str)] = &[
    (
        "tables",
        "SELECT format('%s TABLE %s (%s)', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' ELSE 'LOGGED' END, c.relname,
            string_agg(format(E'\\n    %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
                CASE WHEN a.attidentity <> '' THEN ' GENERATED ALWAYS AS IDENTITY'
                     WHEN a.attgenerated <> '' THEN ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ')'
                     WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) ELSE '' END),
                ',' ORDER BY a.attnum) || E'\\n')
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> '_sqlx_migrations'
         GROUP BY c.relname, c.relpersistence ORDER BY c.relname",
    ),
    (
        "partitions",
        "SELECT format('TABLE %s PARTITION BY %s', partrelid::regclass, pg_get_partkeydef(partrelid))
         FROM pg_partitioned_table UNION ALL
         SELECT format('PARTITION %s OF %s %s', c.relname, i.inhparent::regclass, pg_get_expr(c.relpartbound, c.oid))
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r' ORDER BY 1",
    ),
    (
        "constraints",
        "SELECT format('CONSTRAINT %s ON %s %s', k.conname, k.conrelid::regclass, pg_get_constraintdef(k.oid))
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         WHERE k.connamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
         ORDER BY c.relname, k.conname",
    ),
    (
        "indexes",
        "SELECT indexdef FROM pg_indexes i WHERE schemaname = 'public' AND tablename <> '_sqlx_migrations'
            AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conname = i.indexname) ORDER BY tablename, indexname",
    ),
    (
        "sequences",
        "SELECT format('SEQUENCE %s AS %s MINVALUE %s MAXVALUE %s CYCLE %s', sequencename, data_type, min_value,
            max_value, cycle) FROM pg_sequences WHERE schemaname = 'public' ORDER BY sequencename",
    ),
    (
        "functions",
        "SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') ORDER BY p.proname",
    ),
    (
        "views",
        "SELECT format(E'VIEW %s WITH (%s) AS\\n%s', c.relname, array_to_string(c.reloptions, ', '), pg_get_viewdef(c.oid))
         FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v' ORDER BY c.relname",
    ),
    (
        "triggers",
        "SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT t.tgisinternal
         ORDER BY t.tgrelid::regclass::text, t.tgname",
    ),
    (
        "policies",
        "SELECT format('POLICY %s ON %s FOR %s TO %s USING (%s) WITH CHECK (%s)', policyname, tablename, cmd, roles, qual,
            with_check) FROM pg_policies WHERE schemaname = 'public' ORDER BY tablename, policyname",
    ),
    (
        "rights",
        "SELECT format('GRANT %s ON %s TO %s', string_agg(privilege_type, ', ' ORDER BY privilege_type), table_name, grantee)
         FROM information_schema.role_table_grants WHERE table_schema = 'public' AND grantee LIKE 'basalt\\_%'
            AND grantee <> 'basalt_owner' GROUP BY table_name, grantee ORDER BY table_name, grantee",
    ),
];

async fn catalog(url: &str) -> String {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let mut out = String::from(
        "-- Generated from the catalog of a freshly migrated database; BASALT_BLESS=1 writes it anew.\n",
    );
    for (title, query) in CATALOG {
        out.push_str(&format!("\n-- {title}\n\n"));
        for row in sqlx::query(*query).fetch_all(&mut conn).await.unwrap() {
            let statement: String = row.get(0);
            out.push_str(statement.trim_end());
            out.push_str(";\n");
        }
    }
    out
}

#[tokio::test]
async fn the_schema_is_the_one_that_is_checked_in() {
    let url = testkit::empty_database().await;
    Store::migrate(&url).await.unwrap();
    let found = catalog(&url).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.sql");
    if std::env::var_os("BASALT_BLESS").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let frozen = fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(frozen.lines()).find(|(a, b)| a != b);
    assert!(found == frozen, "schema.sql differs, first at {differs:?}; look, then run with BASALT_BLESS=1");
}

#[tokio::test]
async fn migrations_run_at_once_and_again_without_harm() {
    let url = testkit::empty_database().await;
    let all = futures::future::join_all((0..4).map(|_| Store::migrate(&url))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    Store::migrate(&url).await.unwrap();
    let store =
        Store::connect(&url.replace("user=postgres", "user=basalt_gateway"), Options::default()).await;
    store.unwrap().ready().await.unwrap();
}

#[tokio::test]
async fn a_database_with_another_schema_is_not_ready() {
    let db = Database::new().await;
    db.store.ready().await.unwrap();
    let mut admin = db.superuser().await;
    admin
        .execute("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
        .await
        .unwrap();
    assert!(matches!(db.store.ready().await.unwrap_err(), Error::SchemaMismatch { .. }));
}

#[tokio::test]
async fn an_unreachable_database_is_unavailable() {
    let e = Store::connect("postgres:///x?host=/nonexistent&user=x", Options::default()).await.err().unwrap();
    assert!(matches!(e, Error::Unavailable(_)), "{e:?}");
}

#[tokio::test]
async fn connections_that_died_while_idle_are_replaced_unnoticed() {
    let db = Database::new().await;
    // All of the pool's connections at once, so that all of them are idle afterwards.
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(db.store.system_read().await.unwrap());
    }
    drop(open);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut admin = db.superuser().await;
    let killed = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = 'basalt_gateway'",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert_eq!(killed.len(), 8);
    drop(db.store.system_read().await.unwrap());
}

#[tokio::test]
async fn p15_r28_every_watched_table_has_its_four_triggers_and_no_other_table_has_any() {
    let db = Database::new().await;
    let mut admin = db.superuser().await;
    let rows = sqlx::query(
        "SELECT tgrelid::regclass::text AS source, array_agg(tgname::text ORDER BY tgname) AS triggers
         FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'O' AND tgname LIKE 'feed%' GROUP BY 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let mut found = BTreeSet::new();
    for row in rows {
        let (source, triggers): (String, Vec<String>) = (row.get("source"), row.get("triggers"));
        assert_eq!(triggers, ["feed_delete", "feed_insert", "feed_truncate", "feed_update"], "{source}");
        found.insert(source);
    }
    let watched: BTreeSet<String> = Table::ALL.iter().map(|t| t.name().to_string()).collect();
    assert_eq!(found, watched);
    // What is left out is left out on purpose: a new table must be put on one of the two lists.
    let all: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition
         AND relname <> '_sqlx_migrations' ORDER BY 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let unwatched: Vec<_> = all.iter().filter(|t| !watched.contains(*t)).map(String::as_str).collect();
    assert_eq!(
        unwatched,
        [
            "address_cursors",
            "audit_events",
            "change_log",
            "deployment_attempts",
            "discovery_runs",
            "feed_cursors",
            "feed_retention",
            "first_boot_tokens",
            "host_heartbeats",
            "host_leases",
            "host_links",
            "host_logs",
            "idempotency_keys",
            "image_events",
            "join_tokens",
            "leases",
            "ports",
            "quotas",
            "reconcile_events",
            "role_bindings",
            "router_interfaces",
            "router_vms",
            "security_group_uses",
            "service_tokens",
            "task_logs",
            "task_work",
            "tasks_finished",
            "transfers",
            "users"
        ]
    );
}
