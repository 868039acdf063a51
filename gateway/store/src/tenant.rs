//! Tenant isolation: the transaction is the permission.
//!
//! `BEGIN`, the role and the tenant go to the server as one message, and all three end with the
//! transaction (`SET LOCAL`), so a connection that returns to the pool, even after a cancel or a panic,
//! carries nobody's rights. Without a role the login itself may read nothing.
//!
//! sqlx's own pooled transaction is not used: one that is cancelled while its `BEGIN` is under way returns
//! its connection inside an open transaction (its depth is counted only afterwards, so no rollback is sent).
//! Here such a connection is closed.

use crate::{Result, Store, begun::Kind, store::Turn};
use basalt_model::{ProjectId, TenantId};
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, SqlSafeStr, pool::PoolConnection,
    postgres::PgTransactionManager,
};
use sqlx_core::transaction::TransactionManager;

pub(crate) mod sealed {
    pub trait Sealed: Send {
        fn conn(&mut self) -> &mut sqlx::PgConnection;
    }
}

/// A transaction that may read tenant rows: a [`TenantTx`] sees its own, a [`SystemTx`] sees all.
pub trait Handle: sealed::Sealed {}

/// A transaction that sees exactly one tenant's rows.
#[must_use]
pub struct TenantTx {
    tx: Tx,
    tenant: TenantId,
    store: Store,
    /// Given back with the locks, before the flush.
    turn: Option<Turn>,
}

/// A transaction that sees everything: for the reconciler, for hosts, people and tenants themselves.
#[must_use]
pub struct SystemTx {
    tx: Tx,
    store: Store,
    /// Whether its connection goes back to those that are kept begun.
    kept: bool,
}

impl TenantTx {
    pub(crate) async fn begin(store: &Store, tenant: TenantId, read_only: bool) -> Result<Self> {
        let (mode, wait) = match read_only {
            true => (" READ ONLY", ""),
            false => ("", "; SET LOCAL synchronous_commit = off"),
        };
        // A UUID formatted by its own type: nothing of a caller's text gets here.
        let of = tenant.0;
        let begin = format!("BEGIN{mode}; SET LOCAL ROLE basalt_tenant; SET LOCAL app.tenant = '{of}'{wait}");
        Ok(Self { tx: Tx::open(store.pool(), begin).await?, tenant, store: store.clone(), turn: None })
    }

    pub(crate) fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx.conn
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Commits, wakes who waits for changes in this process, and returns when it is durable.
    ///
    /// The commit gives its row locks back at once, and only then is the log flushed: creates of one project all
    /// take the lock of its quota, and if each held it until the disk answered, they could not share a flush
    /// (measured at 3.6 ms a flush: 250 creates a second, and no more with more clients). Nobody is answered
    /// before the flush. Others see the row some milliseconds earlier, and whatever they commit on its ground
    /// stands behind it in the log, so none of it can outlive it.
    pub async fn commit(mut self) -> Result<()> {
        self.tx.commit().await?;
        self.turn = None;
        self.store.signal();
        self.tx.flush().await?;
        Ok(())
    }

    /// Takes its turn among those who declare something in a project, if it has none yet.
    pub(crate) async fn take_turn(&mut self, project: ProjectId) -> Result<()> {
        if self.turn.is_none() {
            self.turn = Some(self.store.turn(project).await?);
        }
        Ok(())
    }

    /// For the few facts that a tenant's change moves and no tenant may see: what hosts promised.
    /// [`Self::back_to_tenant`] must follow.
    pub(crate) async fn step_out(&mut self) -> Result<&mut PgConnection> {
        sqlx::query("SET LOCAL ROLE basalt_system").execute(&mut *self.tx.conn).await?;
        Ok(&mut self.tx.conn)
    }

    pub(crate) async fn back_to_tenant(&mut self) -> Result<()> {
        sqlx::query("SET LOCAL ROLE basalt_tenant").execute(&mut *self.tx.conn).await?;
        Ok(())
    }
}

