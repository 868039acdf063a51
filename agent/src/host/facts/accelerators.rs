//! Which accelerators really run a guest: each is made to boot one (H2).
//!
//! `/dev/kvm` may be there and boot nothing, so its presence proves nothing. The probe's guest is a boot sector
//! that the firmware has to find and enter; it writes to QEMU's debug exit port, and QEMU ends with a status
//! that nothing else gives.

use crate::{
    Error,
    host::{
        libvirt::Accelerator,
        program::{Program, tail},
        storage::files,
    },
};
use basalt_model::hosts::Accelerator as Fact;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// `mov al, 42; mov dx, 0xf4; out dx, al; cli; hlt; jmp $-2`.
const PROGRAM: [u8; 10] = [0xb0, 42, 0xba, 0xf4, 0x00, 0xee, 0xfa, 0xf4, 0xeb, 0xfd];
/// What isa-debug-exit makes of 42: twice the value and one.
const BOOTED: i32 = 42 * 2 + 1;
/// Longest that a guest on real hardware is waited for; the firmware takes a tenth of a second.
const KVM_LIMIT: Duration = Duration::from_secs(2);
/// Translated firmware is slower, and a host may be busy.
const TCG_LIMIT: Duration = Duration::from_secs(15);

/// What was probed, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Probed {
    boot_id: String,
    qemu: String,
    facts: Vec<Fact>,
}

/// The first sector of a disk that only says that it was booted.
pub fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Longest that the probe's guest is waited for.
pub fn limit(accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => KVM_LIMIT,
        Accelerator::Tcg => TCG_LIMIT,
    }
}

/// Boots a guest from a disk under one accelerator and says what was seen.
pub async fn probe(accelerator: Accelerator, disk: &Path, limit: Duration) -> Fact {
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "qemu64"),
    };
    let disk =
        format!("driver=raw,read-only=on,node-name=disk,file.driver=file,file.filename={}", disk.display());
    let guest = Program::new("qemu-system-x86_64")
        .args(["-accel", accel, "-cpu", cpu, "-m", "32", "-machine", "pc", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-blockdev", &disk])
        .args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .limit(limit);
    let (usable, evidence) = match guest.end().await {
        Ok(ended) if ended.status.code() == Some(BOOTED) => (true, "a guest booted".to_owned()),
        Ok(ended) => (false, format!("no guest boots: {}: {}", ended.status, tail(&ended.stderr))),
        Err(error) => (false, format!("no guest boots: {error}")),
    };
    Fact { kind: accelerator.as_str().into(), usable, evidence }
}

/// All accelerators, best first. What was found is kept in `state` until the host or QEMU is another.
pub async fn all(state: &Path, boot_id: &str, qemu: &str) -> Result<Vec<Fact>, Error> {
    let kept = state.join("accelerators.json");
    let known = std::fs::read(&kept).ok().and_then(|json| serde_json::from_slice::<Probed>(&json).ok());
    if let Some(known) = known.filter(|k| k.boot_id == boot_id && k.qemu == qemu) {
        return Ok(known.facts);
    }
    let disk = disk(state)?;
    let mut facts = Vec::new();
    for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
        facts.push(probe(accelerator, &disk, limit(accelerator)).await);
    }
    // A host on which nothing boots may just be overloaded: that is asked again.
    if facts.iter().any(|fact| fact.usable) {
        let probed = Probed { boot_id: boot_id.to_owned(), qemu: qemu.to_owned(), facts: facts.clone() };
        let json = serde_json::to_vec(&probed).map_err(|e| Error::host("keeping the probe's result", e))?;
        files::write(&kept, &json, 0o600)?;
    }
    Ok(facts)
}

/// Writes the disk that the probe boots from.
pub fn disk(state: &Path) -> Result<PathBuf, Error> {
    let disk = state.join("probe.img");
    // The firmware counts in cylinders of half a mebibyte: a smaller disk has none, and is not booted from.
    let mut bytes = vec![0; 1 << 20];
    bytes[..512].copy_from_slice(&boot_sector());
    files::write(&disk, &bytes, 0o600)?;
    Ok(disk)
}

/// QEMU's version.
pub async fn qemu_version() -> Result<String, Error> {
    let printed =
        Program::new("qemu-system-x86_64").arg("--version").limit(Duration::from_secs(5)).run().await?;
    let text = String::from_utf8_lossy(&printed);
    // "QEMU emulator version 7.2.22 (Debian …)"
    Ok(text.split_whitespace().nth(3).unwrap_or_default().to_owned())
}
