//! What this gateway knows of its links to agents: the start of the agent that counts, its last
//! report, and signs of life, which are written down together every few seconds.
//!
//! ```text
//! report of a start ──► unknown here, or newer ──► it counts; the one before is fenced
//!                   └─► the one that counts, next number ──► taken;  same or older number ──► late
//!                   └─► older than the one that counts ──► fenced (409), one audit row, a conflict that lasts
//!                                                          as long as it goes on trying
//! ```
//! A start is a UUIDv7, so that the newer of two is known without asking anybody.

use crate::App;
use basalt_model::{DateTime, HostId};
use chrono::TimeDelta;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use uuid::Uuid;

/// How often signs of life are written down.
pub const FLUSH: Duration = Duration::from_secs(5);
/// Signs that are older, of a gateway that slept, are written down no more: readers would take them for news.
const STALE: TimeDelta = TimeDelta::seconds(20);
/// How often it is written down that a fenced start goes on trying, in seconds: often enough that the conflict does not
/// end meanwhile, and no more, however often it tries.
const CONFLICT_SECONDS: i64 = 10;

/// Lines for logs of tasks that a host may write in a second, and so many at once after a silence. An agent keeps to less.
const LINES_A_SECOND: i64 = 200;
const LINES_AT_ONCE: i64 = 1000;

/// What became of a report's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is the next one of the start that counts.
    Next,
    /// The first report of a start that this gateway did not know.
    NewStart,
    /// It was overtaken.
    Late,
    /// A newer start of the agent took over; `first` says so only once for each start.
    Fenced {
        /// Whether this is the first time that this start is told.
        first: bool,
    },
}

#[derive(Default)]
struct Link {
    boot: Uuid,
    sequence: i64,
    told: Vec<Uuid>,
    conflict_at: Option<DateTime>,
    acts_on: Option<i64>,
    seen: Option<DateTime>,
    written: Option<DateTime>,
    /// Lines for logs that it wrote, less those that time has paid for, and when that was reckoned.
    lines: i64,
    lines_at: Option<DateTime>,
    /// The last sign of life that another gateway wrote down, by its clock, and when that was noticed, by ours.
    anywhere: Option<(DateTime, DateTime)>,
}

/// The links to all hosts.
#[derive(Default)]
pub struct Links(Mutex<HashMap<HostId, Link>>);

impl Links {
    fn links(&self) -> MutexGuard<'_, HashMap<HostId, Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges the number of a report, and remembers it.
    pub fn order(&self, host: HostId, boot: Uuid, sequence: i64) -> Order {
        let mut links = self.links();
        let link = links.entry(host).or_default();
        if boot > link.boot {
            (link.boot, link.sequence) = (boot, sequence);
            return Order::NewStart;
        }
        if boot < link.boot {
            return Order::Fenced { first: link.tell(boot) };
        }
        if sequence <= link.sequence {
            return Order::Late;
        }
        link.sequence = sequence;
        Order::Next
    }

    /// Whether a start of a host's agent was fenced by a newer one, and whether that is told now first.
    pub fn fenced(&self, host: HostId, boot: Uuid) -> Option<bool> {
        let mut links = self.links();
        let link = links.get_mut(&host)?;
        (boot < link.boot).then(|| link.tell(boot))
    }

    /// Whether it is time to write down that a fenced start tries; if so, it is remembered as written.
    pub fn conflict_due(&self, host: HostId, now: DateTime) -> bool {
        let mut links = self.links();
        let link = links.entry(host).or_default();
        let recent =
            link.conflict_at.is_some_and(|at| now >= at && (now - at).num_seconds() < CONFLICT_SECONDS);
        if !recent {
            link.conflict_at = Some(now);
        }
        !recent
    }

    /// Whether the agent acts on another manifest than its last stored report said.
    pub fn acts_on_other(&self, host: HostId, revision: Option<i64>) -> bool {
        self.links().get(&host).is_none_or(|l| l.acts_on != revision)
    }

