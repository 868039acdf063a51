//! For tests, here and in the rooms above: a private PostgreSQL cluster for the run, and a fresh migrated
//! database in it for each test. A test that cannot have one fails; it is never skipped.

mod again;
mod behind;
mod cluster;

use crate::{
    Accepted, Change, Ids, New, Options, Store, hosts, image_transfers, images, projects, reports, tenants,
};
use basalt_model::{
    DateTime, GIB, HostId, ImageId, Labels, Name, ProjectId, TenantId, TransferId,
    hosts::{Accelerator, HostFacts, HostSpec, Versions},
    images::{ImageFormat, ImageSpec, Visibility},
    pools::{PoolFacts, PoolKind},
    quotas::QuotaSpec,
    tasks::Actor,
};
use cluster::Cluster;
use sqlx::{Connection, Executor, PgConnection};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// A migrated database of one test. It goes with the cluster, when the run ends.
pub struct Database {
    /// Connected as the gateway.
    pub store: Store,
    name: String,
    /// The superuser's connection, once one was needed.
    owner: tokio::sync::Mutex<Option<PgConnection>>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);
static CLUSTER: OnceLock<Cluster> = OnceLock::new();

impl Database {
    /// A fresh database. Panics when there is no PostgreSQL 15 on this machine.
    pub async fn new() -> Self {
        Self::with(Options { max_connections: 8, ..Options::default() }).await
    }

    /// A fresh database behind a pool of one's own bounds.
    pub async fn with(options: Options) -> Self {
        let cluster = tokio::task::spawn_blocking(|| CLUSTER.get_or_init(Cluster::enter))
            .await
            .expect("the test cluster starts; install postgresql 15 or newer");
        cluster.prepare().await.expect("the template database is migrated");
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut admin =
            PgConnection::connect(&cluster.url("postgres", "postgres")).await.expect("the cluster answers");
        let create = format!("CREATE DATABASE {name} TEMPLATE {}", cluster::TEMPLATE);
        admin.execute(sqlx::AssertSqlSafe(create)).await.expect("the template is copied");
        admin.close().await.expect("the connection closes");
        let store = Store::connect(&cluster.url(&name, "basalt_gateway"), options).await;
        Self::of(store.expect("the gateway's login connects"), name)
    }

    fn of(store: Store, name: String) -> Self {
        Self { store, name, owner: tokio::sync::Mutex::default() }
    }

    fn cluster(&self) -> &'static Cluster {
        CLUSTER.get().expect("a database was made in it")
    }

    /// Its address, as the gateway's login.
    pub fn url(&self) -> String {
        self.cluster().url(&self.name, "basalt_gateway")
    }

    /// Its address, as the cluster's superuser.
    pub fn owner_url(&self) -> String {
        self.cluster().url(&self.name, "postgres")
    }

    /// Role and tenant of one of the store's idle connections, outside of any transaction: what the one who used
    /// it before left behind.
    pub async fn left_behind(&self) -> (String, String) {
        let query = "SELECT current_setting('role'), coalesce(current_setting('app.tenant', true), '')";
        sqlx::query_as(query).fetch_one(self.store.pool()).await.expect("an idle connection answers")
    }

    /// A copy of a database as it stands, and none of its connections: nobody may have it open. A simulator makes one for
    /// each of its worlds.
    pub async fn copy_of(&self, options: Options) -> Self {
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut admin = self.admin().await;
        let create = format!("CREATE DATABASE {name} TEMPLATE {}", self.name);
        admin.execute(sqlx::AssertSqlSafe(create)).await.expect("the database is copied");
        let store = Store::connect(&self.cluster().url(&name, "basalt_gateway"), options).await;
        Self::of(store.expect("the gateway's login connects"), name)
    }

    /// Another gateway's way to it.
    pub async fn connect(&self, options: Options) -> Store {
        Store::connect(&self.url(), options).await.expect("the gateway's login connects")
    }

    async fn admin(&self) -> PgConnection {
        let url = self.cluster().url("postgres", "postgres");
        PgConnection::connect(&url).await.expect("the cluster answers")
    }

    /// Each row of each query as JSON, as the superuser sees it: for oracles that must not share the store's mistakes.
    pub async fn ask(&self, queries: &[&str]) -> Vec<Vec<String>> {
        let mut owner = self.owner.lock().await;
        let connection = match &mut *owner {
            Some(connection) => connection,
            none => none.insert(self.superuser().await),
        };
        let mut answers = Vec::new();
        for query in queries {
            let text = format!("SELECT row_to_json(q)::text FROM ({query}) q");
            let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_all(&mut *connection).await;
            answers.push(rows.unwrap_or_else(|e| panic!("{query}: {e}")));
        }
        answers
    }

    /// A connection as the cluster's superuser, whom no policy binds.
    pub async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.owner_url()).await.expect("the cluster answers")
    }
}

