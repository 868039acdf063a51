//! The contract, on a real Podman.

use super::bench::LocalBench;

crate::contract::contract_tests!(LocalBench::start());
