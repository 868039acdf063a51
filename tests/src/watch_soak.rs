//! Histories of `/v1/watch` against a model: writers change everything all the while, watchers read, fall behind, leave,
//! resume and begin anew. Of every object they keep what they were told last, and check that
//!
//! - no object goes back in time: neither its generation nor, of a task, its state and progress;
//! - what is gone stays gone;
//! - a list and everything watched since is the list of later: the state of a watcher at a position is that of a snapshot
//!   taken there, and in the end that of `GET`.

use crate::{
    House,
    api::Api,
    watch::{Of, Watch, goes_on},
};
use anyhow::{Context, Result, bail, ensure};
use basalt_wire::rest::{Page, WatchEvent, WatchKind};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// VMs that a writer has at most.
const VMS: usize = 6;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Events that the watchers read together before it ends.
    pub events: usize,
    /// Watchers at once.
    pub watchers: usize,
    /// Writers at once.
    pub writers: usize,
    /// Seed of what writers and watchers do.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events that were read.
    pub events: usize,
    /// Times that a watcher went on where it had left.
    pub resumed: usize,
    /// Times that one was told to begin anew.
    pub resyncs: usize,
    /// Lists that were compared with what was watched.
    pub lists: usize,
}

struct Shared {
    api: Api,
    events: AtomicUsize,
    wanted: usize,
    over: AtomicBool,
}

/// Runs a plan; an error tells the first history that was wrong.
///
/// # Errors
/// When a history contradicts the model, or the house fails.
pub async fn run(house: &House, plan: &Plan) -> Result<Outcome> {
    let (api, over) = (house.api.clone(), AtomicBool::new(false));
    let shared = Arc::new(Shared { api, events: AtomicUsize::new(0), wanted: plan.events, over });
    let rng = |n: usize| StdRng::seed_from_u64(plan.seed.wrapping_mul(1_000_003).wrapping_add(n as u64));
    let writers: Vec<_> =
        (0..plan.writers).map(|n| tokio::spawn(write(Arc::clone(&shared), n, rng(n)))).collect();
    let watchers: Vec<_> = (0..plan.watchers)
        .map(|n| {
            let watcher = Watcher::new(Arc::clone(&shared), rng(plan.writers + n));
            tokio::spawn(watcher.run())
        })
        .collect();
    let mut sum = Outcome::default();
    for watcher in watchers {
        let one = watcher.await?;
        // The others need not go on when one is wrong.
        let one = one.inspect_err(|_| shared.over.store(true, Ordering::Relaxed))?;
        sum.resumed += one.resumed;
        sum.resyncs += one.resyncs;
        sum.lists += one.lists;
    }
    for writer in writers {
        writer.await??;
    }
    sum.events = shared.events.load(Ordering::Relaxed);
    Ok(sum)
}

/// Makes, changes and deletes VMs of its own until it is over. What is refused because something else is under way is
/// part of it.
async fn write(shared: Arc<Shared>, writer: usize, mut rng: StdRng) -> Result<()> {
    let (api, mut there, mut made) = (&shared.api, Vec::<String>::new(), 0);
    while !shared.over.load(Ordering::Relaxed) {
        let chosen = there.choose(&mut rng).cloned();
        let verb = ["pause", "resume", "stop", "start", "reboot", "redeploy", "label", "delete"];
        let answer = match (chosen, verb.choose(&mut rng)) {
            (Some(name), Some(&verb)) if there.len() >= VMS || rng.random_bool(0.7) => match verb {
                "delete" => {
                    there.retain(|n| *n != name);
                    api.delete(&api.path(&format!("vms/{name}"))).await?
                }
                "label" => {
                    let path = api.path(&format!("vms/{name}"));
                    let Some(now) = api.find::<Value>(&path).await? else { continue };
                    let body = json!({"labels": {"turn": format!("{}", rng.random_range(0..9))}, "spec": now["spec"]});
                    api.send(api.request(reqwest::Method::PUT, &path).json(&body)).await?
                }
                verb => api.try_post(&api.path(&format!("vms/{name}/{verb}")), &Value::Null).await?,
            },
            _ => {
                made += 1;
                let name = format!("w{writer}-{made}");
                there.push(name.clone());
                api.try_post(&api.path("vms"), &crate::api::vm(&name, json!({}))).await?
            }
        };
        ensure!(answer.status.as_u16() < 500 || answer.status.as_u16() == 503, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..10))).await;
    }
    for name in there {
        // Some are going already.
        api.delete(&api.path(&format!("vms/{name}"))).await?;
    }
    Ok(())
}

