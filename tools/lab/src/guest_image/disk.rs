//! The guest's disk: a partition table, a FAT partition to boot from and an ext4 root, without loop devices.
//!
//! ```text
//! 0        1 MiB             33 MiB                97 MiB
//! | MBR    | FAT: boot loader, kernel, initrd | ext4: root |
//! ```
//! A BIOS runs the code of the MBR, which runs the loader in the FAT's own boot sector; UEFI runs the program
//! `EFI/BOOT/BOOTX64.EFI`, as from any disk that it does not know. Both loaders read the same configuration.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::tree;
use crate::process::{run, run_command};

const SECTOR_BYTES: u64 = 512;
const MIB: u64 = 1024 * 1024;
const BOOT_START: u64 = MIB;
const BOOT_SIZE: u64 = 32 * MIB;
const ROOT_START: u64 = BOOT_START + BOOT_SIZE;
const ROOT_SIZE: u64 = 64 * MIB;
const BOOT_CODE: &str = "/usr/lib/syslinux/mbr/mbr.bin";
/// The loader for UEFI, and the part of it that it looks for beside itself.
const UEFI_LOADER: [(&str, &str, &str); 2] = [
    ("/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi", "::/EFI/BOOT/BOOTX64.EFI", "syslinux-efi"),
    ("/usr/lib/syslinux/modules/efi64/ldlinux.e64", "::/EFI/BOOT/ldlinux.e64", "syslinux-common"),
];
const FAT_LBA: u8 = 0x0c;
const LINUX: u8 = 0x83;

/// Puts the raw disk together in `work`.
pub fn assemble(vmlinuz: &Path, initrd: &Path, root: &Path, work: &Path) -> Result<PathBuf> {
    let boot = boot_partition(vmlinuz, initrd, work)?;
    let root = root_partition(root, work)?;
    let path = work.join("disk.raw");
    let mut disk = File::create_new(&path)?;
    disk.set_len(ROOT_START + ROOT_SIZE)?;
    disk.write_all(&master_boot_record(
        &fs::read(BOOT_CODE).context("install the package syslinux-common")?,
    )?)?;
    copy_to(&mut disk, BOOT_START, &boot)?;
    copy_to(&mut disk, ROOT_START, &root)?;
    Ok(path)
}

/// Turns the raw disk into a compressed qcow2 image.
pub fn convert(raw: &Path, work: &Path) -> Result<PathBuf> {
    let path = work.join("disk.qcow2");
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(&path);
    run_command(&mut command).context("qemu-img convert")?;
    File::open(&path)?.sync_all()?;
    Ok(path)
}

fn sized_file(path: &Path, size: u64) -> Result<()> {
    File::create_new(path)?.set_len(size).with_context(|| format!("cannot make {}", path.display()))
}

fn boot_partition(vmlinuz: &Path, initrd: &Path, work: &Path) -> Result<PathBuf> {
    let path = work.join("boot.fat");
    sized_file(&path, BOOT_SIZE)?;
    run("mkfs.vfat", &["-n".as_ref(), "BOOT".as_ref(), path.as_os_str()])
        .context("install the package dosfstools")?;
    let config = work.join("syslinux.cfg");
    fs::write(&config, tree::syslinux_config())?;
    for dir in ["::/EFI", "::/EFI/BOOT"] {
        let args: [&OsStr; 3] = ["-i".as_ref(), path.as_os_str(), dir.as_ref()];
        run("mmd", &args).context("install the package mtools")?;
    }
    let own = [
        (vmlinuz, "::/vmlinuz", "mtools"),
        (initrd, "::/initrd.gz", "mtools"),
        (&config, "::/syslinux.cfg", "mtools"),
    ];
    let loader = UEFI_LOADER.map(|(file, name, package)| (Path::new(file), name, package));
    for (file, name, package) in own.into_iter().chain(loader) {
        let args: [&OsStr; 4] = ["-i".as_ref(), path.as_os_str(), file.as_os_str(), name.as_ref()];
        run("mcopy", &args).with_context(|| format!("install the package {package}"))?;
    }
    run("syslinux", &["--install".as_ref(), path.as_os_str()]).context("install the package syslinux")?;
    Ok(path)
}

fn root_partition(root: &Path, work: &Path) -> Result<PathBuf> {
    let path = work.join("root.ext4");
    sized_file(&path, ROOT_SIZE)?;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-L", "guestroot", "-E", "root_owner=0:0", "-d"]).arg(root).arg(&path);
    run_command(&mut command).context("mke2fs")?;
    Ok(path)
}

/// The first sector: the loader's code and two partitions, the first one active.
fn master_boot_record(code: &[u8]) -> Result<[u8; 512]> {
    let mut sector = [0u8; 512];
    let code = code.get(..code.len().min(440)).unwrap_or_default();
    sector[..code.len()].copy_from_slice(code);
    let partitions = [(0x80, FAT_LBA, BOOT_START, BOOT_SIZE), (0, LINUX, ROOT_START, ROOT_SIZE)];
    for (index, (active, kind, start, size)) in partitions.into_iter().enumerate() {
        let entry = &mut sector[446 + 16 * index..][..16];
        // Sector addresses beyond what cylinders can say; every reader uses the numbers that follow.
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[0] = active;
        entry[4] = kind;
        entry[8..12].copy_from_slice(&u32::try_from(start / SECTOR_BYTES)?.to_le_bytes());
        entry[12..16].copy_from_slice(&u32::try_from(size / SECTOR_BYTES)?.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// Copies a partition into the disk, leaving holes where it holds only zeros.
fn copy_to(disk: &mut File, start: u64, partition: &Path) -> Result<()> {
    let mut source = OpenOptions::new().read(true).open(partition)?;
    let mut block = vec![0u8; 256 * 1024];
    let mut at = start;
    loop {
        let count = source.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(at))?;
            disk.write_all(&block[..count])?;
        }
        at += u64::try_from(count)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_table_is_what_sfdisk_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, master_boot_record(&[0x90; 440]).unwrap()).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(ROOT_START + ROOT_SIZE).unwrap();
        let said = run("sfdisk", &["-d".as_ref(), path.as_os_str()]).unwrap();
        assert!(said.contains("start=        2048, size=       65536, type=c, bootable"), "{said}");
        assert!(said.contains("start=       67584, size=      131072, type=83"), "{said}");
    }
}
