//! A watchman: two hosts that execute one guest are seen during a run, not only at its end.

use crate::machine::Machine;
use anyhow::{Result, ensure};
use basalt_model::VmId;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

/// Looks at every host, again and again, for as long as it lives: how often two executed one guest at the same time.
pub struct Watchman {
    doubles: Arc<AtomicU32>,
    looks: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
}

impl Watchman {
    /// Begins to look for these guests.
    pub fn over(hosts: &[Arc<Machine>], guests: impl IntoIterator<Item = VmId>) -> Self {
        let (doubles, looks, end) =
            (Arc::<AtomicU32>::default(), Arc::default(), Arc::<AtomicBool>::default());
        let (hosts, guests): (_, Vec<VmId>) = (hosts.to_vec(), guests.into_iter().collect());
        let (d, l, e) = (doubles.clone(), Arc::<AtomicU32>::clone(&looks), end.clone());
        tokio::spawn(async move {
            while !e.load(Ordering::Relaxed) {
                for id in &guests {
                    d.fetch_add(u32::from(is_twice(&hosts, *id)), Ordering::Relaxed);
                }
                l.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { doubles, looks, end }
    }

    /// What it saw.
    pub fn report(&self) -> Result<()> {
        let (doubles, looks) = (self.doubles.load(Ordering::Relaxed), self.looks.load(Ordering::Relaxed));
        ensure!(looks > 0, "nobody looked");
        ensure!(doubles == 0, "two hosts executed a guest in {doubles} of {looks} looks");
        Ok(())
    }
}

/// Whether two hosts execute a guest. They are looked at one after the other, and a guest may go from the one to the other
/// between the two looks: it is on both only when the first still has it after the second was seen to.
fn is_twice(hosts: &[Arc<Machine>], guest: VmId) -> bool {
    let executing: Vec<&Arc<Machine>> = hosts.iter().filter(|host| host.runs(guest)).collect();
    let Some((_last, earlier)) = executing.split_last() else { return false };
    earlier.iter().any(|host| host.runs(guest))
}

impl Drop for Watchman {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}
