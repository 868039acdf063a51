//! The gateway of a test house: in this process, or as the real program that can be killed.
//!
//! A killed program's sockets stay open here, as a service manager keeps them: callers queue until
//! the next one listens, and no port is lost to another test.

use anyhow::{Context, Result, bail};
use basalt_daemon::{Clock, SystemClock, pki};
use basalt_gateway::{Config, Gateway, Running};
use basalt_lab::sockets::{NamedSocket, inherit};
use chrono::TimeDelta;
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Files and addresses that a gateway keeps from one start to the next.
pub struct Place {
    dir: PathBuf,
    database_url: String,
    owner_url: String,
    /// The certificate authority, PEM.
    pub ca_pem: String,
    /// Where users upload images; nobody listens there unless a house has an image service.
    pub(crate) images: SocketAddr,
    /// What is said in a gateway's configuration besides.
    pub more: String,
}

impl Place {
    /// Makes the folder's files: authority and the key that signs tokens of the image service.
    pub fn make(dir: &Path, database_url: &str, owner_url: &str) -> Result<Self> {
        let authority = pki::Authority::open(&dir.join("pki"), SystemClock.now())?;
        let key: String = SystemClock.secret().iter().map(|b| format!("{b:02x}")).collect();
        fs::write(dir.join("token.keys"), format!("1 {key}\n"))?;
        let sealing: String = SystemClock.secret().iter().map(|b| format!("{b:02x}")).collect();
        fs::write(dir.join("secrets.keys"), format!("1 {sealing}\n"))?;
        Ok(Self {
            dir: dir.into(),
            database_url: database_url.into(),
            owner_url: owner_url.into(),
            ca_pem: authority.cert_pem().into(),
            images: SocketAddr::new(LOOPBACK.ip(), 1),
            more: String::new(),
        })
    }

    /// The file with the keys that sign tokens of the image service.
    pub fn token_keys(&self) -> PathBuf {
        self.dir.join("token.keys")
    }

    /// The text of a configuration file. Each gateway has a folder of its own: what it keeps there says who
    /// it is, so that it finds its own lease again after a restart and never another's.
    fn text(&self, users: SocketAddr, agents: SocketAddr, name: &str) -> String {
        let dir = self.dir.display();
        format!(
            "[database]\nurl = \"{}\"\nowner_url = \"{}\"\n[listen]\nusers = \"{users}\"\nagents = \"{agents}\"\n\
             [pki]\ndir = \"{dir}/pki\"\n[image]\nurl = \"https://{}\"\ntoken_key_file = \"{dir}/token.keys\"\n\
             [state]\ndir = \"{dir}/{name}\"\n[secrets]\nkey_file = \"{dir}/secrets.keys\"\n{}",
            self.database_url, self.owner_url, self.images, self.more
        )
    }

    /// Writes the configuration of another gateway.
    fn write_config(&self, users: SocketAddr, agents: SocketAddr) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("gateway-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.dir.join(&name).with_extension("toml");
        fs::write(&path, self.text(users, agents, &name))?;
        Ok(path)
    }

    /// A client certificate of the image service: certificate and key, PEM.
    pub fn image_service_identity(&self) -> Result<String> {
        let (cert, key) = self.issue(&[])?;
        Ok(format!("{cert}{key}"))
    }

    /// Writes what the image service's program needs to serve and to be known: `cert.pem`, `key.pem`, `ca.pem`.
    pub fn write_identity(&self, dir: &Path) -> Result<()> {
        let (cert, key) = self.issue(&["127.0.0.1".into()])?;
        for (name, text) in [("cert.pem", cert.as_str()), ("key.pem", &key), ("ca.pem", &self.ca_pem)] {
            fs::write(dir.join(name), text)?;
        }
        Ok(())
    }

