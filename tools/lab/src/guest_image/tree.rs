//! The guest's files: the initial RAM disk with the drivers it boots by, and the root file system.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::BUSYBOX;
use super::archive::Archive;
use crate::process::run;

/// Drivers loaded at every boot, in this order; what they depend on comes before them.
const BOOT_MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "isofs",
    "button",
    "evdev",
    "virtio_balloon",
    "virtio_console",
    "virtio-rng",
];
/// Drivers for less usual disks; loaded when the seed is not found on a virtio disk.
const SPARE_MODULES: [&str; 4] = ["virtio_scsi", "ata_piix", "sr_mod", "sd_mod"];

const INIT: &[u8] = include_bytes!("../../guest/init");
const SYSLINUX_CONFIG: &[u8] = include_bytes!("../../guest/syslinux.cfg");

/// The text files of the guest by their place in its root (`init` and `syslinux.cfg` lie elsewhere).
pub const ASSETS: [(&str, &[u8]); 9] = [
    ("init", INIT),
    ("syslinux.cfg", SYSLINUX_CONFIG),
    ("etc/rc", include_bytes!("../../guest/rc")),
    ("etc/inittab", include_bytes!("../../guest/inittab")),
    ("etc/network.awk", include_bytes!("../../guest/network.awk")),
    ("etc/runcmd.awk", include_bytes!("../../guest/runcmd.awk")),
    ("etc/udhcpc.sh", include_bytes!("../../guest/udhcpc.sh")),
    ("etc/acpi/PWRF/00000080", include_bytes!("../../guest/power-button")),
    ("bin/basalt-run", include_bytes!("../../guest/basalt-run")),
];

/// The boot loader's configuration.
pub fn syslinux_config() -> &'static [u8] {
    SYSLINUX_CONFIG
}

/// The release of the unpacked kernel, as its directory of modules is named.
pub fn kernel_release(unpacked: &Path) -> Result<String> {
    let mut entries =
        fs::read_dir(unpacked.join("lib/modules")).context("the kernel package holds no modules")?;
    match (entries.next(), entries.next()) {
        (Some(only), None) => Ok(only?.file_name().to_string_lossy().into_owned()),
        _ => bail!("the kernel package holds more than one kernel, or none"),
    }
}

