//! DHCP, router advertisements and names of networks: one dnsmasq for each, on an internal port of the integration bridge,
//! in a network namespace of the network's own. Its range was chosen by a tenant: in the host's own namespace it would
//! take the way to whatever else has these addresses, another tenant's network or the host's own.
//!
//! dnsmasq detaches itself, so it outlives a killed agent; it is found again by its PID file and its command
//! line. A changed reservation is a SIGHUP, a changed network a restart. Everything lies under a directory
//! that a reboot empties, as it empties the ports:
//!
//! ```text
//! <dir>/<network id>/{dnsmasq.conf,hosts,names,leases,dnsmasq.pid,network.json,names.json}
//! ```

use super::{Switch, SwitchView};
use crate::{
    Error,
    host::{
        netns::{self, Netns},
        process::Detached,
        storage::files::write_if_changed,
    },
};
use basalt_model::{
    NetworkId,
    networks::{DOMAIN, address6},
};
use basalt_plan::host::{NamesDefinition, NetworkDefinition, NetworkSeen, flows};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a lease lasts; addresses never move, so it only says how soon a guest notices a changed option.
const LEASE: &str = "1h";

/// Seconds between router advertisements that nobody asked for.
const RA_SECONDS: u32 = 60;

/// How long a dnsmasq may take to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The networks that were set up on this host.
#[derive(Clone, Debug)]
pub struct Networks {
    dir: PathBuf,
    switch: Switch,
}

/// What a network was last set up with.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SetUp {
    hash: String,
    vni: u32,
    dhcp: bool,
    /// What was written into the files that dnsmasq reads: a hand may have altered them since.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

impl SetUp {
    /// Whether the files still say what was written.
    fn stands(&self, dir: &Path) -> bool {
        self.files.iter().all(|(name, text)| fs::read_to_string(dir.join(name)).is_ok_and(|now| now == *text))
    }
}

/// What a network's dnsmasq was told of names.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    hash: String,
    text: String,
}

/// The internal port of a network: at most 15 characters for the largest VNI.
pub fn interface(vni: u32) -> String {
    format!("dhcp{vni}")
}

/// The network namespace in which that port is.
pub fn namespace(vni: u32) -> Netns {
    Netns::named(format!("net-{vni}"))
}

/// dnsmasq's configuration of a network.
pub fn configuration(network: &NetworkDefinition, dir: &Path) -> String {
    let mut text = String::from("# Written by the agent; changes are overwritten.\n");
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    };
    match network.names {
        // What it does not know it asks nobody.
        true => line(format!(
            "domain={DOMAIN}\nlocal=/{DOMAIN}/\nexpand-hosts\naddn-hosts={}",
            dir.join("names").display()
        )),
        false => line("port=0".into()),
    }
    line("no-resolv\nno-hosts\nno-ping\ndhcp-authoritative".into());
    line(format!("interface={}\nexcept-interface=lo\nbind-dynamic", interface(network.vni)));
    line(format!("dhcp-range={},static,{},{LEASE}", network.cidr.network(), network.cidr.netmask()));
    line(format!("dhcp-option=option:router,{}", network.gateway));
    line(format!("dhcp-option=option:mtu,{}", network.mtu));
    let servers: Vec<String> = network.dns.iter().map(ToString::to_string).collect();
    // An option without a value is not sent; unsaid, dnsmasq names itself.
    match servers.is_empty() {
        true if network.names => {}
        true => line("dhcp-option=option:dns-server".into()),
        false => line(format!("dhcp-option=option:dns-server,{}", servers.join(","))),
    }
    if let Some(prefix) = network.cidr6 {
        // Both ways lead to the same address: SLAAC makes it of the MAC address, DHCPv6 has it in its reservations. The
        // host is no router.
        line("enable-ra".into());
        line(format!("dhcp-range={},static,slaac,64,{LEASE}", prefix.network()));
        line(format!("ra-param={},mtu:{},{RA_SECONDS},0", interface(network.vni), network.mtu));
        if !network.names {
            line("dhcp-option=option6:dns-server".into());
        }
    }
    for (option, file) in
        [("dhcp-hostsfile", "hosts"), ("dhcp-leasefile", "leases"), ("pid-file", "dnsmasq.pid")]
    {
        line(format!("{option}={}", dir.join(file).display()));
    }
    text
}