struct Watcher {
    shared: Arc<Shared>,
    rng: StdRng,
    /// What it knows.
    now: BTreeMap<Of, Value>,
    /// What it knows to be gone. Ids are never given twice.
    gone: BTreeSet<Of>,
    /// The last bookmark.
    cursor: Option<String>,
    outcome: Outcome,
}

impl Watcher {
    fn new(shared: Arc<Shared>, rng: StdRng) -> Self {
        let (now, gone) = (BTreeMap::new(), BTreeSet::new());
        Self { shared, rng, now, gone, cursor: None, outcome: Outcome::default() }
    }

    async fn run(mut self) -> Result<Outcome> {
        let mut last = false;
        while !last {
            // One connection more after it is over, so that what the writers did last is in it.
            last = self.shared.over.load(Ordering::Relaxed);
            let cursor = self.cursor.clone().filter(|_| last || self.rng.random_bool(0.8));
            self.outcome.resumed += usize::from(cursor.is_some());
            let query = cursor.as_ref().map(|c| format!("cursor={c}")).unwrap_or_default();
            let mut watch = Watch::open(&self.shared.api, &query).await?;
            let mut begun = cursor.is_some();
            if !begun {
                self.snapshot(&mut watch).await?;
            }
            let mut left = if last { usize::MAX } else { self.rng.random_range(10..2000) };
            while left > 0 && (last || !self.shared.over.load(Ordering::Relaxed)) {
                if last && self.is_at_rest() {
                    return self.agrees_with_get().await;
                }
                let (events, resync) = self.revision(&mut watch).await?;
                begun |= resync;
                if resync {
                    break;
                }
                left = left.saturating_sub(events);
                self.maybe(&mut watch).await?;
            }
            ensure!(begun || self.cursor.is_some(), "a watch that never began");
        }
        Ok(self.outcome)
    }