    /// A report was stored.
    pub fn stored(&self, host: HostId, revision: Option<i64>) {
        self.links().entry(host).or_default().acts_on = revision;
    }

    /// The store knows that this start was followed by another; says whether that is told first.
    pub fn give_up(&self, host: HostId, boot: Uuid) -> bool {
        let mut links = self.links();
        let link = links.entry(host).or_default();
        if link.boot == boot {
            (link.boot, link.sequence) = (Uuid::nil(), 0);
        }
        link.tell(boot)
    }

    /// Forgets the number of a report that could not be stored, so that it may come again.
    pub fn unsee(&self, host: HostId, boot: Uuid, sequence: i64) {
        let mut links = self.links();
        if let Some(link) = links.get_mut(&host).filter(|l| l.boot == boot && l.sequence == sequence) {
            link.sequence = sequence - 1;
        }
    }

    /// Whether a host may write so many lines for logs now; if so, they are counted.
    pub fn takes_lines(&self, host: HostId, lines: usize, now: DateTime) -> bool {
        let mut links = self.links();
        let link = links.entry(host).or_default();
        let lines = i64::try_from(lines).unwrap_or(i64::MAX);
        let passed = link.lines_at.map_or(0, |at| (now - at).num_milliseconds().max(0));
        let owed = (link.lines - passed.saturating_mul(LINES_A_SECOND) / 1000).max(0);
        let takes = owed.saturating_add(lines) <= LINES_AT_ONCE;
        (link.lines, link.lines_at) = (if takes { owed + lines } else { owed }, Some(now));
        takes
    }

    /// A sign of life.
    pub fn beat(&self, host: HostId, now: DateTime) {
        self.links().entry(host).or_default().seen = Some(now);
    }

    /// The last sign of life that this gateway had, or noticed of another, by this gateway's clock.
    pub fn seen(&self, host: HostId) -> Option<DateTime> {
        self.links().get(&host).and_then(|link| link.seen.max(link.anywhere.map(|(_, noticed)| noticed)))
    }

    /// Writes down the signs of life since the last time, all in one statement, and reads those of hosts whose agents speak
    /// with other gateways.
    pub async fn flush(&self, app: &App) {
        self.write_down(app).await;
        let read = async {
            let mut tx = app.store.system_read().await?;
            basalt_store::hosts::heartbeats(&mut tx).await
        };
        match read.await {
            Ok(beats) => self.hear(&beats, app.clock.now()),
            // They are read the next time.
            Err(e) => tracing::warn!(error = %e, "signs of life could not be read"),
        }
    }

    /// A sign that changed since it was last looked at was had meanwhile, whatever its clock says. How old one is that is
    /// read for the first time only its clock tells.
    fn hear(&self, beats: &[(HostId, DateTime)], now: DateTime) {
        let mut links = self.links();
        for (host, at) in beats {
            let link = links.entry(*host).or_default();
            match link.anywhere {
                Some((known, _)) if known == *at => {}
                _ if link.written == Some(*at) => {}
                Some(_) => link.anywhere = Some((*at, now)),
                None => link.anywhere = Some((*at, now.min(*at))),
            }
        }
    }

    async fn write_down(&self, app: &App) {
        let stale = app.clock.now() - STALE;
        let beats: Vec<(HostId, DateTime)> = self
            .links()
            .iter()
            .filter(|(_, l)| l.seen != l.written)
            .filter_map(|(h, l)| Some((*h, l.seen.filter(|seen| *seen > stale)?)))
            .collect();
        if beats.is_empty() {
            return;
        }
        let write = async {
            let mut tx = app.store.system().await?;
            basalt_store::hosts::beat(&mut tx, &beats).await?;
            tx.commit().await
        };
        match write.await {
            Ok(()) => {
                let mut links = self.links();
                for (host, at) in beats {
                    if let Some(link) = links.get_mut(&host) {
                        link.written = Some(at);
                    }
                }
            }
            // They are kept and written the next time.
            Err(e) => tracing::warn!(error = %e, "signs of life could not be written"),
        }
    }
}

