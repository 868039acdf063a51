//! M1, M3, R32, R51, R54: two agents and a migration between their simulated hosts. Whatever dies at whatever step, never
//! do two hosts execute the guest, and it survives where one of them has it whole.

use crate::rig::*;
use basalt_agent::host::sim::fabric::{Fabric, Step, Trouble};
use basalt_daemon::Clock;
use basalt_model::{
    Epoch, HostId, MigrationId,
    migrations::{MigrationMode, Motion, MotionState, StallPolicy},
    vms::ObservedPower,
};
use basalt_plan::host::Transit;
use basalt_wire::agent::{
    Desired, ItemKind, ItemObserved, Manifest,
    manifest::{IncomingBody, MotionBody, OutgoingBody},
};
use uuid::Uuid;

const MIGRATION: MigrationId = MigrationId(Uuid::from_u128(0x77));
const SOURCE: HostId = HostId(Uuid::from_u128(0x11));
const TARGET: HostId = HostId(Uuid::from_u128(0x22));

/// One host with its agent, and the manifest it was sent.
struct Side {
    rig: Rig<TestLedger>,
    manifest: Option<Manifest>,
    offered: bool,
}

/// Both hosts and what lies between them.
struct Pair {
    fabric: Fabric,
    source: Side,
    target: Side,
    revision: i64,
    /// Times at which both hosts executed the guest.
    doubles: u32,
    /// What is done when it does not come to an end.
    on_stall: StallPolicy,
}

impl Side {
    fn new(id: HostId, fabric: &Fabric) -> Self {
        let mut rig = Rig::new();
        rig.host_id = id;
        fabric.join(id, &rig.host);
        Self { rig, manifest: None, offered: false }
    }

    fn send(&mut self, manifest: Manifest) {
        (self.manifest, self.offered) = (Some(Manifest { host_id: self.rig.host_id, ..manifest }), false);
    }

    /// A step of the agent, and what ends meanwhile.
    async fn turn(&mut self) -> bool {
        self.rig.start();
        let cycle = self.rig.cycle.as_mut().unwrap();
        let mut alive = true;
        if let (Some(manifest), false) = (&self.manifest, self.offered) {
            alive = cycle.offer(&serde_json::to_vec(manifest).unwrap()).is_ok();
            self.offered = alive;
        }
        let stepped = if alive { cycle.step().await.ok() } else { None };
        let busy = cycle.is_busy();
        let mut dead = stepped.is_none() || self.rig.was_killed();
        if !dead {
            let cycle = self.rig.cycle.as_mut().unwrap();
            dead = tokio::select! {
                biased;
                () = self.rig.host.killed() => true,
                done = cycle.finished(), if busy => cycle.settle(done).is_err(),
                () = breath() => false,
            };
        }
        if dead || self.rig.was_killed() {
            self.rig.was_killed();
            self.rig.kill();
            self.offered = false;
            return false;
        }
        let stepped = stepped.unwrap();
        if let (false, Some(at)) = (busy, stepped.wake_at) {
            self.rig.clock.advance((at - self.rig.clock.now()).max(chrono::TimeDelta::zero()));
        }
        self.rig.clock.advance(chrono::TimeDelta::milliseconds(10));
        stepped.settled
    }

    fn vm(&self) -> Option<(ObservedPower, Transit)> {
        self.rig.host.look(|w| w.observed.vms.items.get(&vm_id(1)).map(|v| (v.power, v.transit)))
    }

    fn executes(&self) -> bool {
        self.vm().is_some_and(|(power, _)| power == ObservedPower::Running)
    }

    fn motion(&self) -> Option<Motion> {
        let report = self.rig.report();
        let item = report.items.iter().find(|i| i.id == vm_id(1).0)?;
        match &item.observed {
            ItemObserved::Vm(vm) => vm.motion.as_deref().filter(|m| m.id == MIGRATION).cloned(),
            _ => None,
        }
    }

