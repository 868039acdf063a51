//! The Debian packages that `up`, `drill` and `test` need: named, with why, installed once, nothing of them started.
//!
//! The trap that this knows: a base image may carry `qemu-utils` of a newer suite without that suite among its
//! sources. Installing the emulator alone would then remove it. Both are therefore named in one version, which must be
//! one that the machine's sources really offer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::stages::seconds;

/// Set to anything to say: what is needed is there under other names, do not look.
const SKIP: &str = "BASALT_SKIP_PACKAGES";

const INSTALL: &str = include_str!("install.sh");

/// What is needed, and what for.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "runs the guests"),
    ("qemu-utils", "makes and checks disk images"),
    ("libvirt-daemon-system", "the hypervisor daemon of each host"),
    ("libvirt-clients", "virsh, to look at a host by hand"),
    ("libvirt-dev", "the agent links against libvirt"),
    ("pkg-config", "finds libvirt for the build"),
    ("gcc", "links Rust programs, builds the crypto library"),
    ("make", "builds the crypto library"),
    ("libc6-dev", "links Rust programs"),
    ("git", "tells which files are part of the project"),
    ("ca-certificates", "trusts what is downloaded"),
    ("openvswitch-switch", "the virtual switch of each host"),
    ("dnsmasq-base", "DHCP for the guests"),
    ("nftables", "NAT and port forwards of routers"),
    ("keepalived", "chooses which of a router's two hosts is active"),
    ("postgresql-15", "the one truth"),
    ("podman", "the container engine that agents and servers run in"),
    ("runc", "starts containers where control groups are of both versions, which crun refuses"),
    ("netavark", "networks of containers, and the ports that are published"),
    ("docker-registry", "tests pull images from it"),
    ("iptables", "netavark publishes ports with it"),
    ("iproute2", "namespaces and links of the hosts in the lab"),
    ("ethtool", "switches checksum offload off where it breaks TCP"),
    ("iputils-ping", "tests reach guests with it"),
    ("kmod", "loads kernel modules where there are some"),
    ("busybox-static", "the userland of the small guest"),
    ("cpio", "packs the small guest"),
    ("syslinux", "boots the small guest"),
    ("syslinux-common", "boots the small guest"),
    ("syslinux-efi", "boots the small guest under UEFI"),
    ("ovmf", "UEFI for the guests"),
    ("mtools", "writes the guest's boot partition without mounting"),
    ("dosfstools", "makes the guest's boot partition"),
    ("fdisk", "partitions the guest's disk"),
    ("e2fsprogs", "makes the guest's root file system"),
];

/// The packages that must come from the same suite.
const QEMU: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

/// Installs what is missing, and says so first. Quick and silent when nothing is.
///
/// The log of the installation stays in `target`.
///
/// # Errors
/// When the machine is no Debian 12, when neither root nor sudo is at hand, or when apt fails; the message names the
/// packages and the remedy.
pub fn ensure_packages(target: &Path) -> Result<()> {
    if std::env::var_os(SKIP).is_some() {
        return Ok(());
    }
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian_12(&os_release) {
        bail!(
            "this machine is {}, and packages are known by name for Debian 12 only. Install the counterparts of these \
             yourself and set {SKIP}=1:\n  {}",
            pretty_name(&os_release),
            names(PACKAGES).join(" ")
        );
    }
    let missing = missing_packages()?;
    if missing.is_empty() {
        return Ok(());
    }
    println!(
        "Installing {} packages of the distribution (once; no service of theirs is started):",
        missing.len()
    );
    for (name, why) in &missing {
        println!("  {name:22} {why}");
    }
    let started = Instant::now();
    let privilege = Privilege::find(&names(&missing))?;
    fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    let log = target.join("packages.log");
    let mut file = File::create(&log).with_context(|| format!("writing {}", log.display()))?;

    let mut update = privilege.command("apt-get");
    update.args(["-q", "-o", "DPkg::Lock::Timeout=300", "update"]);
    // A source that does not answer is no reason to stop while the lists at hand name what is missing.
    let updated = logged(&mut update, None, &file)?;
    let arguments = arguments(&names(&missing), &madison()?);
    let mut install = privilege.command("sh");
    install.args(["-s", "--"]).args(&arguments);
    if !logged(&mut install, Some(INSTALL), &file)? {
        file.flush().ok();
        bail!(
            "apt-get could not install {}{}. The end of {}:\n{}",
            arguments.join(" "),
            if updated { "" } else { " (and `apt-get update` failed before)" },
            log.display(),
            tail(&log)
        );
    }
    println!("Installed in {}.", seconds(started.elapsed()));
    Ok(())
}

/// How this process may act as root.
enum Privilege {
    Root,
    Sudo { ask: bool },
}

