//! The directory against a recomputation from all rows, after every one of many seeded changes.

use super::*;
use basalt_wire::agent::directory::DirectoryNetwork;

fn host(n: u128) -> HostId {
    HostId(Uuid::from_u128(n))
}
fn network(n: u128) -> NetworkId {
    NetworkId(Uuid::from_u128(n))
}
fn port(n: u8) -> PeerPort {
    PeerPort { address: [10, 10, 0, n].into(), mac: format!("02:00:00:00:00:{n:02x}"), name: None }
}

/// What a host is told, read back.
fn told(ports: &Ports, host: HostId) -> Directory {
    let mut directory = Directory::read(ports.listing(host).text().unwrap().as_bytes()).unwrap();
    // Hosts that share a tunnel's address by mistake come in the order of their ids.
    directory.networks.iter_mut().for_each(|network| {
        network.peers.sort();
        network.ports.sort();
    });
    directory
}

/// The rows as they are, and what follows from them at once.
#[derive(Default)]
struct Truth {
    /// A VM on its way is at two hosts, which may be the same one for a moment.
    vms: BTreeMap<Uuid, (Nics, [Option<HostId>; 2])>,
    tunnels: BTreeMap<HostId, Ipv4Addr>,
    ways: BTreeMap<NetworkId, Way>,
}

impl Truth {
    fn directory(&self, of: HostId) -> Directory {
        let at = |id: NetworkId, host: HostId| -> Vec<PeerPort> {
            let mut ports: Vec<PeerPort> = self
                .vms
                .values()
                .filter(|(_, places)| places.contains(&Some(host)))
                .flat_map(|(nics, _)| nics.iter().filter(|n| n.0 == id).map(|n| n.1.clone()))
                .collect();
            ports.sort();
            ports
        };
        let mut networks = Vec::new();
        for (id, way) in self.ways.iter().filter(|(id, _)| !at(**id, of).is_empty()) {
            if *way == Way::Wire {
                let others = (0..4).map(host).filter(|other| *other != of);
                let mut ports: Vec<PeerPort> = others.flat_map(|other| at(*id, other)).collect();
                ports.sort();
                if !ports.is_empty() {
                    networks.push(DirectoryNetwork { id: *id, peers: Vec::new(), ports });
                }
                continue;
            }
            let others = self.tunnels.iter().filter(|(other, _)| **other != of);
            let mut peers: Vec<Peer> = others
                .map(|(other, address)| Peer { tunnel_address: *address, ports: at(*id, *other) })
                .filter(|peer| !peer.ports.is_empty())
                .collect();
            peers.sort();
            if !peers.is_empty() {
                networks.push(DirectoryNetwork { id: *id, peers, ports: Vec::new() });
            }
        }
        Directory { networks, groups: Vec::new() }
    }
}

#[test]
fn n3_the_directory_follows_every_change_and_its_stamp_tells_of_each() {
    let mut seed = 0x00ba_5a17_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut ports, mut truth) = (Ports::default(), Truth::default());
    let mut before: BTreeMap<HostId, (Stamp, Directory)> = BTreeMap::new();
    let mut tags: HashMap<String, Directory> = HashMap::new();
    for step in 0..4_000 {
        let vm = Uuid::from_u128(u128::from(next(12)));
        let at = host(u128::from(next(4)));
        let net = network(u128::from(next(3)));
        match next(6) {
            0 | 1 => {
                let place = (next(4) > 0).then_some(at);
                let slot = next(2) as usize;
                truth.vms.entry(vm).or_default().1[slot] = place;
                ports.place((vm, slot as u8), place);
            }
            2 | 3 => {
                let own = u8::try_from(vm.as_u128()).unwrap();
                let nics: Nics =
                    (0..next(3)).map(|i| (network(u128::from(next(3))), port(own * 8 + i as u8))).collect();
                truth.vms.entry(vm).or_default().0.clone_from(&nics);
                ports.attach(vm, nics);
            }
            4 => {
                let address =
                    (next(3) > 0).then(|| Ipv4Addr::from(0x0a4e_0000 + u32::try_from(next(9)).unwrap()));
                match address {
                    Some(address) => drop(truth.tunnels.insert(at, address)),
                    None => drop(truth.tunnels.remove(&at)),
                }
                ports.tunnel(at, address);
            }
            _ => {
                let way = [None, Some(Way::Tunnels), Some(Way::Wire)][next(3) as usize];
                match way {
                    Some(way) => drop(truth.ways.insert(net, way)),
                    None => drop(truth.ways.remove(&net)),
                }
                ports.travels(net, way);
            }
        }
        for n in 0..4 {
            let directory = told(&ports, host(n));
            let tag = ports.listing(host(n)).tag().unwrap();
            let tagged = tags.entry(tag).or_insert_with(|| directory.clone());
            assert_eq!(*tagged, directory, "step {step}: one tag stands for two directories");
            assert_eq!(directory, truth.directory(host(n)), "step {step}, host {n}");
            let theirs = |n: &DirectoryNetwork| {
                n.ports.len() + n.peers.iter().map(|peer| peer.ports.len()).sum::<usize>()
            };
            let theirs: usize = directory.networks.iter().map(theirs).sum();
            assert!(theirs <= ports.count(host(n)), "step {step}: ports are miscounted");
            let stamp = ports.stamp(host(n));
            if let Some((old, shown)) = before.get(&host(n)).filter(|(old, _)| *old == stamp) {
                assert_eq!(*shown, directory, "step {step}: {old:?} stands for two directories");
            }
            before.insert(host(n), (stamp, directory));
        }
    }
    for vm in 0..12 {
        [0, 1].into_iter().for_each(|slot| ports.place((Uuid::from_u128(vm), slot), None));
    }
    assert!(ports.networks.is_empty() && ports.of_host.is_empty(), "nothing is kept of what is gone");
}

