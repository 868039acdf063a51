//! One machine as a whole cluster: supervises PostgreSQL, image service, gateway and hosts in namespaces.

fn main() {}
