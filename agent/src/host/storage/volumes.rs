//! Volumes of a directory pool: qcow2 files named after the volume and its incarnation.

use super::{Pool, Pools, files, qcow2};
use crate::{Error, host::images, host::program::Program};
use basalt_model::{CapabilityReason, ImageId, adoption::ForeignVolume, hosts::Foreign, images::ImageFormat};
use basalt_plan::host::{AdoptionDefinition, VolumeDefinition, VolumeKey, VolumeSeen};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
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

/// What a file's name says that it is.
pub fn parse(pool: &Pool, name: &str) -> Option<VolumeKey> {
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
pub fn list(pools: &Pools, users: &Users) -> Listing {
    let mut listing = Listing::default();
    for pool in pools.declared() {
        let names = pools.here(&pool.name).and_then(|pool| files::names(&pool.volumes()));
        match names {
            Ok(names) => list_pool(pool, &names, users, &mut listing),
            Err(error) => listing.problems.push(format!("pool {}: {error}", pool.name)),
        }
    }
    listing
}

/// Names of the domains that have a file.
type Users = BTreeMap<PathBuf, BTreeSet<String>>;

fn list_pool(pool: &Pool, names: &[String], users: &Users, listing: &mut Listing) {
    let of = |name: &str| users.get(&pool.volumes().join(name)).cloned().unwrap_or_default();
    let mut twins = twins(pool, names);
    for name in names {
        let file = pool.volumes().join(name);
        let Some(key) = parse(pool, name) else { continue };
        match qcow2::read(&file) {
            Ok(head) => {
                let twin = if twins.is_empty() { None } else { identity(&file) };
                let aliases = twin.and_then(|id| twins.remove(&id)).unwrap_or_default();
                let users = aliases.iter().fold(of(name), |mut all, alias| {
                    all.extend(of(alias));
                    all
                });
                let image_id = head.backing.as_deref().and_then(backing_image);
                let (file, size_bytes) = (name.clone(), head.size_bytes);
                listing.volumes.insert(key, VolumeSeen { file, aliases, size_bytes, image_id, users });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => listing.problems.push(format!("{}: {error}", file.display())),
        }
    }
    let ours = listing.volumes.iter().filter(|(key, _)| key.pool == pool.name);
    let aliases: BTreeSet<String> = ours.flat_map(|(_, seen)| seen.aliases.iter().cloned()).collect();
    let strange = names.iter().filter(|n| parse(pool, n).is_none() && !aliases.contains(*n));
    let strays = strange.map(|name| stray(pool, name, of(name)));
    listing.strays.extend(strays);
}

/// What tells a file from every other one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|m| (m.dev(), m.ino()))
}

/// Strange names of files that have a second name: one that is being taken over has ours too.
fn twins(pool: &Pool, names: &[String]) -> BTreeMap<(u64, u64), BTreeSet<String>> {
    let mut twins: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for name in names.iter().filter(|name| parse(pool, name).is_none()) {
        let Ok(seen) = fs::symlink_metadata(pool.volumes().join(name)) else { continue };
        if seen.is_file() && seen.nlink() > 1 {
            twins.entry((seen.dev(), seen.ino())).or_default().insert(name.clone());
        }
    }
    twins
}

fn stray(pool: &Pool, name: &str, users: BTreeSet<String>) -> Foreign {
    let file = pool.volumes().join(name);
    let seen = fs::symlink_metadata(&file).ok();
    let length = seen.as_ref().map_or(0, fs::Metadata::len);
    let volume = seen.is_some_and(|m| m.is_file()).then(|| {
        let head = qcow2::read(&file).ok();
        let backing = head.as_ref().and_then(|h| h.backing.clone());
        let image_id = backing.as_deref().and_then(backing_image);
        let data = head.as_ref().filter(|h| h.external_data).map(|_| "an external data file".to_owned());
        ForeignVolume {
            pool: pool.name.clone(),
            file: name.to_owned(),
            format: if head.is_some() { "qcow2" } else { "unknown" }.into(),
            size_bytes: head.as_ref().map_or(length, |h| h.size_bytes),
            volume_id: None,
            incarnation: 0,
            image_id,
            refers_to: data.or(backing.filter(|_| image_id.is_none())),
            users,
        }
    });
    let (name, detail) = (format!("{}/{name}", pool.name), format!("{length} bytes"));
    Foreign { kind: "volume".into(), name, detail, volume, ..Foreign::default() }
}

/// The file is there under the volume's name too. Both names are of one file, so whoever has it open or finds it
/// by its old name notices nothing, and a crash before or after leaves it usable.
pub fn adopt(pools: &Pools, adoption: &AdoptionDefinition) -> Result<(), Error> {
    let pool = pools.here(&adoption.key.pool)?;
    let (old, own) = (beside(pool, &adoption.file)?, path(pool, &adoption.key));
    if identity(&old).is_none() && !own.exists() {
        return Err(Error::host("taking over a file", format!("{} is no file", old.display())));
    }
    match fs::hard_link(&old, &own) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) if own.exists() => Ok(()),
        other => other.and_then(|()| files::sync_dir(&own)).map_err(|e| Error::state(own, e)),
    }
}

/// The file that a volume was adopted from has the volume's name alone; another file of its old name stays.
pub fn drop_name(pools: &Pools, adoption: &AdoptionDefinition) -> Result<(), Error> {
    let pool = pools.here(&adoption.key.pool)?;
    let (old, own) = (beside(pool, &adoption.file)?, path(pool, &adoption.key));
    let same = identity(&own).is_some_and(|id| identity(&old) == Some(id)) && old != own;
    if !same {
        return Ok(());
    }
    files::remove(&old)?;
    files::sync_dir(&old).map_err(|e| Error::state(old, e))
}

/// A file of the pool, by a plain name: no name leads out of the directory.
fn beside(pool: &Pool, name: &str) -> Result<PathBuf, Error> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    if plain {
        return Ok(pool.volumes().join(name));
    }
    let reason = CapabilityReason::new(
        "bad_file_name",
        format!("pool/{}", pool.name),
        "this is no name of a file in the pool",
        "delete the volume, and adopt a file that the host reports",
    );
    Err(Error::refused(reason.with_evidence(format!("{name:?}"))))
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
        Err(error) if error.kind() == ErrorKind::NotFound => {}
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
