//! What lies between the simulated hosts of one test: VMs go over it from one to the other, step by step, and at each step
//! a test can hold it, break it, or kill somebody.
//!
//! ```text
//! connect ─► prepare ─► copy ─► switch ─► finish ─► confirm ─► left ─► go
//!                         └────► split ───┘          (post-copy)
//! connect ─────────────► copy ─────────────────────────► left          (cold: its volumes)
//! ```
//! What hypervisors do when it breaks off is `plan::host::effect`'s. Deterministic: nothing here waits for time.

use super::SimHost;
use crate::{Error, host::With};
use basalt_model::{
    CapabilityReason, HostId, MigrationId, VmId,
    migrations::{MigrationMode, MotionProgress, StallPolicy},
};
use basalt_plan::host::{
    SendDefinition,
    effect::{Mishap, Traveller},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::watch;

/// A step of a migration; named by what is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The source's agent goes to the target's door.
    Connect,
    /// The target makes room: the VM is there to be filled.
    Prepare,
    /// Memory is sent.
    Copy,
    /// Post-copy: it executes at the target with a part of its memory.
    Split,
    /// The guest stops at the source for the last of it.
    Switch,
    /// All of it is at the target.
    Finish,
    /// The source lets go of it.
    Confirm,
    /// The source's ledger keeps that it left.
    Left,
    /// The target is told to let it execute.
    Go,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Prepare,
        Self::Copy,
        Self::Split,
        Self::Switch,
        Self::Finish,
        Self::Confirm,
        Self::Left,
        Self::Go,
    ];
}

/// What happens when a migration comes to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The source's agent dies.
    KillSource,
    /// The target's agent dies.
    KillTarget,
    /// The source's power fails and comes back; its agent dies with it.
    CutSource,
    /// The target's power fails and comes back; its agent dies with it.
    CutTarget,
    /// The link between the two breaks for good.
    CutLink,
    /// The step happens and the source never hears of it.
    LoseAnswer,
    /// It stays there until [`Fabric::release`].
    Hold,
}

/// The fabric; clones share it.
#[derive(Clone, Default)]
pub struct Fabric(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), news: watch::Sender::new(0) }
    }
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<HostId, Weak<SimHost>>,
    cut: BTreeSet<(HostId, HostId)>,
    troubles: BTreeMap<Step, Trouble>,
    held: BTreeSet<MigrationId>,
    aborted: BTreeSet<MigrationId>,
    under_way: BTreeSet<MigrationId>,
    stubborn: BTreeSet<VmId>,
    by_hand: bool,
    /// Migrations whose source does not hear of the step that is taken now.
    lost: BTreeSet<MigrationId>,
    steps: Vec<(MigrationId, Step)>,
}

impl Fabric {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let value = f(&mut self.state());
        self.0.news.send_modify(|n| *n += 1);
        value
    }

    /// Plugs a host in, under the id that migrations name it by.
    pub fn join(&self, id: HostId, host: &Arc<SimHost>) {
        host.state().place = Some((id, self.clone()));
        self.change(|s| s.hosts.insert(id, Arc::downgrade(host)));
        host.bump();
    }

    /// Cuts or mends the link between two hosts.
    pub fn cut(&self, a: HostId, b: HostId, cut: bool) {
        let pair = (a.min(b), a.max(b));
        self.change(|s| if cut { s.cut.insert(pair) } else { s.cut.remove(&pair) });
    }

    /// What happens when the next migration comes to a step.
    pub fn trouble(&self, step: Step, trouble: Trouble) {
        self.change(|s| s.troubles.insert(step, trouble));
    }

    /// From now on every migration stays at every step until [`Fabric::go_on`]: a simulator is the time.
    pub fn by_hand(&self) {
        self.change(|s| s.by_hand = true);
    }

    /// Lets one migration go on to its next step. `lost`: its source never hears of this one.
    pub fn go_on(&self, id: MigrationId, lost: bool) {
        self.change(|s| {
            s.held.remove(&id);
            if lost {
                s.lost.insert(id);
            }
        });
    }

    /// Lets held migrations go on.
    pub fn release(&self) {
        self.change(|s| s.held.clear());
    }

    /// Nothing that was planned happens any more, what is held goes on, and all links stand.
    pub fn calm(&self) {
        self.change(|s| {
            s.troubles.clear();
            s.held.clear();
            s.cut.clear();
        });
    }

    /// A guest that writes memory faster than any link carries.
    pub fn stubborn(&self, id: VmId) {
        self.change(|s| s.stubborn.insert(id));
    }

    /// The steps that migrations came to.
    pub fn steps(&self) -> Vec<(MigrationId, Step)> {
        self.state().steps.clone()
    }

    /// Takes a migration back; returns when nothing of it is under way.
    pub(super) async fn abort(&self, id: MigrationId) {
        let mut news = self.0.news.subscribe();
        self.change(|s| s.aborted.insert(id));
        while self.state().under_way.contains(&id) {
            // The sender lives as long as this does.
            let _ = news.changed().await;
        }
    }

    fn host(&self, id: HostId) -> Option<Arc<SimHost>> {
        self.state().hosts.get(&id).and_then(Weak::upgrade)
    }
}

