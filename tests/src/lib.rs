//! Whole-house scenarios: real PostgreSQL, simulated hosts, faults; lab scenarios with real QEMU and OVS.
