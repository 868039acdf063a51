//! N6: routers in the flows of their own hosts and of others, traced by the switch itself.

use crate::{
    golden,
    ovs::{Ovs, network, plug, set},
};
use basalt_model::{networks::Segment, routers::gateway_mac};
use basalt_plan::host::{
    FlowNetwork, FlowRouter, FlowSet,
    flows::{PortNumbers, render},
};
use basalt_wire::agent::directory::{Peer, PeerPort};
use std::collections::BTreeMap;
use uuid::Uuid;

const ROUTER: &str = "rt100";

fn at(tunnel: &str) -> Peer {
    let port = PeerPort { address: "10.10.0.1".parse().unwrap(), mac: gateway_mac(100), name: None };
    Peer { tunnel_address: tunnel.parse().unwrap(), ports: vec![port] }
}

/// Guests of a network whose router is at these hosts, and here too.
fn with_router(hash: &str, peers: Vec<Peer>, here: bool) -> FlowSet {
    let router = FlowRouter {
        name: ROUTER.into(),
        network_id: network(100).id,
        mac: gateway_mac(100),
        addresses: vec!["10.10.0.1".parse().unwrap()],
    };
    let networks = vec![FlowNetwork { peers, ..network(100) }, network(200)];
    FlowSet { networks, routers: here.then_some(router).into_iter().collect(), ..set(hash) }
}

#[test]
fn n6_the_flows_of_a_router_are_as_checked_in() {
    let set = with_router("h", vec![at("10.78.0.2")], true);
    let numbers = PortNumbers {
        guests: set.ports.iter().zip(1..).map(|(p, number)| (p.port_id, number)).collect(),
        routers: BTreeMap::from([(ROUTER.to_owned(), 20)]),
        tunnel: Some(12),
        ..PortNumbers::default()
    };
    golden::check("flows-router.txt", &(render(&set, &numbers).join("\n") + "\n"));
}

fn to_router(port: u32) -> String {
    let mac = gateway_mac(100);
    format!("in_port={port},dl_src=02:00:00:00:00:05,dl_dst={mac},ip,nw_src=10.10.0.5,nw_dst=192.0.2.1")
}

#[tokio::test]
async fn n6_frames_for_a_router_go_to_both_of_its_hosts_from_any_host() {
    let ovs = Ovs::start_with(Some("10.78.0.9")).await;
    let set = with_router("h", vec![at("10.78.0.1"), at("10.78.0.2")], false);
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    let view = ovs.switch.look().await.unwrap();
    let guest = view.ports.iter().find(|p| p.name == "tap05").unwrap().number.unwrap();
    let sent = ovs.flow_trace(&to_router(guest));
    for host in ["10.78.0.1", "10.78.0.2"] {
        assert_eq!(sent.matches(&format!("set_field:{host}->tun_dst")).count(), 1, "{sent}");
    }
    let ask = format!(
        "in_port={guest},dl_src=02:00:00:00:00:05,dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_spa=10.10.0.5,arp_tpa=10.10.0.1,arp_sha=02:00:00:00:00:05,arp_op=1"
    );
    let answered = ovs.flow_trace(&ask);
    assert!(answered.contains(&format!("NXM_NX_ARP_SHA[] is now {}", gateway_mac(100))), "{answered}");
}

#[tokio::test]
async fn n6_a_routers_host_hands_frames_to_it_and_to_its_other_host_and_lets_it_speak_for_others() {
    let ovs = Ovs::start_with(Some("10.78.0.1")).await;
    let set = with_router("h", vec![at("10.78.0.2")], true);
    plug(&ovs.switch, &set).await;
    let id = Uuid::from_u128(5).into();
    ovs.switch.renew_router_port(ROUTER, id, &gateway_mac(100), 1450).await.unwrap();
    ovs.switch.apply(&set).await.unwrap();
    let view = ovs.switch.look().await.unwrap();
    let number = |name: &str| view.ports.iter().find(|p| p.name == name).unwrap().number.unwrap();
    let (guest, router, tunnel) = (number("tap05"), number(ROUTER), view.tunnel.unwrap());
    let sent = ovs.flow_trace(&to_router(guest));
    assert!(sent.contains(&format!("set_field:{router:#x}->reg1")), "to the router here: {sent}");
    assert!(sent.contains("set_field:10.78.0.2->tun_dst"), "and to its other host: {sent}");
    let from_peer = format!("{},tun_src=10.78.0.2,tun_id=100", to_router(tunnel));
    let came = ovs.flow_trace(&from_peer);
    assert!(came.contains(&format!("set_field:{router:#x}->reg1")) && !came.contains("->tun_dst"), "{came}");
    let speaks = |mac: &str| {
        format!("in_port={router},dl_src={mac},dl_dst=02:00:00:00:00:05,ip,nw_src=192.0.2.1,nw_dst=10.10.0.5")
    };
    assert!(ovs.flow_trace(&speaks(&gateway_mac(100))).contains(&format!("set_field:{guest:#x}->reg1")));
    assert_eq!(ovs.trace(&speaks("02:00:00:00:00:06")), "drop", "from no other MAC address");
    assert_eq!(ovs.standing().await.as_deref(), Some("h"));
    // A port that is made anew may have another number: the flows are put anew.
    ovs.switch.remove_named(ROUTER).await.unwrap();
    assert_eq!(ovs.standing().await, None);
}

#[test]
fn n6_on_a_wire_a_router_answers_and_announces_itself() {
    let uplink = "br-ex".to_owned();
    let mut set = with_router("h", vec![], true);
    set.networks[0].segment = Segment::Flat { uplink: uplink.clone() };
    let numbers = PortNumbers {
        routers: BTreeMap::from([(ROUTER.to_owned(), 20)]),
        uplinks: BTreeMap::from([(uplink, 13)]),
        ..PortNumbers::default()
    };
    let flows = render(&set, &numbers);
    let mac = gateway_mac(100);
    let has = |text: &str| assert!(flows.iter().any(|f| f == text), "{text}\n{}", flows.join("\n"));
    // Local guests reach it here or over the wire; the wire reaches it here, and asks it.
    has(&format!(
        "table=20,priority=105,reg2=0,reg0=100,dl_dst={mac},actions=set_field:20->reg1,resubmit(,30),output:13"
    ));
    has(&format!("table=20,priority=100,reg0=100,dl_dst={mac},actions=set_field:20->reg1,goto_table:30"));
    assert!(
        flows.iter().any(|f| f.contains("priority=60,reg0=100,reg2=1") && f.contains("set_field:20->reg1"))
    );
    // Its announcements are not held back: switches outside learn where it is active.
    assert!(!flows.iter().any(|f| f.contains("priority=120,in_port=20,arp")));
}
