//! Resident memory of the three components' programs.

use super::{Figure, surroundings};
use crate::{House, images::ImageProgram, oracles};
use anyhow::{Context, Result};
use serde_json::json;
use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

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
    let mut images = ImageProgram::start(house, "127.0.0.1:0")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    images.alive()?;
    Ok(Figure::new(
        "RSS of the image service, idle",
        surroundings::mib(surroundings::resident_bytes(images.pid())?),
    ))
}

/// An agent in a process of its own, with a host in memory: all of an agent but libvirt's client library.
pub async fn agent(house: &mut House) -> Result<Vec<Figure>> {
    const VMS: usize = 100;
    let gateway = house.gateway.agents.clone();
    let machine = house.declare_host("alone", json!({}), &gateway).await?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--agent").arg(machine.config_file()).stdin(Stdio::null());
    let child = Ended(command.spawn()?);
    house.until_ready("alone").await?;
    let empty = surroundings::resident_bytes(child.0.id())?;
    let mut tasks = Vec::new();
    for n in 0..VMS {
        let rules = json!({"placement": {"host": "alone"}, "memory_bytes": 64 << 20});
        tasks.push(house.api.create_vm(&format!("alone-{n}"), rules).await?.1);
    }
    for task in &tasks {
        house.api.completed(task).await?;
    }
    let cpu = surroundings::cpu_time(child.0.id())?;
    let idle = Duration::from_secs(10);
    tokio::time::sleep(idle).await;
    let cpu = surroundings::cpu_time(child.0.id())?.saturating_sub(cpu);
    let full = surroundings::resident_bytes(child.0.id())?;
    let share = 100.0 * cpu.as_secs_f64() / idle.as_secs_f64();
    Ok(vec![
        Figure::new("RSS of an agent on a simulated host, no VM", surroundings::mib(empty)),
        Figure::new(format!("RSS of an agent on a simulated host, {VMS} VMs"), surroundings::mib(full))
            .target("≤ 25 MiB", full <= 25 << 20),
        Figure::new(
            format!("processor of that agent when nothing changes, {VMS} VMs"),
            format!("{share:.1} % of a core"),
        ),
    ])
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody is left to tell when it ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