    fn state(&self) -> Option<MotionState> {
        self.motion().map(|m| m.state)
    }
}

/// Lets others run for a while.
async fn breath() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn with(manifest: Manifest, epoch: i64, motion: Option<MotionBody>) -> Manifest {
    let mut manifest = manifest;
    for item in manifest.items.iter_mut().filter(|i| i.kind == ItemKind::Vm) {
        item.epoch = Epoch(epoch);
        if let Desired::Vm(body) = &mut item.desired {
            body.motion.clone_from(&motion);
        }
    }
    manifest
}

impl Pair {
    /// The guest runs at the source.
    async fn new() -> Self {
        let fabric = Fabric::default();
        let (source, target) = (Side::new(SOURCE, &fabric), Side::new(TARGET, &fabric));
        let mut pair =
            Self { fabric, source, target, revision: 1, doubles: 0, on_stall: StallPolicy::Cancel };
        pair.source.send(one(1, |_| {}));
        pair.target.send(manifest(1, &[]));
        pair.until("it runs", |p| p.source.executes()).await;
        pair
    }

    fn out(&self, begin: bool, cancel: bool) -> Option<MotionBody> {
        Some(MotionBody::Outgoing(OutgoingBody {
            id: MIGRATION,
            target: TARGET,
            address: "10.0.0.2:9446".parse().unwrap(),
            mode: MigrationMode::Live,
            copy_storage: false,
            begin,
            cancel,
            max_pause_milliseconds: 100,
            on_stall: self.on_stall,
            max_bytes_per_second: None,
        }))
    }

    fn tell_source(&mut self, epoch: i64, motion: Option<MotionBody>) {
        self.revision += 1;
        self.source.send(with(one(self.revision, |_| {}), epoch, motion));
    }

    fn tell_target(&mut self, epoch: i64, motion: Option<MotionBody>) {
        self.revision += 1;
        self.target.send(with(one(self.revision, |_| {}), epoch, motion));
    }

    fn coming(close: bool) -> Option<MotionBody> {
        let mode = MigrationMode::Live;
        Some(MotionBody::Incoming(IncomingBody {
            id: MIGRATION,
            source: SOURCE,
            mode,
            copy_storage: false,
            close,
        }))
    }

    async fn turn(&mut self) -> bool {
        let a = self.source.turn().await;
        self.watch();
        let b = self.target.turn().await;
        self.watch();
        a && b
    }

