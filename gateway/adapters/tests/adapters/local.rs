//! The local adapter on a real Podman of each test's own, as root: these fail where Podman is missing.

mod adopt;
mod bench;
mod contract_here;
mod crash;
mod drift;
mod faults;
mod images;
mod networks;
mod odd;
mod packages;
mod ports;
mod programs;