/// A VM on its way. Dropped before its end, as when the source's agent dies, it breaks off.
struct Transfer<'a> {
    fabric: Fabric,
    source: &'a SimHost,
    here: HostId,
    send: &'a SendDefinition,
    traveller: Option<Traveller>,
    /// The last step that was carried out.
    done: Option<Step>,
}

impl SimHost {
    pub(super) async fn send(&self, send: &SendDefinition, with: &With) -> Result<(), Error> {
        let place = self.state().place.clone();
        let Some((here, fabric)) = place else { return Err(Error::host("migrating", "there is no link")) };
        fabric.change(|s| s.under_way.insert(send.migration_id));
        let transfer = Transfer { fabric, source: self, here, send, traveller: None, done: None };
        transfer.run(with).await
    }

    /// Whether a door stands open, and is its agent's who still lives.
    fn door(&self, send: &SendDefinition, from: HostId) -> bool {
        self.drop_dead_doors();
        let state = self.state();
        state
            .doors
            .get(&send.id)
            .is_some_and(|(door, _)| door.migration_id == send.migration_id && door.source == from)
    }

    /// Doors end with the agent that opened them.
    pub(super) fn drop_dead_doors(&self) {
        let mut state = self.state();
        let dead = state.doors.iter().filter(|(_, (_, life))| life.strong_count() == 0);
        let dead: Vec<VmId> = dead.map(|(id, _)| *id).collect();
        for id in dead {
            state.doors.remove(&id);
            state.world.observed.doors.remove(&id);
        }
    }
}

fn refused(code: &'static str, evidence: &str) -> Error {
    let message = "the VM was not sent, and is whole where it was";
    Error::refused(
        CapabilityReason::new(code, "migration", message, "migrate it again").with_evidence(evidence),
    )
}

