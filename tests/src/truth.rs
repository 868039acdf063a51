//! The database of a house: quick and private for scenarios, or a cluster of its own that fsyncs.

use anyhow::{Context, Result, bail, ensure};
use basalt_lab::{
    layout::Layout,
    postgres::{Durability, Postgres},
};
use basalt_store::{Options, Store, testkit};
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A migrated database.
pub struct Truth {
    /// A way in as the gateway's login.
    pub store: Store,
    /// The gateway's address of it.
    pub url: String,
    /// The superuser's address of it.
    pub owner_url: String,
    kept: Kept,
}

enum Kept {
    Test { _database: Box<testkit::Database> },
    Cluster { postgres: Box<Postgres>, layout: Box<Layout>, _dir: TempDir },
}

impl Truth {
    /// A fresh database in the cluster that all scenarios of a run share.
    pub async fn for_test() -> Self {
        let database = Box::new(testkit::Database::new().await);
        Self {
            store: database.store.clone(),
            url: database.url(),
            owner_url: database.owner_url(),
            kept: Kept::Test { _database: database },
        }
    }

    /// A cluster of its own whose commits survive a power cut, as in production. Stopped when dropped.
    pub async fn durable() -> Result<Self> {
        let dir = TempDir::new()?;
        // PostgreSQL runs under an account of its own, which must be able to pass.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let layout = Layout::create(dir.path())?;
        let postgres = Postgres::prepare(&layout, Durability::Full)?;
        postgres.start()?;
        let (url, owner_url) = (postgres.gateway_url(), postgres.superuser_url());
        Store::migrate(&owner_url).await.context("migrating")?;
        let store = Store::connect(&url, Options { max_connections: 4, ..Options::default() }).await?;
        Ok(Self {
            store,
            url,
            owner_url,
            kept: Kept::Cluster { postgres: Box::new(postgres), layout: Box::new(layout), _dir: dir },
        })
    }

    /// `kill -9` of the server, where it is a cluster of its own; it is started again.
    pub fn crash(&self) -> Result<()> {
        match &self.kept {
            Kept::Cluster { postgres, .. } if postgres.kill() => Ok(()),
            Kept::Cluster { .. } => bail!("the server did not run"),
            Kept::Test { .. } => bail!("the cluster of a test run is shared; only one of its own may crash"),
        }
    }

    /// A copy of everything, made while the server stands still; it is started again.
    pub fn back_up(&self) -> Result<TempDir> {
        let (postgres, data) = self.own()?;
        let copy = TempDir::new()?;
        postgres.stop();
        copy_all(&data, &copy.path().join("data"))?;
        postgres.start()?;
        Ok(copy)
    }

    /// Puts a copy in the place of everything; the server is started again with it.
    pub fn restore(&self, copy: &TempDir) -> Result<()> {
        let (postgres, data) = self.own()?;
        postgres.stop();
        std::fs::remove_dir_all(&data)?;
        copy_all(&copy.path().join("data"), &data)?;
        postgres.start()
    }

    fn own(&self) -> Result<(&Postgres, PathBuf)> {
        match &self.kept {
            Kept::Cluster { postgres, layout, .. } => {
                Ok((postgres, layout.state_dir("postgres").join("data")))
            }
            Kept::Test { .. } => {
                bail!("the cluster of a test run is shared; only one of its own may stand still")
            }
        }
    }

    /// Where the cluster keeps its files, when it is one of its own.
    pub fn data_dir(&self) -> Option<PathBuf> {
        match &self.kept {
            Kept::Cluster { layout, .. } => Some(layout.state_dir("postgres")),
            Kept::Test { .. } => None,
        }
    }
}

/// With owners and rights as they are.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("--archive").args([from, to]).status()?;
    ensure!(done.success(), "{} cannot be copied to {}", from.display(), to.display());
    Ok(())
}

impl Drop for Truth {
    fn drop(&mut self) {
        if let Kept::Cluster { postgres, .. } = &self.kept {
            postgres.stop();
        }
    }
}
