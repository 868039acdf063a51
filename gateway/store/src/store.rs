//! The handle on the database: a bounded pool of connections, and the signal after each commit.

use crate::{
    Error, Result, Single, SystemTx, TenantTx,
    begun::Begun,
    migrate,
    vm_insert::{self, Declarations},
    vm_stamps::Stamps,
};
use basalt_model::{ProjectId, TenantId};
use sqlx::{
    PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The oldest server that is accepted: 15.14 mends row level security leaks of earlier ones.
const OLDEST: i32 = 150_014;

/// Bounds of the pool.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most.
    pub max_connections: u32,
    /// Connections kept open.
    pub min_connections: u32,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// How long a transaction may stand still before the server ends it.
    pub idle_in_transaction_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 16,
            min_connections: 1,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            idle_in_transaction_timeout: Duration::from_secs(15),
        }
    }
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// Held by who writes to a project.
pub(crate) type Turn = OwnedSemaphorePermit;

/// How many write to one project at once: one that has its row locks, and one that waits for them at the server with its
/// statement begun, so that nothing lies between the commit of the one and the claims of the other.
pub(crate) const AT_ONCE: usize = 2;

/// Connections for reads of the system that are one statement.
const SYSTEM_CONNECTIONS: u32 = 4;

struct Inner {
    pool: PgPool,
    /// Connections that are the system's from their beginning.
    system: PgPool,
    turns: Mutex<HashMap<ProjectId, Arc<Semaphore>>>,
    begun: Begun,
    stamps: Stamps,
    declarations: Arc<Declarations>,
    /// Moves after every commit of this process.
    committed: watch::Sender<u64>,
    /// Moves after those, and when another gateway said that it committed.
    changed: watch::Sender<u64>,
}

impl Store {
    /// Connects as `basalt_gateway`. Refuses servers older than 15.14.
    pub async fn connect(url: &str, options: Options) -> Result<Self> {
        let connect = PgConnectOptions::from_str(url)?
            .application_name("basalt-gateway")
            .statement_cache_capacity(256)
            .options([
                ("statement_timeout", millis(options.statement_timeout)),
                ("idle_in_transaction_session_timeout", millis(options.idle_in_transaction_timeout)),
                // Every statement here is prepared once and run for ever with parameters of one kind.
                ("plan_cache_mode", "force_generic_plan".to_string()),
                ("jit", "off".to_string()),
                // And its plan is made on the first day, of empty tables, for which reading them whole is best. All
                // of them look rows up by key, so that is the plan they get.
                ("enable_seqscan", "off".to_string()),
                ("enable_hashjoin", "off".to_string()),
                ("enable_mergejoin", "off".to_string()),
            ]);
        let of = |most| {
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(options.acquire_timeout)
                // A dead connection is found out by its BEGIN, which is tried again; a ping would cost every request.
                .test_before_acquire(false)
        };
        let system =
            of(SYSTEM_CONNECTIONS).connect_lazy_with(connect.clone().options([("role", "basalt_system")]));
        let pool = of(options.max_connections)
            .min_connections(options.min_connections)
            .connect_with(connect)
            .await?;
        let row =
            sqlx::query("SELECT current_setting('server_version_num')::int AS number, version() AS text")
                .fetch_one(&pool)
                .await?;
        if row.try_get::<i32, _>("number")? < OLDEST {
            return Err(Error::ServerTooOld { found: row.try_get("text")? });
        }
        Ok(Self::of(pool, system))
    }

    /// A process that knows nothing yet, behind connections.
    pub(crate) fn of(pool: PgPool, system: PgPool) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool,
                system,
                turns: Mutex::default(),
                begun: Begun::default(),
                stamps: Stamps::default(),
                declarations: vm_insert::declarations(),
                committed: watch::Sender::new(0),
                changed: watch::Sender::new(0),
            }),
        }
    }

    /// Makes the roles and brings the schema up to date, as owner or superuser. Safe from several processes at once.
    pub async fn migrate(owner_url: &str) -> Result<()> {
        migrate::run(owner_url).await
    }

    /// Whether the database answers and has this program's schema.
    pub async fn ready(&self) -> Result<()> {
        let found: i64 = sqlx::query_scalar("SELECT schema_version()").fetch_one(&self.inner.pool).await?;
        let wanted = migrate::newest();
        if found == wanted { Ok(()) } else { Err(Error::SchemaMismatch { found, wanted }) }
    }

    /// Begins to write as a tenant.
    pub async fn tenant(&self, tenant: TenantId) -> Result<TenantTx> {
        TenantTx::begin(self, tenant, false).await
    }

    /// Begins to read as a tenant; drop it when done.
    pub async fn tenant_read(&self, tenant: TenantId) -> Result<TenantTx> {
        TenantTx::begin(self, tenant, true).await
    }

    /// Begins to write as the system.
    pub async fn system(&self) -> Result<SystemTx> {
        SystemTx::begin(self, false).await
    }

    /// As [`Store::system`], for who tries again by itself: where one is begun ahead ([`Store::keep_begun`]), it may turn out
    /// dead at its first statement, after a restart of the server.
    pub async fn system_ahead(&self) -> Result<SystemTx> {
        SystemTx::begin_ahead(self).await
    }

    /// Begins to write what is derived from the truth (placements, conditions): its commit is ordered before
    /// everything that acts on it, and not waited for on disk.
    pub async fn derived(&self) -> Result<SystemTx> {
        SystemTx::begin_derived(self).await
    }

    /// Begins to read as the system; drop it when done.
    pub async fn system_read(&self) -> Result<SystemTx> {
        SystemTx::begin(self, true).await
    }

    /// One statement that reads as the system.
    pub async fn single(&self) -> Result<Single> {
        Single::begin(self).await
    }

    /// Moves after every commit of this process, and of others as far as they are heard of
    /// ([`Store::exchange_news`]); several commits may be one move.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Closes all connections once they are free.
    pub async fn close(&self) {
        tokio::join!(self.inner.pool.close(), self.inner.system.close());
    }

    /// Waits in line with all who declare something in a project. They would wait for each other at the row of its
    /// quota anyway, but there each that gets it wakes all others, in no order (measured: half the rate, and a p99 of
    /// four times the median). Other gateways still meet at the row.
    pub(crate) async fn turn(&self, project: ProjectId) -> Result<Turn> {
        let queue = {
            let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, queue| Arc::strong_count(queue) > 1);
            Arc::clone(turns.entry(project).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))))
        };
        // Nobody closes it.
        queue.acquire_owned().await.map_err(|_| Error::Database(sqlx::Error::PoolClosed))
    }

    pub(crate) fn begun(&self) -> &Begun {
        &self.inner.begun
    }

    pub(crate) fn stamps(&self) -> &Stamps {
        &self.inner.stamps
    }

    pub(crate) fn declarations(&self) -> &Arc<Declarations> {
        &self.inner.declarations
    }

    pub(crate) fn committed(&self) -> watch::Receiver<u64> {
        self.inner.committed.subscribe()
    }

    pub(crate) fn signal(&self) {
        self.inner.committed.send_modify(|n| *n = n.wrapping_add(1));
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.inner.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(crate) fn system_pool(&self) -> &PgPool {
        &self.inner.system
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.inner.pool
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