impl Transfer<'_> {
    async fn run(mut self, with: &With) -> Result<(), Error> {
        let cold = self.send.mode == MigrationMode::Cold;
        let stubborn = !cold && self.fabric.state().stubborn.contains(&self.send.id);
        for step in Step::ALL {
            if step == Step::Split && !(stubborn && self.send.on_stall == StallPolicy::PostCopy)
                || cold && !matches!(step, Step::Connect | Step::Copy | Step::Left)
            {
                continue;
            }
            let lost = match self.pass(step).await {
                Ok(lost) => lost,
                Err(why) => return self.broken(&why),
            };
            let carried_out = match step {
                Step::Copy if stubborn && self.send.on_stall != StallPolicy::PostCopy => {
                    drop(self);
                    return Err(refused("migration_stalled", "it writes faster than the link carries"));
                }
                Step::Left => {
                    with.journal.handed_over(self.send.id, self.send.migration_id)?;
                    Ok(())
                }
                _ => self.carry_out(step, with),
            };
            if let Err(why) = carried_out {
                return self.broken(&why);
            }
            self.done = Some(step);
            self.source.bump();
            if let Some(target) = self.fabric.host(self.send.target) {
                target.bump();
            }
            if lost {
                return self.broken("the answer was lost");
            }
        }
        Ok(())
    }

    /// It broke off: what is left here tells whether the guest is whole.
    fn broken(self, why: &str) -> Result<(), Error> {
        let (source, id, done) = (self.source, self.send.id, self.done);
        let cold = self.send.mode == MigrationMode::Cold;
        drop(self);
        // What comes after it left is a courtesy.
        if done >= Some(Step::Left) {
            return Ok(());
        }
        let whole = cold
            || source.look(|w| {
                w.observed
                    .vms
                    .items
                    .get(&id)
                    .is_some_and(|vm| vm.running.is_some() && vm.transit == basalt_plan::host::Transit::Still)
            });
        if whole { Err(refused("migration_failed", why)) } else { Err(Error::host("migrating", why)) }
    }

    /// Waits until a step may be taken. Answers whether its answer is lost.
    async fn pass(&self, step: Step) -> Result<bool, String> {
        let (id, target) = (self.send.migration_id, self.send.target);
        let mut news = self.fabric.0.news.subscribe();
        let trouble = self.fabric.change(|s| {
            s.steps.push((id, step));
            if s.by_hand {
                s.held.insert(id);
            }
            let trouble = s.troubles.remove(&step);
            // At once: nobody can release it between the two.
            if matches!(trouble, Some(Trouble::Hold)) {
                s.held.insert(id);
            }
            trouble
        });
        match trouble {
            Some(Trouble::CutLink) => self.fabric.cut(self.here, target, true),
            Some(Trouble::KillSource) => {
                self.source.die();
                return std::future::pending().await;
            }
            Some(Trouble::CutSource) => {
                self.source.suffer(&Mishap::PowerCut);
                self.source.die();
                return std::future::pending().await;
            }
            Some(Trouble::KillTarget) => self.fabric.host(target).iter().for_each(|t| t.die()),
            Some(Trouble::CutTarget) => self.fabric.host(target).iter().for_each(|t| {
                t.suffer(&Mishap::PowerCut);
                t.die();
            }),
            Some(Trouble::Hold | Trouble::LoseAnswer) | None => {}
        }
        tokio::task::yield_now().await;
        loop {
            self.can_go_on(step)?;
            if !self.fabric.state().held.contains(&id) {
                let lost = self.fabric.state().lost.remove(&id);
                return Ok(lost || trouble == Some(Trouble::LoseAnswer));
            }
            // The sender lives as long as the fabric does.
            let _ = news.changed().await;
        }
    }

    fn can_go_on(&self, step: Step) -> Result<(), String> {
        let (id, target) = (self.send.migration_id, self.send.target);
        if step > Step::Finish {
            return Ok(());
        }
        if self.fabric.state().aborted.contains(&id) && step <= Step::Switch && self.done != Some(Step::Split)
        {
            return Err("it was taken back".into());
        }
        if self.fabric.state().cut.contains(&(self.here.min(target), self.here.max(target))) {
            return Err("the link is cut".into());
        }
        let host = self.fabric.host(target).ok_or("there is no such host")?;
        if host.door(self.send, self.here) { Ok(()) } else { Err("the door is closed".into()) }
    }

    fn carry_out(&mut self, step: Step, with: &With) -> Result<(), String> {
        let id = self.send.id;
        let target = self.fabric.host(self.send.target).ok_or("there is no such host")?;
        match step {
            Step::Connect | Step::Left => Ok(()),
            Step::Prepare => {
                let now = self.source.clock.now();
                let traveller = self.source.state().world.begin_sending(id)?;
                let made = target.state().world.begin_filling(&traveller, now);
                self.traveller = Some(traveller);
                made
            }
            Step::Copy => {
                let total = self.send.vm.memory_bytes;
                let figures = MotionProgress {
                    total_bytes: total,
                    sent_bytes: total,
                    passes: 1,
                    ..MotionProgress::default()
                };
                (with.moved)(id, figures);
                Ok(())
            }
            Step::Split => {
                self.source.state().world.split(id, false);
                target.state().world.split(id, true);
                Ok(())
            }
            Step::Switch if self.done == Some(Step::Split) => Ok(()),
            Step::Switch => self.source.state().world.hold(id),
            Step::Finish => {
                let traveller = self.traveller.as_ref().ok_or("nothing was sent")?;
                target.state().world.end_filling(traveller)
            }
            Step::Confirm => self.source.state().world.let_go(id),
            Step::Go => {
                let resume = target.door(self.send, self.here)
                    && target.look(|w| w.observed.doors.get(&id).is_some_and(|d| d.resume));
                if resume && self.traveller.as_ref().is_some_and(Traveller::executes) {
                    target.state().world.resume(id);
                }
                Ok(())
            }
        }
    }
}

impl Drop for Transfer<'_> {
    /// What the two hypervisors do when the streams between them end.
    fn drop(&mut self) {
        let id = self.send.id;
        if let (Some(traveller), true) = (&self.traveller, self.done < Some(Step::Confirm)) {
            let target = self.fabric.host(self.send.target);
            let finished = self.done >= Some(Step::Finish);
            self.source.state().world.take_back(traveller);
            self.source.state().world.tear(id);
            if let (Some(target), false) = (&target, finished) {
                let mut state = target.state();
                state.world.let_fall(id);
                state.world.tear(id);
            }
            self.source.bump();
            target.iter().for_each(|t| t.bump());
        }
        self.fabric.change(|s| s.under_way.remove(&self.send.migration_id));
    }
}
