//! Resumable uploads: bytes to disk, offsets that are durable, one verified blob at the end.
//!
//! ```text
//! receiving ──(all bytes)──► digest taken ──► blob in place ──► event spooled ──► finished
//!     │ expires                   └──► refused: part removed, event spooled ──► finished
//! ```
//! Every arrow is written down before the next begins, so that a restart goes on where it stopped.

use crate::{Error, blobs::Blobs, durable, inspect::inspect, redeem::Session, spool::Spool};
use basalt_model::{CapabilityReason, DateTime, TransferId};
use basalt_wire::{
    image::{ImageEvent, ImageOutcome},
    upload_token::Claims,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// At most this much must be sent again after a crash.
pub const CHECKPOINT_BYTES: u64 = 8 * 1024 * 1024;
/// An upload that nothing was sent to for this long is given up.
pub const IDLE_HOURS: i64 = 24;
const BATCH_BYTES: usize = 1024 * 1024;

/// All uploads.
pub struct Uploads {
    dir: PathBuf,
    blobs: Arc<Blobs>,
    spool: Arc<Spool>,
    open: Mutex<HashMap<Session, Arc<tokio::sync::Mutex<Option<Upload>>>>>,
}

/// What is written down of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// What the token let.
    pub claims: Claims,
    /// Bytes that are durable.
    pub offset: u64,
    /// When it is given up.
    pub expires_at: DateTime,
    /// Names the closing event, so that a repeat is known as one.
    pub event_id: Uuid,
    /// Digest, once taken.
    pub sha256: Option<String>,
    /// How it ended.
    pub finished: Option<ImageOutcome>,
}

struct Upload {
    state: State,
    path: PathBuf,
    file: File,
    /// Bytes written, durable or not.
    written: u64,
    /// Digest of the bytes so far, unless this process did not see them all.
    hasher: Option<Sha256>,
}