    fn issue(&self, hosts: &[String]) -> Result<(String, String)> {
        let now = SystemClock.now();
        let authority = pki::Authority::open(&self.dir.join("pki"), now)?;
        let mut serial = [0; 16];
        serial.copy_from_slice(&SystemClock.secret()[..16]);
        let not_after = now + TimeDelta::hours(1);
        let uri = Some("basalt:image-service");
        let subject = pki::Subject { name: "image-service", hosts, uri, now, not_after, serial };
        let (issued, key) = authority.issue(&subject)?;
        Ok((issued.cert_pem, key))
    }
}

/// A gateway and its addresses.
pub struct TestGateway {
    form: Form,
    /// `https://…` of the users' door.
    pub users: String,
    /// `https://…` of the door of agents and image service.
    pub agents: String,
}

enum Form {
    Inside(Option<Box<Running>>),
    Program { sockets: [NamedSocket; 2], config: PathBuf, log: PathBuf, child: Option<Child> },
}

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl TestGateway {
    /// Starts one in this process.
    pub async fn inside(place: &Place) -> Result<Self> {
        basalt_daemon::boot::crypto();
        let config: Config = basalt_daemon::config::read(&place.write_config(LOOPBACK, LOOPBACK)?)?;
        let running = Gateway::start(config, Arc::new(SystemClock)).await?;
        let (users, agents) = (https(running.users), https(running.agents));
        Ok(Self { form: Form::Inside(Some(Box::new(running))), users, agents })
    }

    /// Starts the real program.
    pub async fn program(place: &Place) -> Result<Self> {
        let sockets = [NamedSocket::listen("users", LOOPBACK)?, NamedSocket::listen("agents", LOOPBACK)?];
        let (users, agents) = (sockets[0].address(), sockets[1].address());
        let config = place.write_config(users, agents)?;
        let log = config.with_extension("log");
        let form = Form::Program { sockets, config, log, child: None };
        let mut gateway = Self { form, users: https(users), agents: https(agents) };
        gateway.start()?;
        Ok(gateway)
    }

    /// Starts the program again after [`Self::kill`].
    pub fn start(&mut self) -> Result<()> {
        let Form::Program { sockets, config, log, child } = &mut self.form else {
            bail!("only the program can be started again")
        };
        let path = program("basalt-gateway")?;
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&path);
        command.args(["serve", "--config"]).arg(config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        inherit(&mut command, sockets.as_slice())?;
        *child = Some(command.spawn().with_context(|| format!("starting {}", path.display()))?);
        Ok(())
    }

    /// Kills the program as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        let Form::Program { child, .. } = &mut self.form else { bail!("only the program can be killed") };
        if let Some(mut child) = child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The program's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match &self.form {
            Form::Program { child, .. } => child.as_ref().map(Child::id),
            Form::Inside(_) => None,
        }
    }

    /// The token that makes the first administrator, of a gateway in this process.
    pub fn first_boot_token(&self) -> Option<&str> {
        match &self.form {
            Form::Inside(running) => running.as_ref()?.first_boot_token.as_deref(),
            Form::Program { .. } => None,
        }
    }

    /// The last lines that the program wrote.
    pub fn log(&self) -> String {
        match &self.form {
            Form::Program { log, .. } => {
                let text = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                lines[lines.len().saturating_sub(30)..].join("\n")
            }
            Form::Inside(_) => String::new(),
        }
    }

    /// Ends it in order.
    pub async fn stop(mut self) -> Result<()> {
        match &mut self.form {
            Form::Inside(running) => match running.take() {
                Some(running) => running.stop().await.context("the gateway did not stop in order"),
                None => Ok(()),
            },
            Form::Program { .. } => self.kill(),
        }
    }

    /// Asks once whether it is ready.
    pub async fn is_ready(&self, http: &reqwest::Client) -> bool {
        let asked = http.get(format!("{}/readyz", self.users)).timeout(Duration::from_secs(2)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if let Form::Program { child: Some(child), .. } = &mut self.form {
            // A test that failed must leave nothing running; there is nobody left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// A program of this workspace, built beside the one that runs now.
pub fn program(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let found = me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built beside {}: run `cargo build --package {name}` with the same profile",
            me.display()
        )
    })
}