impl Privilege {
    fn find(missing: &[&str]) -> Result<Self> {
        let id = Command::new("id").arg("-u").output().context("starting id")?;
        if id.stdout.starts_with(b"0\n") {
            return Ok(Self::Root);
        }
        // Without a terminal sudo could not ask, and would hang or fail with a riddle.
        let ask = std::io::stdin().is_terminal();
        let mut check = Command::new("sudo");
        if !ask {
            check.arg("-n");
        }
        if check.arg("true").status().is_ok_and(|status| status.success()) {
            return Ok(Self::Sudo { ask });
        }
        bail!(
            "installing needs root, and sudo is not to be had here. As root, run\n  apt-get install --no-install-recommends {}",
            missing.join(" ")
        )
    }

    fn command(&self, program: &str) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo { ask } => {
                let mut command = Command::new("sudo");
                if !ask {
                    command.arg("-n");
                }
                command.args(["--", program]);
                command
            }
        }
    }
}

fn names<'a>(packages: &[(&'a str, &str)]) -> Vec<&'a str> {
    packages.iter().map(|(name, _)| *name).collect()
}

fn missing_packages() -> Result<Vec<(&'static str, &'static str)>> {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(names(PACKAGES))
        .output()
        .context("starting dpkg-query")?;
    // It fails when it does not know a package, and names those that it knows all the same.
    let listing = String::from_utf8_lossy(&query.stdout);
    let installed: BTreeSet<&str> =
        listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(PACKAGES.iter().filter(|(name, _)| !installed.contains(name)).copied().collect())
}

/// The versions of both QEMU packages that the machine's sources offer.
fn madison() -> Result<String> {
    let output =
        Command::new("apt-cache").arg("madison").args(QEMU).output().context("starting apt-cache")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What to ask apt for: the missing packages, with both QEMU packages in one version when either is missing.
fn arguments(missing: &[&str], madison: &str) -> Vec<String> {
    let mut arguments: Vec<String> =
        missing.iter().filter(|name| !QEMU.contains(name)).map(|name| (*name).to_owned()).collect();
    if missing.iter().any(|name| QEMU.contains(name)) {
        let version = qemu_version(madison);
        arguments.extend(QEMU.iter().map(|name| match version {
            Some(version) => format!("{name}={version}"),
            None => (*name).to_owned(),
        }));
    }
    arguments
}

/// The newest version of the emulator that is offered for the tools as well. apt lists the newest first.
fn qemu_version(madison: &str) -> Option<&str> {
    let versions = |package: &str| -> Vec<&str> {
        madison
            .lines()
            .filter_map(|line| {
                let mut columns = line.split('|').map(str::trim);
                (columns.next() == Some(package)).then(|| columns.next()).flatten()
            })
            .collect()
    };
    let of_tools = versions(QEMU[1]);
    versions(QEMU[0]).into_iter().find(|version| of_tools.contains(version))
}

fn is_debian_12(os_release: &str) -> bool {
    field(os_release, "ID") == Some("debian") && field(os_release, "VERSION_ID") == Some("12")
}

fn pretty_name(os_release: &str) -> &str {
    field(os_release, "PRETTY_NAME").unwrap_or("unknown")
}

fn field<'a>(os_release: &'a str, key: &str) -> Option<&'a str> {
    os_release.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"')))
}

/// Runs a command with its output in the log, and tells whether it succeeded.
fn logged(command: &mut Command, input: Option<&str>, log: &File) -> Result<bool> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(log.try_clone()?).stderr(log.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).with_context(|| format!("writing to {program}"))?;
    }
    Ok(child.wait()?.success())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "\
qemu-system-x86 | 1:10.0.2+ds-2~bpo12+1 | http://mirror bookworm-backports/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u18 | http://mirror bookworm/main amd64 Packages
qemu-utils | 1:7.2+dfsg-7+deb12u18 | http://mirror bookworm/main amd64 Packages
";

    #[test]
    fn both_qemu_packages_get_the_newest_version_that_both_have() {
        assert_eq!(
            arguments(&["qemu-system-x86", "cpio"], MADISON),
            ["cpio", "qemu-system-x86=1:7.2+dfsg-7+deb12u18", "qemu-utils=1:7.2+dfsg-7+deb12u18"]
        );
        assert_eq!(arguments(&["cpio"], MADISON), ["cpio"]);
        assert_eq!(arguments(&["qemu-utils"], ""), ["qemu-system-x86", "qemu-utils"]);
    }

    #[test]
    fn only_debian_12_is_known_by_name() {
        assert!(is_debian_12(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n"
        ));
        assert!(!is_debian_12("VERSION_ID=\"13\"\nID=debian\n"));
        assert!(!is_debian_12("VERSION_ID=\"12\"\nID=ubuntu\nID_LIKE=debian\n"));
        assert_eq!(pretty_name("ID=arch\n"), "unknown");
    }

    #[test]
    fn the_installer_cleans_up_on_every_way_out_and_removes_nothing() {
        assert!(INSTALL.contains("trap remove_ours EXIT") && INSTALL.contains("--no-remove"));
        assert!(PACKAGES.iter().all(|(name, why)| !name.is_empty() && !why.is_empty()));
    }
}
