//! The adapters against their platforms: one suite of checks, and what is particular to each.

mod kubernetes;