/// The file of reservations.
pub fn reservations(network: &NetworkDefinition) -> String {
    let lines = network.reservations.iter().map(|r| {
        let second = r.address6.map(|address| format!("[{address}],")).unwrap_or_default();
        format!("{},{},{second}{},{LEASE}\n", r.mac, r.address, r.hostname)
    });
    lines.collect()
}

/// The file of names.
pub fn names(definition: &NamesDefinition) -> String {
    let mut text = String::new();
    for name in &definition.names {
        let second = name.address6.map(|address| address.to_string());
        for address in [name.address.to_string()].into_iter().chain(second) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{address} {}", name.hostname);
        }
    }
    text
}

impl Networks {
    /// Networks kept under a directory.
    pub fn new(dir: &Path, switch: Switch) -> Self {
        Self { dir: dir.to_owned(), switch }
    }

    fn dir_of(&self, id: NetworkId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// DHCP answers as said, on a port of the bridge.
    pub async fn ensure(&self, network: &NetworkDefinition) -> Result<(), Error> {
        let (dir, interface) = (self.dir_of(network.id), interface(network.vni));
        let mac = flows::server_mac(network.vni);
        let namespace = namespace(network.vni);
        make_dir(&dir)?;
        if set_up(&dir).is_none() {
            // So that what is half made is found again.
            keep(&dir, &SetUp { vni: network.vni, dhcp: network.dhcp, ..SetUp::default() })?;
        }
        self.switch.ensure_server(&interface, network.id, &mac).await?;
        namespace.ensure().await?;
        namespace.ip(&["link", "set", "dev", "lo", "up"]).run().await?;
        namespace.take(&interface).await?;
        if !namespace.has_device(&interface) {
            // It went with the namespace that it was in: who is still in that one must go, and the port be made anew.
            dnsmasq(&dir).end(PATIENCE).await?;
            self.switch.remove_server(network.id).await?;
            self.switch.ensure_server(&interface, network.id, &mac).await?;
            namespace.take(&interface).await?;
        }
        address(network, &namespace, &interface, &mac).await?;
        let configuration = configuration(network, &dir);
        let reservations = reservations(network);
        let (file, hosts) = (dir.join("dnsmasq.conf"), dir.join("hosts"));
        let reconfigured = write_if_changed(&file, &configuration)?;
        let reserved = write_if_changed(&hosts, &reservations)?;
        // dnsmasq wants to read it from the first moment.
        if network.names && !dir.join("names").exists() {
            write_if_changed(&dir.join("names"), "")?;
        }
        let server = dnsmasq(&dir);
        match server.find() {
            // Ended first: the next must have its address.
            Some(process) if !network.dhcp || reconfigured || !namespace.has(process.pid) => {
                server.end(PATIENCE).await?;
                if network.dhcp {
                    start(&namespace, &file).await?;
                }
            }
            Some(process) if reserved => process.signal(Signal::HUP)?,
            None if network.dhcp => start(&namespace, &file).await?,
            _ => {}
        }
        let files = [("dnsmasq.conf", configuration), ("hosts", reservations)];
        let set_up = SetUp {
            hash: network.hash.clone(),
            vni: network.vni,
            dhcp: network.dhcp,
            files: files.map(|(name, text)| (name.to_owned(), text)).into(),
        };
        keep(&dir, &set_up)
    }

    /// The name server of a network knows its guests.
    pub fn name(&self, definition: &NamesDefinition) -> Result<(), Error> {
        let dir = self.dir_of(definition.id);
        let text = names(definition);
        write_if_changed(&dir.join("names"), &text)?;
        if let Some(process) = dnsmasq(&dir).find() {
            process.signal(Signal::HUP)?;
        }
        // Only now: until it was told, what stands in the file is not known.
        let told = Told { hash: definition.hash.clone(), text };
        let json = serde_json::to_string(&told).map_err(|e| Error::host("keeping names' marks", e))?;
        write_if_changed(&dir.join("names.json"), &json).map(drop)
    }

    /// Nothing of a network is left.
    pub async fn remove(&self, id: NetworkId) -> Result<(), Error> {
        let dir = self.dir_of(id);
        dnsmasq(&dir).end(PATIENCE).await?;
        self.switch.remove_server(id).await?;
        if let Some(set_up) = set_up(&dir) {
            namespace(set_up.vni).remove().await?;
        }
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::state(dir, e)),
            _ => Ok(()),
        }
    }

    /// The networks that were set up, and whether they still work. Ports of networks without a directory are
    /// networks too, so that a half-removed one is seen.
    pub fn look(&self, view: &SwitchView) -> Result<BTreeMap<NetworkId, NetworkSeen>, Error> {
        let mut seen: BTreeMap<_, _> =
            view.ports.iter().filter_map(|p| Some((p.network_id()?, NetworkSeen::default()))).collect();
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(seen),
            other => other.map_err(|e| Error::state(&self.dir, e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::state(&self.dir, e))?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let network = set_up(&entry.path()).map_or_else(NetworkSeen::default, |set_up| {
                let (namespace, device) = (namespace(set_up.vni), interface(set_up.vni));
                let inside = !netns::is_outside(&device) && namespace.routed_devices().contains(&device);
                let port = view.ports.iter().any(|p| p.network_id() == Some(id) && p.number.is_some());
                let process = dnsmasq(&entry.path()).find().filter(|process| namespace.has(process.pid));
                let answers = !set_up.dhcp || process.is_some();
                NetworkSeen {
                    names: told(&entry.path()),
                    running: port && answers && inside && set_up.stands(&entry.path()),
                    hash: set_up.hash,
                }
            });
            seen.insert(id, network);
        }
        Ok(seen)
    }
}

