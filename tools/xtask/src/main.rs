//! House rules and set-up, executable.

fn main() {}
