//! N6: where routers go, and what is said of them.

use super::*;
use uuid::Uuid;

fn host(n: u128) -> HostId {
    HostId(Uuid::from_u128(n))
}

fn router(n: u128) -> RouterId {
    RouterId(Uuid::from_u128(n << 64))
}

fn ready(n: u128) -> (HostId, RouterHost) {
    let name = Name::new(format!("h{n}")).unwrap();
    (host(n), RouterHost { name, state: HostState::Ready, able: true, bridges: ["br-ex".to_owned()].into() })
}

fn hosts(many: u128) -> BTreeMap<HostId, RouterHost> {
    (1..=many).map(ready).collect()
}

fn is(hosts: &mut BTreeMap<HostId, RouterHost>, n: u128, state: HostState) {
    hosts.get_mut(&host(n)).unwrap().state = state;
}

const NONE: BTreeMap<u8, HostId> = BTreeMap::new();

#[test]
fn n6_a_router_has_two_hosts_that_can_or_one_if_only_one_can() {
    let mut all = hosts(4);
    let chosen = choose(router(1), &[Segment::Vxlan], &all, &NONE);
    assert_eq!(chosen.len(), 2);
    assert_ne!(chosen[&0], chosen[&1]);
    let flat = [Segment::Flat { uplink: "br-ex".into() }];
    for n in [1, 2, 3] {
        all.get_mut(&host(n)).unwrap().bridges.clear();
    }
    assert_eq!(choose(router(1), &flat, &all, &NONE), [(0, host(4))].into(), "only one has the uplink");
    all.get_mut(&host(4)).unwrap().able = false;
    assert_eq!(choose(router(1), &flat, &all, &NONE), NONE);
}

#[test]
fn n6_whoever_has_a_router_keeps_it_when_hosts_come() {
    let few = choose(router(7), &[], &hosts(2), &NONE);
    assert_eq!(choose(router(7), &[], &hosts(9), &few), few);
}

#[test]
fn n6_a_host_that_goes_is_replaced_in_its_place_and_the_other_keeps_its_own() {
    let mut all = hosts(3);
    let before: BTreeMap<u8, HostId> = [(0, host(1)), (1, host(2))].into();
    for state in [HostState::Unreachable, HostState::Maintenance, HostState::Removed] {
        is(&mut all, 1, state);
        let after = choose(router(1), &[], &all, &before);
        assert_eq!(after, [(0, host(3)), (1, host(2))].into(), "{state:?}");
    }
    is(&mut all, 3, HostState::Maintenance);
    assert_eq!(
        choose(router(1), &[], &all, &before),
        [(1, host(2))].into(),
        "a removed host is kept by nobody"
    );
    is(&mut all, 1, HostState::Unreachable);
    assert_eq!(choose(router(1), &[], &all, &before), before, "a silent one is, while nobody else can");
    is(&mut all, 2, HostState::Unreachable);
    assert_eq!(choose(router(1), &[], &all, &before), before, "all silent: it may be us");
}

#[test]
fn n6_routers_spread_over_hosts() {
    let all = hosts(8);
    let mut load: BTreeMap<HostId, usize> = BTreeMap::new();
    for n in 0..400 {
        for id in choose(router(n), &[], &all, &NONE).into_values() {
            *load.entry(id).or_default() += 1;
        }
    }
    assert_eq!(load.len(), 8);
    assert!(load.values().all(|n| (50..150).contains(n)), "{load:?}");
}

#[test]
fn n6_conditions_name_who_routes_and_who_stands_by() {
    let name = Name::new("edge").unwrap();
    let at = |n: &str, active: bool| At {
        host: Name::new(n).unwrap(),
        state: HostState::Ready,
        ready: true,
        active,
        blocked: None,
        stage: String::new(),
    };
    let of = |all: &[At]| conditions(&name, Generation(3), false, all);
    let both = of(&[at("h1", false), at("h2", true)]);
    assert_eq!((both[0].status, both[0].message.as_str()), (ConditionStatus::True, "it routes on host h2"));
    assert_eq!((both[1].status, both[1].message.as_str()), (ConditionStatus::True, "host h1 stands by"));
    let alone = of(&[at("h2", true)]);
    assert_eq!((alone[1].status, alone[1].reason.as_str()), (ConditionStatus::False, "one_host"));
    let silent = of(&[At { state: HostState::Unreachable, ..at("h1", true) }, at("h2", false)]);
    assert_eq!(silent[0].status, ConditionStatus::False);
    assert!(silent[0].message.contains("h1 is not heard of"), "{}", silent[0].message);
    assert!(of(&[])[0].message.contains("add a ready host"));
}
