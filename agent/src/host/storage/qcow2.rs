//! The head of a qcow2 file: what a guest sees of its size, and what lies under it.
//!
//! Source of the format: QEMU's docs/interop/qcow2.txt. Reading it takes no lock, so it works on the disk of
//! a guest that runs, and costs no process.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// `QFI\xfb`.
const MAGIC: [u8; 4] = [0x51, 0x46, 0x49, 0xfb];
/// Incompatible feature: the guest's data is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Header extension: the name of an external data file.
const DATA_FILE: u32 = 0x4441_5441;
/// Longest name of a backing file.
const LONGEST_NAME: u32 = 1023;

/// What the head of a qcow2 file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// The file under it.
    pub backing: Option<String>,
    /// Whether guest data lies in another file.
    pub external_data: bool,
}

/// Reads the head of a file; an error of kind `InvalidData` when it is no qcow2 of version 2 or 3.
pub fn read(path: &Path) -> io::Result<Head> {
    let file = File::open(path)?;
    let mut head = [0u8; 104];
    let length = read_some(&file, &mut head)?;
    let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap_or_default());
    let long = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap_or_default());
    if length < 72 || head[..4] != MAGIC || !(2..=3).contains(&number(4)) {
        return Err(invalid("this is no qcow2 of version 2 or 3"));
    }
    let (features, header_length) = if number(4) == 3 { (long(72), u64::from(number(100))) } else { (0, 72) };
    let backing = match (long(8), number(16)) {
        (0, _) => None,
        (_, length) if length > LONGEST_NAME => return Err(invalid("the backing file's name is too long")),
        (offset, length) => {
            let mut name = vec![0; length as usize];
            file.read_exact_at(&mut name, offset)?;
            Some(String::from_utf8(name).map_err(|_| invalid("the backing file's name is no text"))?)
        }
    };
    let external_data = features & EXTERNAL_DATA != 0 || names_data_file(&file, header_length)?;
    Ok(Head { size_bytes: long(24), backing, external_data })
}

/// Walks the header extensions; they end with type 0.
fn names_data_file(file: &File, mut at: u64) -> io::Result<bool> {
    for _ in 0..64 {
        let mut extension = [0u8; 8];
        if read_at_most(file, &mut extension, at)? < 8 {
            return Ok(false);
        }
        let kind = u32::from_be_bytes(extension[..4].try_into().unwrap_or_default());
        let length = u32::from_be_bytes(extension[4..].try_into().unwrap_or_default());
        match kind {
            0 => return Ok(false),
            DATA_FILE => return Ok(true),
            _ => at += 8 + u64::from(length).next_multiple_of(8),
        }
    }
    Err(invalid("it has too many header extensions"))
}

fn read_some(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    read_at_most(file, buffer, 0)
}

fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
