//! Where a console's two sides find each other: tickets that wait for an agent, and how many consoles are open.
//!
//! ```text
//! claim (a place) ──► offer (a ticket) ──► deliver (to the host's poll) ──► redeem (once, by that host) ──► open
//!        └─ 429          └─ dropped with whoever waits for it, or after its time
//! ```
//! All of it is in memory: a gateway that ends takes its consoles along, and nothing else.

use crate::{Error, authentication::token_hash};
use axum::body::Body;
use basalt_model::{CapabilityReason, DateTime, HostId, VmId};
use basalt_wire::agent::console::{Mode, Ticket};
use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, mpsc, oneshot};

/// Consoles of one VM at once.
pub const PER_VM: usize = 4;
/// Consoles of this gateway at once.
pub const IN_ALL: usize = 256;

/// What an agent answers to a ticket: the stream of what the guest writes, or why there is none.
pub type Opened = Result<Body, CapabilityReason>;

/// The desk. Clones are the same.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    open: HashMap<VmId, usize>,
    waiting: HashMap<[u8; 32], Waiting>,
    news: HashMap<HostId, Arc<Notify>>,
}

/// A ticket that was not redeemed yet.
pub struct Waiting {
    /// Given to the host's next poll; then nobody has it but the agent.
    ticket: Option<Ticket>,
    host_id: HostId,
    /// Whose console.
    pub vm_id: VmId,
    expires_at: DateTime,
    /// Who waits for the agent.
    pub opened: oneshot::Sender<Opened>,
    /// What the user types.
    pub input: mpsc::Receiver<Bytes>,
}

/// A place of one console, given back when dropped.
pub struct Place {
    desk: Desk,
    vm_id: VmId,
    count: Gauge,
}

/// A ticket that was offered, taken back when dropped.
pub struct Offer {
    desk: Desk,
    key: [u8; 32],
    /// Hears of the agent.
    pub opened: oneshot::Receiver<Opened>,
}

impl Desk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more console of a VM.
    ///
    /// # Errors
    /// [`Error::TooMany`] when the VM has [`PER_VM`], or the gateway [`IN_ALL`].
    pub fn claim(&self, vm_id: VmId, count: &Gauge) -> Result<Place, Error> {
        let mut inner = self.inner();
        if inner.open.values().sum::<usize>() >= IN_ALL {
            return Err(Error::TooMany("consoles"));
        }
        let open = inner.open.entry(vm_id).or_default();
        if *open >= PER_VM {
            return Err(Error::TooMany("consoles of this VM"));
        }
        *open += 1;
        count.inc();
        Ok(Place { desk: self.clone(), vm_id, count: count.clone() })
    }

    /// Offers a ticket to the agent of a host. Their number is bounded by that of places.
    pub fn offer(
        &self,
        place: &Place,
        host_id: HostId,
        secret: [u8; 32],
        mode: Mode,
        expires_at: DateTime,
        input: mpsc::Receiver<Bytes>,
    ) -> Offer {
        let text = hex::encode(secret);
        let key = token_hash(&text);
        let (answer, opened) = oneshot::channel();
        let vm_id = place.vm_id;
        let ticket = Some(Ticket { ticket: text, vm_id, mode, expires_at });
        let mut inner = self.inner();
        inner.waiting.insert(key, Waiting { ticket, host_id, vm_id, expires_at, opened: answer, input });
        if let Some(news) = inner.news.get(&host_id) {
            news.notify_waiters();
        }
        Offer { desk: self.clone(), key, opened }
    }

    /// The tickets for a host that nobody was given yet.
    pub fn deliver(&self, host_id: HostId) -> Vec<Ticket> {
        self.inner()
            .waiting
            .values_mut()
            .filter(|w| w.host_id == host_id)
            .filter_map(|w| w.ticket.take())
            .collect()
    }

    /// Notified when there is a ticket for a host.
    pub fn news(&self, host_id: HostId) -> Arc<Notify> {
        self.inner().news.entry(host_id).or_default().clone()
    }

    /// Takes a ticket for good. `None`: it was never given, was taken, is too old, or is another host's; one of
    /// another host stays valid for its own.
    pub fn redeem(&self, ticket: &str, host_id: HostId, now: DateTime) -> Option<Waiting> {
        let mut inner = self.inner();
        let key = token_hash(ticket);
        let valid = inner.waiting.get(&key).is_some_and(|w| w.host_id == host_id && now < w.expires_at);
        valid.then(|| inner.waiting.remove(&key)).flatten()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.desk.inner();
        if let Some(open) = inner.open.get_mut(&self.vm_id) {
            *open -= 1;
            if *open == 0 {
                inner.open.remove(&self.vm_id);
            }
        }
        self.count.dec();
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.desk.inner().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    fn at(seconds: i64) -> DateTime {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn places_are_bounded_for_a_vm_and_in_all_and_come_back() {
        let (desk, count) = (Desk::default(), Gauge::default());
        let mut places: Vec<Place> = (0..PER_VM).map(|_| desk.claim(vm(0), &count).unwrap()).collect();
        assert!(matches!(desk.claim(vm(0), &count), Err(Error::TooMany("consoles of this VM"))));
        places.extend((PER_VM..IN_ALL).map(|n| desk.claim(vm(n as u128), &count).unwrap()));
        assert!(matches!(desk.claim(vm(9_999), &count), Err(Error::TooMany("consoles"))));
        assert_eq!(count.get(), IN_ALL as i64);
        places.clear();
        assert_eq!((count.get(), desk.inner().open.len()), (0, 0));
        desk.claim(vm(0), &count).unwrap();
    }

    #[test]
    fn a_ticket_is_given_once_and_taken_once_by_its_host_in_its_time() {
        let (desk, count) = (Desk::default(), Gauge::default());
        let (mine, other) = (HostId(Uuid::from_u128(1)), HostId(Uuid::from_u128(2)));
        let place = desk.claim(vm(0), &count).unwrap();
        let offer = || desk.offer(&place, mine, [7; 32], Mode::Attach, at(10), mpsc::channel(1).1);
        let first = offer();
        assert_eq!(desk.deliver(other), []);
        let ticket = desk.deliver(mine).pop().unwrap().ticket;
        assert_eq!((ticket.len(), desk.deliver(mine)), (64, vec![]));
        assert!(desk.redeem("guess", mine, at(0)).is_none());
        assert!(desk.redeem(&ticket, other, at(0)).is_none());
        assert!(desk.redeem(&ticket, mine, at(10)).is_none());
        assert_eq!(desk.redeem(&ticket, mine, at(9)).unwrap().vm_id, vm(0));
        assert!(desk.redeem(&ticket, mine, at(9)).is_none());
        drop(first);
        drop(offer());
        assert!(desk.redeem(&ticket, mine, at(0)).is_none(), "nobody waits for it any more");
    }
}
