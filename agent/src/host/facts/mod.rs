//! Facts of the host: what it is, and what it can really do (H2).

pub mod accelerators;
pub mod cpu;

use crate::host::program::Program;
use basalt_model::hosts::{BridgeFacts, NumaNode};
use std::{
    collections::BTreeMap, fs, net::Ipv4Addr, os::unix::fs::MetadataExt as _, path::Path, time::Duration,
};

/// Directories where distributions put OVMF.
const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_CODE_4M.fd"];

/// Changes with every boot of the host. The kernel's boot id is the machine's; a host in a namespace boots when
/// its first process starts, so that one's start time is part of it.
pub fn boot_id() -> String {
    let kernel = read("/proc/sys/kernel/random/boot_id");
    format!("{}-{}", kernel.trim(), first_process_start().unwrap_or_default())
}

fn first_process_start() -> Option<u64> {
    let stat = read("/proc/1/stat");
    // The name in parentheses may hold anything; field 22 counts from the first.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The kernel's release.
pub fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// Memory in bytes.
pub fn memory_bytes() -> u64 {
    kibibytes(&read("/proc/meminfo"), "MemTotal:")
}

/// Whether OVMF is installed.
pub fn has_uefi() -> bool {
    OVMF.iter().any(|file| Path::new(file).exists())
}

/// Whether QEMU's account may use userfaultfd: by the device, which QEMU 8.0 was the first to open, or because everybody may.
pub fn has_post_copy(qemu: &str) -> bool {
    let everybody = read("/proc/sys/vm/unprivileged_userfaultfd").trim() == "1";
    let device = fs::metadata("/dev/userfaultfd").is_ok_and(|device| {
        let (mode, gid) = (device.mode(), device.gid());
        let ours = || super::motion::qemu_groups().contains(&gid);
        mode & 0o006 == 0o006 || mode & 0o060 == 0o060 && ours()
    });
    let major: Option<u32> = qemu.split('.').next().and_then(|major| major.parse().ok());
    everybody || device && major.is_some_and(|major| major >= 8)
}

/// NUMA nodes, by number.
pub fn numa() -> Vec<NumaNode> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix("node").and_then(|n| n.parse().ok()) else { continue };
        let memory = read(entry.path().join("meminfo"));
        let threads = cpu::count_list(&read(entry.path().join("cpulist")));
        nodes.push(NumaNode { id, threads, memory_bytes: kibibytes(&memory, "MemTotal:") });
    }
    nodes.sort_by_key(|node: &NumaNode| node.id);
    nodes
}

/// Bridges as facts.
pub fn bridges(seen: &BTreeMap<String, String>, integration: &str) -> Vec<BridgeFacts> {
    let facts = |(name, datapath): (&String, &String)| BridgeFacts {
        name: name.clone(),
        datapath: datapath.clone(),
        integration: name == integration,
        mtu: mtu(name),
    };
    seen.iter().map(facts).collect()
}

/// Largest frame payload of a device, in bytes.
pub fn mtu(device: &str) -> Option<u32> {
    read(Path::new("/sys/class/net").join(device).join("mtu")).trim().parse().ok()
}

/// The device that has an address.
pub async fn device_of(address: Ipv4Addr) -> Option<String> {
    let asked = Program::new("ip").args(["-o", "-4", "address", "show", "to", &format!("{address}/32")]);
    let printed = asked.limit(Duration::from_secs(5)).run().await.ok()?;
    // `7: br-phy    inet 10.78.0.1/24 …`
    String::from_utf8_lossy(&printed).split_whitespace().nth(1).map(str::to_owned)
}

fn kibibytes(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.split_once(field).map(|(_, rest)| rest));
    let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    number.unwrap_or_default() * 1024
}

/// A file of the kernel; one that is not there is empty.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_memory_and_boot_id_are_read() {
        assert!(memory_bytes() > 1 << 26);
        assert_eq!(kibibytes("Node 0 MemTotal:       2048 kB\n", "MemTotal:"), 2 * 1024 * 1024);
        assert!(boot_id().len() > 36, "{}", boot_id());
        assert_eq!(boot_id(), boot_id());
    }
}
