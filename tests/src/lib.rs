//! The harness of whole-house scenarios, benchmarks and soaks: a private database, a gateway, simulated
//! hosts with real agents, a client, and oracles that count everything anew.

pub mod api;
pub mod cli;
pub mod deployments;
pub mod durable;
pub mod feed_soak;
pub mod figures;
pub mod gateway;
pub mod house;
pub mod images;
pub mod machine;
pub mod oracles;
pub mod sim;
pub mod truth;
pub mod wait;
pub mod watch;
pub mod watch_soak;
pub mod watchman;

pub use house::House;
