//! Golden files: what is written for others to read is compared with a checked-in text.

use std::{fs, path::Path};

/// Compares a text with `tests/golden/<name>`; `BLESS=1` writes it anew.
pub fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, golden, "{name} changed; if that is meant, run again with BLESS=1 and look at the diff");
}
