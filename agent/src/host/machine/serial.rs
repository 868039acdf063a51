//! What guests write to their serial ports: kept, and bounded while they run.

use crate::Error;
use std::{
    fs,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

/// A log is cut when it grew beyond this, in bytes.
const LIMIT: u64 = 4 * 1024 * 1024;
/// What is kept of it then: its end, in bytes.
const KEPT: u64 = 1024 * 1024;

/// Cuts every log of a directory that grew too long.
pub fn cut_all(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::state(dir, e))? {
        let path = entry.map_err(|e| Error::state(dir, e))?.path();
        cut(&path).map_err(|e| Error::state(path, e))?;
    }
    Ok(())
}

/// The end of a log, at most so many bytes; nothing when there is none.
pub fn tail(log: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = match fs::File::open(log) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut kept = Vec::new();
    file.take(most).read_to_end(&mut kept)?;
    Ok(kept)
}

/// QEMU appends to the file, so it may be cut under a guest that runs.
fn cut(log: &Path) -> std::io::Result<()> {
    let mut file = match fs::File::open(log) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let length = file.metadata()?.len();
    if length <= LIMIT {
        return Ok(());
    }
    let mut kept = Vec::new();
    file.seek(SeekFrom::Start(length - KEPT))?;
    file.take(KEPT).read_to_end(&mut kept)?;
    fs::write(log, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_that_grew_too_long_keeps_its_end_and_goes_on_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vm.log");
        let mut guest = fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
        guest.write_all(&vec![b'a'; LIMIT as usize]).unwrap();
        cut_all(dir.path()).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), LIMIT);
        guest.write_all(b"the last words").unwrap();
        cut_all(dir.path()).unwrap();
        guest.write_all(b", and more").unwrap();
        assert_eq!(tail(&log, 8).unwrap(), b"and more");
        assert_eq!(tail(&dir.path().join("other"), 8).unwrap(), b"");
        let kept = fs::read(&log).unwrap();
        assert_eq!(kept.len() as u64, KEPT + 10);
        assert!(kept.ends_with(b"the last words, and more"));
    }
}
