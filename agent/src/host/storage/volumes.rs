//! Volumes of a directory pool: qcow2 files named after the volume and its incarnation.

use super::{Pool, Pools, files, qcow2};
use crate::{Error, host::images, host::program::Program};
use basalt_model::{CapabilityReason, ImageId, hosts::Foreign, images::ImageFormat};
use basalt_plan::host::{VolumeDefinition, VolumeKey, VolumeSeen};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Most memory of a `qemu-img`, in bytes.
const MEMORY_LIMIT: u64 = 2 * 1024 * 1024 * 1024;
/// Most processor time of a `qemu-img`, in seconds.
const CPU_LIMIT: u64 = 600;

/// The volumes of all pools.
#[derive(Debug, Default)]
pub struct Listing {
    /// What was found.
    pub volumes: BTreeMap<VolumeKey, VolumeSeen>,
    /// Files that carry none of our names.
    pub strays: Vec<Foreign>,
    /// Why a pool could not be listed.
    pub problems: Vec<String>,
}

/// Where a volume is.
pub fn path(pool: &Pool, key: &VolumeKey) -> PathBuf {
    pool.volumes().join(format!("{}.{}.qcow2", key.id, key.incarnation))
}

fn parse(pool: &Pool, name: &str) -> Option<VolumeKey> {
    let (id, rest) = name.split_once('.')?;
    let incarnation = rest.strip_suffix(".qcow2")?;
    let key =
        VolumeKey { id: id.parse().ok()?, incarnation: incarnation.parse().ok()?, pool: pool.name.clone() };
    // Only the one spelling that we write is ours.
    (path(pool, &key).file_name()?.to_str()? == name).then_some(key)
}

/// Runs `qemu-img` under limits of memory and time. Formats are always named by the caller.
pub fn qemu_img() -> Program {
    Program::new("prlimit")
        .arg(format!("--as={MEMORY_LIMIT}"))
        .arg(format!("--cpu={CPU_LIMIT}"))
        .args(["--", "qemu-img"])
        .limit(Duration::from_secs(CPU_LIMIT))
}

/// Lists the volumes of all pools; `users` says which domains have which files.
pub fn list(pools: &Pools, users: &BTreeMap<PathBuf, BTreeSet<String>>) -> Listing {
    let mut listing = Listing::default();
    for pool in pools.declared() {
        let names = pools.here(&pool.name).and_then(|pool| files::names(&pool.volumes()));
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                listing.problems.push(format!("pool {}: {error}", pool.name));
                continue;
            }
        };
        for name in names {
            let file = pool.volumes().join(&name);
            let Some(key) = parse(pool, &name) else {
                listing.strays.push(stray(pool, &file, &name));
                continue;
            };
            match qcow2::read(&file) {
                Ok(head) => {
                    let users = users.get(&file).cloned().unwrap_or_default();
                    let image_id = head.backing.as_deref().and_then(backing_image);
                    listing.volumes.insert(key, VolumeSeen { size_bytes: head.size_bytes, image_id, users });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => listing.problems.push(format!("{}: {error}", file.display())),
            }
        }
    }
    listing
}

fn stray(pool: &Pool, file: &Path, name: &str) -> Foreign {
    let size = fs::metadata(file).map(|m| m.len()).unwrap_or_default();
    Foreign {
        kind: "volume".into(),
        name: format!("{}/{name}", pool.name),
        id: String::new(),
        detail: format!("{size} bytes"),
    }
}

/// The cached image whose file lies under an overlay.
pub fn backing_image(backing: &str) -> Option<ImageId> {
    Some(images::parse(Path::new(backing).file_name()?.to_str()?)?.id)
}

/// The volume is there in its size. A smaller one is grown, a larger one is left: bytes are never lost.
pub async fn ensure(pools: &Pools, volume: &VolumeDefinition) -> Result<(), Error> {
    let pool = pools.here(&volume.key.pool)?;
    let file = path(pool, &volume.key);
    let subject = format!("volume/{}", volume.key.id);
    match qcow2::read(&file) {
        Ok(head) if head.size_bytes >= volume.size_bytes => return Ok(()),
        Ok(head) => {
            pool.require_room(&subject, volume.size_bytes - head.size_bytes)?;
            let size = volume.size_bytes.to_string();
            return qemu_img()
                .args(["resize", "-q", "-f", "qcow2"])
                .arg(&file)
                .arg(size)
                .run()
                .await
                .map(drop);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::state(file, error)),
    }
    pool.require_room(&subject, volume.size_bytes)?;
    let half = files::half_made(&file);
    files::remove(&half)?;
    let mut create = qemu_img().args(["create", "-q", "-f", "qcow2"]);
    if let Some(image) = &volume.image {
        let base = images::path(pools.first()?, image);
        let format = base_format(image.format)?;
        refuse_smaller(&base, format, &subject, volume.size_bytes)?;
        create = create.args(["-F", format, "-b"]).arg(&base);
    }
    create.arg(&half).arg(volume.size_bytes.to_string()).run().await?;
    // libvirt gives it to QEMU's account while the guest runs; nobody else has business in it.
    fs::set_permissions(&half, fs::Permissions::from_mode(0o600)).map_err(|e| Error::state(&half, e))?;
    files::publish(&half, &file)
}

/// QEMU's word for an image's format.
pub fn base_format(format: ImageFormat) -> Result<&'static str, Error> {
    match format {
        ImageFormat::Qcow2 => Ok("qcow2"),
        ImageFormat::Raw => Ok("raw"),
        ImageFormat::Iso => Err(Error::refused(CapabilityReason::new(
            "iso_as_base",
            "volume",
            "an optical disc cannot lie under a volume",
            "attach the image as an ISO disk, and boot from a blank volume or another image",
        ))),
    }
}

/// An overlay that is smaller than its base would cut the guest's file system off.
fn refuse_smaller(base: &Path, format: &str, subject: &str, wanted: u64) -> Result<(), Error> {
    let size = match format {
        "qcow2" => qcow2::read(base).map(|head| head.size_bytes),
        _ => fs::metadata(base).map(|m| m.len()),
    };
    let size = size.map_err(|e| Error::state(base, e))?;
    if size <= wanted {
        return Ok(());
    }
    let reason = CapabilityReason::new(
        "smaller_than_image",
        subject,
        "the volume is smaller than its image",
        format!("make the volume at least {size} bytes"),
    );
    Err(Error::refused(reason.with_evidence(format!("image {size} bytes, volume {wanted} bytes"))))
}

/// Nothing of that incarnation of the volume is left.
pub fn remove(pools: &Pools, key: &VolumeKey) -> Result<(), Error> {
    let file = path(pools.here(&key.pool)?, key);
    files::remove(&files::half_made(&file))?;
    files::remove(&file)
}
