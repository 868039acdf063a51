//! Open vSwitch: the integration bridge, its ports, its flows, and DHCP on it.
//!
//! ```text
//!  guest ── tap… ─┐                 ┌─ dhcp<vni>: internal port with the network's DHCP address, dnsmasq on it
//!                 ├── br-int ───────┤
//!  guest ── tap… ─┘                 └─ basalt-vxlan: tunnels to all other hosts, each frame says to which
//!                    │
//!                    └─ up-<bridge>: patch port to an uplink bridge, for flat and VLAN networks
//!                    flows: tables 0 → 10 → 20 → 30, computed in `plan::host::flows`
//! ```

mod counters;
pub mod dhcp;
pub mod news;
pub mod sink;
pub mod switch;
pub mod table;
pub mod uplinks;
mod zones;

pub use dhcp::Networks;
pub use switch::{PortRow, Switch, SwitchView};
