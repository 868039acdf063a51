//! Whether a definition still is as libvirt showed it when it was last made here: a hand that altered it left our marks in
//! it (R18). What is kept is lost with a reboot; then what stands is believed once more.

use crate::Error;
use basalt_model::VmId;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The digests of definitions, by VM.
pub struct Definitions {
    dir: PathBuf,
}

impl Definitions {
    /// Kept in a directory, which is made when the first is kept.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Keeps what a definition looks like now.
    pub fn keep(&self, id: VmId, digest: &str) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::state(&self.dir, e))?;
        let file = self.file(id);
        fs::write(&file, digest).map_err(|e| Error::state(&file, e))
    }

    /// A definition of ours is gone, or about to be made.
    pub fn forget(&self, id: VmId) -> Result<(), Error> {
        let file = self.file(id);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::state(&file, e)),
            _ => Ok(()),
        }
    }

    /// Whether somebody else altered it since.
    pub fn is_altered(&self, id: VmId, digest: &str) -> bool {
        fs::read_to_string(self.file(id)).is_ok_and(|kept| kept != digest)
    }

    fn file(&self, id: VmId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn only_what_was_kept_and_differs_is_altered() {
        let dir = tempfile::tempdir().unwrap();
        let definitions = Definitions::new(&dir.path().join("d"));
        let id = VmId(Uuid::from_u128(1));
        assert!(!definitions.is_altered(id, "a"), "nothing is known of it");
        definitions.forget(id).unwrap();
        definitions.keep(id, "a").unwrap();
        assert!(!definitions.is_altered(id, "a") && definitions.is_altered(id, "b"));
        definitions.forget(id).unwrap();
        assert!(!definitions.is_altered(id, "b"));
    }
}