impl Link {
    /// Remembers that a fenced start was told; at most the last eight are remembered.
    fn tell(&mut self, boot: Uuid) -> bool {
        let first = !self.told.contains(&boot);
        if first {
            self.told.push(boot);
            if self.told.len() > 8 {
                self.told.remove(0);
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r44_a_start_that_goes_on_trying_is_written_down_every_ten_seconds() {
        let (links, host) = (Links::default(), HostId(Uuid::from_u128(1)));
        let at = |seconds| DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds);
        let due: Vec<i64> = (0..25).filter(|s| links.conflict_due(host, at(*s))).collect();
        assert_eq!(due, [0, 10, 20]);
        assert!(links.conflict_due(host, at(5)), "a clock that was set back stops nothing");
    }

    #[test]
    fn a_host_writes_so_many_lines_a_second_and_no_more() {
        let (links, host) = (Links::default(), HostId(Uuid::from_u128(1)));
        let at = |milliseconds| DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(milliseconds);
        let taken = (0..20).filter(|_| links.takes_lines(host, 100, at(0))).count();
        assert_eq!(taken, 10);
        assert!(!links.takes_lines(host, 100, at(400)) && links.takes_lines(host, 100, at(900)));
        assert!(links.takes_lines(HostId(Uuid::from_u128(2)), 100, at(0)), "each host has its own");
        assert!(!links.takes_lines(host, 1001, at(9_000_000)), "more than there ever may be");
    }

    #[test]
    fn a_host_whose_agent_speaks_with_another_gateway_is_heard_of() {
        let (links, host) = (Links::default(), HostId(Uuid::from_u128(1)));
        let at = |seconds| DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds);
        assert_eq!(links.seen(host), None);
        links.hear(&[(host, at(5))], at(8));
        assert_eq!(links.seen(host), Some(at(5)), "how old the first one is only its clock says");
        links.hear(&[(host, at(5))], at(13));
        assert_eq!(links.seen(host), Some(at(5)), "it did not change");
        links.beat(host, at(15));
        links.hear(&[(host, at(14))], at(18));
        assert_eq!(links.seen(host), Some(at(18)));
        assert_eq!(links.order(host, Uuid::from_u128(10), 1), Order::NewStart);
    }

    #[test]
    fn r40_signs_of_life_count_from_when_they_changed_whatever_the_clock_that_wrote_them_says() {
        for hour in [-3600, 3600] {
            let (links, host) = (Links::default(), HostId(Uuid::from_u128(1)));
            let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
            links.hear(&[(host, at(1000 + hour))], at(1000));
            assert!(links.seen(host) <= Some(at(1000)), "nothing is heard of in the future");
            links.hear(&[(host, at(1005 + hour))], at(1005));
            assert_eq!(links.seen(host), Some(at(1005)));
            links.hear(&[(host, at(1005 + hour))], at(1040));
            assert_eq!(links.seen(host), Some(at(1005)), "it is silent since");
        }
    }

    #[test]
    fn r44_the_newest_start_counts_and_the_older_is_fenced() {
        let links = Links::default();
        let (host, old, new) = (HostId(Uuid::from_u128(1)), Uuid::from_u128(10), Uuid::from_u128(20));
        assert_eq!(links.order(host, old, 1), Order::NewStart);
        assert_eq!(links.order(host, old, 3), Order::Next);
        assert_eq!(links.order(host, old, 2), Order::Late);
        assert_eq!(links.order(host, old, 3), Order::Late);
        assert_eq!(links.fenced(host, old), None);
        assert_eq!(links.order(host, new, 1), Order::NewStart);
        assert_eq!(links.order(host, old, 4), Order::Fenced { first: true });
        assert_eq!(links.order(host, old, 5), Order::Fenced { first: false });
        assert_eq!((links.fenced(host, old), links.fenced(host, new)), (Some(false), None));
        assert_eq!(links.order(host, new, 2), Order::Next);
        links.unsee(host, new, 2);
        assert_eq!(links.order(host, new, 2), Order::Next);
    }
}
