//! Where everything of one lab lies: directories, names and the short run directory for unix sockets.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Longest data directory under which the longest unix socket path still fits (the kernel's limit is 107 bytes).
const LONGEST_DATA_DIR_BYTES: usize = 60;

/// The paths and names of one lab, all derived from its data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    data_dir: PathBuf,
    run_dir: PathBuf,
    id: String,
}

impl Layout {
    /// Creates the data directory if need be and derives everything from its canonical path.
    pub fn create(data_dir: &Path) -> Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        let layout = Self::open(data_dir)?;
        for dir in [layout.log_dir(), layout.config_dir(), layout.state_dir("pids"), layout.cache_dir()] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        layout.create_run_dir()?;
        Ok(layout)
    }

    /// The layout of a data directory that exists already; creates nothing.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let data_dir = fs::canonicalize(data_dir)
            .with_context(|| format!("there is no data directory {}", data_dir.display()))?;
        let id = id_of(&data_dir);
        let run_dir = if data_dir.as_os_str().len() <= LONGEST_DATA_DIR_BYTES {
            data_dir.join("run")
        } else {
            PathBuf::from(format!("/run/basalt-lab-{id}"))
        };
        Ok(Self { data_dir, run_dir, id })
    }

    fn create_run_dir(&self) -> Result<()> {
        fs::create_dir_all(&self.run_dir)?;
        let inside = self.data_dir.join("run");
        if inside != self.run_dir && fs::symlink_metadata(&inside).is_err() {
            symlink(&self.run_dir, &inside).context("cannot link the run directory")?;
        }
        Ok(())
    }

    /// Fails, naming the directory in the way, when another account could not reach the data directory:
    /// PostgreSQL refuses to run as root.
    pub fn check_reachable_by_others(&self) -> Result<()> {
        match first_closed_ancestor(&self.data_dir)? {
            None => Ok(()),
            Some(closed) => bail!(
                "{} is closed to other accounts, and PostgreSQL must run as one: choose another place with --data-dir, for example /var/lib/basalt-lab",
                closed.display()
            ),
        }
    }

    /// Eight hexadecimal digits that tell this lab apart from others on the machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Short enough for unix sockets.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    pub fn log_file(&self, service: &str) -> PathBuf {
        self.log_dir().join(format!("{service}.log"))
    }

    pub fn config_dir(&self) -> PathBuf {
        self.data_dir.join("etc")
    }

    /// State of one part that survives `down`.
    pub fn state_dir(&self, part: &str) -> PathBuf {
        self.data_dir.join("state").join(part)
    }

    /// Things that can be made again: packages and built images.
    pub fn cache_dir(&self) -> PathBuf {
        self.data_dir.join("cache")
    }

    pub fn host_dir(&self, host: &str) -> PathBuf {
        self.data_dir.join("hosts").join(host)
    }

    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.state_dir("pids").join(format!("{name}.json"))
    }

    /// Name of a network namespace of this lab.
    pub fn netns_name(&self, part: &str) -> String {
        format!("bs{}{part}", self.id)
    }
}

/// Eight hexadecimal digits that stand for a path.
pub fn id_of(path: &Path) -> String {
    hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..4])
}

/// The first directory on the way to `path` that other accounts may not pass.
pub fn first_closed_ancestor(path: &Path) -> Result<Option<PathBuf>> {
    let mut existing: Vec<&Path> = path.ancestors().filter(|p| p.exists()).collect();
    existing.reverse();
    for dir in existing {
        if fs::metadata(dir)?.mode() & 0o001 == 0 {
            return Ok(Some(dir.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn two_data_directories_have_different_names_and_one_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let one = Layout::create(&dir.path().join("one")).unwrap();
        let two = Layout::create(&dir.path().join("two")).unwrap();
        assert_ne!(one.netns_name("h1"), two.netns_name("h1"));
        assert_eq!(one.id(), Layout::open(one.data_dir()).unwrap().id());
    }

    #[test]
    fn a_long_data_directory_gets_a_short_run_directory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("x".repeat(90))).unwrap();
        assert!(layout.control_socket().as_os_str().len() < 60);
        assert_eq!(fs::read_link(layout.data_dir().join("run")).unwrap(), layout.run_dir());
        fs::remove_dir_all(layout.run_dir()).unwrap();
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let found = first_closed_ancestor(&closed.join("data")).unwrap();
        assert_eq!(found.as_deref(), Some(closed.as_path()));
    }
}
