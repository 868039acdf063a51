//! Where the ports of networks are: what every agent must know of the others, by long poll.
//!
//! It is derived from rows that the feed brings anyway (VMs, placements, facts of hosts, networks) and kept in memory
//! only: a guest that is placed costs no write for each host that can speak with it. One network is held and written
//! once, however many hosts hear of it: what a guest's host has of it is written anew, and all others are as they were.

use crate::{
    App, Error,
    agent::{ManifestParams, check_start},
    agent_identity::Agent,
    members::{self, Members},
    query::Query,
    tasks::{MAX_WAIT_SECONDS, check_wait},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use basalt_model::{HostId, NetworkId, networks::Segment};
use basalt_store::{
    feed::{Change, Row, Table},
    routers::Router,
};
use basalt_wire::agent::directory::{Directory, DirectoryGroup, Peer, PeerPort};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// What changes in quick succession goes in one answer: the more there is to say, the longer. Otherwise every VM of a
/// large network that is being filled would be told to all of its hosts by itself, with all that were there before.
const GATHERING: Duration = Duration::from_millis(50);
const GATHERING_PER_PORT: Duration = Duration::from_micros(500);
const LONGEST_GATHERING: Duration = Duration::from_millis(500);

/// The ports of a VM.
type Nics = Vec<(NetworkId, PeerPort)>;

/// What a host's directory depended on. Equal ones stand for equal directories.
pub type Stamp = (Vec<(NetworkId, u64)>, members::Stamp);

/// Where all ports are.
#[derive(Default)]
pub struct Ports {
    nics: HashMap<Uuid, Nics>,
    /// Where VMs and routers are; a router is in two places, and so is a VM on its way.
    places: HashMap<(Uuid, u8), HostId>,
    tunnels: HashMap<HostId, Ipv4Addr>,
    /// How networks travel between hosts.
    ways: HashMap<NetworkId, Way>,
    networks: HashMap<NetworkId, Spread>,
    /// Networks of each host.
    of_host: HashMap<HostId, BTreeSet<NetworkId>>,
    /// Grows with every change.
    version: u64,
    members: Members,
}

/// Where one network is.
#[derive(Default)]
struct Spread {
    /// The version of its last change.
    version: u64,
    /// How many there are.
    ports: usize,
    hosts: BTreeMap<HostId, Here>,
}

/// How a network travels between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through tunnels: a frame is sent to the host that has the port.
    Tunnels,
    /// By a wire that the hosts are on, as a VLAN or untagged: others need only know who is there.
    Wire,
}

/// The ports of a network on one host.
#[derive(Default)]
struct Here {
    ports: BTreeSet<PeerPort>,
    written: OnceCell<Arc<Part>>,
}

/// What one host has of one network, as all others are told.
struct Part {
    tunnel_address: Option<Ipv4Addr>,
    /// One peer, or its ports.
    pieces: Vec<Box<RawValue>>,
    digest: [u8; 32],
}

impl Here {
    fn part(&self, way: Way, tunnel_address: Option<Ipv4Addr>) -> &Arc<Part> {
        self.written.get_or_init(|| {
            let ports = || self.ports.iter().cloned();
            // Plain data can always be written.
            let pieces: Vec<Box<RawValue>> = match (way, tunnel_address) {
                (Way::Wire, _) => ports().filter_map(|port| to_raw_value(&port).ok()).collect(),
                (Way::Tunnels, Some(tunnel_address)) => {
                    to_raw_value(&Peer { tunnel_address, ports: ports().collect() }).into_iter().collect()
                }
                // Nothing can be sent to it.
                (Way::Tunnels, None) => Vec::new(),
            };
            let mut digest = Sha256::new();
            pieces.iter().for_each(|piece| digest.update(piece.get()));
            let tunnel_address = tunnel_address.filter(|_| way == Way::Tunnels);
            Arc::new(Part { tunnel_address, pieces, digest: digest.finalize().into() })
        })
    }
}

/// What a host is told, in parts that all hosts share.
pub struct Listing {
    networks: Vec<(NetworkId, Way, Vec<Arc<Part>>)>,
    groups: Vec<DirectoryGroup>,
}

