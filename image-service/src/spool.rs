//! Events for the gateway, kept on disk until it took them.
//!
//! ```text
//! put (fsync) ──► pending ──► sent (removed)
//!                    │ ▲ retry, exponential back-off with jitter, order kept for each image
//!                    └─┴──► poison/ (refused for good: set aside, visible, the rest goes on)
//! ```

use crate::{Error, durable};
use basalt_daemon::{Clock, Drain};
use basalt_model::ImageId;
use basalt_wire::image::ImageEvent;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Longest pause between two tries, in seconds.
const MAX_PAUSE_SECONDS: f64 = 60.0;

/// How the gateway answered an event.
#[derive(Debug)]
pub enum Answer {
    /// It took it (or had it already).
    Taken,
    /// Not now.
    Later(String),
    /// Never.
    Refused(String),
}

/// Where events go; the real one is an HTTPS client.
pub trait Gateway: Send + Sync + 'static {
    /// Delivers one event.
    fn deliver(&self, event: &ImageEvent) -> impl Future<Output = Answer> + Send;
}

/// The spool.
pub struct Spool {
    dir: PathBuf,
    next: AtomicU64,
    news: Notify,
    failures: Mutex<BTreeMap<ImageId, u32>>,
}

impl Spool {
    /// Opens (or makes) the spool's folder.
    pub fn open(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(dir.join("poison"))?;
        let last = numbers(&dir)?.last().map_or(0, |(n, _)| *n);
        let poisoned = numbers(&dir.join("poison"))?.last().map_or(0, |(n, _)| *n);
        let next = AtomicU64::new(last.max(poisoned) + 1);
        Ok(Self { dir, next, news: Notify::new(), failures: Mutex::default() })
    }

    /// Keeps an event; it is durable when this returns.
    pub fn put(&self, event: &ImageEvent) -> Result<(), Error> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        durable::put(&self.dir.join(format!("{number:016}.json")), &serde_json::to_vec(event)?)?;
        self.news.notify_one();
        Ok(())
    }

    /// How many events wait, and how many were set aside.
    pub fn depth(&self) -> Result<(usize, usize), Error> {
        Ok((numbers(&self.dir)?.len(), numbers(&self.dir.join("poison"))?.len()))
    }

    /// One pass over everything that waits, oldest first. An image whose event could not be
    /// delivered keeps its later ones back. Gives the pause before the next pass, in seconds.
    pub async fn step(&self, gateway: &impl Gateway, jitter: f64) -> Result<Option<f64>, Error> {
        let mut held = BTreeSet::new();
        for (_, path) in numbers(&self.dir)? {
            let Some(event) = self.read(&path)? else { continue };
            if held.contains(&event.image_id) {
                continue;
            }
            match gateway.deliver(&event).await {
                Answer::Taken => {
                    durable::remove(&path)?;
                    self.failures().remove(&event.image_id);
                }
                Answer::Later(why) => {
                    tracing::warn!(image = %event.image_id, why, "the gateway did not take an event; trying again");
                    *self.failures().entry(event.image_id).or_default() += 1;
                    held.insert(event.image_id);
                }
                Answer::Refused(why) => {
                    tracing::error!(image = %event.image_id, why, "the gateway refused an event; set aside");
                    self.set_aside(&path)?;
                }
            }
        }
        let worst = held.iter().filter_map(|i| self.failures().get(i).copied()).min();
        Ok(worst.map(|n| (0.2 * 2f64.powi(n.min(16) as i32)).min(MAX_PAUSE_SECONDS) * (0.8 + 0.4 * jitter)))
    }

    /// Delivers until the drain begins.
    pub async fn run(&self, gateway: &impl Gateway, clock: Arc<dyn Clock>, drain: Drain) {
        while !drain.has_begun() {
            let pause = match self.step(gateway, clock.jitter()).await {
                Ok(pause) => pause.unwrap_or(MAX_PAUSE_SECONDS),
                Err(e) => {
                    tracing::error!(error = %e, "the spool cannot be read");
                    MAX_PAUSE_SECONDS
                }
            };
            let wake = async {
                tokio::select! {
                    () = self.news.notified() => {}
                    () = tokio::time::sleep(Duration::from_secs_f64(pause)) => {}
                }
            };
            drain.or(wake).await;
        }
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<ImageId, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, path: &Path) -> Result<Option<ImageEvent>, Error> {
        let bytes = fs::read(path)?;
        match serde_json::from_slice(&bytes) {
            Ok(event) => Ok(Some(event)),
            Err(e) => {
                tracing::error!(path = %path.display(), error = %e, "an event cannot be read; set aside");
                self.set_aside(path)?;
                Ok(None)
            }
        }
    }

    fn set_aside(&self, path: &Path) -> Result<(), Error> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let aside = self.dir.join("poison").join(name);
        fs::rename(path, &aside)?;
        durable::sync_parent(&aside)?;
        durable::sync_parent(path)?;
        Ok(())
    }
}

fn numbers(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json"));
        if let Some(number) = number.and_then(|n| n.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::TransferId;
    use basalt_wire::image::ImageOutcome;
    use uuid::Uuid;

    fn event(id: u128, image: u128) -> ImageEvent {
        ImageEvent {
            id: Uuid::from_u128(id),
            at: basalt_model::DateTime::from_timestamp(0, 0).unwrap(),
            image_id: ImageId(Uuid::from_u128(image)),
            transfer_id: TransferId(Uuid::from_u128(9)),
            outcome: ImageOutcome::Verifying,
        }
    }

    /// Answers by event id: 0–99 taken, 100–199 later, above refused; remembers what it saw.
    #[derive(Clone, Default)]
    struct Script(Arc<Mutex<Vec<u128>>>);
    impl Gateway for Script {
        async fn deliver(&self, event: &ImageEvent) -> Answer {
            let id = event.id.as_u128();
            self.0.lock().unwrap().push(id);
            match id {
                0..100 => Answer::Taken,
                100..200 => Answer::Later("away".into()),
                _ => Answer::Refused("no such image".into()),
            }
        }
    }

    #[tokio::test]
    async fn order_holds_for_each_image_and_poison_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().into()).unwrap();
        for (id, image) in [(1, 1), (100, 2), (2, 2), (200, 3), (3, 3)] {
            spool.put(&event(id, image)).unwrap();
        }
        let gateway = Script::default();
        let first = spool.step(&gateway, 0.5).await.unwrap().unwrap();
        assert_eq!(*gateway.0.lock().unwrap(), [1, 100, 200, 3]);
        assert_eq!(spool.depth().unwrap(), (2, 1));
        let second = spool.step(&gateway, 0.5).await.unwrap().unwrap();
        assert!(second > first, "{first} then {second}");
        // A new process finds the same events and goes on counting after them.
        let again = Spool::open(dir.path().into()).unwrap();
        again.put(&event(4, 4)).unwrap();
        again.step(&gateway, 0.5).await.unwrap();
        assert_eq!(gateway.0.lock().unwrap()[4..], [100, 100, 4]);
    }
}