    /// Now and then it falls behind, or compares what it knows with a list.
    async fn maybe(&mut self, watch: &mut Watch) -> Result<()> {
        if self.rng.random_bool(0.01) {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..400))).await;
        }
        if self.rng.random_bool(0.02) {
            self.compare(watch).await?;
        }
        Ok(())
    }

    /// The opening of a watch without a position: everything, and a bookmark.
    async fn snapshot(&mut self, watch: &mut Watch) -> Result<()> {
        let (state, cursor) = opening(watch).await?;
        self.count(state.len());
        for (of, object) in &state {
            self.goes_on(of, object)?;
        }
        // Of tasks, lists have those that live.
        let before = std::mem::replace(&mut self.now, state);
        for (of, object) in before {
            if has_ended(&of, &object) {
                self.now.entry(of).or_insert(object);
            } else if !self.now.contains_key(&of) {
                self.gone.insert(of);
            }
        }
        self.cursor = Some(cursor);
        Ok(())
    }

    /// Reads to the next bookmark. Says how many events there were, and whether it must begin anew.
    async fn revision(&mut self, watch: &mut Watch) -> Result<(usize, bool)> {
        let mut events = 0;
        loop {
            let event = watch.next().await?;
            events += 1;
            self.count(1);
            let WatchEvent { event: what, kind, id, object, cursor } = event;
            let of = || id.map(|id| (kind.clone(), id)).context("an event without an id");
            match what {
                WatchKind::Bookmark => {
                    self.cursor = Some(cursor);
                    return Ok((events, false));
                }
                WatchKind::Resync => {
                    self.outcome.resyncs += 1;
                    self.cursor = None;
                    return Ok((events, true));
                }
                WatchKind::Upsert => {
                    let (of, object) = (of()?, object.context("an upsert without its object")?);
                    self.goes_on(&of, &object)?;
                    self.now.insert(of, object);
                }
                WatchKind::Delete => {
                    let of = of()?;
                    self.now.remove(&of);
                    self.gone.insert(of);
                }
                WatchKind::Snapshot => bail!("a snapshot in the middle of a watch: {of:?}", of = of()?),
            }
        }
    }

    /// An object as it is told now, after what was told of it before.
    fn goes_on(&self, of: &Of, object: &Value) -> Result<()> {
        ensure!(!self.gone.contains(of), "{of:?} was gone and is there again: {object}");
        let Some(before) = self.now.get(of) else { return Ok(()) };
        goes_on(of, before, object)
    }

    /// A list of later: it is taken now, so this watcher comes to its position sooner or later.
    async fn compare(&mut self, watch: &mut Watch) -> Result<()> {
        let (list, at) = opening(&mut Watch::open(&self.shared.api, "").await?).await?;
        while self.cursor.as_ref() != Some(&at) {
            if self.revision(watch).await?.1 {
                return Ok(());
            }
        }
        self.outcome.lists += 1;
        let now = self.now.iter().filter(|(of, object)| !has_ended(of, object));
        same(&list, &now.map(|(of, object)| (of.clone(), object.clone())).collect())
            .with_context(|| format!("at {at}"))
    }

    /// Whether nothing is going to happen any more: all VMs are gone, no task lives.
    fn is_at_rest(&self) -> bool {
        !self.now.iter().any(|(of, o)| of.0 == "vm" || of.0 == "task" && !has_ended(of, o))
    }

    async fn agrees_with_get(mut self) -> Result<Outcome> {
        let api = &self.shared.api;
        for (kind, path) in
            [("network", api.path("networks")), ("image", api.path("images")), ("vm", api.path("vms"))]
        {
            let page: Page<Value> = api.get(&path).await?;
            let listed =
                page.items.into_iter().map(|o| Ok((id(&o)?, o))).collect::<Result<BTreeMap<_, _>>>()?;
            let known = self.now.iter().filter(|((k, _), _)| k == kind);
            let known = known.map(|((_, id), o)| (*id, o.clone())).collect();
            same(&listed, &known).with_context(|| format!("{kind}s in the end"))?;
            self.outcome.lists += 1;
        }
        Ok(self.outcome)
    }

    fn count(&self, events: usize) {
        if self.shared.events.fetch_add(events, Ordering::Relaxed) + events >= self.shared.wanted {
            self.shared.over.store(true, Ordering::Relaxed);
        }
    }
}

fn has_ended(of: &Of, object: &Value) -> bool {
    of.0 == "task" && !matches!(object["state"].as_str(), Some("pending" | "executing"))
}

fn id(object: &Value) -> Result<Uuid> {
    let id = object["id"].as_str().context("an object has an id")?;
    Ok(id.parse()?)
}

/// Everything there is, and the position.
async fn opening(watch: &mut Watch) -> Result<(BTreeMap<Of, Value>, String)> {
    let mut state = BTreeMap::new();
    loop {
        let event = watch.next().await?;
        match (event.event, event.id, event.object) {
            (WatchKind::Bookmark, ..) => return Ok((state, event.cursor)),
            (WatchKind::Snapshot, Some(id), Some(object)) => {
                state.insert((event.kind, id), object);
            }
            other => bail!("a watch begins with {other:?}"),
        }
    }
}

fn same<K: Ord + std::fmt::Debug>(listed: &BTreeMap<K, Value>, watched: &BTreeMap<K, Value>) -> Result<()> {
    for (of, object) in listed {
        ensure!(
            watched.get(of) == Some(object),
            "{of:?}: the list has {object}, watched was {:?}",
            watched.get(of)
        );
    }
    let more = watched.keys().find(|of| !listed.contains_key(of));
    ensure!(more.is_none(), "{more:?} was watched and is in no list");
    Ok(())
}
