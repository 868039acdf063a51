//! Component 1, the composition root: wires store, api and reconciler into one process.

fn main() {}
