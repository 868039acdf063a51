//! The agent's tests against real parts: libvirt's test driver, a private Open vSwitch, qemu-img, QEMU.

#![allow(clippy::unwrap_used)]

mod facts;
mod golden;
mod libvirt;
mod ovs;
mod seed;
mod storage;
