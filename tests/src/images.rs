//! The image service of a test house, in this process or as the program: real uploads over TLS, real events to the gateway.

use crate::{
    House,
    gateway::{Place, program},
};
use anyhow::{Result, ensure};
use basalt_daemon::{Drain, SystemClock};
use basalt_image_service::{
    Options,
    config::{Import, read_keys},
    gateway::HttpsGateway,
};
use std::{
    fs::{self, File},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

/// An image service that runs.
pub struct Images {
    drain: Drain,
    _dir: TempDir,
}

impl Images {
    /// Where it will listen, told to the gateway by its configuration.
    pub fn door(place: &mut Place) -> Result<TcpListener> {
        let door = TcpListener::bind("127.0.0.1:0")?;
        place.images = door.local_addr()?;
        Ok(door)
    }

    /// Serves at that door, and tells that gateway what became of uploads.
    pub fn open(place: &Place, door: TcpListener, gateway: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let tls = dir.path().join("tls");
        fs::create_dir_all(&tls)?;
        place.write_identity(&tls)?;
        door.set_nonblocking(true)?;
        let options = Options {
            clock: Arc::new(SystemClock),
            keys: read_keys(&place.token_keys()).map_err(|why| anyhow::anyhow!(why))?,
            dir: dir.path().join("state"),
            sockets: vec![door],
            identity: (fs::read_to_string(tls.join("cert.pem"))?, fs::read_to_string(tls.join("key.pem"))?),
            // Origins of tests are on this machine.
            import: Import { allow: vec!["127.0.0.0/8".parse()?], ..Import::default() },
            gateway: HttpsGateway::new(gateway, &tls)?,
        };
        let drain = Drain::new();
        let until = drain.clone();
        tokio::spawn(async move {
            if let Err(e) = options.run(until).await {
                tracing::error!(error = %e, "the image service ended");
            }
        });
        Ok(Self { drain, _dir: dir })
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.drain.begin();
    }
}

/// The image service's program; it can be killed and started again over what it left.
pub struct ImageProgram {
    child: Child,
    dir: TempDir,
}

impl ImageProgram {
    /// Starts one that speaks with a house's gateway, and listens there.
    pub fn start(house: &House, clients: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tls"))?;
        house.place.write_identity(&at("tls"))?;
        fs::write(at("token.keys"), format!("1 {}\n", "5a".repeat(32)))?;
        let text = format!(
            "[listen]\nclients = \"{clients}\"\n[storage]\ndir = \"{0}/state\"\n[gateway]\nurl = \"{1}\"\n\
             [tls]\ndir = \"{0}/tls\"\n[tokens]\nkey_file = \"{0}/token.keys\"\n\
             [import]\nallow = [\"127.0.0.0/8\"]\n",
            dir.path().display(),
            house.gateway.agents
        );
        fs::write(at("image-service.toml"), text)?;
        let child = Self::spawn(&dir)?;
        Ok(Self { child, dir })
    }

    fn spawn(dir: &TempDir) -> Result<Child> {
        let log = File::options().create(true).append(true).open(dir.path().join("log"))?;
        let mut command = Command::new(program("basalt-image-service")?);
        command.arg("--config").arg(dir.path().join("image-service.toml")).stdin(Stdio::null());
        Ok(command.stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// Kills it, and starts it again.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.alive()?;
        self.child.kill()?;
        self.child.wait()?;
        self.child = Self::spawn(&self.dir)?;
        Ok(())
    }

    /// Fails when it ended by itself.
    pub fn alive(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the image service ended, {ended:?}: {}", self.log());
        Ok(())
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Folder of its state.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }
}

impl Drop for ImageProgram {
    fn drop(&mut self) {
        // Nobody is left to tell when it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
