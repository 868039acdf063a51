//! A registry on a loopback port: Debian's docker-registry with its storage in a folder.

use anyhow::{Context, Result, bail};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    /// Starts one with its storage in a folder.
    ///
    /// # Errors
    /// When docker-registry is missing or does not begin to answer.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::with(dir, "")
    }

    /// Starts one that lets nobody in.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_closed(dir: &Path) -> Result<Self> {
        let people = dir.join("registry.people");
        // A name and the bcrypt of nothing that anybody knows.
        fs::write(&people, "nobody:$2y$05$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzABCDE\n")?;
        Self::with(dir, &format!("auth: {{htpasswd: {{realm: basalt, path: {people:?}}}}}\n"))
    }

    fn with(dir: &Path, further: &str) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = dir.join("registry.yml");
        let storage = dir.join("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\nhttp: {{addr: {address:?}}}\n{further}"
            ),
        )?;
        let log = fs::File::create(dir.join("registry.log"))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting docker-registry (is it installed? `cargo xtask packages`)")?;
        let registry = Self { process, address };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.address).is_err() {
            if Instant::now() > until {
                bail!("docker-registry does not answer at {}", registry.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
