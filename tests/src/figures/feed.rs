//! What the change feed's triggers cost writers.

use super::{Figure, Latencies, Size, floor::pgbench, median};
use crate::{House, oracles::psql};
use anyhow::{Context, Result, ensure};
use basalt_daemon::{Clock, SystemClock};
use basalt_model::{Labels, Name, tasks::Actor};
use basalt_store::{Change, Feed, Ids, Options, Store, feed::Cursor, tenants};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const CONNECTIONS: usize = 32;
/// Projects that the written VMs are of: as many as let writers seldom meet at one.
const PROJECTS: usize = 256;

/// From the answer of a commit until its row is read from the feed: in the gateway that committed, and in another one
/// that hears of it by the notifier.
pub async fn latency(house: &House, size: &Size) -> Result<Vec<Figure>> {
    let connect = || Store::connect(&house.truth.url, Options { max_connections: 4, ..Options::default() });
    let (here, there) = (connect().await?, connect().await?);
    let exchange = |store: &Store| {
        let store = store.clone();
        tokio::spawn(async move { store.exchange_news(|| 0.0).await })
    };
    let tasks = [exchange(&here), exchange(&there)];
    let (mut own, mut others) = (vec![], vec![]);
    let mut cursors =
        [Feed::new(&here).bootstrap().await?.cursor, Feed::new(&there).bootstrap().await?.cursor];
    for _ in 0..size.samples {
        let (mut changed, mut heard) = (here.changed(), there.changed());
        changed.mark_unchanged();
        heard.mark_unchanged();
        let id = commit(&here).await?;
        let began = Instant::now();
        let (a, b) = tokio::join!(
            arrives(&here, &mut changed, cursors[0].clone(), &id, began),
            arrives(&there, &mut heard, cursors[1].clone(), &id, began)
        );
        let ((first, cursor), (second, other)) = (a?, b?);
        cursors = [cursor, other];
        own.push(first);
        others.push(second);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Ok([("the same gateway", own, 20), ("another gateway", others, 60)]
        .into_iter()
        .map(|(whose, took, wanted)| {
            let took = Latencies::new(took);
            let reached = took.quantile(0.99) < Duration::from_millis(wanted);
            Figure::new(format!("commit → read from the feed, {whose}"), took.text())
                .target(format!("p99 < {wanted} ms"), reached)
        })
        .collect())
}

/// Makes a tenant, and gives its id: one row on the feed.
pub async fn commit(store: &Store) -> Result<String> {
    let clock = SystemClock;
    let ids: Ids = Arc::new(|| SystemClock.new_id());
    let change = Change { actor: Actor::system("bench"), request_id: None, now: clock.now(), ids };
    let name = Name::new(format!("bench-{}", clock.new_id().simple()))?;
    let mut tx = store.system().await?;
    let tenant = tenants::insert(&mut tx, &change, &name, &Labels::default()).await?;
    tx.commit().await?;
    Ok(tenant.id().to_string())
}

/// Pulls whenever there is news, and once a second, until a row is there.
async fn arrives(
    store: &Store,
    news: &mut tokio::sync::watch::Receiver<u64>,
    mut cursor: Cursor,
    id: &str,
    began: Instant,
) -> Result<(Duration, Cursor)> {
    let feed = Feed::new(store);
    for _ in 0..10 {
        if let Ok(changed) = tokio::time::timeout(Duration::from_secs(1), news.changed()).await {
            changed?;
        }
        let batch = feed.pull(&cursor).await?;
        let there = batch.changes.iter().any(|c| c.key == id);
        cursor = batch.cursor;
        if there {
            return Ok((began.elapsed(), cursor));
        }
    }
    None.context("the row did not come")
}

/// A backlog that a reader finds when it comes back: rows of one transaction, pulled whole.
pub async fn backlog(house: &House, size: &Size) -> Result<Vec<Figure>> {
    let store =
        Store::connect(&house.truth.url, Options { max_connections: 4, ..Options::default() }).await?;
    let feed = Feed::new(&store);
    let cursor = feed.bootstrap().await?.cursor;
    let rows = size.rows * 10;
    let write = format!(
        "INSERT INTO tenants (id, name, labels, generation, created_at, updated_at)
         SELECT gen_random_uuid(), 'backlog-' || n, '{{}}', 1, now(), now() FROM generate_series(1, {rows}) n"
    );
    psql(house.owner_url(), &write.replace('\n', " "))?;
    let began = Instant::now();
    let pulled = feed.pull(&cursor).await?.changes.len();
    let took = began.elapsed();
    psql(house.owner_url(), "DELETE FROM tenants WHERE name LIKE 'backlog-%'")?;
    ensure!(pulled >= rows, "{pulled} of {rows} rows came");
    Ok(vec![Figure::new(
        format!("a backlog of {rows} rows, pulled"),
        format!("{:.0} ms, {:.1} µs a row", took.as_secs_f64() * 1e3, took.as_secs_f64() * 1e6 / rows as f64),
    )])
}

/// Inserts of a VM's row into tables like the VMs', indexes, constraints and reference to the project included, with
/// the feed's triggers and without, in turns.
pub fn measure(owner_url: &str, size: &Size) -> Result<Vec<Figure>> {
    let like = |table: &str, of: &str| {
        format!(
            "DROP TABLE IF EXISTS {table} CASCADE; CREATE TABLE {table} (LIKE public.{of} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);"
        )
    };
    psql(owner_url, &like("bench_projects", "projects"))?;
    psql(
        owner_url,
        &format!(
            "ALTER TABLE bench_projects ADD COLUMN n int; CREATE UNIQUE INDEX ON bench_projects (n);
             INSERT INTO bench_projects SELECT r.*, n FROM generate_series(1, {PROJECTS}) n CROSS JOIN LATERAL
                (SELECT * FROM public.projects LIMIT 1) p CROSS JOIN LATERAL
                jsonb_populate_record(p::public.projects, jsonb_build_object('id', gen_random_uuid(), 'name', 'p' || n)) r"
        )
        .replace('\n', " "),
    )?;
    for name in ["plain_rows", "watched_rows"] {
        psql(owner_url, &like(name, "vms"))?;
        let reference = "FOREIGN KEY (project_id, tenant_id) REFERENCES bench_projects (id, tenant_id)";
        psql(owner_url, &format!("ALTER TABLE {name} ADD {reference}"))?;
    }
    psql(owner_url, "SELECT feed_watch('watched_rows', 'r.id', 'r.tenant_id', 'r.project_id')")?;
    let spec = crate::api::vm("web", serde_json::json!({}))["spec"].to_string();
    let script = |table: &str| {
        let insert = format!(
            "INSERT INTO {table} (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, incarnation, nics, disks)
             SELECT gen_random_uuid(), p.tenant_id, p.id, gen_random_uuid()::text, '{{}}', 1, now(), now(), '{spec}', 0, '[]', '[]'
             FROM bench_projects p WHERE p.n = :n;"
        );
        format!("\\set n random(1, {PROJECTS})\n{}\n", insert.replace('\n', " "))
    };
    let (mut plain, mut watched, mut shares) = (vec![], vec![], vec![]);
    // Runs in pairs, each pair in the other order: what the machine does meanwhile meets both alike. Long enough that
    // what each connection does once, compiling the trigger, counts as little as in a pool that lives for days.
    for n in 0..2 * size.runs.max(3) {
        let run = |table| Ok::<_, anyhow::Error>(pgbench(owner_url, &script(table), CONNECTIONS, 4)?.rate);
        let (without, with) = match n % 2 {
            0 => (run("plain_rows")?, run("watched_rows")?),
            _ => {
                let with = run("watched_rows")?;
                (run("plain_rows")?, with)
            }
        };
        plain.push(without);
        watched.push(with);
        shares.push(100.0 * with / without);
    }
    for table in ["plain_rows", "watched_rows", "bench_projects"] {
        psql(owner_url, &format!("DROP TABLE {table} CASCADE"))?;
    }
    psql(owner_url, "DELETE FROM change_log WHERE source = 'watched_rows'")?;
    let (plain, watched, share) = (median(plain), median(watched), median(shares));
    Ok(vec![
        Figure::new(format!("writes with the feed, {CONNECTIONS} connections"), format!("{watched:.0}/s"))
            .target("≥ 80 % of without", share >= 80.0)
            .floor(format!("{plain:.0}/s without: {share:.0} %")),
    ])
}
