//! N6: a router comes to its two hosts with its networks, is replaced where a host goes, and goes without a rest.

use crate::world::{World, name, until};
use basalt_model::{GIB, HostId, Labels, RouterId};
use basalt_store::{
    Key, New, Update, hosts, manifests,
    routers::{self, RouterView},
};
use basalt_wire::agent::manifest::ItemKind;
use serde_json::{Value, json};

async fn network(world: &World, text: &str, cidr: &str) {
    let spec = serde_json::from_value(json!({ "cidr": cidr })).unwrap();
    let new = New { name: name(text), labels: Labels::default(), spec };
    let mut tx = world.store.tenant(world.tenant).await.unwrap();
    basalt_store::networks::insert(&mut tx, &world.change(), world.project, &new).await.unwrap();
    tx.commit().await.unwrap();
}

async fn router(world: &World, spec: Value) -> RouterId {
    let new =
        New { name: name("edge"), labels: Labels::default(), spec: serde_json::from_value(spec).unwrap() };
    let mut tx = world.store.tenant(world.tenant).await.unwrap();
    let made = routers::insert(&mut tx, &world.change(), world.project, &new).await.unwrap();
    tx.commit().await.unwrap();
    made.object.id()
}

async fn view(world: &World, id: RouterId) -> Option<RouterView> {
    let mut tx = world.store.system_read().await.unwrap();
    routers::get(&mut tx, world.project, &Key::from(id)).await.ok()
}

async fn places(world: &World, id: RouterId) -> Vec<HostId> {
    view(world, id).await.unwrap().placements.iter().map(|p| p.host_id).collect()
}

/// The router's items on a host: body and whether it is wanted; and which kinds stand there.
async fn items(world: &World, host: HostId) -> (Option<Value>, Vec<String>) {
    let mut tx = world.store.system_read().await.unwrap();
    let items = manifests::get::<Value>(&mut tx, host).await.unwrap().items;
    let body = items.iter().find(|i| i.kind == "router" && i.present).map(|i| i.body.clone());
    (body, items.into_iter().filter(|i| i.present).map(|i| i.kind).collect())
}

async fn condition(world: &World, id: RouterId, kind: &str) -> Option<String> {
    let all = view(world, id).await?.conditions;
    all.into_iter().find(|c| c.kind == kind).map(|c| format!("{:?} {}", c.status, c.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn n6_a_router_is_on_two_hosts_and_another_one_takes_the_place_of_one_in_maintenance() {
    let world = World::new().await;
    network(&world, "inner", "10.20.0.0/24").await;
    network(&world, "outer", "10.30.0.0/24").await;
    let running = world.start();
    let mut agents = Vec::new();
    for n in 1..=2 {
        agents.push(world.host(&format!("h{n}"), 4, 4 * GIB).await);
    }
    for agent in &agents {
        agent.let_up_to(Some(ItemKind::Router));
        agent.run();
    }
    let id = router(&world, json!({"networks": ["inner"], "uplink": {"network": "outer"}})).await;
    until("two hosts have it", || async {
        condition(&world, id, "Ready").await.is_some_and(|c| c.starts_with("True it routes on host"))
            && condition(&world, id, "Redundant").await.is_some_and(|c| c.contains("stands by"))
    })
    .await;
    let first = places(&world, id).await;
    assert_eq!(first.len(), 2);
    let (mut preferred, mut numbers) = (0, Vec::new());
    for host in &first {
        let (body, kinds) = items(&world, *host).await;
        let body = body.unwrap();
        assert_eq!(kinds, ["network", "network", "router"], "its networks are there before it");
        preferred += usize::from(body["preferred"] == true);
        assert_eq!(body["peer"], "10.78.0.1");
        numbers.push(body["vrid"].clone());
    }
    assert_eq!((preferred, &numbers[0]), (1, &numbers[1]));

    let third = world.host("h3", 4, 4 * GIB).await;
    third.let_up_to(Some(ItemKind::Router));
    third.run();
    let away = first[0];
    let mut tx = world.store.system().await.unwrap();
    let host = hosts::get(&mut tx, &Key::from(away)).await.unwrap().host;
    let mut spec = host.spec.clone();
    spec.maintenance = true;
    let update = Update { expected: None, labels: None, spec };
    hosts::update(&mut tx, &world.change(), &Key::from(away), &update).await.unwrap();
    tx.commit().await.unwrap();
    until("the third host has its place", || async { places(&world, id).await == [third.host, first[1]] })
        .await;
    until("the first is rid of it", || async { items(&world, away).await.1.is_empty() }).await;

    let mut tx = world.store.tenant(world.tenant).await.unwrap();
    let gone = routers::delete(&mut tx, &world.change(), world.project, &Key::from(id), None).await.unwrap();
    tx.commit().await.unwrap();
    world.completed(gone.task.id).await;
    assert_eq!(view(&world, id).await, None);
    for agent in agents.iter().chain([&third]) {
        until("nothing is left on a host", || async {
            items(&world, agent.host).await.1.is_empty() && agent.has(ItemKind::Router).is_empty()
        })
        .await;
    }
    running.stop().await;
}