impl SystemTx {
    pub(crate) fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx.conn
    }

    pub(crate) async fn begin(store: &Store, read_only: bool) -> Result<Self> {
        let begin =
            if read_only { "BEGIN READ ONLY; SET LOCAL ROLE basalt_system" } else { Kind::System.begin() };
        Self::open(store, begin.to_string()).await
    }

    /// For what is tried again by itself: one begun ahead, whose connection may turn out to be dead.
    pub(crate) async fn begin_ahead(store: &Store) -> Result<Self> {
        Self::begin_kind(store, Kind::System).await
    }

    async fn begin_kind(store: &Store, kind: Kind) -> Result<Self> {
        match store.begun().take(kind) {
            Some(tx) => Ok(Self { tx, store: store.clone(), kept: true }),
            None => Self::open(store, kind.begin().to_string()).await,
        }
    }

    async fn open(store: &Store, begin: String) -> Result<Self> {
        Ok(Self { tx: Tx::open(store.pool(), begin).await?, store: store.clone(), kept: false })
    }

    /// Ends what was only read.
    pub(crate) fn end(self) {
        if self.kept {
            self.store.begun().give_back(self.tx);
        }
    }

    /// Its commit is not waited for on disk. For what is derived: whoever acts on it commits after it, and so
    /// flushes it too; what a crash takes away nobody acted on, and is derived again.
    pub(crate) async fn begin_derived(store: &Store) -> Result<Self> {
        Self::begin_kind(store, Kind::Derived).await
    }

    /// One snapshot for everything that is read: what the feed pulls in.
    pub(crate) async fn begin_snapshot(store: &Store) -> Result<Self> {
        Self::begin_kind(store, Kind::Snapshot).await
    }

    /// A second transaction that reads in the snapshot of another one of [`Self::begin_snapshot`], while that is open.
    pub(crate) async fn begin_same_snapshot(store: &Store, exported: &str) -> Result<Self> {
        // What the server gave, three numbers in hexadecimal: nothing of a caller's text gets here.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{exported}';
             SET LOCAL ROLE basalt_system"
        );
        Self::open(store, begin).await
    }

    /// Commits, and wakes who waits for changes in this process.
    pub async fn commit(self) -> Result<()> {
        self.commit_telling(|| ()).await
    }

    /// Commits, tells who waits for just this, and then wakes who waits for any change.
    pub async fn commit_telling(mut self, tell: impl FnOnce()) -> Result<()> {
        self.tx.commit().await?;
        tell();
        self.store.signal();
        self.end();
        Ok(())
    }
}

impl sealed::Sealed for TenantTx {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx.conn
    }
}
impl sealed::Sealed for SystemTx {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx.conn
    }
}
impl Handle for TenantTx {}
impl Handle for SystemTx {}

/// What sees everything: a [`SystemTx`], or one statement ([`Single`]).
pub trait SystemHandle: Handle {}
impl SystemHandle for SystemTx {}

/// A connection that is the system's for one statement, which is a transaction of its own: one round trip instead of
/// three.
pub struct Single(PoolConnection<Postgres>);

impl Single {
    pub(crate) async fn begin(store: &Store) -> Result<Self> {
        Ok(Self(store.system_pool().acquire().await?))
    }
}

impl sealed::Sealed for Single {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
impl Handle for Single {}
impl SystemHandle for Single {}

/// A transaction on a pooled connection. Dropped while it is open, it queues a rollback, which the connection sends
/// before anybody else gets it; dropped while its `BEGIN` is under way, it closes the connection, because nobody can
/// say what that is inside of.
pub(crate) struct Tx {
    conn: PoolConnection<Postgres>,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Beginning,
    Open,
    Ended,
}

impl Tx {
    /// Begins on a pooled connection. Connections that died while they were idle (a restart of the server)
    /// fail at their first use and leave the pool, so one more than the pool holds are tried.
    pub(crate) async fn open(pool: &PgPool, statement: String) -> Result<Self> {
        let mut left = pool.options().get_max_connections() + 1;
        loop {
            left -= 1;
            let mut tx = Self { conn: pool.acquire().await?, at: At::Ended };
            match tx.again(statement.clone()).await {
                Err(e) if left > 0 && is_dead(&e) => continue,
                Err(e) => return Err(e.into()),
                Ok(()) => return Ok(tx),
            }
        }
    }

    /// Begins anew on the same connection. A rollback that is still to be sent goes with the `BEGIN`.
    pub(crate) async fn again(&mut self, statement: String) -> sqlx::Result<()> {
        if self.at == At::Open {
            PgTransactionManager::start_rollback(&mut self.conn);
        }
        self.at = At::Beginning;
        PgTransactionManager::begin(&mut self.conn, Some(AssertSqlSafe(statement).into_sql_str())).await?;
        self.at = At::Open;
        Ok(())
    }

    async fn commit(&mut self) -> sqlx::Result<()> {
        PgTransactionManager::commit(&mut self.conn).await?;
        self.at = At::Ended;
        Ok(())
    }

    /// Waits until everything that was committed so far is on disk: a transaction that writes nothing but a line
    /// of log commits synchronously, and all who wait share one flush.
    async fn flush(&mut self) -> sqlx::Result<()> {
        sqlx::query("SELECT pg_logical_emit_message(true, 'basalt', '')").execute(&mut *self.conn).await?;
        Ok(())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        match self.at {
            At::Beginning => self.conn.close_on_drop(),
            At::Open => PgTransactionManager::start_rollback(&mut self.conn),
            At::Ended => {}
        }
    }
}

/// Whether the connection, rather than the server, is gone. Refused connections are not tried again here.
pub(crate) fn is_dead(e: &sqlx::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match e {
        sqlx::Error::Io(e) => matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof),
        sqlx::Error::Database(e) => matches!(e.code().as_deref(), Some("57P01" | "57P05" | "25P03")),
        _ => false,
    }
}
