//! `agent.toml`: what an agent is told. Unknown keys are refused, so that a misspelt one is no silent default.

use crate::Error;
use basalt_model::{Name, pools::PoolKind};
use serde::Deserialize;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the gateway is.
    pub gateway: GatewayConfig,
    /// Where the agent keeps its state.
    pub state: StateConfig,
    /// The host's identity.
    pub host: HostConfig,
    /// Storage pools.
    #[serde(default, rename = "pool")]
    pub pools: Vec<PoolConfig>,
    /// Open vSwitch.
    #[serde(default)]
    pub network: NetworkConfig,
    /// libvirt.
    #[serde(default)]
    pub libvirt: LibvirtConfig,
    /// VMs that come from other hosts and go there. Without it none does.
    #[serde(default)]
    pub migration: Option<MigrationConfig>,
    /// What stops VMs that need a lease when it has run out.
    #[serde(default)]
    pub fencer: FencerConfig,
}

/// `[fencer]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FencerConfig {
    /// A watchdog device that resets the machine when the fencer fails: `/dev/watchdog`. Without it there is none.
    #[serde(default)]
    pub watchdog: Option<PathBuf>,
}

/// `[migration]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationConfig {
    /// This host's own address, as other hosts reach it, and the port that its agent takes VMs in on: usually 9446.
    pub listen: SocketAddr,
}

/// `[gateway]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The agents' door: `https://gateway:9444`.
    pub url: String,
    /// File with the certificate authority that the gateway's certificate must come from, PEM.
    pub ca: PathBuf,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Directory of key, certificate and ledger; made with mode 0700.
    pub dir: PathBuf,
}

/// `[host]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// The host's name, as it was declared.
    pub name: Name,
    /// File with the one-time join token; read only while there is no certificate.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
}

/// `[[pool]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Unique on this host.
    pub name: Name,
    /// What keeps the volumes.
    pub kind: PoolKind,
    /// Absolute path of the directory.
    pub path: PathBuf,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The integration bridge, made when it is not there.
    #[serde(default = "default_bridge")]
    pub bridge: String,
    /// Who moves the packets.
    #[serde(default)]
    pub datapath: Datapath,
    /// This host's own address in the network that carries tunnels between hosts. On the userspace datapath it is an
    /// address of a bridge of that datapath. Without it no VXLAN network of this host reaches another one.
    #[serde(default)]
    pub tunnel_address: Option<Ipv4Addr>,
}

/// Who moves the packets of the integration bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datapath {
    /// The kernel module.
    #[default]
    System,
    /// ovs-vswitchd itself.
    Netdev,
}

impl Datapath {
    /// Open vSwitch's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }
}

/// `[libvirt]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LibvirtConfig {
    /// A local connection: unix sockets only.
    #[serde(default = "default_uri")]
    pub uri: String,
}

fn default_bridge() -> String {
    "br-int".into()
}
fn default_uri() -> String {
    "qemu:///system".into()
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { bridge: default_bridge(), datapath: Datapath::default(), tunnel_address: None }
    }
}
impl Default for LibvirtConfig {
    fn default() -> Self {
        Self { uri: default_uri() }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Config`] when it cannot be read, is no TOML of this shape, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::Config { path: path.into(), why };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    /// Reads a text; the error says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check().map(|()| config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.gateway.url.starts_with("https://") {
            return Err(format!("gateway.url is {:?}; write https://<gateway>:9444", self.gateway.url));
        }
        if !(1..=15).contains(&self.network.bridge.len()) {
            return Err(format!(
                "network.bridge is {:?}; an interface name has 1 to 15 characters",
                self.network.bridge
            ));
        }
        if let Some(listen) = self.migration.as_ref().map(|m| m.listen)
            && (listen.ip().is_unspecified() || listen.port() == 0)
        {
            return Err(format!(
                "migration.listen is {listen}; other hosts are told this address, so name this host's own one, with a port: \
                 \"10.77.0.2:9446\""
            ));
        }
        if let Some(pool) = self.pools.first().filter(|p| p.kind == PoolKind::SharedDirectory) {
            return Err(format!(
                "pool {}: the first pool keeps the image cache and the seeds, which are this host's alone; write a pool of \
                 kind \"directory\" before it",
                pool.name
            ));
        }
        for (i, pool) in self.pools.iter().enumerate() {
            if !pool.path.is_absolute() {
                return Err(format!("pool {}: path {} is not absolute", pool.name, pool.path.display()));
            }
            if self.pools[..i].iter().any(|p| p.name == pool.name || p.path == pool.path) {
                return Err(format!("pool {}: another pool has its name or its path", pool.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[gateway]
url = "https://10.77.0.254:9444"
ca = "/etc/basalt/ca.pem"
[state]
dir = "/var/lib/basalt-agent"
[host]
name = "h1"
join_token_file = "/etc/basalt/join-token"
[[pool]]
name = "default"
kind = "directory"
path = "/var/lib/basalt/pool"
[network]
bridge = "br-int"
datapath = "netdev"
"#;

    #[test]
    fn a_small_file_is_enough() {
        let c = Config::parse(GOOD).unwrap();
        assert_eq!((c.network.datapath, c.libvirt.uri.as_str()), (Datapath::Netdev, "qemu:///system"));
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (from, to, want) in [
            ("bridge =", "brigde =", "brigde"),
            ("https://", "http://", "gateway.url"),
            ("\"/var/lib/basalt/pool\"", "\"pool\"", "not absolute"),
            ("\"directory\"", "\"cloud\"", "cloud"),
            ("\"br-int\"", "\"a-bridge-with-a-long-name\"", "15 characters"),
            (
                "[network]",
                "[[pool]]\nname = \"default\"\nkind = \"directory\"\npath = \"/b\"\n[network]",
                "another pool",
            ),
            ("\"directory\"", "\"shared_directory\"", "the first pool"),
            ("[network]", "[migration]\nlisten = \"0.0.0.0:9446\"\n[network]", "host's own"),
        ] {
            let e = Config::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(e.contains(want), "{want}: {e}");
        }
    }
}
