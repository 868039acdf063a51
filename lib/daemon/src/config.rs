//! Reading a TOML configuration file, with errors that say what to do.

use crate::Error;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a file. The type should refuse unknown fields, so that a misspelt key is found.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::Config {
        path: path.display().to_string(),
        reason: e.to_string(),
        remedy: "give the path of a readable file with --config".into(),
    })?;
    toml::from_str(&text).map_err(|e| Error::Config {
        path: path.display().to_string(),
        reason: e.to_string().trim_end().replace('\n', " "),
        remedy: "correct that line; the keys stand in docs/operating".into(),
    })
}

/// Writes a file that only its owner may read: first beside it, then in its place.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let beside = path.with_extension("new");
    let write = || {
        if beside.exists() {
            std::fs::remove_file(&beside)?;
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|e| Error::file(path, e))
}