impl Uploads {
    /// Opens (or makes) the folder.
    pub fn open(dir: PathBuf, blobs: Arc<Blobs>, spool: Arc<Spool>) -> Result<Self, Error> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, blobs, spool, open: Mutex::default() })
    }

    fn paths(&self, session: &Session) -> (PathBuf, PathBuf) {
        let at = |ext| self.dir.join(format!("{}.{ext}", session.as_str()));
        (at("json"), at("part"))
    }

    /// Begins an upload; it is durable when this returns.
    pub fn create(&self, s: &Session, claims: Claims, event_id: Uuid, now: DateTime) -> Result<State, Error> {
        let (state_path, part) = self.paths(s);
        let expires_at = now + chrono::TimeDelta::hours(IDLE_HOURS);
        let state = State { claims, offset: 0, expires_at, event_id, sha256: None, finished: None };
        File::create(&part)?.sync_all()?;
        durable::put(&state_path, &serde_json::to_vec(&state)?)?;
        Ok(state)
    }

    /// What is known of an upload.
    pub fn state(&self, session: &Session) -> Result<State, Error> {
        match fs::read(self.paths(session).0) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::NoSession),
            Err(e) => Err(e.into()),
        }
    }

    /// Goes on with an upload under another transfer: what becomes of it is said under that one's id, and what has become
    /// of it already is said again.
    pub fn take_over(
        &self,
        session: &Session,
        transfer: TransferId,
        event_id: Uuid,
        now: DateTime,
    ) -> Result<State, Error> {
        let lock = self.lock_known(session)?;
        let mut slot = lock.try_lock().map_err(|_| Error::Busy)?;
        // The written state counts; what this process remembers of it is read anew.
        *slot = None;
        let mut state = self.state(session)?;
        (state.claims.transfer_id, state.event_id) = (transfer, event_id);
        if let Some(outcome) = &state.finished {
            self.spool.put(&event(&state, outcome.clone(), now))?;
        }
        durable::put(&self.paths(session).0, &serde_json::to_vec(&state)?)?;
        Ok(state)
    }

    /// Removes an upload that did not finish; nothing stays behind.
    pub fn remove(&self, session: &Session) -> Result<(), Error> {
        self.state(session)?;
        let lock = self.lock(session);
        let _held = lock.try_lock().map_err(|_| Error::Busy)?;
        let (state, part) = self.paths(session);
        durable::remove(&part)?;
        durable::remove(&state)?;
        self.opened().remove(session);
        Ok(())
    }

    /// Writes a stream at an offset, which must be where the upload stands. When the last byte is
    /// there the blob is verified and put in place before this returns. Dropping the call (the client
    /// went away) or a broken stream keeps what arrived.
    pub async fn append<S, E>(
        &self,
        s: &Session,
        offset: u64,
        stream: S,
        now: DateTime,
    ) -> Result<State, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let mut slot = self.lock_known(s)?.try_lock_owned().map_err(|_| Error::Busy)?;
        let upload = match slot.take() {
            Some(upload) => upload,
            None => self.reopen(s)?,
        };
        if upload.state.finished.is_some() {
            return Err(Error::Finished);
        }
        if upload.written != offset {
            let expected = upload.written;
            *slot = Some(upload);
            return Err(Error::Offset { expected, given: offset });
        }
        let (upload, received) = receive(upload, stream, now).await?;
        let whole = upload.state.offset == upload.state.claims.size_bytes;
        if let (Err(why), false) = (received, whole) {
            *slot = Some(upload);
            return Err(why);
        }
        if !whole {
            let state = upload.state.clone();
            *slot = Some(upload);
            return Ok(state);
        }
        let (blobs, spool) = (self.blobs.clone(), self.spool.clone());
        let state = blocking(move || finish(upload, &blobs, &spool, now)).await?;
        drop(slot);
        self.opened().remove(s);
        Ok(state)
    }

    /// Goes on with what a crash interrupted: uploads that are whole but did not finish.
    pub fn recover(&self, now: DateTime) -> Result<(), Error> {
        for (session, state) in self.all()? {
            if state.finished.is_none() && state.offset == state.claims.size_bytes {
                tracing::info!(image = %state.claims.image_id, "finishing an upload that was interrupted");
                finish(self.reopen(&session)?, &self.blobs, &self.spool, now)?;
            }
        }
        Ok(())
    }

    /// Gives up uploads that nothing was sent to, and forgets finished ones after a day.
    pub fn sweep(&self, now: DateTime) -> Result<(), Error> {
        for (session, state) in self.all()? {
            if state.expires_at > now {
                continue;
            }
            if state.finished.is_none() {
                let reason = CapabilityReason::new(
                    "upload_expired",
                    format!("image/{}", state.claims.image_id),
                    format!("{} of {} bytes arrived", state.offset, state.claims.size_bytes),
                    "ask for a new upload and send the bytes again",
                );
                self.spool.put(&event(&state, ImageOutcome::Failed { reason }, now))?;
            }
            self.remove(&session)?;
        }
        Ok(())
    }

    fn all(&self) -> Result<Vec<(Session, State)>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let session = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(Session::parse);
            if let Some(session) = session {
                let state = self.state(&session)?;
                found.push((session, state));
            }
        }
        Ok(found)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<Session, Arc<tokio::sync::Mutex<Option<Upload>>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only sessions that exist get a lock: a stranger's guesses must not fill the memory.
    fn lock_known(&self, session: &Session) -> Result<Arc<tokio::sync::Mutex<Option<Upload>>>, Error> {
        self.state(session)?;
        Ok(self.lock(session))
    }

    fn lock(&self, session: &Session) -> Arc<tokio::sync::Mutex<Option<Upload>>> {
        self.opened().entry(session.clone()).or_default().clone()
    }

    fn reopen(&self, session: &Session) -> Result<Upload, Error> {
        let state = self.state(session)?;
        let (path, part) = self.paths(session);
        // The part is gone when a crash came after the blob was put in place; `finish` knows.
        let file = File::options().read(true).write(true).create(true).truncate(false).open(part)?;
        if state.sha256.is_none() {
            // Bytes past the durable offset may not have reached the disk whole.
            file.set_len(state.offset)?;
        }
        let hasher = (state.offset == 0).then(Sha256::new);
        Ok(Upload { written: state.offset, state, path, file, hasher })
    }
}

