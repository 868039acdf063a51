//! What who rules the gateway's machine may do without signing in: migrate, issue certificates of
//! the platform's own services, make a token.

use crate::Config;
use anyhow::Context;
use basalt_daemon::{Clock, config::write_secret, pki};
use basalt_model::{Name, roles::Role};
use basalt_store::{Options, Store};
use std::{fs, path::Path, sync::Arc};

/// Days for which the certificate of a service is valid.
const SERVICE_DAYS: i64 = 366;

/// Brings the database's schema to this version.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let url = config.database.owner_url.as_deref().context(
        "[database] owner_url is missing: give the address of the role that owns the schema, as `postgres://owner@host/basalt`",
    )?;
    Store::migrate(url).await.context("migrating the database")
}

/// Makes a key and a certificate for a service of the platform.
pub fn issue(
    config: &Config,
    clock: &dyn Clock,
    service: &str,
    hosts: &[String],
    out: &Path,
) -> anyhow::Result<()> {
    let now = clock.now();
    let authority = pki::Authority::open(&config.pki.dir, now)?;
    let uri = format!("basalt:{service}");
    let mut serial = [0; 16];
    serial.copy_from_slice(&clock.secret()[..16]);
    let not_after = now + chrono::TimeDelta::days(SERVICE_DAYS);
    let (issued, key) =
        authority.issue(&pki::Subject { name: service, hosts, uri: Some(&uri), now, not_after, serial })?;
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    write_secret(&out.join("ca.pem"), authority.cert_pem().as_bytes())?;
    write_secret(&out.join("key.pem"), key.as_bytes())?;
    // Last: who finds the certificate finds the pair whole.
    write_secret(&out.join("cert.pem"), issued.cert_pem.as_bytes())?;
    Ok(())
}

/// Makes a token with a role in the whole system.
pub async fn create_token(
    config: &Config,
    clock: &Arc<dyn Clock>,
    name: Name,
    role: Role,
    days: u32,
) -> anyhow::Result<String> {
    let store =
        Store::connect(&config.database.url, Options { max_connections: 1, ..Options::default() }).await?;
    let issued = basalt_api::create_local(&store, clock, name, role, days).await?;
    store.close().await;
    Ok(issued.token)
}
