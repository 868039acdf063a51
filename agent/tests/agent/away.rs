//! R34: libvirtd goes away in the middle of anything and comes back: what runs goes on running, and nothing that was
//! under way is done twice.

use crate::rig::*;
use basalt_agent::{
    Error,
    cycle::{Cycle, Parts, Stepped, Tuning},
    host::{Host, With, console::Console, sim::SimHost},
    ledger::MemoryLedger,
    outbox::Outbox,
};
use basalt_daemon::{Clock, ManualClock};
use basalt_model::{
    PortId, TaskId, VmId,
    hosts::HostFacts,
    networks::Counters,
    vms::{ObservedPower, Operation, OperationOutcome, OperationVerb, Power},
};
use basalt_plan::host::{Action, Observed, Section};
use basalt_wire::agent::{ItemObserved, Manifest, console::Mode};
use chrono::TimeDelta;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// When the daemon goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Before it carries out the call.
    Before,
    /// It carries the call out, and its answer is lost.
    After,
}

/// A host whose hypervisor is a daemon that goes away at one of the calls that reach it, looks included.
struct Fickle {
    sim: Arc<SimHost>,
    daemon: Mutex<Daemon>,
}

#[derive(Default)]
struct Daemon {
    calls: u64,
    leaves: Option<(u64, Leaves)>,
    away: bool,
    /// Every call that changes something, with the VM's power when it came.
    asked: Vec<(Action, Option<ObservedPower>)>,
}

impl Daemon {
    /// One call: whether it is carried out, and whether it is answered.
    fn call(&mut self) -> (bool, bool) {
        if self.away {
            return (false, false);
        }
        let number = self.calls;
        self.calls += 1;
        let left = self.leaves.filter(|(at, _)| *at == number).map(|(_, leaves)| leaves);
        self.away |= left.is_some();
        (left != Some(Leaves::Before), left.is_none())
    }
}

/// The VM of an action that goes through the daemon. A port is attached by its device, which only the daemon knows.
fn vm_of(action: &Action) -> Option<VmId> {
    match action {
        Action::DefineVm(vm) => Some(vm.id),
        Action::EnsurePort(port) => Some(port.vm_id),
        Action::StartVm { id, .. }
        | Action::RebootVm { id, .. }
        | Action::ResetVm { id, .. }
        | Action::ShutdownVm(id)
        | Action::DestroyVm(id)
        | Action::PauseVm(id)
        | Action::ResumeVm(id)
        | Action::UndefineVm(id) => Some(*id),
        _ => None,
    }
}

fn away() -> Error {
    Error::host("libvirt", "libvirt is away: Connection reset by peer")
}

impl Host for Fickle {
    async fn observe(&self) -> Observed {
        let mut observed = self.sim.observe().await;
        if !self.daemon.lock().unwrap().call().1 {
            // As the machine does it: without domains nobody knows who uses a volume or a port.
            let why = "libvirt is away";
            observed.vms = Section::failed(why);
            observed.volumes = Section::failed(why);
            observed.ports = Section::failed(why);
        }
        observed
    }
    async fn facts(&self) -> HostFacts {
        self.sim.facts().await
    }
    async fn act(&self, action: &Action, with: &With) -> Result<(), Error> {
        let Some(id) = vm_of(action) else { return self.sim.act(action, with).await };
        let power = self.sim.look(|w| w.observed.vms.items.get(&id).map(|vm| vm.power));
        let (carried_out, answered) = {
            let mut daemon = self.daemon.lock().unwrap();
            daemon.asked.push((action.clone(), power));
            daemon.call()
        };
        if carried_out {
            self.sim.act(action, with).await?;
        }
        if answered { Ok(()) } else { Err(away()) }
    }
    async fn console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        self.sim.console(id, mode).await
    }
    async fn counters(&self, id: PortId) -> Result<Counters, Error> {
        self.sim.counters(id).await
    }
    fn news(&self) -> watch::Receiver<u64> {
        self.sim.news()
    }
}

/// An agent's cycle on such a host.
struct Agent {
    host: Arc<Fickle>,
    clock: Arc<ManualClock>,
    ledger: MemoryLedger,
    outbox: Outbox,
    cycle: Cycle<Fickle, MemoryLedger>,
}