/// N6: whichever of its two hosts is active, everybody else sends to both.
#[test]
fn n6_a_router_is_on_both_of_its_hosts_and_known_to_the_hosts_of_its_networks() {
    let (inner, outer, vm, router) = (network(1), network(2), Uuid::from_u128(5), Uuid::from_u128(6));
    let mut ports = Ports::default();
    ports.travels(inner, Some(Way::Tunnels));
    ports.travels(outer, Some(Way::Tunnels));
    for n in 1..=4 {
        ports.tunnel(host(n), Some([10, 0, 0, n as u8].into()));
    }
    ports.attach(vm, vec![(inner, port(9))]);
    ports.place((vm, 0), Some(host(3)));
    ports.attach(router, vec![(inner, port(1)), (outer, port(2)), (outer, port(3))]);
    ports.place((router, 0), Some(host(1)));
    ports.place((router, 1), Some(host(2)));
    let of = |ports: &Ports, n: u128, id: NetworkId| -> Vec<(u8, usize)> {
        let directory = told(ports, host(n));
        directory.peers(id).iter().map(|p| (p.tunnel_address.octets()[3], p.ports.len())).collect()
    };
    assert_eq!(of(&ports, 3, inner), [(1, 1), (2, 1)], "the guest's host knows both");
    assert_eq!(of(&ports, 1, inner), [(2, 1), (3, 1)], "one host knows the other, and the guest");
    assert_eq!(of(&ports, 1, outer), [(2, 2)], "with all addresses");
    assert_eq!(of(&ports, 3, outer), [], "who has no port of a network hears nothing of it");
    assert_eq!(of(&ports, 4, inner), []);
    ports.place((router, 0), None);
    assert_eq!(of(&ports, 3, inner), [(2, 1)]);
    ports.attach(router, Vec::new());
    assert_eq!(of(&ports, 3, inner), []);
}

/// N3: a change costs what it changed, and not once more for each host that hears of it.
#[test]
fn n3_what_a_host_has_of_a_network_is_written_once_for_all_who_hear_of_it() {
    const HOSTS: u128 = 200;
    let (net, mut ports) = (network(1), Ports::default());
    ports.travels(net, Some(Way::Tunnels));
    let port = |n: u128| {
        let n = u32::try_from(n).unwrap();
        PeerPort {
            address: Ipv4Addr::from(0x0a00_0000 + n),
            mac: format!("02:00:00:00:00:{n:x}"),
            name: None,
        }
    };
    for n in 0..HOSTS {
        ports.tunnel(host(n), Some(Ipv4Addr::from(0x0a4e_0000 + u32::try_from(n).unwrap())));
        for vm in n * 20..n * 20 + 20 {
            ports.attach(Uuid::from_u128(vm), vec![(net, port(vm))]);
            ports.place((Uuid::from_u128(vm), 0), Some(host(n)));
        }
    }
    let parts = |ports: &Ports, n: u128| ports.listing(host(n)).networks.remove(0).2;
    let before: HashMap<_, _> =
        (0..2).flat_map(|n| parts(&ports, n)).map(|part| (part.tunnel_address, part)).collect();
    assert_eq!(before.len(), HOSTS as usize);
    ports.attach(Uuid::from_u128(7 * 20), Vec::new());
    let mut written = BTreeMap::new();
    for part in (0..HOSTS).flat_map(|n| parts(&ports, n)) {
        if !Arc::ptr_eq(&part, &before[&part.tunnel_address]) {
            written.insert(Arc::as_ptr(&part), part.tunnel_address);
        }
    }
    assert_eq!(
        written.values().collect::<Vec<_>>(),
        [&Some(Ipv4Addr::from(0x0a4e_0007))],
        "once, and only its host"
    );
}

/// N1: names on a VLAN or an untagged wire are known on every host of the network, with or without tunnels.
#[test]
fn n1_ports_on_a_wire_are_told_without_a_way_to_them() {
    let (net, one, two) = (network(1), Uuid::from_u128(5), Uuid::from_u128(6));
    let mut ports = Ports::default();
    ports.travels(net, Some(Way::Wire));
    ports.attach(one, vec![(net, port(1))]);
    ports.attach(two, vec![(net, port(2))]);
    ports.place((one, 0), Some(host(1)));
    ports.place((two, 0), Some(host(2)));
    let directory = told(&ports, host(1));
    assert_eq!(directory.ports(net).collect::<Vec<_>>(), [&port(2)]);
    assert!(directory.peers(net).is_empty(), "frames go by the wire");
}
