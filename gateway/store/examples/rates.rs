//! How many creates, reads and lists a second the store does on this machine, without HTTP.
//!
//! `rates <owner url> <gateway url> [seconds] [clients]`, in an empty database of a server that keeps its promises
//! (fsync on): `createdb rates; rates 'postgres:///rates?user=postgres' 'postgres:///rates?user=basalt_gateway'`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use basalt_model::{GIB, Labels, Name, ProjectId, TenantId, TransferId, images::ImageFormat, tasks::Actor};
use basalt_store::{
    Change, Feed, Ids, Key, New, Options, Page, Store, image_transfers, images, networks, projects, tenants,
    vms,
};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

#[derive(Clone)]
struct House {
    store: Store,
    tenant: TenantId,
    project: ProjectId,
}

fn change() -> Change {
    let ids: Ids = Arc::new(Uuid::now_v7);
    let actor = Actor { kind: "user".into(), id: Uuid::nil(), name: "rates".into() };
    Change { actor, request_id: None, now: chrono::Utc::now(), ids }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn house(store: Store) -> House {
    let c = change();
    let mut tx = store.system().await.unwrap();
    let (labels, main) = (Labels::default(), name("main"));
    let tenant = tenants::insert(&mut tx, &c, &name("rates"), &labels).await.unwrap().id();
    let quota = serde_json::from_value(json!({"max_vms": 1_000_000_000, "max_cpus": 1_000_000_000,
        "max_memory_bytes": 1u64 << 62, "max_storage_bytes": 1u64 << 62}))
    .unwrap();
    let project = projects::insert(&mut tx, &c, tenant, &main, &labels, Some(quota)).await.unwrap().id();
    tx.commit().await.unwrap();
    let mut tx = store.tenant(tenant).await.unwrap();
    let spec = serde_json::from_value(json!({"cidr": "10.0.0.0/8"})).unwrap();
    let new = New { name: name("net"), labels: Labels::default(), spec };
    networks::insert(&mut tx, &c, project, &new).await.unwrap();
    let spec = serde_json::from_value(json!({"format": ImageFormat::Qcow2, "size_bytes": 1})).unwrap();
    let new = New { name: name("debian"), labels: Labels::default(), spec };
    let image = images::insert(&mut tx, &c, project, &new).await.unwrap().object.id();
    tx.commit().await.unwrap();
    let outcome =
        image_transfers::Outcome::Ready { sha256: "0".repeat(64), size_bytes: 1, virtual_size_bytes: GIB };
    let event = image_transfers::Event {
        id: c.id(),
        at: c.now,
        image_id: image,
        transfer_id: TransferId(c.id()),
        outcome,
    };
    let mut tx = store.system().await.unwrap();
    image_transfers::apply_event(&mut tx, &event, c.now).await.unwrap();
    tx.commit().await.unwrap();
    House { store, tenant, project }
}

async fn create(h: House, n: u64) {
    let spec = serde_json::from_value(json!({"cpus": 1, "memory_bytes": GIB, "nics": [{"network": "net"}],
        "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}]}));
    let new = New { name: name(&format!("vm-{n}")), labels: Labels::default(), spec: spec.unwrap() };
    let mut tx = h.store.tenant(h.tenant).await.unwrap();
    vms::insert(&mut tx, &change(), h.project, &new).await.unwrap();
    tx.commit().await.unwrap();
}

/// Runs `work` from `clients` tasks and prints how often a second it was done, and how long one took.
async fn rate<F: Future<Output = ()> + Send>(
    what: &str,
    seconds: u64,
    clients: u64,
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (start, end) = (Instant::now(), Duration::from_secs(seconds));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let work = work.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while start.elapsed() < end {
                    let began = Instant::now();
                    work(NUMBER.fetch_add(1, Ordering::Relaxed)).await;
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort();
    let per_second = took.len() as f64 / start.elapsed().as_secs_f64();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!("{what:<28} {per_second:>9.0}/s   p50 {:>7.2} ms   p99 {:>7.2} ms", at(50), at(99));
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seconds = args.get(3).map_or(5, |s| s.parse().unwrap());
    let clients = args.get(4).map_or(32, |s| s.parse().unwrap());
    Store::migrate(&args[1]).await.unwrap();
    let store =
        Store::connect(&args[2], Options { max_connections: 32, ..Options::default() }).await.unwrap();
    let h = house(store).await;
    let (c, mut admin) = (h.clone(), PgConnection::connect(&args[1]).await.unwrap());
    rate("create", seconds, clients, move |n| create(c.clone(), n)).await;
    for turn in ["DISABLE", "ENABLE"] {
        for table in ["vms", "volumes", "tasks"] {
            for event in ["insert", "update", "delete"] {
                let alter = format!("ALTER TABLE {table} {turn} TRIGGER feed_{event}");
                admin.execute(sqlx::AssertSqlSafe(alter)).await.unwrap();
            }
        }
        let c = h.clone();
        let what = if turn == "DISABLE" { "create, without the feed" } else { "create, with the feed" };
        rate(what, seconds, clients, move |n| create(c.clone(), n)).await;
    }
    admin.execute("ANALYZE").await.unwrap();
    let mut tx = h.store.tenant_read(h.tenant).await.unwrap();
    let page = vms::list(&mut tx, h.project, &Page { limit: 1000, ..Page::default() }).await.unwrap();
    drop(tx);
    let ids: Arc<Vec<Uuid>> = Arc::new(page.items.iter().map(|v| v.vm.metadata.id).collect());
    let (c, some) = (h.clone(), ids.clone());
    rate("get one", seconds, clients, move |n| {
        let (h, id) = (c.clone(), some[n as usize % some.len()]);
        async move {
            let mut tx = h.store.tenant_read(h.tenant).await.unwrap();
            vms::get(&mut tx, h.project, &Key::Id(id)).await.unwrap();
        }
    })
    .await;
    let c = h.clone();
    rate("list 100", seconds, clients, move |n| {
        let (h, after) = (c.clone(), ids[n as usize % ids.len()]);
        async move {
            let mut tx = h.store.tenant_read(h.tenant).await.unwrap();
            let page = Page { limit: 100, after: Some(after), ..Page::default() };
            vms::list(&mut tx, h.project, &page).await.unwrap();
        }
    })
    .await;
    let feed = Feed::new(&h.store);
    let began = Instant::now();
    let batch = feed.bootstrap().await.unwrap();
    println!("bootstrap of {} rows in {:?}", batch.changes.len(), began.elapsed());
    let f = feed.clone();
    rate("pull of nothing, one client", seconds, 1, move |_| {
        let (feed, cursor) = (f.clone(), batch.cursor.clone());
        async move {
            feed.pull(&cursor).await.unwrap();
        }
    })
    .await;
}
