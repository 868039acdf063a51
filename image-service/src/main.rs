//! Component 3, large blobs: uploads, blobs, token redemption, callback spool. Never sees the database.

fn main() {}
