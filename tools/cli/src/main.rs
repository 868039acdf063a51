//! The command line: basalt get, describe, create, apply, watch, explain.

fn main() {}
