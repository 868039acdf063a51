//! What a guest's port carried and what was dropped, asked of the switch itself: `ovs-vsctl` tells statistics that are up
//! to 5 s old, `ovs-ofctl` those of now.
//!
//! The switch counts from its side, a guest from its own: what the switch received, the guest sent. Drops are told from
//! the flows' form, whatever they match besides:
//!
//! | a flow with `actions=drop` | what it counts |
//! |---|---|
//! | table 0, `in_port=` the port | what the guest sent under a false name |
//! | tables 1 to 19, `in_port=` the port | what the guest sent and may not send |
//! | any table, `reg1=` the port | what was for the guest and may not come in |
//!
//! What is dropped for having no receiver (table 20) is nobody's fault, and not counted.

use super::Switch;
use crate::Error;
use basalt_model::{PortId, networks::Counters};

/// The first table in which forwarding begins: before it the sender is judged.
const FORWARDING: u32 = 20;

impl Switch {
    /// What a guest's port counts now; `None` while no device of the guest is on the bridge.
    pub async fn counters(&self, id: PortId) -> Result<Option<Counters>, Error> {
        let view = self.look().await?;
        let Some(number) = view.ports.iter().find(|p| p.port_id() == Some(id)).and_then(|p| p.number) else {
            return Ok(None);
        };
        let ask = |what: &'static str, which: String| {
            let program = self.ofctl().arg("--no-names").args([what, self.bridge()]).arg(which);
            async move { program.run().await.map(|printed| String::from_utf8_lossy(&printed).into_owned()) }
        };
        let (carried, sent, received) = tokio::try_join!(
            ask("dump-ports", number.to_string()),
            ask("dump-flows", format!("in_port={number}")),
            ask("dump-flows", format!("reg1={number}"))
        )?;
        let Some(mut counters) = carried_by(&carried) else { return Ok(None) };
        for drop in drops(&sent).filter(|drop| drop.in_port == Some(number)) {
            match drop.table {
                0 => counters.spoofed_packets += drop.packets,
                1..FORWARDING => counters.tx_denied_packets += drop.packets,
                _ => {}
            }
        }
        for drop in drops(&received).filter(|drop| drop.to_port == Some(number)) {
            counters.rx_denied_packets += drop.packets;
        }
        Ok(Some(counters))
    }
}

/// Reads `ovs-ofctl dump-ports` of one port, and turns sides. A counter that the device does not have reads `?`.
fn carried_by(printed: &str) -> Option<Counters> {
    let of = |side: &str| {
        let line = printed.lines().find_map(|line| line.split_once(side)).map(|(_, rest)| rest)?;
        Some(move |name: &str| {
            let value = line.split(',').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or_default()
        })
    };
    let (sent, received) = (of("rx pkts")?, of("tx pkts")?);
    // The first pair of a line has lost its name to the search for the line.
    Some(Counters {
        rx_packets: received(""),
        rx_bytes: received("bytes"),
        rx_dropped: received("drop"),
        rx_errors: received("errs"),
        tx_packets: sent(""),
        tx_bytes: sent("bytes"),
        tx_dropped: sent("drop"),
        tx_errors: sent("errs"),
        ..Counters::default()
    })
}

/// A flow that drops.
#[derive(Debug, PartialEq, Eq)]
struct Dropping {
    table: u32,
    packets: u64,
    in_port: Option<u32>,
    to_port: Option<u32>,
}

/// The flows that drop, of what `ovs-ofctl dump-flows` prints.
fn drops(printed: &str) -> impl Iterator<Item = Dropping> {
    printed.lines().filter_map(|line| {
        let (flow, actions) = line.split_once(" actions=")?;
        if actions.trim() != "drop" {
            return None;
        }
        let field =
            |name: &str| flow.split([',', ' ']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        Some(Dropping {
            table: number(field("table").unwrap_or("0"))?,
            packets: field("n_packets")?.parse().ok()?,
            in_port: field("in_port").and_then(number),
            to_port: field("reg1").and_then(number),
        })
    })
}

/// A whole number as flows say it; one under a mask is none.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n8_the_switchs_counters_are_turned_to_the_guests_side() {
        let printed = "OFPST_PORT reply (OF1.5) (xid=0x2): 1 ports
  port  1: rx pkts=3, bytes=354, drop=7, errs=8, frame=?, over=?, crc=?
           tx pkts=5, bytes=500, drop=?, errs=2, coll=?
           duration=1.391s
           CUSTOM Statistics
                      rx_q0_packets=99, tx_q0_bytes=98,";
        let counters = carried_by(printed).unwrap();
        let expected = Counters {
            rx_packets: 5,
            rx_bytes: 500,
            rx_dropped: 0,
            rx_errors: 2,
            tx_packets: 3,
            tx_bytes: 354,
            tx_dropped: 7,
            tx_errors: 8,
            ..Counters::default()
        };
        assert_eq!(counters, expected);
        assert_eq!(carried_by("OFPST_PORT reply (OF1.5) (xid=0x2): 0 ports"), None);
    }

    #[test]
    fn n8_flows_that_drop_are_told_by_their_form_and_others_are_passed_over() {
        let printed = "OFPST_FLOW reply (OF1.5) (xid=0x2):
 cookie=0x0, duration=1.1s, table=0, n_packets=3, n_bytes=354, idle_age=1, priority=50,in_port=11 actions=drop
 cookie=0x0, duration=1.1s, table=0, n_packets=4, n_bytes=354, idle_age=1, priority=120,udp,in_port=11,tp_src=67 actions=drop
 cookie=0x0, duration=1.1s, table=0, n_packets=9, n_bytes=9, priority=100,ip,in_port=11,nw_src=10.0.0.1 actions=set_field:0x64->reg0,goto_table:10
 cookie=0x0, duration=1.2s, table=31, n_packets=2, n_bytes=1, ct_state=+inv+trk,reg1=0xb actions=drop
 cookie=0x0, duration=1.2s, table=31, n_packets=6, n_bytes=1, reg1=0x10/0xfff0 actions=drop
 cookie=0x0, duration=1.2s, n_packets=1, n_bytes=1, priority=0 actions=drop";
        let drop = |table, packets, in_port, to_port| Dropping { table, packets, in_port, to_port };
        let expected = [
            drop(0, 3, Some(11), None),
            drop(0, 4, Some(11), None),
            drop(31, 2, None, Some(11)),
            drop(31, 6, None, None),
            drop(0, 1, None, None),
        ];
        assert_eq!(drops(printed).collect::<Vec<_>>(), expected);
    }
}
