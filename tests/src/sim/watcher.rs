//! A client that watches while things go wrong (O7): it reads what gateways tell, leaves and resumes, goes to another gateway
//! when its own is killed, and now and then compares what it knows with a list.
//!
//! It stands behind the hub, where the socket of a real watch begins: what it reads is what that would be written.

use super::{dice::Dice, world::World};
use crate::watch::{Of, goes_on};
use anyhow::{Context, Result, bail, ensure};
use basalt_api::{
    hub::{Delivery, Event, Filter, Subscription},
    rows::Noun,
};
use basalt_model::roles::Scope;
use basalt_wire::rest::{WatchEvent, WatchKind};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
};
use tokio::sync::mpsc::{Receiver, error::TryRecvError};

/// What somebody knows.
type State = BTreeMap<Of, Value>;

/// The client.
pub struct Watcher {
    dice: Dice,
    /// The gateway that it speaks with.
    home: usize,
    deliveries: Option<Receiver<Delivery>>,
    /// The last bookmark.
    cursor: Option<String>,
    now: State,
    /// What it knows to be gone. Ids are never given twice.
    gone: BTreeSet<Of>,
    /// What it did.
    pub counts: Counts,
}

/// What a watcher did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that it read.
    pub events: u64,
    /// Times that it went on where it had left.
    pub resumed: u64,
    /// Times that it was told to begin anew.
    pub resyncs: u64,
    /// Lists that it compared with what it had watched.
    pub lists: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.resumed += more.resumed;
        self.resyncs += more.resyncs;
        self.lists += more.lists;
    }
}

fn everything() -> Filter {
    Filter { nouns: Noun::ALL.into(), project: None, scopes: vec![Scope::System] }
}

impl Watcher {
    /// One that watches nothing yet.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed ^ 0x3a7c),
            home: 0,
            deliveries: None,
            cursor: None,
            now: State::new(),
            gone: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Begins, or goes on where it was.
    fn open(&mut self, subscription: Subscription) -> Result<()> {
        let Subscription { resync, first, cursor, deliveries } = subscription;
        match &self.cursor {
            Some(_) if !resync => self.counts.resumed += 1,
            asked => {
                self.counts.resyncs += u64::from(asked.is_some());
                // What it knew may be newer than what this gateway knows: it forgets everything.
                self.now.clear();
                self.gone.clear();
            }
        }
        first.iter().try_for_each(|event| self.hear(event))?;
        (self.cursor, self.deliveries) = (Some(cursor.to_string()), Some(deliveries));
        Ok(())
    }

    fn hear(&mut self, event: &Event) -> Result<()> {
        self.counts.events += 1;
        let WatchEvent { event: what, kind, id, object, .. } = serde_json::from_str(&event.text())?;
        let of = (kind, id.context("an event without an id")?);
        match what {
            WatchKind::Snapshot | WatchKind::Upsert => {
                let object = object.context("an object that is told of is told")?;
                self.goes_on(&of, &object)?;
                self.now.insert(of, object);
            }
            WatchKind::Delete => {
                self.now.remove(&of);
                self.gone.insert(of);
            }
            WatchKind::Bookmark | WatchKind::Resync => bail!("O7: a mark among the events of a revision"),
        }
        Ok(())
    }

    /// An object as it is told now, after what was told of it before.
    fn goes_on(&self, of: &Of, object: &Value) -> Result<()> {
        ensure!(!self.gone.contains(of), "O7: {of:?} was gone and is there again: {object}");
        let Some(before) = self.now.get(of) else { return Ok(()) };
        goes_on(of, before, object).context("O7")
    }

    /// Reads what there is; `false` when the connection ended.
    fn read(&mut self) -> Result<bool> {
        while let Some(deliveries) = &mut self.deliveries {
            match deliveries.try_recv() {
                Ok(delivery) => {
                    delivery.events.iter().try_for_each(|event| self.hear(event))?;
                    self.cursor = Some(delivery.cursor.to_string());
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => self.deliveries = None,
            }
        }
        Ok(false)
    }

    /// A list and everything watched since is the list of later. Of tasks, lists have those that live.
    fn compare(&mut self, list: &Subscription) -> Result<()> {
        let mut listed = State::new();
        for event in &list.first {
            let event: WatchEvent = serde_json::from_str(&event.text())?;
            if let (Some(id), Some(object)) = (event.id, event.object) {
                listed.insert((event.kind, id), object);
            }
        }
        ensure!(self.cursor.as_deref() == Some(&*list.cursor), "O7: it has not heard of all revisions");
        self.counts.lists += 1;
        for (of, object) in &listed {
            let known = self.now.get(of);
            ensure!(
                known.map(news) == Some(news(object)),
                "O7: {of:?}: the list has {object}, watched was {known:?}"
            );
        }
        let ended = |of: &Of, o: &Value| {
            of.0 == "task" && !matches!(o["state"].as_str(), Some("pending" | "executing"))
        };
        let more = self.now.iter().find(|(of, object)| !ended(of, object) && !listed.contains_key(of));
        ensure!(more.is_none(), "O7: {more:?} was watched and is in no list");
        Ok(())
    }
}

/// What is told of an object: how much of a project's quota is used is no news by itself.
fn news(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(quota) = object.get_mut("quota").and_then(Value::as_object_mut) {
        quota.remove("used");
    }
    object
}

impl World {
    /// A gateway told whoever watches there: the watcher reads it, and now and then leaves, or compares.
    pub(super) fn watch(&mut self, g: usize) -> Result<()> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        let up = |g: usize| self.gateways[g].live.as_ref().filter(|live| live.hub.is_synced());
        if watcher.read()? {
            if watcher.home == g && watcher.dice.one_in(20) {
                watcher.deliveries = None;
            }
        } else if let Some(live) = up(g) {
            // Whichever is read next takes it up: its own, where it goes on, or another one.
            watcher.home = g;
            let subscription = live.hub.subscribe(everything(), watcher.cursor.as_deref());
            watcher.open(subscription)?;
        }
        if watcher.home == g
            && watcher.deliveries.is_some()
            && watcher.dice.one_in(20)
            && let Some(live) = up(g)
        {
            watcher.compare(&live.hub.subscribe(everything(), None))?;
        }
        Ok(())
    }

    /// What was watched is what a list shows now; what the watcher did.
    ///
    /// # Errors
    /// What differs.
    pub fn watched(&mut self) -> Result<Counts> {
        let Some(watcher) = &mut self.watcher else { return Ok(Counts::default()) };
        let home = watcher.home;
        watcher.deliveries = watcher.deliveries.take().filter(|_| self.gateways[home].is_up());
        let Some(live) = &self.gateways[home].live else { bail!("the watcher's gateway is down") };
        if !watcher.read()? {
            watcher.open(live.hub.subscribe(everything(), watcher.cursor.as_deref()))?;
        }
        watcher.compare(&live.hub.subscribe(everything(), None))?;
        Ok(watcher.counts)
    }
}
