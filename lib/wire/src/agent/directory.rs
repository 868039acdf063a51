//! The directory: where the ports of a host's networks are on other hosts, so that it can send there.
//!
//! It is no intent and stands in no database: every gateway derives it from VMs, placements and facts, so two of them
//! that have read the same truth say the same, byte for byte. Served whole with its digest as ETag.

use crate::agent::manifest::is_mac;
use basalt_model::{Name, NetworkId, SecurityGroupId};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use utoipa::ToSchema;

/// Where the ports of one host's networks are on other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Directory {
    /// Networks of this host that are on others too, by id.
    pub networks: Vec<DirectoryNetwork>,
    /// Groups that rules of this host's groups name, by id, with who is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<DirectoryGroup>,
}

/// Who is in a security group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct DirectoryGroup {
    /// The group.
    pub id: SecurityGroupId,
    /// Addresses of all ports of the project that are in it, on this host too, sorted.
    #[schema(value_type = Vec<String>)]
    pub members: Vec<IpAddr>,
}

/// Where the ports of one network are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectoryNetwork {
    /// The network.
    pub id: NetworkId,
    /// Other hosts that have ports of it and are reached through tunnels, by address.
    pub peers: Vec<Peer>,
    /// Its ports on other hosts, where they are reached by a wire: who they are, for no frame is sent by this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PeerPort>,
}

/// Another host that has ports of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Where its tunnels end.
    #[schema(value_type = String, format = Ipv4)]
    pub tunnel_address: Ipv4Addr,
    /// The network's ports on it, by address.
    pub ports: Vec<PeerPort>,
}

/// A port of a network on another host. A router's is on both of its hosts, once for each of its addresses: whoever sends
/// to its MAC address sends to both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct PeerPort {
    /// Its address.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// Its MAC address, lower case with colons.
    pub mac: String,
    /// Its guest's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

impl Directory {
    /// Reads and checks a directory; it is taken whole or not at all.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let directory: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        for port in directory.networks.iter().flat_map(DirectoryNetwork::all) {
            if !is_mac(&port.mac) {
                return Err(format!("{:?} is no MAC address", port.mac));
            }
        }
        Ok(directory)
    }

    /// Where a network is besides here.
    pub fn peers(&self, network: NetworkId) -> &[Peer] {
        self.networks.iter().find(|n| n.id == network).map_or(&[], |n| &n.peers)
    }

    /// The ports that a network has besides here, however they are reached.
    pub fn ports(&self, network: NetworkId) -> impl Iterator<Item = &PeerPort> {
        self.networks.iter().filter(move |n| n.id == network).flat_map(DirectoryNetwork::all)
    }
}

impl DirectoryNetwork {
    fn all(&self) -> impl Iterator<Item = &PeerPort> {
        self.peers.iter().flat_map(|peer| &peer.ports).chain(&self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_wrong_address_is_refused_whole() {
        let text = r#"{"networks":[{"id":"00000000-0000-0000-0000-000000000001","peers":[{"tunnel_address":"10.78.0.2","ports":[{"address":"10.10.0.9","mac":"02:00:00:00:00:09"}]}]}]}"#;
        let directory = Directory::read(text.as_bytes()).unwrap();
        assert_eq!(directory.peers(directory.networks[0].id)[0].ports[0].address.to_string(), "10.10.0.9");
        assert!(
            Directory::read(text.replace("02:00", "2:00").as_bytes()).unwrap_err().contains("no MAC address")
        );
        assert!(Directory::read(text.replace("10.78.0.2", "h2").as_bytes()).is_err());
        let wire = r#"{"networks":[{"id":"00000000-0000-0000-0000-000000000001","peers":[],"ports":[{"address":"10.7.0.9","mac":"02:00:00:00:00:09","name":"b"}]}]}"#;
        let directory = Directory::read(wire.as_bytes()).unwrap();
        assert!(directory.peers(directory.networks[0].id).is_empty(), "nothing is sent by it");
        let there: Vec<_> =
            directory.ports(directory.networks[0].id).map(|p| p.address.to_string()).collect();
        assert_eq!(there, ["10.7.0.9"]);
        assert!(Directory::read(wire.replace("02:00", "2:00").as_bytes()).is_err());
    }
}
