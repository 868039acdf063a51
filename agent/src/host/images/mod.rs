//! The cache of images: fetched in one stream that can be resumed, verified, then never written again.
//!
//! Overlays lie over these files, so they belong to root, have mode 0444, and a name with their digest.

use super::{
    Download, With,
    storage::{Pool, Pools, files, qcow2},
};
use crate::Error;
use basalt_daemon::Clock;
use basalt_model::{CapabilityReason, ImageId, images::ImageFormat, images::is_sha256};
use basalt_plan::host::{ImageDefinition, ImageSeen};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a cached file's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The image.
    pub id: ImageId,
    /// Its digest.
    pub sha256: String,
    /// Its format.
    pub format: ImageFormat,
}

fn extension(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
        ImageFormat::Iso => "iso",
    }
}

/// Where an image is, or will be.
pub fn path(pool: &Pool, image: &ImageDefinition) -> PathBuf {
    pool.images().join(format!("{}.{}.{}", image.id, image.sha256, extension(image.format)))
}

/// Reads a cached file's name.
pub fn parse(name: &str) -> Option<FileName> {
    let mut parts = name.split('.');
    let (id, sha256, suffix) = (parts.next()?, parts.next()?, parts.next()?);
    let formats = [ImageFormat::Qcow2, ImageFormat::Raw, ImageFormat::Iso];
    let format = formats.into_iter().find(|f| extension(*f) == suffix)?;
    let whole = parts.next().is_none() && is_sha256(sha256);
    Some(FileName { id: id.parse().ok()?, sha256: sha256.to_owned(), format }).filter(|_| whole)
}

fn part(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

/// The cached file of an image.
pub fn find(pool: &Pool, id: ImageId) -> Result<Option<PathBuf>, Error> {
    let names = files::names(&pool.images())?;
    let name = names.into_iter().find(|name| parse(name).is_some_and(|n| n.id == id));
    Ok(name.map(|name| pool.images().join(name)))
}

/// The images of the cache; one that is being fetched counts as not ready.
pub fn list(pools: &Pools) -> Result<BTreeMap<ImageId, ImageSeen>, Error> {
    let dir = pools.first()?.images();
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(|e| Error::state(&dir, e))? {
        let name = entry.map_err(|e| Error::state(&dir, e))?.file_name().to_string_lossy().into_owned();
        let half = name.strip_prefix('.').and_then(|n| n.strip_suffix(".part"));
        let Some(file) = parse(half.unwrap_or(&name)) else { continue };
        let image = ImageSeen { sha256: file.sha256, ready: half.is_none() };
        if image.ready || !seen.contains_key(&file.id) {
            seen.insert(file.id, image);
        }
    }
    Ok(seen)
}

/// Nothing of an image is in the cache.
pub fn remove(pools: &Pools, id: ImageId) -> Result<(), Error> {
    let dir = pools.first()?.images();
    let prefixes = [format!("{id}."), format!(".{id}.")];
    for entry in fs::read_dir(&dir).map_err(|e| Error::state(&dir, e))? {
        let entry = entry.map_err(|e| Error::state(&dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The image is in the cache, verified. What an earlier try fetched is kept and continued.
pub async fn ensure(
    pools: &Pools,
    image: &ImageDefinition,
    with: &With,
    clock: &dyn Clock,
) -> Result<(), Error> {
    let pool = pools.first()?;
    let file = path(pool, image);
    if fs::metadata(&file).is_ok_and(|m| m.len() == image.size_bytes) {
        return Ok(());
    }
    let part = part(&file);
    let (mut hasher, mut done) = resume(&part, image.size_bytes).await?;
    pool.require_room(&format!("image/{}", image.id), image.size_bytes - done)?;
    if done < image.size_bytes {
        let Download { size_bytes, bytes } = with.downloads.open(image.id, done).await?;
        if size_bytes != image.size_bytes {
            return Err(refused(
                image,
                "size_mismatch",
                format!("{size_bytes} bytes offered, {} expected", image.size_bytes),
            ));
        }
        done = receive(&part, image, bytes, &mut hasher, done, with, clock).await?;
    }
    if done < image.size_bytes {
        let why = format!("the stream ended after {done} of {} bytes", image.size_bytes);
        return Err(Error::link("downloading an image", why));
    }
    let digest = hex::encode(hasher.finalize());
    if digest != image.sha256 || done > image.size_bytes {
        files::remove(&part)?;
        return Err(refused(image, "digest_mismatch", format!("{done} bytes with SHA-256 {digest}")));
    }
    inspect(&part, image)?;
    fs::set_permissions(&part, Permissions::from_mode(0o444)).map_err(|e| Error::state(&part, e))?;
    files::publish(&part, &file)
}

/// What is there already, and its digest so far.
async fn resume(part: &Path, size_bytes: u64) -> Result<(Sha256, u64), Error> {
    let path = part.to_owned();
    let read = move || -> Result<(Sha256, u64), std::io::Error> {
        let mut hasher = Sha256::new();
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((hasher, 0)),
            other => other?,
        };
        if file.metadata()?.len() > size_bytes {
            fs::remove_file(&path)?;
            return Ok((hasher, 0));
        }
        let (mut buffer, mut done) = (vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((hasher, done)),
                count => {
                    hasher.update(&buffer[..count]);
                    done += count as u64;
                }
            }
        }
    };
    let joined = tokio::task::spawn_blocking(read).await;
    joined.map_err(|e| Error::host("reading a half-fetched image", e))?.map_err(|e| Error::state(part, e))
}

async fn receive(
    part: &Path,
    image: &ImageDefinition,
    mut bytes: futures::stream::BoxStream<'static, Result<bytes::Bytes, Error>>,
    hasher: &mut Sha256,
    mut done: u64,
    with: &With,
    clock: &dyn Clock,
) -> Result<u64, Error> {
    let failed = |e: std::io::Error| Error::state(part, e);
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(part).map_err(failed)?;
    let progress = Arc::clone(&with.progress);
    let mut said = clock.now();
    progress("downloading image".into());
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        if done + chunk.len() as u64 > image.size_bytes {
            files::remove(part)?;
            return Err(refused(
                image,
                "size_mismatch",
                format!("more than {} bytes came", image.size_bytes),
            ));
        }
        // Blocks of a stream are small, and the page cache takes them; only the sync at the end waits for the disk.
        file.write_all(&chunk).map_err(failed)?;
        hasher.update(&chunk);
        done += chunk.len() as u64;
        let now = clock.now();
        if (now - said).num_milliseconds() >= 1000 {
            said = now;
            progress(format!("downloading image ({} %)", done * 100 / image.size_bytes.max(1)));
        }
    }
    Ok(done)
}

/// The image service looked into the bytes before; what lies under guests is looked into again.
fn inspect(part: &Path, image: &ImageDefinition) -> Result<(), Error> {
    if image.format != ImageFormat::Qcow2 {
        return Ok(());
    }
    let why = match qcow2::read(part) {
        Ok(head) if head.backing.is_none() && !head.external_data => return Ok(()),
        Ok(_) => "it refers to another file".to_owned(),
        Err(error) => error.to_string(),
    };
    files::remove(part)?;
    Err(refused(image, "hostile_image", why))
}

fn refused(image: &ImageDefinition, code: &'static str, evidence: String) -> Error {
    let reason = CapabilityReason::new(
        code,
        format!("image/{}", image.id),
        "the bytes are not the image that was declared",
        "upload the image again",
    );
    Error::refused(reason.with_evidence(evidence))
}
