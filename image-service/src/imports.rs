//! Imports: images that this service fetches itself. Each is work that is claimed at the gateway.
//!
//! ```text
//! claimed ──► note: which session ──► bytes, as an upload's ──► verified, blob in place, event spooled
//!    │ the claim is lost, or the service dies: bytes and note stay
//!    └──► claimed again, with a higher fence: goes on where the bytes end, and says under the new claim what came of it
//! ```
//! Every step may happen more than once. What came of it counts once: the gateway takes only the newest claim's word.

use crate::{
    Error, durable,
    fetch::{Fetcher, Incoming, Refusal},
    redeem::Session,
    spool::Spool,
    uploads::Uploads,
};
use basalt_daemon::{Clock, Drain};
use basalt_model::{CapabilityReason, ImageId, TaskId};
use basalt_wire::{
    image::{ImageEvent, ImageOutcome, ImportWork, WorkAnswer, WorkRenewal, WorkRequest},
    upload_token::{Claims, Verb},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

/// Imports that are carried out at the same time.
pub const AT_ONCE: usize = 2;
/// How long the gateway holds a call that found no work, in seconds.
const WAIT_SECONDS: u32 = 25;
/// So often in a row nothing comes before an import is given up.
const TRIES: u32 = 8;
/// After something of this machine's own failed (its disk is full): so many seconds until the next claim.
const TRY_AGAIN_SECONDS: u32 = 30;
/// A claim is lost after so many renewals in a row that were not answered.
const MISSED: u32 = 3;

/// Who gives work; the real one is the gateway.
pub trait Works: Send + Sync + 'static {
    /// Claims work.
    fn claim(&self, request: &WorkRequest) -> impl Future<Output = Result<WorkAnswer, String>> + Send;
    /// Holds a claim on or gives it back; `false`: it does not count any more.
    fn renew(&self, task: TaskId, renewal: &WorkRenewal)
    -> impl Future<Output = Result<bool, String>> + Send;
}

/// All imports.
pub struct Imports {
    dir: PathBuf,
    /// Who this is to the gateway, for as long as the folder is.
    executor: Uuid,
    uploads: Arc<Uploads>,
    spool: Arc<Spool>,
    clock: Arc<dyn Clock>,
    fetcher: Fetcher,
    /// First pause after nothing came; it doubles.
    pause: Duration,
    running: Mutex<BTreeMap<ImageId, Running>>,
}

/// An import that is carried out.
#[derive(Clone)]
struct Running {
    stop: watch::Sender<bool>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What is written down of an import: where its bytes are.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    session: Session,
    url: String,
    validator: Option<String>,
}

/// How far an import is.
#[derive(Default)]
struct Progress {
    done: AtomicU64,
    size: AtomicU64,
    checking: AtomicBool,
}

/// How carrying out a claim ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// What became of the image is in the spool.
    Said,
    /// The claim is lost or is to be given back; what came stays.
    Stopped,
}

