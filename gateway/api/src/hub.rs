//! The watch hub: the gateway's one feed pull, told to everybody who waits. It keeps the rows
//! ([`Rows`]), wakes long polls (a host's manifest revision, a task), and fans changes out to
//! watchers, each behind a bounded buffer.
//!
//! One call of [`Hub::apply`] is one revision: a watcher sees all of it or nothing. The cursor of an
//! event is the position *before* its revision, and a bookmark follows with the position after it,
//! so that a stream cut anywhere is resumed without a gap.

use crate::{
    directory::{Listing, Ports, Stamp},
    rows::{Noun, Object, Rows, Touched, Written},
};
use basalt_model::{DateTime, Generation, HostId, ProjectId, TaskId, VmId, roles::Scope};
use basalt_store::feed::{Batch, Row, Table};
use basalt_wire::rest::{WatchEvent, WatchKind};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::sync::{mpsc, watch};

/// Revisions that a watcher may lag behind before it is told to begin again.
pub const BUFFER: usize = 256;
/// Revisions that are remembered for resuming.
pub const RECENT: usize = 1024;

/// What a watcher wants to see, and may.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Kinds of objects.
    pub nouns: BTreeSet<Noun>,
    /// Only this project.
    pub project: Option<ProjectId>,
    /// Where the caller may read.
    pub scopes: Vec<Scope>,
}

impl Filter {
    fn admits(&self, touched: &Touched) -> bool {
        let project = self.project.is_none_or(|p| {
            touched.project_id == Some(p) || touched.noun == Noun::Project && touched.id == p.0
        });
        project && self.nouns.contains(&touched.noun) && {
            let scope = touched.scope();
            self.scopes.iter().any(|s| s.covers(&scope))
        }
    }
}

/// One change of one object, written out once for all who read it.
pub struct Event {
    kind: WatchKind,
    touched: Touched,
    object: Option<Object>,
    cursor: Arc<str>,
    text: OnceLock<Arc<str>>,
}

impl Event {
    fn new(kind: WatchKind, touched: Touched, object: Option<Object>, cursor: Arc<str>) -> Arc<Self> {
        Arc::new(Self { kind, touched, object, cursor, text: OnceLock::new() })
    }

    /// What happened.
    pub fn kind(&self) -> WatchKind {
        self.kind
    }

    /// The position before it.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The event as JSON.
    pub fn text(&self) -> Arc<str> {
        let write = || {
            let object = self.object.clone().and_then(|o| o.json().ok());
            let event = WatchEvent {
                event: self.kind,
                kind: self.touched.noun.as_str().into(),
                id: Some(self.touched.id),
                object,
                cursor: self.cursor.to_string(),
            };
            Arc::from(serde_json::to_string(&event).unwrap_or_default())
        };
        self.text.get_or_init(write).clone()
    }
}

/// The part of one revision that a watcher sees.
pub struct Delivery {
    /// What changed.
    pub events: Vec<Arc<Event>>,
    /// The position after the revision.
    pub cursor: Arc<str>,
}

struct Subscriber {
    filter: Filter,
    sender: mpsc::Sender<Delivery>,
}

/// What a new watcher begins with.
pub struct Subscription {
    /// Whether the asked position is unknown: the watcher must forget everything.
    pub resync: bool,
    /// What it must be told first.
    pub first: Vec<Arc<Event>>,
    /// The position after that.
    pub cursor: Arc<str>,
    /// Then these; the channel closes when the watcher fell behind.
    pub deliveries: mpsc::Receiver<Delivery>,
}

#[derive(Default)]
struct Inner {
    synced: bool,
    cursor: Arc<str>,
    rows: Rows,
    subscribers: Vec<Subscriber>,
    recent: VecDeque<(Arc<str>, Vec<Touched>)>,
    revisions: HashMap<HostId, watch::Sender<i64>>,
    tasks: HashMap<TaskId, watch::Sender<u64>>,
    ports: Ports,
    directory: watch::Sender<()>,
    hosts: Option<(DateTime, Arc<Vec<basalt_plan::placement::HostView>>)>,
}