/// [`Directory`] as it is written.
#[derive(Serialize)]
struct Text<'a> {
    networks: Vec<TextNetwork<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [DirectoryGroup],
}

#[derive(Serialize)]
struct TextNetwork<'a> {
    id: NetworkId,
    peers: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<&'a RawValue>,
}

impl Listing {
    /// What stands for it: of the digests of its parts, so that no text is read again for each host.
    pub fn tag(&self) -> Result<String, Error> {
        let mut digest = Sha256::new();
        for (id, _, parts) in &self.networks {
            digest.update(id.0);
            parts.iter().for_each(|part| digest.update(part.digest));
        }
        digest.update(serde_json::to_vec(&self.groups).map_err(|e| Error::internal("writing groups", e))?);
        Ok(format!("\"{}\"", hex::encode(digest.finalize())))
    }

    /// A [`Directory`] as JSON.
    pub fn text(&self) -> Result<String, Error> {
        let networks = self.networks.iter().map(|(id, way, parts)| {
            let pieces: Vec<&RawValue> =
                parts.iter().flat_map(|part| part.pieces.iter().map(|piece| &**piece)).collect();
            match way {
                Way::Tunnels => TextNetwork { id: *id, peers: pieces, ports: Vec::new() },
                Way::Wire => TextNetwork { id: *id, peers: Vec::new(), ports: pieces },
            }
        });
        let text = Text { networks: networks.collect(), groups: &self.groups };
        serde_json::to_string(&text).map_err(|e| Error::internal("writing a directory", e))
    }
}

impl Ports {
    /// Everything comes anew. Versions go on, so that no stamp stands for two directories.
    pub fn forget(&mut self) {
        let mut members = std::mem::take(&mut self.members);
        members.forget();
        *self = Self { version: self.version + 1, members, ..Self::default() };
    }

    /// Takes one change of a row; whether any directory is another one now.
    pub fn apply(&mut self, change: &Change) -> bool {
        let before = self.version;
        let mut moved = false;
        let (key, slot) = change.key.split_once('/').unwrap_or((&change.key, "0"));
        if let (Ok(id), Ok(slot)) = (Uuid::parse_str(key), slot.parse()) {
            moved = self.members.apply(id, change);
            match (change.table, &change.row) {
                (Table::Vm, Some(Row::Vm(vm))) => {
                    let port = |n: &basalt_model::vms::VmNic| PeerPort {
                        address: n.address,
                        mac: n.mac.clone(),
                        name: Some(vm.metadata.name.clone()),
                    };
                    self.attach(id, vm.nics.iter().map(|n| (n.network_id, port(n))).collect());
                }
                (Table::Vm, _) => self.attach(id, Vec::new()),
                (Table::Router, Some(Row::Router(router))) => self.attach(id, router_ports(router)),
                (Table::Router, _) => self.attach(id, Vec::new()),
                (Table::RouterPlacement, Some(Row::RouterPlacement(placement))) => {
                    self.place((id, slot), Some(placement.host_id));
                }
                (Table::RouterPlacement, _) => self.place((id, slot), None),
                (Table::Placement, Some(Row::Placement(placement))) => self.place((id, 0), placement.host_id),
                (Table::Placement, _) => {
                    self.place((id, 0), None);
                    self.place((id, 1), None);
                }
                // On its way it is told to be at both hosts, so that the one where it executes hears what is meant for it
                // whatever the control plane does in that moment; the other has no port for it.
                (Table::Migration, Some(Row::Migration(row))) => {
                    let migration = &row.migration;
                    let target = migration.target_host_id.filter(|_| migration.ended_at.is_none());
                    self.place((migration.vm_id.0, 1), target);
                }
                (Table::HostFacts, Some(Row::HostFacts(row))) => {
                    self.tunnel(HostId(id), row.facts.tunnel_address)
                }
                (Table::HostFacts, _) => self.tunnel(HostId(id), None),
                (Table::Network, Some(Row::Network(network))) => {
                    let way = if network.spec.segment == Segment::Vxlan { Way::Tunnels } else { Way::Wire };
                    self.travels(NetworkId(id), Some(way));
                }
                (Table::Network, _) => self.travels(NetworkId(id), None),
                _ => {}
            }
        }
        moved || self.version != before
    }