impl Imports {
    /// Opens (or makes) the folder. `pause` is how long is waited after nothing came, doubled each time.
    pub fn open(
        dir: PathBuf,
        (uploads, spool): (Arc<Uploads>, Arc<Spool>),
        clock: Arc<dyn Clock>,
        fetcher: Fetcher,
        pause: Duration,
    ) -> Result<Self, Error> {
        fs::create_dir_all(&dir)?;
        let known = dir.join("executor");
        let executor = match fs::read_to_string(&known) {
            Ok(text) => {
                text.trim().parse().map_err(|e| Error::Config(format!("{}: {e}", known.display())))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let id = clock.new_id();
                durable::put(&known, id.to_string().as_bytes())?;
                id
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Self { dir, executor, uploads, spool, clock, fetcher, pause, running: Mutex::default() })
    }

    /// Claims and carries out until the drain begins; then it gives back what it has not done.
    pub async fn run(self: Arc<Self>, works: Arc<impl Works>, drain: Drain) {
        let (executor, start) = (self.executor, self.clock.new_id());
        let mut tasks = JoinSet::new();
        while !drain.has_begun() {
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= AT_ONCE {
                drain.or(tasks.join_next()).await;
                continue;
            }
            let limit = u32::try_from(AT_ONCE - tasks.len()).unwrap_or(1);
            let request = WorkRequest { executor, start, limit, wait_seconds: WAIT_SECONDS };
            match drain.or(works.claim(&request)).await {
                None => break,
                Some(Ok(answer)) => {
                    for work in answer.imports {
                        let (imports, works, drain) = (self.clone(), works.clone(), drain.clone());
                        tasks.spawn(async move { imports.claimed(&*works, work, drain).await });
                    }
                }
                Some(Err(why)) => {
                    tracing::debug!(why, "the gateway gives no work");
                    drain.or(tokio::time::sleep(Duration::from_secs_f64(1.0 + self.clock.jitter()))).await;
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Carries a claim out, and holds it on meanwhile.
    async fn claimed(&self, works: &impl Works, work: ImportWork, drain: Drain) {
        let (task, claim_id) = (work.task_id, work.claim_id);
        let (progress, every) = (Progress::default(), Duration::from_secs(work.lease_seconds.into()) / 3);
        let running = self.begin(work.image_id);
        let keeping = async {
            let mut missed = 0;
            while missed < MISSED {
                let renewal = progress.renewal(claim_id);
                match tokio::time::timeout(every, works.renew(task, &renewal)).await {
                    Ok(Ok(true)) => missed = 0,
                    Ok(Ok(false)) => break,
                    Ok(Err(_)) | Err(_) => missed += 1,
                }
                if drain.or(tokio::time::sleep(every)).await.is_none() {
                    break;
                }
            }
            running.stop.send_replace(true);
            // Only the end of the work itself is the end.
            std::future::pending::<()>().await;
        };
        let carried = tokio::select! {
            carried = self.carry_out(&work, &running, &progress) => carried,
            () = keeping => return,
        };
        let said = progress.renewal(claim_id);
        let renewal = match carried {
            Ok(End::Said) => return,
            Ok(End::Stopped) => WorkRenewal { again_after_seconds: Some(0), ..said },
            Err(e) => {
                tracing::error!(image = %work.image_id, error = %e, "an import stopped");
                let stage =
                    format!("the image service could not go on, and tries again: {}", e.problem().title);
                WorkRenewal { stage, again_after_seconds: Some(TRY_AGAIN_SECONDS), ..said }
            }
        };
        // If it is not heard, the lease ends by itself.
        let _ = tokio::time::timeout(every, works.renew(task, &renewal)).await;
    }

    /// Whoever is at this image is told to stop, and is waited for by whoever comes next.
    fn begin(&self, image: ImageId) -> Running {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = match all.get(&image) {
            Some(older) => {
                older.stop.send_replace(true);
                older.turn.clone()
            }
            None => Arc::default(),
        };
        all.retain(|_, r| Arc::strong_count(&r.turn) > 1);
        let running = Running { stop: watch::Sender::new(false), turn };
        all.insert(image, running.clone());
        running
    }

    /// Fetches, verifies and says what became of it, or stops when told.
    async fn carry_out(
        &self,
        work: &ImportWork,
        running: &Running,
        progress: &Progress,
    ) -> Result<End, Error> {
        let _turn = running.turn.lock().await;
        let mut stop = running.stop.subscribe();
        let Some(mut note) = self.go_on(work)? else { return Ok(End::Said) };
        let mut tries = 0;
        loop {
            let before = self.stands_at(note.as_ref());
            let opened = tokio::select! {
                opened = self.connect(work, note.as_ref()) => opened,
                _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            };
            let came = match opened {
                Ok(incoming) => self.take(work, note.take(), incoming, (&stop, progress)).await?,
                Err(Refusal::Never(reason)) => Came::Refused(reason),
                Err(Refusal::Later(why)) => Came::Broke(note.take(), why),
            };
            match came {
                Came::All => return Ok(End::Said),
                Came::Refused(reason) => return self.refuse(work, *reason),
                Came::Broke(kept, why) => {
                    let more = self.stands_at(kept.as_ref()) > before;
                    (note, tries) = (kept, if more { 1 } else { tries + 1 });
                    if *stop.borrow() {
                        return Ok(End::Stopped);
                    }
                    if tries >= TRIES {
                        return self.refuse(work, gave_up(&why));
                    }
                    tracing::info!(image = %work.image_id, why, "an import was interrupted; trying again");
                }
            }
            let pause = self.pause.saturating_mul(1 << tries.min(6)).mul_f64(0.8 + 0.4 * self.clock.jitter());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            }
        }
    }

    /// What another claim left of this import, now under this one. `None`: it was done already, and was said again.
    fn go_on(&self, work: &ImportWork) -> Result<Option<Option<Note>>, Error> {
        let Some(note) = self.note(work.image_id)? else { return Ok(Some(None)) };
        if note.url != work.url {
            self.forget(work.image_id, &note)?;
            return Ok(Some(None));
        }
        let now = self.clock.now();
        match self.uploads.take_over(&note.session, work.claim_id, self.clock.new_id(), now) {
            Ok(state) => Ok(state.finished.is_none().then_some(Some(note))),
            Err(Error::NoSession) => Ok(Some(None)),
            Err(e) => Err(e),
        }
    }

    fn stands_at(&self, note: Option<&Note>) -> u64 {
        note.and_then(|n| self.uploads.state(&n.session).ok()).map_or(0, |state| state.offset)
    }

    async fn connect(&self, work: &ImportWork, note: Option<&Note>) -> Result<Incoming, Refusal> {
        let (verified, known) = (work.sha256.is_some(), note.map(|n| (n, self.uploads.state(&n.session))));
        match known {
            // All is here, and was not verified to its end.
            Some((note, Ok(state))) if state.offset == state.claims.size_bytes => Ok(Incoming {
                size_bytes: state.offset,
                offset: state.offset,
                validator: note.validator.clone(),
                bytes: futures::stream::empty().boxed(),
            }),
            Some((note, Ok(state))) => {
                self.fetcher.open(&work.url, state.offset, note.validator.as_deref(), verified).await
            }
            _ => self.fetcher.open(&work.url, 0, None, verified).await,
        }
    }

    /// Takes in what comes, from where it begins.
    async fn take(
        &self,
        work: &ImportWork,
        note: Option<Note>,
        incoming: Incoming,
        (stop, progress): (&watch::Receiver<bool>, &Progress),
    ) -> Result<Came, Error> {
        if let Some(declared) = work.size_bytes.filter(|declared| *declared != incoming.size_bytes) {
            return Ok(Came::Refused(Box::new(other_length(declared, incoming.size_bytes))));
        }
        let note = match note {
            Some(note) if incoming.offset > 0 => note,
            other => {
                if let Some(old) = other {
                    self.forget(work.image_id, &old)?;
                }
                self.start(work, &incoming)?
            }
        };
        let mut stopped = stop.clone();
        progress.size.store(incoming.size_bytes, Ordering::Relaxed);
        progress.done.store(incoming.offset, Ordering::Relaxed);
        let counted = incoming.bytes.inspect(|part| {
            if let Ok(bytes) = part {
                let len = bytes.len() as u64;
                let done = progress.done.fetch_add(len, Ordering::Relaxed) + len;
                progress.checking.store(done >= progress.size.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        });
        // It ends like a stream that breaks off, so that what came is kept in order.
        let until = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let stream = Box::pin(counted.take_until(Box::pin(until)));
        match self.uploads.append(&note.session, incoming.offset, stream, self.clock.now()).await {
            Ok(state) if state.finished.is_some() => Ok(Came::All),
            Ok(state) => Ok(Came::Broke(Some(note), format!("only {} bytes came", state.offset))),
            Err(Error::Interrupted(why)) => Ok(Came::Broke(Some(note), why)),
            Err(Error::TooLong { limit }) => Ok(Came::Refused(Box::new(other_length(limit, limit + 1)))),
            // It is written from where it stands, the next time.
            Err(Error::Offset { .. }) => Ok(Came::Broke(Some(note), "the bytes stand elsewhere".into())),
            Err(e) => Err(e),
        }
    }

    /// A session for the bytes. The note comes first: what nothing leads to would lie about.
    fn start(&self, work: &ImportWork, incoming: &Incoming) -> Result<Note, Error> {
        let note = Note {
            session: Session::new(self.clock.secret()),
            url: work.url.clone(),
            validator: incoming.validator.clone(),
        };
        durable::put(&self.path(work.image_id), &serde_json::to_vec(&note)?)?;
        let now = self.clock.now();
        let claims = Claims {
            key_id: 0,
            transfer_id: work.claim_id,
            verb: Verb::Upload,
            image_id: work.image_id,
            tenant_id: work.tenant_id,
            project_id: work.project_id,
            format: work.format,
            size_bytes: incoming.size_bytes,
            sha256: work.sha256.clone(),
            expires_at: now,
        };
        self.uploads.create(&note.session, claims, self.clock.new_id(), now)?;
        Ok(note)
    }

    /// Says that nothing comes of it, and leaves nothing behind.
    fn refuse(&self, work: &ImportWork, reason: CapabilityReason) -> Result<End, Error> {
        self.spool.put(&ImageEvent {
            id: self.clock.new_id(),
            at: self.clock.now(),
            image_id: work.image_id,
            transfer_id: work.claim_id,
            outcome: ImageOutcome::Failed { reason },
        })?;
        if let Some(note) = self.note(work.image_id)? {
            self.forget(work.image_id, &note)?;
        }
        Ok(End::Said)
    }

    fn path(&self, image: ImageId) -> PathBuf {
        self.dir.join(format!("{image}.json"))
    }

    fn note(&self, image: ImageId) -> Result<Option<Note>, Error> {
        match fs::read(self.path(image)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn forget(&self, image: ImageId, note: &Note) -> Result<(), Error> {
        match self.uploads.remove(&note.session) {
            Ok(()) | Err(Error::NoSession) => Ok(durable::remove(&self.path(image))?),
            Err(e) => Err(e),
        }
    }

    /// Forgets notes of sessions that are gone: given up, or done a day ago.
    pub fn sweep(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let read = fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Note>(&b).ok());
            let gone = |note: &Note| matches!(self.uploads.state(&note.session), Err(Error::NoSession));
            if read.as_ref().is_some_and(gone) {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// What came of one connection.
enum Came {
    All,
    Broke(Option<Note>, String),
    Refused(Box<CapabilityReason>),
}

fn gave_up(why: &str) -> CapabilityReason {
    CapabilityReason::new(
        "source_unreachable",
        "spec.source.url",
        "nothing came from there, tried again and again",
        "see whether the address answers from where the image service runs; then retry the task",
    )
    .with_evidence(why)
}

fn other_length(declared: u64, found: u64) -> CapabilityReason {
    CapabilityReason::new(
        "length_mismatch",
        "spec.size_bytes",
        "what is there has another length than expected",
        "correct spec.size_bytes or leave it out, and see that the address is the right one",
    )
    .with_evidence(format!("expected {declared} bytes, found {found}"))
}

impl Progress {
    fn renewal(&self, claim_id: basalt_model::TransferId) -> WorkRenewal {
        let (done, size) = (self.done.load(Ordering::Relaxed), self.size.load(Ordering::Relaxed));
        let share = u128::from(done) * 90 / u128::from(size.max(1));
        let stage = match size {
            0 => "connecting".to_owned(),
            _ if self.checking.load(Ordering::Relaxed) => "digest and format are being checked".to_owned(),
            _ => format!("{done} of {size} bytes are fetched"),
        };
        let progress = i32::try_from(share.min(90)).unwrap_or(90);
        WorkRenewal { claim_id, progress, stage, again_after_seconds: None }
    }
}

#[cfg(test)]
#[path = "imports_tests.rs"]
mod tests;
