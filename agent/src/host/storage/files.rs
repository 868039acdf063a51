//! File operations that survive a power cut: write, sync, rename, sync the directory.

use crate::Error;
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A directory that QEMU's account may pass and nobody may list.
pub fn ensure_dir(dir: &Path) -> Result<(), Error> {
    let make = || {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
    };
    make().map_err(|e| Error::state(dir, e))
}

/// The name under which a file is made before it takes its own.
pub fn half_made(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Gives a finished file its name, durably.
pub fn publish(half: &Path, path: &Path) -> Result<(), Error> {
    let publish = || {
        File::open(half)?.sync_all()?;
        fs::rename(half, path)?;
        sync_dir(path)
    };
    publish().map_err(|e| Error::state(path, e))
}

/// Writes a small file as a whole.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let half = half_made(path);
    remove(&half)?;
    let put = || fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&half)?.write_all(bytes);
    put().map_err(|e| Error::state(&half, e))?;
    publish(&half, path)
}

/// Writes a file as a whole, unless it says this already; answers whether it did not. Not synced: for what lies where a
/// reboot empties.
pub fn write_if_changed(path: &Path, text: &str) -> Result<bool, Error> {
    if fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(false);
    }
    let new = path.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    written.map_err(|e| Error::state(path, e)).map(|()| true)
}

/// Removes a file; one that is not there is removed already.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::state(path, e)),
        _ => Ok(()),
    }
}

/// Names in a directory, without those of half-made files; a directory that is not there is empty.
pub fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::state(dir, e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::state(dir, e))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Makes what happened to the names of a file's directory durable.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