/// The hash of the names that a network's dnsmasq was told last, if its file still says so.
fn told(dir: &Path) -> Option<String> {
    let told: Told = serde_json::from_slice(&fs::read(dir.join("names.json")).ok()?).ok()?;
    (fs::read_to_string(dir.join("names")).ok()? == told.text).then_some(told.hash)
}

fn set_up(dir: &Path) -> Option<SetUp> {
    serde_json::from_slice(&fs::read(dir.join("network.json")).ok()?).ok()
}

fn keep(dir: &Path, set_up: &SetUp) -> Result<(), Error> {
    let json = serde_json::to_string(set_up).map_err(|e| Error::host("keeping a network's marks", e))?;
    write_if_changed(&dir.join("network.json"), &json).map(drop)
}

/// The port has the addresses that the network's server answers from.
async fn address(
    network: &NetworkDefinition,
    namespace: &Netns,
    interface: &str,
    mac: &str,
) -> Result<(), Error> {
    let address = format!("{}/{}", network.dhcp_server, network.cidr.prefix_len());
    let broadcast = network.cidr.broadcast().to_string();
    let (dev, mtu) = (["dev", interface], network.mtu.to_string());
    let ip = |args: &[&str]| namespace.ip(args);
    ip(&[&["link", "set"][..], &dev, &["address", mac, "mtu", &mtu]].concat()).run().await?;
    ip(&[&["address", "replace", &address, "broadcast", &broadcast][..], &dev].concat()).run().await?;
    if let Some(prefix) = network.cidr6 {
        let address = format!("{}/64", address6(prefix, mac));
        // It has the same on every host, so another one's is no duplicate.
        ip(&[&["-6", "address", "replace", &address][..], &dev, &["nodad"]].concat()).run().await?;
    }
    ip(&[&["link", "set"][..], &dev, &["up"]].concat()).run().await?;
    namespace.sum_in_software(interface).await
}

/// The dnsmasq that serves a network's directory.
fn dnsmasq(dir: &Path) -> Detached {
    let argument = format!("--conf-file={}", dir.join("dnsmasq.conf").display()).into();
    Detached { name: "dnsmasq", pid_file: dir.join("dnsmasq.pid"), argument }
}

async fn start(namespace: &Netns, configuration: &Path) -> Result<(), Error> {
    let option = format!("--conf-file={}", configuration.display());
    namespace.program("dnsmasq").arg(option).limit(Duration::from_secs(10)).run().await.map(drop)
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    // dnsmasq drops its rights, and reads the reservations again after that.
    fs::create_dir_all(dir).map_err(|e| Error::state(dir, e))
}
