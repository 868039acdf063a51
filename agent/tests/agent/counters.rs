//! N8: what a port counts, on a private Open vSwitch through which real frames go.

use crate::{
    ovs::{BRIDGE, Ovs, plug, port, set},
    security::grouped,
};
use basalt_model::{PortId, networks::Counters};
use std::time::Duration;
use uuid::Uuid;

/// A packet in whatever name to guest 6; TCP without a flag belongs to no connection.
fn packet(mac: u8, address: &str, protocol: &str) -> String {
    let number = if protocol.starts_with("tcp") { 6 } else { 17 };
    format!(
        "in_port(1),eth(src=02:00:00:00:00:{mac:02x},dst=02:00:00:00:00:06),eth_type(0x0800),\
         ipv4(src={address},dst=10.10.0.6,proto={number},tos=0,ttl=64,frag=no),{protocol}"
    )
}

fn send(ovs: &Ovs, times: usize, packet: &str) {
    send_from(ovs, "tap05", times, packet);
}

fn send_from(ovs: &Ovs, device: &str, times: usize, packet: &str) {
    for _ in 0..times {
        ovs.run("ovs-appctl", &["netdev-dummy/receive", device, packet]);
    }
}

/// Waits until a port counts so: flows tell what they saw up to a second later.
async fn counts(ovs: &Ovs, id: PortId, what: &str, so: impl Fn(&Counters) -> bool) {
    let mut last = None;
    for _ in 0..100 {
        last = ovs.switch.counters(id).await.unwrap();
        if last.as_ref().is_some_and(&so) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: {last:?}");
}

#[tokio::test]
async fn n8_a_port_counts_what_its_guest_sent_and_received_and_what_was_dropped_and_why() {
    let ovs = Ovs::start().await;
    let set = set("h");
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    let (a, b, other) = (port(5, 100).port_id, port(6, 100).port_id, port(7, 200).port_id);
    for id in [a, b, other] {
        assert_eq!(ovs.switch.counters(id).await.unwrap(), Some(Counters::default()));
    }

    let honest = packet(5, "10.10.0.5", "udp(src=1000,dst=80)");
    send(&ovs, 3, &honest);
    send(&ovs, 2, &packet(5, "10.10.0.9", "udp(src=1000,dst=80)"));
    send(&ovs, 1, &packet(9, "10.10.0.5", "udp(src=1000,dst=80)"));
    send(&ovs, 1, &packet(5, "10.10.0.5", "udp(src=67,dst=68)"));
    counts(&ovs, a, "its guest sent seven, four of them under a false name", |c| {
        (c.tx_packets, c.rx_packets, c.spoofed_packets) == (7, 0, 4) && c.tx_bytes > 7 * 50
    })
    .await;
    counts(&ovs, b, "its guest received three", |c| (c.rx_packets, c.tx_packets) == (3, 0) && c.rx_bytes > 0)
        .await;
    // Whoever asks whether somebody has its own address hears nothing: that is no drop of a policy.
    let mac = "02:00:00:00:00:05";
    send(
        &ovs,
        1,
        &format!(
            "in_port(1),eth(src={mac},dst=ff:ff:ff:ff:ff:ff),eth_type(0x0806),\
             arp(sip=0.0.0.0,tip=10.10.0.5,op=1,sha={mac},tha=00:00:00:00:00:00)"
        ),
    );

    // Rules of whatever form, in either direction.
    let view = ovs.switch.look().await.unwrap();
    let number = |id| view.ports.iter().find(|p| p.port_id() == Some(id)).unwrap().number.unwrap();
    let rules = [
        format!("table=10,priority=200,in_port={},udp,tp_dst=53,actions=drop", number(a)),
        format!("table=30,priority=200,reg1={},udp,tp_dst=81,actions=drop", number(b)),
        format!("table=30,priority=190,reg1={},udp,tp_dst=82,actions=drop", number(b)),
    ];
    for rule in &rules {
        ovs.ofctl(&["add-flow", BRIDGE, rule]);
    }
    send(&ovs, 2, &packet(5, "10.10.0.5", "udp(src=1000,dst=53)"));
    send(&ovs, 3, &packet(5, "10.10.0.5", "udp(src=1000,dst=81)"));
    send(&ovs, 1, &packet(5, "10.10.0.5", "udp(src=1000,dst=82)"));
    counts(&ovs, a, "two were not let out", |c| {
        (c.tx_packets, c.tx_denied_packets, c.rx_denied_packets, c.spoofed_packets) == (14, 2, 0, 4)
    })
    .await;
    counts(&ovs, b, "four were not let in", |c| {
        (c.rx_packets, c.rx_denied_packets, c.tx_denied_packets, c.spoofed_packets) == (3, 4, 0, 0)
    })
    .await;
    assert_eq!(ovs.switch.counters(other).await.unwrap(), Some(Counters::default()), "nobody else's");
}

#[tokio::test]
async fn n8_what_security_groups_drop_is_counted_at_the_port_whose_groups_they_are() {
    let ovs = Ovs::start().await;
    let set = grouped();
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    let [five, six, seven] = [5, 6, 7].map(|n| port(n, 100).port_id);
    // No rule of guest 6 admits UDP by IPv4; guest 7 may send only what its own say; what belongs to no connection is
    // dropped where it is seen first.
    send(&ovs, 3, &packet(5, "10.10.0.5", "udp(src=1000,dst=9999)"));
    send(&ovs, 2, &packet(5, "10.10.0.5", "tcp(src=1000,dst=80)"));
    send_from(&ovs, "tap07", 4, &packet(7, "10.10.0.7", "udp(src=1000,dst=9999)"));
    let denied = |c: &Counters| (c.tx_denied_packets, c.rx_denied_packets, c.spoofed_packets);
    counts(&ovs, six, "three came and were not let in", |c| denied(c) == (0, 3, 0) && c.rx_packets == 0)
        .await;
    counts(&ovs, five, "two belonged to no connection", |c| denied(c) == (2, 0, 0) && c.tx_packets == 5)
        .await;
    counts(&ovs, seven, "four were not let out", |c| denied(c) == (4, 0, 0) && c.tx_packets == 4).await;
}

#[tokio::test]
async fn n8_a_port_without_a_device_counts_nothing() {
    let ovs = Ovs::start().await;
    let set = set("h");
    plug(&ovs.switch, &set).await;
    let a = port(5, 100).port_id;
    assert!(ovs.switch.counters(a).await.unwrap().is_some());
    ovs.switch.remove_port(a).await.unwrap();
    assert_eq!(ovs.switch.counters(a).await.unwrap(), None);
    assert_eq!(ovs.switch.counters(PortId(Uuid::from_u128(77))).await.unwrap(), None);
}
