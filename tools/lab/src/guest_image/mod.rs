//! Makes the small guest image out of the distribution's packages: nothing is installed, mounted or run as a guest.
//!
//! The cloud kernel is downloaded and unpacked; a static busybox and a few text files make the system. The
//! result is a bootable qcow2 disk: MBR, a FAT partition with the boot loader, kernel and a small initial RAM disk,
//! and an ext4 root. It is kept under a name made of everything that went into it, so that it is made once.

mod archive;
mod disk;
mod tree;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::process::{run, run_command};

/// Raised whenever the same inputs shall give another image.
const FORMAT: u32 = 2;
/// Depends on the newest kernel for virtual machines.
const KERNEL_METAPACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "/bin/busybox";
const STEPS: u32 = 5;

/// A bootable disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestImage {
    pub path: PathBuf,
    pub size_bytes: u64,
    /// The kernel package it was made of.
    pub kernel: String,
}

/// One step of making an image, for a progress display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Steps that are done.
    pub done: u32,
    pub total: u32,
    /// What is being done now.
    pub now: String,
}

/// The image under `cache_dir`, made now if there is none of these inputs. Several callers, in several processes,
/// may ask at once: one makes it, the others wait.
pub fn ensure(cache_dir: &Path, progress: &mut dyn FnMut(Step)) -> Result<GuestImage> {
    fs::create_dir_all(cache_dir)?;
    let lock = File::create(cache_dir.join("guest-image.lock"))?;
    flock(&lock, FlockOperation::LockExclusive).context("waiting for another maker of the guest image")?;
    let mut step = |done: u32, now: &str| progress(Step { done, total: STEPS, now: now.to_owned() });

    step(0, "looking for the newest kernel package");
    let kernel = Package::newest_kernel()?;
    let path = cache_dir.join(format!("guest-{}.qcow2", key(&kernel)?));
    if !path.exists() {
        let work = tempfile::Builder::new().prefix("guest-image-").tempdir_in(cache_dir)?;
        step(1, &format!("downloading {}", kernel.name));
        let unpacked = kernel.unpack(cache_dir, work.path())?;
        step(2, "laying out the system");
        let release = tree::kernel_release(&unpacked)?;
        run("depmod", &["-b".as_ref(), unpacked.as_os_str(), release.as_ref()])?;
        let initrd = tree::write_initrd(&unpacked, &release, work.path())?;
        let root = tree::write_root(&unpacked, &release, work.path())?;
        step(3, "making the disk");
        let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{release}"));
        let raw = disk::assemble(&vmlinuz, &initrd, &root, work.path())?;
        step(4, "compressing");
        let finished = disk::convert(&raw, work.path())?;
        fs::rename(&finished, &path).context("keeping the image")?;
    }
    step(STEPS, "guest image is ready");
    Ok(GuestImage { size_bytes: fs::metadata(&path)?.len(), path, kernel: kernel.to_string() })
}

/// Stands for everything that goes into an image.
fn key(kernel: &Package) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(FORMAT.to_be_bytes());
    digest.update(kernel.to_string());
    digest.update(fs::read(BUSYBOX).context("install the package busybox-static")?);
    for (name, content) in tree::ASSETS {
        digest.update(name);
        digest.update(content);
    }
    Ok(hex::encode(&digest.finalize()[..8]))
}

/// A package of the distribution, at the version that would be installed.
struct Package {
    name: String,
    version: String,
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.name, self.version)
    }
}

impl Package {
    fn newest_kernel() -> Result<Self> {
        let remedy = || format!("the package lists hold no {KERNEL_METAPACKAGE}: run apt-get update");
        let depends = run("apt-cache", &["depends", KERNEL_METAPACKAGE]).with_context(remedy)?;
        let name = kernel_of(&depends).with_context(remedy)?;
        let shown = run("apt-cache", &["show", "--no-all-versions", &name])?;
        let version = shown.lines().find_map(|l| l.strip_prefix("Version: ")).with_context(remedy)?;
        Ok(Self { version: version.to_owned(), name })
    }

    /// Downloads the package, unless it is there, and unpacks it into a directory of `work`.
    fn unpack(&self, cache_dir: &Path, work: &Path) -> Result<PathBuf> {
        let packages = cache_dir.join("packages");
        fs::create_dir_all(&packages)?;
        // apt-get checks the signature chain and writes the file under a name with the version in it.
        let mut command = Command::new("apt-get");
        command
            .args(["-o", "APT::Sandbox::User=root", "download"])
            .arg(format!("{}={}", self.name, self.version));
        run_command(command.current_dir(&packages)).context("downloading the kernel package")?;
        let prefix = format!("{}_", self.name);
        let file = fs::read_dir(&packages)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
        let Some(file) = file else { bail!("apt-get left no package {}", self.name) };
        let unpacked = work.join("package");
        run("dpkg-deb", &["-x".as_ref(), file.as_os_str(), unpacked.as_os_str()])?;
        // It is 27 MB, and the image that is made of it stays.
        fs::remove_file(&file)?;
        Ok(unpacked)
    }
}

fn kernel_of(depends: &str) -> Option<String> {
    let words = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    words.map(str::trim).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_among_dependencies() {
        let text =
            "linux-image-cloud-amd64\n  Depends: linux-base\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(kernel_of(text).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(kernel_of("linux-image-cloud-amd64\n"), None);
    }
}