/// Writes `initrd.gz`: busybox, the drivers and the program that goes on from the disk.
pub fn write_initrd(unpacked: &Path, release: &str, work: &Path) -> Result<PathBuf> {
    let plain = work.join("initrd");
    let mut archive = Archive::new(BufWriter::new(File::create(&plain)?));
    for dir in ["bin", "dev", "proc", "sys", "newroot", "modules"] {
        archive.directory(dir)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.file("bin/busybox", &fs::read(BUSYBOX)?)?;
    archive.file("init", INIT)?;
    for (index, module) in Modules::read(unpacked, release)?.in_load_order(&BOOT_MODULES)?.iter().enumerate()
    {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The number makes the shell load them in order.
        archive.file(&format!("modules/{index:02}-{name}"), &fs::read(module)?)?;
    }
    archive.finish()?;
    run("gzip", &["-9".as_ref(), "-n".as_ref(), "-f".as_ref(), plain.as_os_str()])?;
    Ok(plain.with_extension("gz"))
}

/// Writes the guest's root directory.
pub fn write_root(unpacked: &Path, release: &str, work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    for dir in [
        "bin",
        "dev",
        "etc",
        "lib",
        "mnt",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "var/lib/cloud/scripts/per-boot",
        "var/log",
        "www",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    symlink("bin", root.join("sbin"))?;
    symlink("../run", root.join("var/run"))?;
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("install the package busybox-static")?;
    for applet in run(BUSYBOX, &["--list"])?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for (name, content) in ASSETS.iter().filter(|(name, _)| name.contains('/')) {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap_or(&root))?;
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(root.join("etc/passwd"), "root::0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let modules = Modules::read(unpacked, release)?;
    for module in modules.in_load_order(&SPARE_MODULES)? {
        let inside = module.strip_prefix(unpacked).context("a module outside the package")?;
        let target = root.join(inside);
        fs::create_dir_all(target.parent().unwrap_or(&root))?;
        fs::copy(&module, target)?;
    }
    run("depmod", &["-b".as_ref(), root.as_os_str(), release.as_ref()])?;
    Ok(root)
}

/// What `depmod` found out about the kernel's modules.
struct Modules {
    dir: PathBuf,
    /// Path of a module below `dir` → paths of those it needs, the nearest first.
    needs: HashMap<String, Vec<String>>,
}

impl Modules {
    fn read(unpacked: &Path, release: &str) -> Result<Self> {
        let dir = unpacked.join("lib/modules").join(release);
        let text = fs::read_to_string(dir.join("modules.dep")).context("modules.dep")?;
        Ok(Self { needs: parse_needs(&text), dir })
    }

    /// Files of the named modules and all they need, each once, needed ones first.
    fn in_load_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order: Vec<&str> = Vec::new();
        for name in names {
            let suffix = format!("/{name}.ko");
            let path = self.needs.keys().find(|path| path.ends_with(&suffix));
            let path = path.with_context(|| format!("the kernel has no module {name}"))?;
            let needed = self.needs.get(path).into_iter().flatten().rev();
            for module in needed.chain(std::iter::once(path)) {
                if !order.contains(&module.as_str()) {
                    order.push(module);
                }
            }
        }
        Ok(order.into_iter().map(|path| self.dir.join(path)).collect())
    }
}

fn parse_needs(text: &str) -> HashMap<String, Vec<String>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(path, needs)| (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What the guest's own interpreter makes of a file.
    fn awk(program: &str, input: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(program);
        let mut command = Command::new(BUSYBOX);
        command.arg("awk").arg("-f").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let text = "k/a/virtio.ko:\nk/a/pci.ko: k/a/legacy.ko k/a/virtio.ko\nk/a/legacy.ko: k/a/virtio.ko\n";
        let modules = Modules { dir: "/m".into(), needs: parse_needs(text) };
        let order = modules.in_load_order(&["pci", "virtio"]).unwrap();
        assert_eq!(order, ["/m/k/a/virtio.ko", "/m/k/a/legacy.ko", "/m/k/a/pci.ko"].map(PathBuf::from));
        assert!(modules.in_load_order(&["floppy"]).is_err());
    }

    #[test]
    fn the_guest_reads_static_addresses_in_block_form() {
        let said = awk(
            "network.awk",
            "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: \"52:54:00:AA:00:01\"\n    addresses:\n    \
             - 10.0.0.5/24\n    routes:\n      - to: default\n        via: 10.0.0.1\n    nameservers:\n      \
             addresses: [1.1.1.1]\n    mtu: 1450\n  eth1:\n    dhcp4: true\n",
        );
        assert_eq!(
            said,
            "eth0 52:54:00:aa:00:01 - 10.0.0.5/24 10.0.0.1 1450\neth1 - true - - -\nnameserver 1.1.1.1\n"
        );
    }

    #[test]
    fn the_guest_reads_static_addresses_in_flow_form() {
        let said = awk(
            "network.awk",
            "network:\n  version: 2\n  ethernets:\n    nic0:\n      addresses: [10.0.0.5/24, 10.0.0.6/24]\n      \
             gateway4: 10.0.0.1\n",
        );
        assert_eq!(said, "nic0 - - 10.0.0.5/24,10.0.0.6/24 10.0.0.1 -\n");
    }

    #[test]
    fn the_guest_reads_commands_in_both_forms() {
        let said = awk(
            "runcmd.awk",
            "#cloud-config\nruncmd:\n  - echo one > /www/one\n  - [\"sh\", \"-c\", \"echo two\"]\nusers:\n  - default\n",
        );
        assert_eq!(said, "echo one > /www/one\n'sh' '-c' 'echo two'\n");
    }
}
