//! The agent's tests. Against real parts: libvirt's test driver, a private Open vSwitch, qemu-img, QEMU.
//! Against simulated ones: the cycle, its crash sweep, the ledger, the loops, the link over real TLS.

#![allow(clippy::unwrap_used)]

mod adoption;
mod away;
mod counters;
mod crash;
mod cycle;
mod door;
mod facts;
mod golden;
mod ledger;
mod libvirt;
mod link;
mod migration;
mod ovs;
mod rig;
mod router_flows;
mod routers;
mod run;
mod security;
mod seed;
mod segments;
mod storage;
mod task_logs;