/// The hub. Clones are the same hub.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<Inner>>);

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the truth was read at least once.
    pub fn is_synced(&self) -> bool {
        self.inner().synced
    }

    /// Takes one batch of the feed. Synchronous and quick: it is called where the feed is pulled.
    pub fn apply(&self, batch: &Batch) {
        let mut inner = self.inner();
        inner.spread(batch);
        if batch.reload {
            inner.reload(batch);
        } else if !batch.changes.is_empty() {
            inner.advance(batch);
        }
        inner.synced = true;
    }

    /// Looks at the rows.
    pub fn read<T>(&self, look: impl FnOnce(&Rows) -> T) -> T {
        look(&self.inner().rows)
    }

    /// The JSON of VMs, each at exactly the given generation; `None` when one of them is not known so
    /// here. Who asks has read the ids and generations in a transaction that may see them.
    pub fn vm_texts(&self, stamps: &[(VmId, Generation)]) -> Option<Vec<Written>> {
        let found: Option<Vec<_>> = {
            let mut inner = self.inner();
            stamps.iter().map(|(id, generation)| inner.rows.vm_at(*id, *generation)).collect()
        };
        // Written outside the lock.
        let write = |(text, object): (Written, Object)| {
            if text.get().is_none() {
                let json = object.json().and_then(|o| serde_json::to_string(&o)).ok()?;
                text.get_or_init(|| json.into());
            }
            Some(text)
        };
        found?.into_iter().map(write).collect()
    }

    /// The revision of a host's manifest, and its changes.
    pub fn revision(&self, host: HostId) -> watch::Receiver<i64> {
        self.inner().revisions.entry(host).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// A manifest was written by this gateway. The feed would say it too, but one pull later, and its agent waits.
    pub fn manifest_written(&self, host: HostId, revision: i64) {
        self.inner().rise(host, revision);
    }

    /// Where other hosts have ports of a host's networks.
    pub fn directory(&self, host: HostId) -> Listing {
        self.inner().ports.listing(host)
    }

    /// What that depends on.
    pub fn directory_stamp(&self, host: HostId) -> Stamp {
        self.inner().ports.stamp(host)
    }

    /// How many ports there are in a host's networks.
    pub fn directory_ports(&self, host: HostId) -> usize {
        self.inner().ports.count(host)
    }

    /// Tells whenever the directory of some host may be another one.
    pub fn directory_changes(&self) -> watch::Receiver<()> {
        self.inner().directory.subscribe()
    }

    /// News of a task.
    pub fn task(&self, task: TaskId) -> watch::Receiver<u64> {
        let mut inner = self.inner();
        inner.tasks.retain(|_, sender| sender.receiver_count() > 0);
        inner.tasks.entry(task).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Lines were written to logs of tasks by this gateway. They are not in the feed.
    pub fn logs_written(&self, tasks: impl IntoIterator<Item = TaskId>) {
        let inner = self.inner();
        for sender in tasks.into_iter().filter_map(|id| inner.tasks.get(&id)) {
            sender.send_modify(|n| *n += 1);
        }
    }

    /// Begins a watch: at a position that was given before, or with a snapshot.
    pub fn subscribe(&self, filter: Filter, from: Option<&str>) -> Subscription {
        let mut inner = self.inner();
        let resumed = from.and_then(|cursor| inner.since(cursor, &filter));
        let resync = from.is_some() && resumed.is_none();
        let first = resumed.unwrap_or_else(|| inner.snapshot(&filter));
        let (sender, deliveries) = mpsc::channel(BUFFER);
        inner.subscribers.push(Subscriber { filter, sender });
        Subscription { resync, first, cursor: inner.cursor.clone(), deliveries }
    }

    /// Hosts as placement sees them; made anew when a host or its facts changed, and once a second.
    pub fn placement_hosts(
        &self,
        seen: impl Fn(HostId) -> Option<DateTime>,
        now: DateTime,
    ) -> Arc<Vec<basalt_plan::placement::HostView>> {
        let mut inner = self.inner();
        match &inner.hosts {
            Some((at, hosts)) if (now - *at).num_seconds() < 1 && now >= *at => hosts.clone(),
            _ => {
                let hosts = Arc::new(inner.rows.placement_hosts(seen, now));
                inner.hosts = Some((now, hosts.clone()));
                hosts
            }
        }
    }
}

impl Inner {
    /// Keeps where ports are.
    fn spread(&mut self, batch: &Batch) {
        if batch.reload {
            self.ports.forget();
        }
        let mut changed = batch.reload;
        for change in &batch.changes {
            changed |= self.ports.apply(change);
        }
        if changed {
            self.directory.send_replace(());
        }
    }

    /// Everything anew: watchers begin again, polls look again.
    fn reload(&mut self, batch: &Batch) {
        self.rows = Rows::default();
        self.recent.clear();
        self.subscribers.clear();
        self.hosts = None;
        let mut told: BTreeSet<HostId> = BTreeSet::new();
        for change in &batch.changes {
            self.rows.apply(change, &mut BTreeSet::new());
            if let Some(Row::Manifest(r)) = &change.row {
                self.revise(r.host_id, r.revision);
                told.insert(r.host_id);
            }
        }
        let gone: Vec<HostId> = self.revisions.keys().filter(|h| !told.contains(h)).copied().collect();
        gone.into_iter().for_each(|host| self.revise(host, 0));
        self.tasks.values().for_each(|sender| sender.send_modify(|n| *n += 1));
        self.cursor = Arc::from(batch.cursor.to_string());
    }

    fn advance(&mut self, batch: &Batch) {
        let mut touched: BTreeSet<Touched> = BTreeSet::new();
        for change in &batch.changes {
            self.rows.apply(change, &mut touched);
            match (&change.table, &change.row) {
                (Table::Manifest, Some(Row::Manifest(r))) => self.rise(r.host_id, r.revision),
                (Table::Task, _) => self.wake_task(&change.key),
                // Claims change with every placement; they are as old as a second here.
                (Table::Host | Table::HostFacts, _) => self.hosts = None,
                _ => {}
            }
        }
        if touched.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.cursor, Arc::from(batch.cursor.to_string()));
        self.publish(&touched, &before);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((before, touched.into_iter().collect()));
    }

    fn revise(&mut self, host: HostId, revision: i64) {
        let sender = self.revisions.entry(host).or_insert_with(|| watch::Sender::new(0));
        sender.send_if_modified(|r| std::mem::replace(r, revision) != revision);
    }

    /// Of two that tell of one history, the later one is right.
    fn rise(&mut self, host: HostId, revision: i64) {
        let sender = self.revisions.entry(host).or_insert_with(|| watch::Sender::new(0));
        sender.send_if_modified(|r| std::mem::replace(r, revision.max(*r)) < revision);
    }

    fn wake_task(&mut self, key: &str) {
        if let Some(sender) = key.parse().ok().and_then(|id| self.tasks.get(&id)) {
            sender.send_modify(|n| *n += 1);
        }
    }

    /// Tells watchers. One whose buffer is full is dropped: its channel closes, and it begins again.
    fn publish(&mut self, touched: &BTreeSet<Touched>, before: &Arc<str>) {
        let Self { subscribers, rows, cursor, .. } = self;
        if subscribers.is_empty() {
            return;
        }
        let events: Vec<Arc<Event>> = touched.iter().map(|t| event(rows, *t, before)).collect();
        subscribers.retain(|s| {
            let mine: Vec<Arc<Event>> =
                events.iter().filter(|e| s.filter.admits(&e.touched)).cloned().collect();
            mine.is_empty() && !s.sender.is_closed()
                || !mine.is_empty()
                    && s.sender.try_send(Delivery { events: mine, cursor: cursor.clone() }).is_ok()
        });
    }

    fn snapshot(&self, filter: &Filter) -> Vec<Arc<Event>> {
        let objects = filter.nouns.iter().flat_map(|noun| self.rows.all(*noun)).filter(|t| filter.admits(t));
        objects
            .filter_map(|t| {
                Some(Event::new(
                    WatchKind::Snapshot,
                    t,
                    Some(self.rows.object(t.noun, t.id)?),
                    self.cursor.clone(),
                ))
            })
            .collect()
    }

    /// What changed since a position, each object once and as it stands now.
    fn since(&self, cursor: &str, filter: &Filter) -> Option<Vec<Arc<Event>>> {
        if *self.cursor == *cursor {
            return Some(Vec::new());
        }
        let from = self.recent.iter().position(|(before, _)| **before == *cursor)?;
        let touched: BTreeSet<Touched> =
            self.recent.iter().skip(from).flat_map(|(_, t)| t).copied().collect();
        let before: Arc<str> = Arc::from(cursor);
        Some(touched.iter().filter(|t| filter.admits(t)).map(|t| event(&self.rows, *t, &before)).collect())
    }
}

fn event(rows: &Rows, touched: Touched, cursor: &Arc<str>) -> Arc<Event> {
    match rows.object(touched.noun, touched.id) {
        Some(object) => Event::new(WatchKind::Upsert, touched, Some(object), cursor.clone()),
        None => Event::new(WatchKind::Delete, touched, None, cursor.clone()),
    }
}
