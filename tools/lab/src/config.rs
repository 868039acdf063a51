//! The configuration files the lab writes for the parts it starts.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::layout::Layout;
use crate::netns::SWITCH_ADDRESS;
use crate::process::Account;

/// Where the parts of one lab meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The gateway's door for users, in the machine's own namespace.
    pub users: SocketAddr,
    /// The gateway's door for agents and the image service, on the lab's switch.
    pub agents: SocketAddr,
    /// The image service's door for users.
    pub image_users: SocketAddr,
    /// The image service's door for agents.
    pub image_agents: SocketAddr,
}

/// Where the gateway finds its database.
#[derive(Serialize)]
pub struct Database {
    /// As the gateway's own login.
    pub url: String,
    /// As the owner of the schema, for migrations.
    pub owner_url: String,
}

/// Where the gateway and the image service keep what is theirs.
#[derive(Clone, Debug)]
pub struct StateDirs {
    pub pki: PathBuf,
    pub gateway: PathBuf,
    pub images: PathBuf,
    pub image_tls: PathBuf,
    /// The key both sign and check transfer tokens with.
    pub token_key_file: PathBuf,
}

impl StateDirs {
    pub fn of(layout: &Layout) -> Self {
        Self {
            pki: layout.state_dir("pki"),
            gateway: layout.state_dir("gateway"),
            images: layout.state_dir("images"),
            image_tls: layout.state_dir("image-tls"),
            token_key_file: layout.state_dir("token-keys").join("keys"),
        }
    }

    /// Where the gateway leaves the certificate of its authority.
    pub fn ca_file(&self) -> PathBuf {
        self.pki.join("ca.pem")
    }

