//! Members of groups against a recomputation from all rows, after every one of many seeded changes.

use super::*;

fn group(n: u64) -> SecurityGroupId {
    SecurityGroupId(Uuid::from_u128(n.into()))
}
fn network(n: u64) -> NetworkId {
    NetworkId(Uuid::from_u128(n.into()))
}
fn host(n: u64) -> HostId {
    HostId(Uuid::from_u128(n.into()))
}

/// The rows as they are, and what follows from them at once.
#[derive(Default)]
struct Truth {
    vms: BTreeMap<Uuid, (Vec<Nic>, Option<HostId>)>,
    networks: BTreeMap<NetworkId, Network>,
    named: BTreeMap<SecurityGroupId, BTreeSet<SecurityGroupId>>,
}

impl Truth {
    fn ports(&self) -> impl Iterator<Item = (Option<HostId>, Vec<IpAddr>, BTreeSet<SecurityGroupId>)> {
        self.vms.values().flat_map(|(nics, place)| {
            nics.iter().map(|(network, address, mac, own)| {
                let (groups, prefix) = self.networks.get(network).cloned().unwrap_or_default();
                let second = prefix.map(|p| IpAddr::V6(address6(p, mac)));
                let addresses = [Some(IpAddr::V4(*address)), second].into_iter().flatten().collect();
                (*place, addresses, own.iter().copied().chain(groups).collect())
            })
        })
    }

    fn groups(&self, at: HostId) -> Vec<DirectoryGroup> {
        let here = self.ports().filter(|(place, ..)| *place == Some(at)).flat_map(|(.., groups)| groups);
        let asked: BTreeSet<_> = here.filter_map(|g| self.named.get(&g)).flatten().copied().collect();
        let members = |id| {
            let all: BTreeSet<IpAddr> =
                self.ports().filter(|(.., g)| g.contains(&id)).flat_map(|(_, a, _)| a).collect();
            all.into_iter().collect()
        };
        asked.into_iter().map(|id| DirectoryGroup { id, members: members(id) }).collect()
    }
}

#[test]
fn n5_members_follow_every_change_and_their_stamp_tells_of_each() {
    let mut seed = 0x00ba_5a17_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut members, mut truth) = (Members::default(), Truth::default());
    let mut before: BTreeMap<HostId, (Stamp, Vec<DirectoryGroup>)> = BTreeMap::new();
    for step in 0..4_000 {
        let vm = Uuid::from_u128(u128::from(next(12)));
        match next(6) {
            0 | 1 => {
                let place = (next(4) > 0).then_some(host(next(4)));
                truth.vms.entry(vm).or_default().1 = place;
                members.place(vm, place);
            }
            2 | 3 => {
                let nic = |n: u64, g: u64, a: u64| {
                    let address = Ipv4Addr::from([10, 10, 0, u8::try_from(a).unwrap()]);
                    let mac = format!("02:00:00:00:00:{a:02x}");
                    let groups = (0..4).filter(|i| g >> i & 1 == 1).map(group).collect();
                    (network(n), address, mac, groups)
                };
                let nics: Vec<Nic> = (0..next(3)).map(|_| nic(next(3), next(16), next(20))).collect();
                truth.vms.entry(vm).or_default().0.clone_from(&nics);
                members.attach(vm, nics);
            }
            4 => {
                let (id, groups) =
                    (network(next(3)), (0..4).filter(|_| next(3) == 0).map(group).collect::<Vec<_>>());
                let network = (groups, (next(3) == 0).then(|| "fd00::/64".parse().unwrap()));
                truth.networks.insert(id, network.clone());
                members.network(id, network);
            }
            _ => {
                let (id, named) =
                    (group(next(4)), (0..4).filter(|_| next(3) == 0).map(group).collect::<BTreeSet<_>>());
                truth.named.insert(id, named.clone());
                members.rules(id, named);
            }
        }
        for n in 0..4 {
            let groups = members.groups(host(n));
            assert_eq!(groups, truth.groups(host(n)), "step {step}, host {n}");
            assert_eq!(members.len(host(n)), groups.iter().map(|g| g.members.len()).sum::<usize>());
            let stamp = members.stamp(host(n));
            if let Some((old, shown)) = before.get(&host(n)).filter(|(old, _)| *old == stamp) {
                assert_eq!(*shown, groups, "step {step}: {old:?} stands for two parts");
            }
            before.insert(host(n), (stamp, groups));
        }
    }
    for vm in 0..12 {
        members.attach(Uuid::from_u128(vm), Vec::new());
    }
    assert!(members.is_empty(), "nothing is kept of what is gone");
}