    fn attach(&mut self, vm: Uuid, nics: Nics) {
        if self.nics.get(&vm).map_or(&[][..], |n| n) != nics {
            let hosts = [0, 1].map(|slot| self.places.get(&(vm, slot)).copied());
            hosts.iter().for_each(|host| self.spread(vm, *host, false));
            match nics.is_empty() {
                true => drop(self.nics.remove(&vm)),
                false => drop(self.nics.insert(vm, nics)),
            }
            hosts.iter().for_each(|host| self.spread(vm, *host, true));
        }
    }

    fn place(&mut self, at: (Uuid, u8), host: Option<HostId>) {
        let (vm, before) = (at.0, self.places.get(&at).copied());
        if before != host {
            // A VM that arrived is where it was going: one place of the two is left, and its ports stay.
            let other = self.places.get(&(vm, 1 - at.1.min(1))).copied();
            self.spread(vm, before.filter(|before| Some(*before) != other), false);
            match host {
                Some(host) => drop(self.places.insert(at, host)),
                None => drop(self.places.remove(&at)),
            }
            self.spread(vm, host, true);
        }
    }

    fn tunnel(&mut self, host: HostId, address: Option<Ipv4Addr>) {
        let before = match address {
            Some(address) => self.tunnels.insert(host, address),
            None => self.tunnels.remove(&host),
        };
        if before != address {
            let networks = self.of_host.get(&host).cloned().unwrap_or_default();
            networks.into_iter().for_each(|network| self.touch(network, Some(host)));
        }
    }

    fn travels(&mut self, network: NetworkId, way: Option<Way>) {
        let before = match way {
            Some(way) => self.ways.insert(network, way),
            None => self.ways.remove(&network),
        };
        if before != way {
            self.touch(network, None);
        }
    }

    /// What a host, or all of them, have of a network is told in other words now.
    fn touch(&mut self, network: NetworkId, host: Option<HostId>) {
        if let Some(spread) = self.networks.get_mut(&network) {
            self.version += 1;
            spread.version = self.version;
            for (_, here) in spread.hosts.iter_mut().filter(|(id, _)| host.is_none_or(|host| host == **id)) {
                here.written.take();
            }
        }
    }

    /// The ports of a VM are on a host, or no longer.
    fn spread(&mut self, vm: Uuid, host: Option<HostId>, there: bool) {
        let (Some(host), Some(nics)) = (host, self.nics.get(&vm).cloned()) else { return };
        for (network, port) in nics {
            match there {
                true => self.enter(host, network, port),
                false => self.leave(host, network, &port),
            }
        }
    }

    fn enter(&mut self, host: HostId, network: NetworkId, port: PeerPort) {
        self.version += 1;
        let spread = self.networks.entry(network).or_default();
        spread.version = self.version;
        let here = spread.hosts.entry(host).or_default();
        here.written.take();
        spread.ports += usize::from(here.ports.insert(port));
        self.of_host.entry(host).or_default().insert(network);
    }

    fn leave(&mut self, host: HostId, network: NetworkId, port: &PeerPort) {
        let Some(spread) = self.networks.get_mut(&network) else { return };
        let Some(here) = spread.hosts.get_mut(&host) else { return };
        self.version += 1;
        spread.version = self.version;
        here.written.take();
        spread.ports -= usize::from(here.ports.remove(port));
        if !here.ports.is_empty() {
            return;
        }
        spread.hosts.remove(&host);
        if spread.hosts.is_empty() {
            self.networks.remove(&network);
        }
        if let Some(networks) = self.of_host.get_mut(&host) {
            networks.remove(&network);
            if networks.is_empty() {
                self.of_host.remove(&host);
            }
        }
    }

    fn networks_of(&self, host: HostId) -> impl Iterator<Item = (NetworkId, Way, &Spread)> {
        let networks = self.of_host.get(&host).into_iter().flatten();
        networks.filter_map(|id| Some((*id, *self.ways.get(id)?, self.networks.get(id)?)))
    }