/// An empty database without any schema, and its address as the cluster's superuser.
pub async fn empty_database() -> String {
    let cluster = tokio::task::spawn_blocking(|| CLUSTER.get_or_init(Cluster::enter))
        .await
        .expect("the test cluster starts; install postgresql 15 or newer");
    let name = format!("e{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut admin =
        PgConnection::connect(&cluster.url("postgres", "postgres")).await.expect("the cluster answers");
    let create = format!("CREATE DATABASE {name} TEMPLATE template0");
    admin.execute(sqlx::AssertSqlSafe(create)).await.expect("a database is made");
    cluster.url(&name, "postgres")
}

/// The moment at which tests happen.
pub fn now() -> DateTime {
    DateTime::from_timestamp(1_767_225_600, 0).expect("a date in 2026")
}

/// A deterministic source of ascending UUIDv7s. Different seeds never give the same id.
pub fn ids(seed: u64) -> Ids {
    let next = AtomicU64::new(1);
    Arc::new(move || {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let millis = u128::from(1_767_225_600_000 + n);
        // The last bytes differ from id to id, as random ones do: MAC addresses are made of them.
        let tail = u128::from(seed & 0x3fff_ffff) << 32 | u128::from(n & 0xffff_ffff);
        Uuid::from_u128(millis << 80 | 0x7 << 76 | 0x8 << 60 | tail)
    })
}

/// A change by a test.
pub fn change(ids: &Ids) -> Change {
    let actor = Actor { kind: "user".into(), id: Uuid::from_u128(1), name: "tester".into() };
    Change { actor, request_id: Some("test".into()), now: now(), ids: ids.clone() }
}

/// A name, in tests.
pub fn name(text: &str) -> Name {
    Name::new(text).expect("tests use DNS labels")
}

/// A tenant with one project and room for everything.
pub async fn project(db: &Database, ids: &Ids, tenant: &str) -> (TenantId, ProjectId) {
    let change = change(ids);
    let mut tx = db.store.system().await.expect("begins");
    let tenant =
        tenants::insert(&mut tx, &change, &name(tenant), &Labels::default()).await.expect("a tenant");
    let quota = QuotaSpec {
        max_vms: 1_000_000,
        max_cpus: 100_000_000,
        max_memory_bytes: 1 << 60,
        max_storage_bytes: 1 << 60,
    };
    let project =
        projects::insert(&mut tx, &change, tenant.id(), &name("main"), &Labels::default(), Some(quota)).await;
    tx.commit().await.expect("commits");
    (tenant.id(), project.expect("a project").id())
}

/// An image whose bytes were uploaded and verified: 1 GiB for the guest.
pub async fn ready_image(
    db: &Database,
    ids: &Ids,
    (tenant, project): (TenantId, ProjectId),
    image: &str,
    format: ImageFormat,
) -> ImageId {
    let spec = ImageSpec {
        format,
        size_bytes: Some(1 << 20),
        sha256: None,
        source: None,
        visibility: Visibility::Project,
    };
    let new = New { name: name(image), labels: Labels::default(), spec };
    let mut tx = db.store.tenant(tenant).await.expect("begins");
    let Accepted { object, .. } =
        images::insert(&mut tx, &change(ids), project, &new).await.expect("an image");
    tx.commit().await.expect("commits");
    let event = image_transfers::Event {
        id: ids(),
        at: now(),
        image_id: object.id(),
        transfer_id: TransferId(ids()),
        outcome: image_transfers::Outcome::Ready {
            sha256: "0".repeat(64),
            size_bytes: 1 << 20,
            virtual_size_bytes: GIB,
        },
    };
    let mut tx = db.store.system().await.expect("begins");
    image_transfers::apply_event(&mut tx, &event, now()).await.expect("applied");
    tx.commit().await.expect("commits");
    object.id()
}

/// Facts of a sound host with one pool `default`.
pub fn facts(threads: u32, memory_bytes: u64, pool_bytes: u64) -> HostFacts {
    HostFacts {
        hostname: "host".into(),
        boot_id: "boot".into(),
        cpu_model: "test".into(),
        cpu_features: Vec::new(),
        cores: threads,
        threads,
        memory_bytes,
        numa: Vec::new(),
        accelerators: vec![Accelerator { kind: "kvm".into(), usable: true, evidence: "test".into() }],
        uefi: true,
        pools: vec![PoolFacts {
            name: name("default"),
            kind: PoolKind::Directory,
            shared_id: None,
            path: "/var/lib/basalt/pools/default".into(),
            capacity_bytes: pool_bytes,
            available_bytes: pool_bytes,
            lacks: Vec::new(),
        }],
        bridges: Vec::new(),
        tunnel_address: None,
        tunnel_mtu: None,
        migration_address: None,
        post_copy: true,
        routers: false,
        fencer: None,
        versions: Versions::default(),
        foreign: Vec::new(),
        problems: Vec::new(),
    }
}

/// A host that reported its facts. It can promise four times its threads, and its memory less 1 GiB.
pub async fn host(db: &Database, ids: &Ids, host: &str, facts: HostFacts) -> HostId {
    let new = New { name: name(host), labels: Labels::default(), spec: HostSpec::default() };
    let mut tx = db.store.system().await.expect("begins");
    let host = hosts::insert(&mut tx, &change(ids), &new).await.expect("a host").id();
    let report = reports::Report {
        agent_boot: ids(),
        sequence: 1,
        manifest_revision: None,
        manifest_refused: None,
        facts: Some(facts),
        items: Vec::new(),
    };
    reports::apply(&mut tx, host, &report, ids, now()).await.expect("applied");
    tx.commit().await.expect("commits");
    host
}
