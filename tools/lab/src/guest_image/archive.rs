//! Writes a cpio archive in the "newc" form that the kernel unpacks as its initial RAM disk.
//!
//! Form: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.

use std::io::{Result, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive being written to `out`.
pub struct Archive<W: Write> {
    out: W,
    entries: u32,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.put(&Entry { name, mode: DIRECTORY, device: (0, 0), content: &[] })
    }

    /// A file that may be run.
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.put(&Entry { name, mode: PROGRAM, device: (0, 0), content })
    }

    /// Without `/dev/console` the first program has nowhere to print to.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.put(&Entry { name, mode: CHARACTER_DEVICE, device: (major, minor), content: &[] })
    }

    pub fn finish(mut self) -> Result<()> {
        self.put(&Entry { name: "TRAILER!!!", mode: 0, device: (0, 0), content: &[] })?;
        self.out.flush()
    }

    fn put(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(entry.content.len()).map_err(std::io::Error::other)?;
        let name_size = u32::try_from(entry.name.len() + 1).map_err(std::io::Error::other)?;
        let (major, minor) = entry.device;
        // inode, mode, uid, gid, links, time, size, device of the file, device it stands for, name, checksum
        let fields = [self.entries, entry.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(entry.name.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(6 + 13 * 8 + entry.name.len() + 1)?;
        self.out.write_all(entry.content)?;
        self.pad(entry.content.len())
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_cpio_program_reads_what_is_written() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("init", b"#!/bin/sh\n").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut command = Command::new("cpio");
        command.args(["-itv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(listed.contains("crw-------") && listed.contains("5,   1"), "{listed}");
        assert!(listed.lines().any(|l| l.starts_with("-rwxr-xr-x") && l.ends_with("init")), "{listed}");
    }
}