    /// Makes the token key if there is none: one line, `<id> <hex>`.
    pub fn ensure_token_key(&self) -> Result<()> {
        if self.token_key_file.exists() {
            return Ok(());
        }
        if let Some(dir) = self.token_key_file.parent() {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        let key: [u8; 32] = rand::random();
        fs::write(&self.token_key_file, format!("1 {}\n", hex::encode(key))).context("token key")
    }
}

#[derive(Serialize)]
struct GatewayListen {
    users: SocketAddr,
    agents: SocketAddr,
}

#[derive(Serialize)]
struct Dir {
    dir: PathBuf,
}

#[derive(Serialize)]
struct Pki {
    dir: PathBuf,
    server_names: Vec<String>,
}

#[derive(Serialize)]
struct Image {
    url: String,
    public_url: String,
    token_key_file: PathBuf,
}

/// `gateway.toml`
#[derive(Serialize)]
pub struct Gateway {
    database: Database,
    listen: GatewayListen,
    pki: Pki,
    image: Image,
    state: Dir,
}

impl Gateway {
    pub fn new(endpoints: &Endpoints, database: Database, state: &StateDirs) -> Self {
        Self {
            database,
            listen: GatewayListen { users: endpoints.users, agents: endpoints.agents },
            pki: Pki {
                dir: state.pki.clone(),
                server_names: vec![
                    "localhost".to_owned(),
                    endpoints.users.ip().to_string(),
                    endpoints.agents.ip().to_string(),
                ],
            },
            image: Image {
                url: format!("https://{}", endpoints.image_agents),
                public_url: format!("https://{}", endpoints.image_users),
                token_key_file: state.token_key_file.clone(),
            },
            state: Dir { dir: state.gateway.clone() },
        }
    }
}

#[derive(Serialize)]
struct ImageListen {
    clients: SocketAddr,
}

#[derive(Serialize)]
struct Url {
    url: String,
}

/// `image-service.toml`
#[derive(Serialize)]
pub struct ImageService {
    listen: ImageListen,
    storage: Dir,
    gateway: Url,
    tls: Dir,
    tokens: Tokens,
}

#[derive(Serialize)]
struct Tokens {
    key_file: PathBuf,
}

impl ImageService {
    pub fn new(endpoints: &Endpoints, state: &StateDirs) -> Self {
        Self {
            listen: ImageListen { clients: endpoints.image_users },
            storage: Dir { dir: state.images.clone() },
            gateway: Url { url: format!("https://{}", endpoints.agents) },
            tls: Dir { dir: state.image_tls.clone() },
            tokens: Tokens { key_file: state.token_key_file.clone() },
        }
    }
}

#[derive(Serialize)]
struct AgentGateway {
    url: String,
    ca: PathBuf,
}

#[derive(Serialize)]
struct AgentHost {
    name: String,
    join_token_file: PathBuf,
}

#[derive(Serialize)]
struct Libvirt {
    uri: String,
}

#[derive(Serialize)]
struct Pool {
    name: String,
    kind: String,
    path: PathBuf,
}

#[derive(Serialize)]
struct Migration {
    listen: SocketAddr,
}

#[derive(Serialize)]
struct Network {
    bridge: String,
    datapath: String,
    tunnel_address: Ipv4Addr,
}

/// `agent.toml`
#[derive(Serialize)]
pub struct Agent {
    gateway: AgentGateway,
    state: Dir,
    host: AgentHost,
    network: Network,
    libvirt: Libvirt,
    migration: Migration,
    #[serde(rename = "pool")]
    pools: Vec<Pool>,
}

/// Where agents take VMs in.
const MIGRATION_PORT: u16 = 9446;
/// Where the agent finds the CA certificate, seen from inside the host.
pub const AGENT_CA_FILE: &str = "/etc/basalt/ca.pem";
const JOIN_TOKEN_FILE: &str = "/etc/basalt/join-token";

impl Agent {
    pub fn new(endpoints: &Endpoints, host: &str, address: Ipv4Addr, tunnel_address: Ipv4Addr) -> Self {
        Self {
            gateway: AgentGateway { url: format!("https://{}", endpoints.agents), ca: AGENT_CA_FILE.into() },
            state: Dir { dir: "/var/lib/basalt".into() },
            host: AgentHost { name: host.to_owned(), join_token_file: JOIN_TOKEN_FILE.into() },
            network: Network { bridge: "br-int".to_owned(), datapath: "netdev".to_owned(), tunnel_address },
            libvirt: Libvirt { uri: "qemu:///system".to_owned() },
            migration: Migration { listen: SocketAddr::from((address, MIGRATION_PORT)) },
            pools: vec![Pool {
                name: "default".to_owned(),
                kind: "directory".to_owned(),
                path: "/var/lib/basalt/pools/default".into(),
            }],
        }
    }
}

/// Writes a configuration file.
pub fn write_toml<T: Serialize>(path: &Path, config: &T) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = format!("# Written by basalt-lab at every start.\n{}", toml::to_string(config)?);
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// `libvirtd.conf`: unix sockets only, no authentication beyond their modes.
pub fn libvirtd_conf(host_uuid: uuid::Uuid) -> String {
    format!(
        "listen_tls = 0\nlisten_tcp = 0\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
         host_uuid = \"{host_uuid}\"\nlog_outputs = \"2:file:/var/log/libvirt/libvirtd.log\"\n\
         keepalive_interval = 2\nkeepalive_count = 3\n"
    )
}

/// `qemu.conf`: QEMU runs as its own account, in a mount namespace and under seccomp.
///
/// `remember_owner` is off because libvirt keeps the count of users of a file in an attribute that survives
/// the power cut of a namespace host, and would then never give the file back. There is no cgroup and no
/// virtlogd inside a namespace host.
pub fn qemu_conf(account: &Account) -> String {
    format!(
        "user = \"{}\"\ngroup = \"{}\"\ndynamic_ownership = 1\nremember_owner = 0\nsecurity_driver = \"none\"\n\
         namespaces = [ \"mount\" ]\nseccomp_sandbox = 1\ncgroup_controllers = []\nstdio_handler = \"file\"\n\
         cgroup_device_acl = [ \"/dev/null\", \"/dev/full\", \"/dev/zero\", \"/dev/random\", \"/dev/urandom\", \"/dev/ptmx\", \"/dev/kvm\", \"/dev/userfaultfd\" ]\n\
         vnc_listen = \"127.0.0.1\"\nkeepalive_interval = 2\nkeepalive_count = 3\n",
        account.name, account.group
    )
}

/// `/etc/hosts` of every host: all hosts of the lab and the gateway, by their management addresses.
pub fn hosts_file<'a>(hosts: impl IntoIterator<Item = (&'a str, Ipv4Addr)>) -> String {
    let mut text = format!("127.0.0.1 localhost\n::1 localhost\n{SWITCH_ADDRESS} gateway\n");
    for (name, address) in hosts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address} {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        Endpoints {
            users: "127.0.0.1:9443".parse().unwrap(),
            agents: "10.77.0.254:9444".parse().unwrap(),
            image_users: "127.0.0.1:9445".parse().unwrap(),
            image_agents: "10.77.0.254:9445".parse().unwrap(),
        }
    }

    #[test]
    fn the_files_hold_what_each_part_reads() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirs::of(&Layout::create(&dir.path().join("d")).unwrap());
        let database = Database { url: "postgres:///b".into(), owner_url: "postgres:///o".into() };
        let table = parsed(&Gateway::new(&endpoints(), database, &state));
        assert_eq!(table["listen"]["agents"].as_str(), Some("10.77.0.254:9444"));
        assert_eq!(table["image"]["public_url"].as_str(), Some("https://127.0.0.1:9445"));
        let key_file = table["image"]["token_key_file"].as_str();
        let table = parsed(&ImageService::new(&endpoints(), &state));
        assert_eq!(table["gateway"]["url"].as_str(), Some("https://10.77.0.254:9444"));
        assert_eq!(table["tokens"]["key_file"].as_str(), key_file);
        let table =
            parsed(&Agent::new(&endpoints(), "h1", Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 78, 0, 1)));
        assert_eq!(table["migration"]["listen"].as_str(), Some("10.77.0.1:9446"));
        assert_eq!(table["network"]["tunnel_address"].as_str(), Some("10.78.0.1"));
        assert_eq!(table["pool"][0]["kind"].as_str(), Some("directory"));
        assert_eq!(table["gateway"]["url"].as_str(), Some("https://10.77.0.254:9444"));
    }

    fn parsed<T: Serialize>(config: &T) -> toml::Table {
        toml::to_string(config).unwrap().parse().unwrap()
    }

    #[test]
    fn a_token_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirs::of(&Layout::create(&dir.path().join("d")).unwrap());
        state.ensure_token_key().unwrap();
        let first = fs::read_to_string(&state.token_key_file).unwrap();
        state.ensure_token_key().unwrap();
        assert_eq!(first, fs::read_to_string(&state.token_key_file).unwrap());
        assert_eq!(first.trim_end().len(), "1 ".len() + 64);
    }

    #[test]
    fn libvirt_has_no_tcp_door_and_qemu_is_not_root() {
        assert!(libvirtd_conf(uuid::Uuid::nil()).contains("listen_tcp = 0"));
        let account = Account { name: "libvirt-qemu".into(), uid: 64055, gid: 108, group: "kvm".into() };
        assert!(qemu_conf(&account).starts_with("user = \"libvirt-qemu\"\ngroup = \"kvm\"\n"));
    }
}
