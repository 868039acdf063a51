//! Resident memory of the three components' programs.

use super::{Figure, surroundings};
use crate::{House, gateway::program, oracles};
use anyhow::{Context, Result};
use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// The gateway as it stands, with what the database holds.
pub fn gateway(house: &House) -> Result<Figure> {
    let pid = house.gateway.pid().context("the gateway is a program here")?;
    let vms = oracles::count(house.owner_url(), "SELECT count(*) FROM vms")?;
    Ok(Figure::new(
        format!("RSS of the gateway with {vms} VMs"),
        surroundings::mib(surroundings::resident_bytes(pid)?),
    ))
}

/// The image service's program, just started.
pub async fn image_service(house: &House) -> Result<Figure> {
    let dir = TempDir::new()?;
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("tls"))?;
    house.place.write_identity(&at("tls"))?;
    fs::write(at("token.keys"), format!("1 {}\n", "5a".repeat(32)))?;
    let text = format!(
        "[listen]\nclients = \"127.0.0.1:0\"\n[storage]\ndir = \"{0}/blobs\"\n[gateway]\nurl = \"{1}\"\n\
         [tls]\ndir = \"{0}/tls\"\n[tokens]\nkey_file = \"{0}/token.keys\"\n",
        dir.path().display(),
        house.gateway.agents
    );
    fs::write(at("image-service.toml"), text)?;
    let log = fs::File::create(at("log"))?;
    let mut command = Command::new(program("basalt-image-service")?);
    command
        .arg("--config")
        .arg(at("image-service.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = Ended(command.spawn()?);
    tokio::time::sleep(Duration::from_secs(1)).await;
    if let Some(status) = child.0.try_wait()? {
        anyhow::bail!("the image service ended, {status}: {}", fs::read_to_string(at("log"))?);
    }
    Ok(Figure::new(
        "RSS of the image service, idle",
        surroundings::mib(surroundings::resident_bytes(child.0.id())?),
    ))
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody is left to tell when it ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