    fn watch(&mut self) {
        self.doubles += u32::from(self.source.executes() && self.target.executes());
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if holds(self) {
                return;
            }
            self.turn().await;
        }
        let (source, target) = (&self.source, &self.target);
        panic!(
            "never: {what}: {:?} {:?}, {:?} {:?}",
            source.vm(),
            source.motion(),
            target.vm(),
            target.motion()
        );
    }

    async fn ready(&mut self) {
        self.tell_source(1, self.out(false, false));
        self.tell_target(2, Self::coming(false));
        self.until("both are ready", |p| {
            p.target.state() == Some(MotionState::Ready) && p.source.state() == Some(MotionState::Preparing)
        })
        .await;
    }

    async fn begin(&mut self) {
        self.ready().await;
        self.tell_source(1, self.out(true, false));
    }

    /// Plays the gateway: decides by the same function as it does, until somebody owns it.
    async fn decided(&mut self) -> Owner {
        use basalt_plan::migrations::{Decision, Heard, Side as Word, Truth, at_source, at_target, decide};
        let truth = Truth { chosen: true, begun: true, ..Truth::default() };
        for _ in 0..300 {
            self.turn().await;
            let (source, target) = (self.source.motion(), self.target.motion());
            let word =
                |motion| Word { heard: Heard::Alive, power: ObservedPower::Unknown, motion, blocked: None };
            let (source, target) = (word(source.as_ref()), word(target.as_ref()));
            match decide(truth, at_source(truth, &source), at_target(Some(&target))) {
                Decision::Wait(_) | Decision::Begin => {}
                Decision::Close => self.tell_target(2, Self::coming(true)),
                Decision::SourceOwns { from_disk, .. } => {
                    self.tell_source(3, None);
                    self.revision += 1;
                    self.target.send(nothing(self.revision, &with(one(1, |_| {}), 3, None)));
                    self.until("it runs at the source", |p| p.source.executes() && p.target.vm().is_none())
                        .await;
                    self.settle().await;
                    return Owner { target: false, from_disk };
                }
                Decision::TargetOwns { from_disk, .. } => {
                    self.tell_target(2, None);
                    let gone = nothing(self.revision + 1, &with(one(1, |_| {}), 2, None));
                    self.revision += 1;
                    self.source.send(gone);
                    self.until("it runs at the target", |p| p.target.executes() && p.source.vm().is_none())
                        .await;
                    self.settle().await;
                    return Owner { target: true, from_disk };
                }
                Decision::Ask(why) => panic!("{why}"),
            }
        }
        panic!("never decided: {:?} {:?}", self.source.motion(), self.target.motion());
    }

    async fn settle(&mut self) {
        for _ in 0..100 {
            if self.turn().await && self.source.offered && self.target.offered {
                return;
            }
        }
        panic!("no end");
    }

    fn starts(&self) -> u32 {
        self.source.rig.host.count("starting") + self.target.rig.host.count("starting")
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Owner {
    target: bool,
    from_disk: bool,
}

#[tokio::test]
async fn m1_a_guest_goes_from_host_to_host_and_both_say_what_they_see() {
    let mut pair = Pair::new().await;
    pair.fabric.trouble(Step::Switch, Trouble::Hold);
    pair.begin().await;
    pair.until("bytes are on their way", |p| {
        p.source.state() == Some(MotionState::Copying) && p.target.state() == Some(MotionState::Copying)
    })
    .await;
    let motion = pair.source.motion().unwrap();
    assert!(motion.progress.is_some_and(|p| p.total_bytes == 256 << 20), "{motion:?}");
    assert_ne!(pair.target.vm().unwrap().0, ObservedPower::Paused);
    pair.fabric.release();
    // It goes on at the target before the gateway says anything: the source let go of it.
    pair.until("it goes on", |p| p.target.executes()).await;
    pair.until("both say so", |p| {
        p.source.state() == Some(MotionState::Left) && p.target.state() == Some(MotionState::Arrived)
    })
    .await;
    assert_eq!(pair.decided().await, Owner { target: true, from_disk: false });
    assert_eq!((pair.doubles, pair.starts()), (0, 1));
}

#[tokio::test]
async fn m1_r32_r51_whoever_dies_at_whatever_step_never_two_execute_and_it_survives() {
    let troubles = [
        Trouble::KillSource,
        Trouble::KillTarget,
        Trouble::CutLink,
        Trouble::CutTarget,
        Trouble::CutSource,
        Trouble::LoseAnswer,
    ];
    for step in Step::ALL.into_iter().filter(|s| *s != Step::Split) {
        for trouble in &troubles {
            let mut pair = Pair::new().await;
            pair.fabric.trouble(step, trouble.clone());
            pair.begin().await;
            let owner = pair.decided().await;
            let at = format!("{trouble:?} at {step:?}: {owner:?}");
            assert_eq!(pair.doubles, 0, "{at}");
            let power_failed = matches!(trouble, Trouble::CutSource | Trouble::CutTarget);
            // Agents and links may die: the guest does not notice. A host's power takes what was on it alone.
            if !power_failed {
                assert_eq!(pair.starts(), 1, "{at}");
                assert!(!owner.from_disk || step == Step::Finish, "{at}");
            }
            // Before there is anything at the target, its agent may be back in time.
            if *trouble == Trouble::CutTarget && (Step::Copy..=Step::Finish).contains(&step) {
                assert_eq!((pair.starts(), owner.target), (1, false), "{at}");
            }
            let met = pair.fabric.steps().iter().any(|(_, s)| *s == step);
            assert!(met, "{at}: nothing was tested");
        }
    }
}

#[tokio::test]
async fn r32_each_write_of_a_ledger_may_be_the_last_of_its_agent() {
    for side in 0..2 {
        let mut swept = 0;
        for number in 0..40 {
            let mut pair = Pair::new().await;
            pair.ready().await;
            let ledger = [&pair.source, &pair.target][side].rig.ledger.clone();
            let from = ledger.state.lock().unwrap().writes;
            ledger.state.lock().unwrap().kill = Some(if number % 2 == 0 {
                KillWrite::Before(from + number / 2)
            } else {
                KillWrite::After(from + number / 2)
            });
            pair.tell_source(1, pair.out(true, false));
            let owner = pair.decided().await;
            assert_eq!(
                (pair.doubles, pair.starts(), owner.from_disk),
                (0, 1, false),
                "side {side} write {number}"
            );
            let killed = pair.source.rig.kills + pair.target.rig.kills;
            if killed == 0 {
                break;
            }
            swept += 1;
        }
        assert!(swept >= 4, "side {side}: {swept} writes");
    }
}

#[tokio::test]
async fn r54_cancel_at_each_moment_leaves_one_owner() {
    for step in Step::ALL.into_iter().filter(|s| *s != Step::Split) {
        let mut pair = Pair::new().await;
        pair.fabric.trouble(step, Trouble::Hold);
        pair.begin().await;
        pair.until("it is held", |p| p.fabric.steps().iter().any(|(_, s)| *s == step)).await;
        pair.tell_source(1, pair.out(true, true));
        for _ in 0..5 {
            pair.turn().await;
        }
        pair.fabric.release();
        let owner = pair.decided().await;
        assert_eq!((pair.doubles, pair.starts()), (0, 1), "{step:?}");
        assert_eq!(
            owner,
            Owner { target: step > Step::Switch, from_disk: false },
            "{step:?}: too late is too late"
        );
    }
}

#[tokio::test]
async fn r52_a_guest_that_cannot_be_sent_stays_and_notices_nothing() {
    let mut pair = Pair::new().await;
    pair.fabric.stubborn(vm_id(1));
    pair.begin().await;
    pair.until("it failed", |p| p.source.state() == Some(MotionState::Failed)).await;
    assert_eq!(pair.source.motion().unwrap().reason.unwrap().code, "migration_stalled");
    assert!(pair.source.executes());
    assert_eq!(pair.decided().await, Owner { target: false, from_disk: false });
    assert_eq!((pair.doubles, pair.starts()), (0, 1));
}

#[tokio::test]
async fn m3_post_copy_goes_on_at_the_target_and_a_cut_costs_the_memory_and_is_said() {
    let mut pair = Pair::new().await;
    (pair.on_stall, _) = (StallPolicy::PostCopy, pair.fabric.stubborn(vm_id(1)));
    pair.fabric.trouble(Step::Switch, Trouble::Hold);
    pair.begin().await;
    pair.until("it is split", |p| {
        p.source.state() == Some(MotionState::Split) && p.target.state() == Some(MotionState::Split)
    })
    .await;
    assert!(pair.target.executes() && !pair.source.executes());
    pair.fabric.release();
    assert_eq!(pair.decided().await, Owner { target: true, from_disk: false });
    assert_eq!((pair.doubles, pair.starts()), (0, 1));

    let mut pair = Pair::new().await;
    (pair.on_stall, _) = (StallPolicy::PostCopy, pair.fabric.stubborn(vm_id(1)));
    pair.fabric.trouble(Step::Switch, Trouble::CutLink);
    pair.begin().await;
    assert_eq!(pair.decided().await, Owner { target: true, from_disk: true });
    assert_eq!((pair.doubles, pair.starts()), (0, 2), "it starts from its disk where it executed last");
}
