//! Files of keys: lines of `<id> <hex>`.

use std::str::FromStr;

/// The keys of a file's text, by id; none when a line cannot be read.
pub fn keys<Id: FromStr>(text: &str) -> Option<Vec<(Id, Vec<u8>)>> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let keys = lines.map(|line| {
        let (id, key) = line.split_once(' ')?;
        Some((id.parse().ok()?, hex::decode(key.trim()).ok()?))
    });
    keys.collect()
}
