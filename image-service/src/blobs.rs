//! Blobs by their SHA-256, and download sessions over them.

use crate::{Error, durable, redeem::Session};
use basalt_model::{DateTime, images::is_sha256};
use basalt_wire::upload_token::Claims;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A download may be resumed for this long.
const SESSION_HOURS: i64 = 24;

/// All blobs.
pub struct Blobs {
    dir: PathBuf,
    sessions: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Download {
    claims: Claims,
    expires_at: DateTime,
}

impl Blobs {
    /// Opens (or makes) the folders under `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (blobs, sessions) = (dir.join("blobs"), dir.join("downloads"));
        fs::create_dir_all(&blobs)?;
        fs::create_dir_all(&sessions)?;
        Ok(Self { dir: blobs, sessions })
    }

    /// Where a blob is.
    pub fn path(&self, sha256: &str) -> Result<PathBuf, Error> {
        // Nothing but hex digits ever becomes a path.
        is_sha256(sha256).then(|| self.dir.join(sha256)).ok_or(Error::NoBlob)
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, sha256: &str) -> Result<File, Error> {
        File::open(self.path(sha256)?).map_err(|_| Error::NoBlob)
    }

    /// Takes a verified part as a blob. Repeating it changes nothing.
    pub fn adopt(&self, part: &Path, sha256: &str, size_bytes: u64) -> Result<(), Error> {
        let blob = self.path(sha256)?;
        let there = fs::metadata(&blob).is_ok_and(|m| m.len() == size_bytes);
        if there {
            return Ok(durable::remove(part)?);
        }
        fs::set_permissions(part, fs::Permissions::from_mode(0o444))?;
        File::open(part)?.sync_all()?;
        fs::rename(part, &blob)?;
        Ok(durable::sync_parent(&blob)?)
    }

    /// Begins a download session; it is durable when this returns.
    pub fn begin_download(&self, session: &Session, claims: Claims, now: DateTime) -> Result<(), Error> {
        let expires_at = now + chrono::TimeDelta::hours(SESSION_HOURS);
        let bytes = serde_json::to_vec(&Download { claims, expires_at })?;
        Ok(durable::put(&self.session_path(session), &bytes)?)
    }

    /// The blob that a session may read.
    pub fn download(&self, session: &Session, now: DateTime) -> Result<PathBuf, Error> {
        let bytes = fs::read(self.session_path(session)).map_err(|_| Error::NoSession)?;
        let download: Download = serde_json::from_slice(&bytes)?;
        if download.expires_at <= now {
            return Err(Error::NoSession);
        }
        let path = self.path(download.claims.sha256.as_deref().unwrap_or_default())?;
        path.exists().then_some(path).ok_or(Error::NoBlob)
    }

    /// Forgets sessions whose time is over.
    pub fn sweep(&self, now: DateTime) -> Result<(), Error> {
        for entry in fs::read_dir(&self.sessions)? {
            let path = entry?.path();
            let parsed = fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Download>(&b).ok());
            if parsed.is_some_and(|d| d.expires_at <= now) {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }

    fn session_path(&self, session: &Session) -> PathBuf {
        self.sessions.join(format!("{}.json", session.as_str()))
    }
}
