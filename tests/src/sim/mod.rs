//! The simulator: the real rooms of gateway and agent on a real PostgreSQL, under virtual time and a seed.
//!
//! Nothing runs by itself here. A [`world::World`] holds a queue of events, takes the next of those that are ready (the
//! seed says which), carries it out to its end, and only then takes another. Time stands while that happens and moves
//! between events. What is real: the API's routers, the store with its SQL, the stepper with its handlers and sweeps,
//! the agents' cycle, outbox and ledger. What is played: sockets ([`calls`]), the drivers' waiting, hosts (in memory),
//! users and bad luck.
//!
//! ```text
//!   user ──calls──► gateway a ─┐                ┌─ gateway b      pull, step, perform, told, sweep
//!                              └─ PostgreSQL ───┘
//!   agents ◄─calls─► a gateway                  hosts in memory   look, do, report, poll
//! ```

pub mod agents;
pub mod base;
pub mod calls;
pub mod dice;
pub mod faults;
pub mod gate;
pub mod gateways;
pub mod motion;
pub mod oracles;
pub mod queue;
pub mod run;
pub mod soak;
pub mod steps;
pub mod sweep;
pub mod users;
pub mod watcher;
pub mod world;

pub use base::Base;
pub use run::{Outcome, Plan};
pub use world::World;
