//! What is to happen, and when it can at the earliest.

use super::dice::Dice;
use basalt_reconciler::sweeps::Sweep;
use std::collections::BTreeMap;

/// Microseconds since the world began.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MILLI: Micros = 1_000;

/// Of how many ready events the seed chooses one.
const CHOICE: usize = 12;

/// One operation of the world. Nodes are meant by their number, other things by numbers that never come twice: what is
/// gone meanwhile (an effect of a gateway that crashed) is simply not found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A gateway pulls the feed.
    Pull(usize),
    /// A gateway asks its stepper for an effect.
    Step(usize),
    /// An effect is carried out.
    Perform(usize, u64),
    /// The stepper is told what came of an effect.
    Told(usize, u64),
    /// A sweep runs.
    Sweep(usize, Sweep),
    /// A gateway writes signs of life down.
    Flush(usize),
    /// A gateway starts again.
    Start(usize),
    /// An agent looks, decides and begins.
    Look(usize),
    /// A host carries an action out.
    Act(usize, u64),
    /// A VM goes on between two hosts, by one step.
    Move(usize, u64),
    /// An agent hears what came of an action.
    Acted(usize, u64),
    /// An agent gathers facts.
    Facts(usize),
    /// An agent reports.
    Report(usize),
    /// An agent asks for its manifest.
    Poll(usize),
    /// An agent asks for its directory.
    Directory(usize),
    /// An agent asks for its lease.
    Lease(usize),
    /// An agent starts again.
    Boot(usize),
    /// A call arrives at its gateway.
    Arrive(u64),
    /// Its answer arrives.
    Answer(u64),
    /// The caller gives up.
    Expire(u64),
    /// The user does something.
    User,
    /// Something goes wrong.
    Fault,
    /// Something that went wrong is right again.
    Mend(u64),
}

/// Events by time.
#[derive(Default)]
pub struct Queue {
    events: BTreeMap<(Micros, u64), Event>,
    /// Where the events are that are there once.
    once: BTreeMap<Event, (Micros, u64)>,
    next: u64,
}

impl Queue {
    /// One more event.
    pub fn push(&mut self, at: Micros, event: Event) {
        self.next += 1;
        self.events.insert((at, self.next), event);
    }

    /// An event that waits at most once: at the earlier of the times that were asked for.
    pub fn once(&mut self, at: Micros, event: Event) {
        if let Some(key) = self.once.get(&event).copied() {
            if key.0 <= at {
                return;
            }
            self.events.remove(&key);
        }
        self.next += 1;
        self.events.insert((at, self.next), event.clone());
        self.once.insert(event, (at, self.next));
    }

    /// When the first event is due.
    pub fn first(&self) -> Option<Micros> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// One of the events that are ready, by the seed's choice.
    pub fn take(&mut self, now: Micros, dice: &mut Dice) -> Option<Event> {
        let ready: Vec<(Micros, u64)> =
            self.events.range(..=(now, u64::MAX)).take(CHOICE).map(|(key, _)| *key).collect();
        if ready.is_empty() {
            return None;
        }
        let key = ready[dice.index(ready.len())];
        let event = self.events.remove(&key)?;
        if self.once.get(&event) == Some(&key) {
            self.once.remove(&event);
        }
        Some(event)
    }

    /// Forgets events.
    pub fn drop_all(&mut self, goes: impl Fn(&Event) -> bool) {
        let gone: Vec<(Micros, u64)> =
            self.events.iter().filter(|(_, event)| goes(event)).map(|(key, _)| *key).collect();
        for key in gone {
            if let Some(event) = self.events.remove(&key) {
                self.once.remove(&event);
            }
        }
    }
}
