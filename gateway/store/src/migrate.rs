//! Roles and migrations, run before the gateway's own login is used.

use crate::Result;
use sqlx::{Connection, Executor, PgConnection, migrate::Migrator};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Roles belong to the whole cluster: two gateways, or two test databases, may make them at the same time.
/// Only what is missing is made, so that an owner without the right to make roles can migrate a cluster
/// that its administrator prepared.
const ROLES: &str = r"
DO $$
DECLARE
    statement text;
    login text := 'basalt_gateway';
BEGIN
    PERFORM pg_advisory_xact_lock(4722631);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'basalt_owner') THEN
        CREATE ROLE basalt_owner NOLOGIN NOSUPERUSER NOBYPASSRLS;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'basalt_tenant') THEN
        CREATE ROLE basalt_tenant NOLOGIN NOSUPERUSER NOBYPASSRLS;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'basalt_system') THEN
        CREATE ROLE basalt_system NOLOGIN NOSUPERUSER NOBYPASSRLS;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
        CREATE ROLE basalt_gateway LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS;
        ALTER ROLE basalt_gateway SET statement_timeout = '30s';
        ALTER ROLE basalt_gateway SET idle_in_transaction_session_timeout = '15s';
        ALTER ROLE basalt_gateway SET lock_timeout = '10s';
    END IF;
    FOREACH statement IN ARRAY ARRAY['basalt_tenant', 'basalt_system'] LOOP
        IF NOT pg_has_role(login, statement, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', statement, login);
        END IF;
    END LOOP;
    IF NOT has_schema_privilege('basalt_owner', 'public', 'CREATE') THEN
        GRANT USAGE, CREATE ON SCHEMA public TO basalt_owner;
    END IF;
    IF NOT has_database_privilege('basalt_owner', current_database(), 'CREATE') THEN
        EXECUTE format('GRANT CREATE ON DATABASE %I TO basalt_owner', current_database());
    END IF;
END $$;
";

pub(crate) async fn run(owner_url: &str) -> Result<()> {
    let mut conn = PgConnection::connect(owner_url).await?;
    make_roles(&mut conn).await?;
    // The objects belong to the owner even when a superuser runs this.
    conn.execute("SET ROLE basalt_owner").await?;
    MIGRATIONS.run(&mut conn).await?;
    conn.close().await?;
    Ok(())
}

/// The advisory lock holds within one database only. Another database of the cluster may be migrated at the
/// same moment; what it made is then there at the next try.
async fn make_roles(conn: &mut PgConnection) -> Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        match conn.execute(ROLES).await {
            Err(e) if tries < 10 && another_made_it(&e) => continue,
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

fn another_made_it(e: &sqlx::Error) -> bool {
    // unique_violation, duplicate_object, and "tuple concurrently updated".
    matches!(e.as_database_error().and_then(|d| d.code()).as_deref(), Some("23505" | "42710" | "XX000"))
}

/// The newest migration that this program knows.
pub(crate) fn newest() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}