async fn receive<S, E>(
    mut upload: Upload,
    mut stream: S,
    now: DateTime,
) -> Result<(Upload, Result<(), Error>), Error>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let (mut batch, mut size, mut outcome) = (Vec::new(), 0, Ok(()));
    loop {
        let next = stream.next().await;
        let ended = !matches!(next, Some(Ok(_)));
        match next {
            Some(Ok(bytes)) => {
                size += bytes.len();
                batch.push(bytes);
            }
            Some(Err(e)) => outcome = Err(Error::Interrupted(e.to_string())),
            None => {}
        }
        let limit = upload.state.claims.size_bytes;
        if upload.written + size as u64 > limit {
            outcome = Err(Error::TooLong { limit });
            batch.clear();
        }
        let stop = ended || outcome.is_err();
        if stop || size >= BATCH_BYTES {
            let writing = std::mem::take(&mut batch);
            size = 0;
            upload = blocking(move || {
                upload.write(&writing)?;
                if stop || upload.written - upload.state.offset >= CHECKPOINT_BYTES {
                    upload.checkpoint(now)?;
                }
                Ok(upload)
            })
            .await?;
        }
        if stop {
            return Ok((upload, outcome));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Interrupted(e.to_string()))?
}

impl Upload {
    fn write(&mut self, batch: &[Bytes]) -> Result<(), Error> {
        self.file.seek(SeekFrom::Start(self.written))?;
        for bytes in batch {
            self.file.write_all(bytes)?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
            self.written += bytes.len() as u64;
        }
        Ok(())
    }

    fn checkpoint(&mut self, now: DateTime) -> Result<(), Error> {
        self.file.sync_data()?;
        self.state.offset = self.written;
        self.state.expires_at = now + chrono::TimeDelta::hours(IDLE_HOURS);
        self.save()
    }

    fn save(&self) -> Result<(), Error> {
        Ok(durable::put(&self.path, &serde_json::to_vec(&self.state)?)?)
    }

    fn digest(&mut self) -> Result<String, Error> {
        if let Some(known) = &self.state.sha256 {
            return Ok(known.clone());
        }
        let hasher = match self.hasher.take() {
            Some(hasher) => hasher,
            None => {
                let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BATCH_BYTES]);
                self.file.seek(SeekFrom::Start(0))?;
                loop {
                    match self.file.read(&mut buffer)? {
                        0 => break hasher,
                        n => hasher.update(&buffer[..n]),
                    }
                }
            }
        };
        Ok(hex::encode(hasher.finalize()))
    }
}

/// From whole to finished; every step may be repeated.
fn finish(mut upload: Upload, blobs: &Blobs, spool: &Spool, now: DateTime) -> Result<State, Error> {
    let sha256 = upload.digest()?;
    upload.state.sha256 = Some(sha256.clone());
    upload.save()?;
    let part = upload.path.with_extension("part");
    let outcome = match verdict(&mut upload, blobs, &sha256)? {
        Ok(virtual_size_bytes) => {
            let size_bytes = upload.state.claims.size_bytes;
            blobs.adopt(&part, &sha256, size_bytes)?;
            ImageOutcome::Ready { sha256, size_bytes, virtual_size_bytes }
        }
        Err(reason) => {
            durable::remove(&part)?;
            ImageOutcome::Failed { reason }
        }
    };
    spool.put(&event(&upload.state, outcome.clone(), now))?;
    upload.state.finished = Some(outcome);
    upload.save()?;
    Ok(upload.state)
}

fn verdict(upload: &mut Upload, blobs: &Blobs, sha256: &str) -> Result<Result<u64, CapabilityReason>, Error> {
    let claims = &upload.state.claims;
    if let Some(expected) = &claims.sha256
        && expected != sha256
    {
        return Ok(Err(CapabilityReason::new(
            "digest_mismatch",
            "spec.sha256",
            "the bytes that arrived have another SHA-256 than declared",
            "upload the right file, or correct spec.sha256",
        )
        .with_evidence(format!("declared {expected}, got {sha256}"))));
    }
    let file = &mut upload.file;
    if file.metadata()?.len() == claims.size_bytes {
        return Ok(inspect(file, claims.format, claims.size_bytes)?);
    }
    // A crash came after the blob was put in place.
    Ok(inspect(&mut blobs.open_blob(sha256)?, claims.format, claims.size_bytes)?)
}

fn event(state: &State, outcome: ImageOutcome, now: DateTime) -> ImageEvent {
    let Claims { image_id, transfer_id, .. } = state.claims;
    ImageEvent { id: state.event_id, at: now, image_id, transfer_id, outcome }
}