    /// What the directory of a host depends on.
    pub fn stamp(&self, host: HostId) -> Stamp {
        let networks = self.networks_of(host).map(|(network, _, spread)| (network, spread.version));
        (networks.collect(), self.members.stamp(host))
    }

    /// How many ports and members of groups a host must know.
    pub fn count(&self, host: HostId) -> usize {
        self.networks_of(host).map(|(_, _, spread)| spread.ports).sum::<usize>() + self.members.len(host)
    }

    /// Where other hosts have ports of a host's networks. Through tunnels nobody reaches a host without an address for them.
    pub fn listing(&self, host: HostId) -> Listing {
        let networks = self.networks_of(host).filter_map(|(id, way, spread)| {
            let others = spread.hosts.iter().filter(|(other, _)| **other != host);
            let parts = others.map(|(other, here)| here.part(way, self.tunnels.get(other).copied()).clone());
            let mut parts: Vec<Arc<Part>> = parts.filter(|part| !part.pieces.is_empty()).collect();
            // A stable sort: hosts come in the order of their ids, so every gateway says the same.
            parts.sort_by_key(|part| part.tunnel_address);
            (!parts.is_empty()).then_some((id, way, parts))
        });
        Listing { networks: networks.collect(), groups: self.members.groups(host) }
    }
}

/// A router's ports, one for each of its addresses. It is on both of its hosts, and frames for it go to both.
fn router_ports(router: &Router) -> Nics {
    let each = |(network, mac, addresses): (NetworkId, &str, Vec<Ipv4Addr>)| {
        let mac = mac.to_owned();
        addresses
            .into_iter()
            .map(move |address| (network, PeerPort { address, mac: mac.clone(), name: None }))
    };
    router.wiring.presences().flat_map(each).collect()
}

/// Where other hosts have ports of the calling host's networks. With `If-None-Match` it waits for another directory.
#[utoipa::path(get, path = "/agent/v1/directory", tag = "agents", params(ManifestParams),
    responses((status = 200, description = "The whole directory; its digest is the ETag", body = Directory), (status = 304, description = "Unchanged"), crate::openapi::Problems))]
pub async fn read_directory(
    State(app): State<App>,
    agent: Agent,
    Query(params): Query<ManifestParams>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let wait_seconds = params.wait_seconds.unwrap_or(MAX_WAIT_SECONDS);
    check_wait(wait_seconds)?;
    let host = agent.host_id;
    check_start(&app, host, &headers).await?;
    if !app.hub.is_synced() {
        return Err(Error::NotReady("the truth is being read".into()));
    }
    let have = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).map(str::trim);
    let gather = || async {
        let ports = u32::try_from(app.hub.directory_ports(host)).unwrap_or(u32::MAX);
        let pace = GATHERING + GATHERING_PER_PORT.saturating_mul(ports);
        tokio::time::sleep(pace.min(LONGEST_GATHERING)).await;
    };
    let other = async {
        let mut changes = app.hub.directory_changes();
        let mut seen = None;
        // Who has one already was answered a moment ago.
        if have.is_some() && wait_seconds > 0 {
            gather().await;
        }
        loop {
            changes.mark_unchanged();
            let stamp = Some(app.hub.directory_stamp(host));
            if seen != stamp {
                let listing = app.hub.directory(host);
                let tag = listing.tag()?;
                if have != Some(&*tag) {
                    return Ok((tag, listing.text()?));
                }
                seen = stamp;
            }
            if changes.changed().await.is_err() {
                return Err(Error::NotReady("the gateway ends".into()));
            }
            gather().await;
        }
    };
    let news = tokio::time::timeout(Duration::from_secs(wait_seconds.into()), app.drain.or(other)).await;
    match news {
        Ok(Some(found)) => {
            check_start(&app, host, &headers).await?;
            let (tag, text) = found?;
            let json = HeaderValue::from_static("application/json");
            Ok(([(header::ETAG, value(&tag)?), (header::CONTENT_TYPE, json)], text).into_response())
        }
        Ok(None) | Err(_) => {
            let tag = value(have.unwrap_or("\"\""))?;
            Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response())
        }
    }
}

fn value(tag: &str) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(tag).map_err(|e| Error::internal("writing an ETag", e))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