impl Agent {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(at(0), 7));
        let sim = Arc::new(SimHost::new("h1", clock.clone()));
        let host = Arc::new(Fickle { sim, daemon: Mutex::default() });
        let (ledger, outbox) = (MemoryLedger::default(), Outbox::new(clock.new_id()));
        let cycle = Self::cycle(&host, &clock, &ledger, &outbox);
        Self { host, clock, ledger, outbox, cycle }
    }

    fn cycle(
        host: &Arc<Fickle>,
        clock: &Arc<ManualClock>,
        ledger: &MemoryLedger,
        outbox: &Outbox,
    ) -> Cycle<Fickle, MemoryLedger> {
        let parts = Parts {
            host: host.clone(),
            lease: basalt_agent::lease::Lease::none(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            downloads: Arc::new(NoDownloads),
            outbox: outbox.clone(),
            host_id: HOST,
            tuning: Tuning { act_limit: Some(Duration::from_millis(20)), ..Tuning::default() },
        };
        Cycle::new(parts).unwrap()
    }

    /// The agent is started again, as whoever restarts libvirtd may do.
    fn restart(&mut self) {
        self.outbox = Outbox::new(self.clock.new_id());
        self.cycle = Self::cycle(&self.host, &self.clock, &self.ledger, &self.outbox);
    }

    async fn step(&mut self) -> Stepped {
        let stepped = self.cycle.step().await.unwrap();
        if self.cycle.is_busy() {
            let done = self.cycle.finished().await;
            self.cycle.settle(done).unwrap();
        } else if let Some(wake_at) = stepped.wake_at {
            self.clock.advance((wake_at - self.clock.now()).max(TimeDelta::zero()));
        }
        self.clock.advance(TimeDelta::milliseconds(10));
        stepped
    }

    async fn settle(&mut self, manifest: &Manifest) {
        self.cycle.offer(&serde_json::to_vec(manifest).unwrap()).unwrap();
        for _ in 0..3000 {
            if self.step().await.settled {
                return;
            }
        }
        panic!("no end: {:#?}", self.outbox.draft().report);
    }

    /// Brings about a manifest while the daemon goes away at a call; it is back after a while.
    async fn settle_through(&mut self, manifest: &Manifest, at_call: u64, leaves: Leaves, restart: bool) {
        {
            let mut daemon = self.host.daemon.lock().unwrap();
            (daemon.calls, daemon.leaves) = (0, Some((at_call, leaves)));
            daemon.asked.clear();
        }
        self.cycle.offer(&serde_json::to_vec(manifest).unwrap()).unwrap();
        for _ in 0..3000 {
            let settled = self.step().await.settled;
            if self.host.daemon.lock().unwrap().away || settled {
                break;
            }
        }
        for _ in 0..5 {
            self.step().await;
            self.clock.advance(TimeDelta::seconds(5));
        }
        if restart {
            self.restart();
            self.step().await;
        }
        self.host.daemon.lock().unwrap().away = false;
        self.settle(manifest).await;
    }

    fn asked_of(&self, vm: VmId) -> Vec<(&'static str, Option<ObservedPower>)> {
        let daemon = self.host.daemon.lock().unwrap();
        let of = daemon.asked.iter().filter(|(action, _)| vm_of(action) == Some(vm));
        of.map(|(action, power)| (action.stage(), *power)).collect()
    }

    fn end_state(&self) -> Observed {
        let mut observed = self.host.sim.with_world(|w| w.observed.clone());
        observed.vms.items.values_mut().for_each(|v| v.started_at = None);
        observed
    }
}

fn wish(power: Power) -> Option<Wish> {
    Some(Wish { power, ..Wish::default() })
}

/// A VM that only runs on, beside others that are made, paused, resumed, stopped, rebooted and removed.
fn before() -> Manifest {
    let powers =
        [Power::Running, Power::Running, Power::Paused, Power::Running, Power::Running, Power::Running];
    manifest(1, &powers.map(wish))
}

