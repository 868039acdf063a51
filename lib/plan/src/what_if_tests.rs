//! What would happen: the answers are those of the decisions in earnest.

use super::*;
use basalt_wire::rest::Inventory;
use serde_json::json;

fn world(changes: impl FnOnce(&mut serde_json::Value)) -> World {
    let host = |name: &str, rack: &str| {
        json!({"name": name, "labels": {"rack": rack}, "threads": 8, "memory_bytes": 9_u64 << 30, "fencer": true,
            "pools": [{"name": "nfs", "capacity_bytes": 1_u64 << 40, "shared": true},
                {"name": "local", "capacity_bytes": 1_u64 << 40}]})
    };
    let vm = |name: &str, host: &str, pool: &str, policy: &str| {
        json!({"name": name, "host": host, "cpus": 1, "memory_bytes": 2_u64 << 30, "ha": {"policy": policy},
            "disks": [{"pool": pool, "size_bytes": 1_u64 << 30}], "networks": ["lan"]})
    };
    let mut inventory = json!({
        "hosts": [host("h1", "a"), host("h2", "a"), host("h3", "b")],
        "vms": [vm("ha", "h1", "nfs", "restart"), vm("pet", "h1", "local", "none"), vm("other", "h2", "nfs", "none")],
    });
    changes(&mut inventory);
    described(&serde_json::from_value::<Inventory>(inventory).unwrap()).unwrap()
}

fn ids(world: &World, names: &[&str]) -> Vec<HostId> {
    names.iter().map(|n| world.hosts.iter().find(|h| h.name.as_str() == *n).unwrap().id).collect()
}

fn fates(answer: &SimAnswer) -> Vec<(&str, SimFate, Option<&str>)> {
    answer.vms.iter().map(|v| (v.vm.as_str(), v.fate, v.to.as_ref().map(Name::as_str))).collect()
}

#[test]
fn m5_a_lost_host_starts_what_may_start_elsewhere_and_says_why_the_rest_is_down() {
    let world = world(|_| {});
    let answer = play(world.clone(), &[(SimEventKind::Lose, ids(&world, &["h1"]))]);
    assert_eq!(fates(&answer), [("ha", SimFate::Restarts, Some("h3")), ("pet", SimFate::Down, None)]);
    assert_eq!(answer.vms[0].after_seconds, Some(PROVEN_SECONDS + START_SECONDS));
    assert_eq!(answer.vms[1].reason.as_ref().unwrap().code, "no_ha_policy");
    assert_eq!(answer.summary, "1 VMs start anew elsewhere, 1 VMs are down, 1 networks fall apart");
    let h3 = answer.hosts.iter().find(|h| h.host.as_str() == "h3").unwrap();
    assert!(h3.memory_percent_before == 0 && h3.memory_percent_after > 0);
}

#[test]
fn m5_without_a_fencer_nothing_starts_elsewhere_and_an_isolated_host_runs_on() {
    let world = world(|i| i["hosts"][0]["fencer"] = json!(false));
    let lost = play(world.clone(), &[(SimEventKind::Lose, ids(&world, &["h1"]))]);
    assert_eq!(fates(&lost)[0], ("ha", SimFate::Down, None));
    assert_eq!(lost.vms[0].reason.as_ref().unwrap().code, "fencing_not_proven");
    let apart = play(world.clone(), &[(SimEventKind::Isolate, ids(&world, &["h1"]))]);
    assert_eq!(fates(&apart), [("ha", SimFate::Isolated, None), ("pet", SimFate::Isolated, None)]);
}

#[test]
fn m5_a_rack_that_is_lost_leaves_room_only_for_so_many() {
    let big = |i: &mut serde_json::Value| {
        for n in [0, 2] {
            i["vms"][n]["memory_bytes"] = json!(6_u64 << 30);
            i["vms"][n]["ha"] = json!({"policy": "restart"});
        }
    };
    let world = world(big);
    let answer = play(world.clone(), &[(SimEventKind::Lose, ids(&world, &["h1", "h2"]))]);
    let said = fates(&answer);
    assert_eq!(said[0], ("ha", SimFate::Restarts, Some("h3")));
    assert_eq!(said[2], ("other", SimFate::Down, None), "h3 has room for one of them");
    assert_eq!(answer.vms[2].reason.as_ref().unwrap().code, "no_host_fits");
}

#[test]
fn m4_a_drain_is_the_plan_of_a_drain_and_the_next_event_sees_what_it_left() {
    let world = world(|_| {});
    let (h1, h3) = (ids(&world, &["h1"]), ids(&world, &["h3"]));
    let answer = play(world.clone(), &[(SimEventKind::Drain, h1.clone()), (SimEventKind::Lose, h3)]);
    let moved = answer.vms.iter().filter(|v| v.fate == SimFate::Moves).count();
    assert_eq!(moved, 2, "{:?}", fates(&answer));
    let onto_h3 =
        answer.vms.iter().filter(|v| v.fate == SimFate::Moves && v.to.as_ref().unwrap().as_str() == "h3");
    let after = answer.vms.iter().filter(|v| v.host.as_str() == "h3");
    assert_eq!(onto_h3.count(), after.count(), "what went to h3 is lost with it");
}

#[test]
fn a_cut_link_splits_networks_and_nothing_else() {
    let world = world(|_| {});
    let answer = play(world.clone(), &[(SimEventKind::Cut, ids(&world, &["h1", "h2"]))]);
    assert!(answer.vms.is_empty());
    let split = &answer.splits[0];
    assert_eq!(
        (split.network.as_str(), split.here[0].as_str(), split.there[0].as_str()),
        ("lan", "h1", "h2")
    );
    // A drain over a cut link goes elsewhere.
    let events =
        [(SimEventKind::Cut, ids(&world, &["h1", "h2"])), (SimEventKind::Drain, ids(&world, &["h1"]))];
    let answer = play(world, &events);
    assert!(answer.vms.iter().all(|v| v.to.as_ref().unwrap().as_str() == "h3"), "{:?}", fates(&answer));
}

#[test]
fn an_inventory_that_contradicts_itself_names_the_field() {
    let wrong = |change: fn(&mut serde_json::Value)| {
        let mut inventory = json!({"hosts": [{"name": "h1", "threads": 1, "memory_bytes": 1, "pools": []}],
            "vms": [{"name": "a", "host": "h1", "cpus": 1, "memory_bytes": 1}]});
        change(&mut inventory);
        described(&serde_json::from_value(inventory).unwrap()).err().map(|e| e.field)
    };
    assert_eq!(wrong(|_| {}), None);
    assert_eq!(wrong(|i| i["vms"][0]["host"] = json!("h9")).as_deref(), Some("inventory.vms.0.host"));
    let disk = json!([{"pool": "nfs", "size_bytes": 1}]);
    assert_eq!(
        wrong(|i| i["vms"][0]["disks"] = json!([{"pool": "nfs", "size_bytes": 1}])).as_deref(),
        Some("inventory.vms.0.disks.0.pool")
    );
    assert_eq!(disk[0]["pool"], "nfs");
}
