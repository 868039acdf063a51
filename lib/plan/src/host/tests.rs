//! Tables and properties of the host plan, on a host without faults ([`effect::World`]).

mod adoption;
mod fixture;
mod lease;
mod motion;
mod properties;
mod tables;