fn after() -> Manifest {
    let reboot = Operation { id: TaskId(Uuid::from_u128(77)), verb: OperationVerb::Reboot };
    let rebooted = Wish { operation: Some(reboot), ..Wish::default() };
    let mut wishes = [Power::Running, Power::Paused, Power::Running, Power::Stopped].map(wish).to_vec();
    wishes.extend([Some(rebooted), None, wish(Power::Running)]);
    let mut after = manifest(2, &wishes);
    // Nothing changed for the first: neither its generation nor anything else.
    let first = before().items.into_iter().find(|i| i.id == vm_id(1).0);
    let same = after.items.iter_mut().find(|i| i.id == vm_id(1).0);
    *same.unwrap() = first.unwrap();
    after
}

/// How often the daemon was called to bring `after` about without any trouble, and what was left.
async fn clean() -> (u64, Observed, Agent) {
    let mut agent = Agent::new();
    agent.settle(&before()).await;
    agent.host.daemon.lock().unwrap().calls = 0;
    agent.settle(&after()).await;
    let calls = agent.host.daemon.lock().unwrap().calls;
    (calls, agent.end_state(), agent)
}

#[tokio::test]
async fn r34_libvirtd_lost_in_the_middle_of_any_call_restarts_nothing_and_doubles_nothing() {
    let (calls, end, undisturbed) = clean().await;
    assert!(calls >= 10, "{calls} calls are too few to be lost in the middle of each");
    let begun = |agent: &Agent| ["starting", "rebooting"].map(|stage| agent.host.sim.count(stage));
    for at_call in 0..calls {
        for (leaves, restart) in [(Leaves::Before, false), (Leaves::After, false), (Leaves::After, true)] {
            let case = format!("call {at_call}, {leaves:?}, agent restarted: {restart}");
            let mut agent = Agent::new();
            agent.settle(&before()).await;
            agent.settle_through(&after(), at_call, leaves, restart).await;
            assert!(!agent.host.daemon.lock().unwrap().away && agent.end_state() == end, "{case}");
            // Nobody laid a hand on what ran and was to go on running.
            let harm: Vec<_> = agent.asked_of(vm_id(1));
            assert!(harm.is_empty(), "{case}: {harm:?}");
            // Of the others nothing was started or ended that already was so.
            for n in 2..=7 {
                for (stage, power) in agent.asked_of(vm_id(n)) {
                    let runs = power == Some(ObservedPower::Running);
                    assert!(!(stage == "starting" && runs), "{case}: VM {n} runs and is started");
                }
            }
            assert_eq!(begun(&agent)[0], begun(&undisturbed)[0], "{case}: starts");
            assert!(begun(&agent)[1] <= 1, "{case}: the verb was repeated");
        }
    }
}

#[tokio::test]
async fn r34_while_libvirtd_is_away_nothing_is_called_gone_and_nothing_is_asked_of_it() {
    let mut agent = Agent::new();
    agent.settle(&before()).await;
    let end = agent.end_state();
    agent.host.daemon.lock().unwrap().away = true;
    agent.host.daemon.lock().unwrap().asked.clear();
    for minutes in 0..30 {
        agent.step().await;
        agent.clock.advance(TimeDelta::minutes(minutes));
        let report = agent.outbox.draft().report;
        for item in &report.items {
            match &item.observed {
                ItemObserved::Gone => panic!("{item:?} is called gone"),
                ItemObserved::Vm(vm) => assert_eq!(vm.power, ObservedPower::Unknown),
                _ => {}
            }
        }
    }
    assert_eq!(agent.host.daemon.lock().unwrap().asked.len(), 0);
    agent.host.daemon.lock().unwrap().away = false;
    agent.settle(&before()).await;
    assert_eq!(agent.end_state(), end);
    assert_eq!(agent.host.daemon.lock().unwrap().asked.len(), 0, "all is as it was");
    let report = agent.outbox.draft().report;
    let running = |i: &&basalt_wire::agent::ItemReport| matches!(&i.observed, ItemObserved::Vm(vm) if vm.power == ObservedPower::Running);
    assert_eq!(report.items.iter().filter(running).count(), 5);
    let unknown = |i: &basalt_wire::agent::ItemReport| matches!(&i.observed, ItemObserved::Vm(vm) if vm.operation.as_ref().is_some_and(|o| o.outcome == OperationOutcome::Unknown));
    assert!(!report.items.iter().any(unknown));
}
