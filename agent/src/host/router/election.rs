//! Which of a router's two hosts is active: keepalived, by VRRP (RFC 3768) between their tunnel addresses.
//!
//! ```text
//! standby ── no advertisement for 3.6 s ──► active       active ── stopped, or hears a higher priority ──► standby
//! ```
//! Whoever is active stays so (`nopreempt`): a host that comes back takes nothing away.

use super::Namespace;
use crate::{
    Error,
    host::{
        facts,
        process::Detached,
        program::Program,
        storage::files::{remove, write_if_changed},
    },
};
use basalt_plan::host::RouterDefinition;
use rustix::process::Signal;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Priorities of the two hosts, when both begin at once.
const PRIORITIES: (u8, u8) = (150, 100);

/// How long keepalived may take to end: it takes its addresses away first.
const PATIENCE: Duration = Duration::from_secs(2);

/// The choice between a router's two hosts.
#[derive(Debug)]
pub struct Election<'a> {
    dir: PathBuf,
    namespace: &'a Namespace,
}

impl<'a> Election<'a> {
    /// That of a router kept in a directory.
    pub fn new(dir: &Path, namespace: &'a Namespace) -> Self {
        Self { dir: dir.to_owned(), namespace }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// keepalived runs as said. `renewed`: devices are new and down, so that it must begin anew and choose again; the
    /// other host takes over at once.
    pub async fn ensure(
        &self,
        router: &RouterDefinition,
        own: Ipv4Addr,
        peer: Ipv4Addr,
        renewed: bool,
    ) -> Result<(), Error> {
        let device = facts::device_of(own)
            .await
            .ok_or_else(|| Error::host("setting up a router", format!("no device of this host has {own}")))?;
        let configuration = self.configuration(router, &device, own, peer);
        let changed = write_if_changed(&self.file("keepalived.conf"), &configuration)?;
        match self.keepalived().find() {
            Some(_) if renewed => {
                self.end().await?;
                self.start().await
            }
            // It reads its configuration again and keeps its role.
            Some(process) if changed => process.signal(Signal::HUP),
            Some(_) => Ok(()),
            None => self.start().await,
        }
    }

    fn configuration(
        &self,
        router: &RouterDefinition,
        device: &str,
        own: Ipv4Addr,
        peer: Ipv4Addr,
    ) -> String {
        let priority = if router.preferred { PRIORITIES.0 } else { PRIORITIES.1 };
        let batch = |role: &str| {
            let (namespace, file) = (self.namespace.name(), self.file(role));
            format!("\"/sbin/ip -force -n {namespace} -batch {}\"", file.display())
        };
        let (active, standby) = (batch("active"), batch("standby"));
        format!(
            "# Written by the agent; changes are overwritten.\n\
             global_defs {{\n\x20 script_user root\n\x20 enable_script_security\n}}\n\
             vrrp_instance router {{\n\x20 state BACKUP\n\x20 nopreempt\n\x20 interface {device}\n\
             \x20 virtual_router_id {}\n\x20 priority {priority}\n\x20 advert_int 1\n\
             \x20 unicast_src_ip {own}\n\x20 unicast_peer {{\n\x20   {peer}\n\x20 }}\n\
             \x20 notify_master {active}\n\x20 notify_backup {standby}\n\
             \x20 notify_fault {standby}\n\x20 notify_stop {standby}\n}}\n",
            router.vrid
        )
    }

    /// Whether keepalived runs.
    pub fn is_running(&self) -> bool {
        self.keepalived().find().is_some()
    }

    /// The keepalived of this directory.
    fn keepalived(&self) -> Detached {
        let (pid_file, argument) = (self.file("keepalived.pid"), self.file("keepalived.conf").into());
        Detached { name: "keepalived", pid_file, argument }
    }

    async fn start(&self) -> Result<(), Error> {
        let [configuration, pid, vrrp] =
            ["keepalived.conf", "keepalived.pid", "vrrp.pid"].map(|name| self.file(name));
        for stale in [&pid, &vrrp] {
            remove(stale)?;
        }
        Program::quick("keepalived")
            .args(["--vrrp", "-f"])
            .arg(configuration)
            .arg("-p")
            .arg(pid)
            .arg("-r")
            .arg(vrrp)
            .run()
            .await?;
        Ok(())
    }

    /// It does not run. What it did last stands: one that ends by itself stands by.
    pub async fn end(&self) -> Result<(), Error> {
        self.keepalived().end(PATIENCE).await
    }
}
