//! What simulated ports count: the same for a port whenever it is asked, and something else for another.

use super::SimHost;
use crate::{Error, host::not_attached};
use basalt_model::{PortId, networks::Counters};
use basalt_plan::host::PortState;

impl SimHost {
    pub(super) fn count_port(&self, id: PortId) -> Result<Counters, Error> {
        let seen = self.look(|world| world.observed.ports.items.get(&id).map(|port| port.state));
        if seen != Some(PortState::Attached) {
            return Err(not_attached(id));
        }
        // Ids differ in their last bytes, whoever makes them.
        let [.., high, low] = *id.0.as_bytes();
        let packets = 1 + u64::from(u16::from_be_bytes([high, low]));
        Ok(Counters {
            rx_packets: packets,
            rx_bytes: 100 * packets,
            tx_packets: 2 * packets,
            tx_bytes: 200 * packets,
            ..Counters::default()
        })
    }
}
