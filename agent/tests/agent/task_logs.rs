//! What an agent says in the logs of tasks: each step, in order, and each failure once.

use crate::rig::*;
use basalt_agent::host::sim::Fault;
use basalt_model::vms::Power;
use basalt_plan::host::Resource;
use basalt_wire::agent::{ItemKind, task_logs::LogLine};
use chrono::TimeDelta;
use uuid::Uuid;

impl Rig<TestLedger> {
    /// All that was said since the last time.
    fn said(&self) -> Vec<LogLine> {
        let (lines, mut all) = (self.outbox.lines(), Vec::new());
        let mut now = basalt_daemon::Clock::now(&*self.clock);
        while !lines.is_empty() {
            now += TimeDelta::seconds(10);
            let batch = lines.draft(now).unwrap();
            lines.told(&batch, now);
            all.extend(batch.lines);
        }
        all
    }
}

/// What was said about one item.
fn about(lines: &[LogLine], id: Uuid) -> Vec<&str> {
    let of = |line: &&LogLine| line.about.iter().any(|subject| subject.id == id);
    lines.iter().filter(of).map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn t1_whoever_follows_a_vm_reads_its_steps_and_those_of_what_it_waits_for() {
    let mut rig = Rig::new();
    rig.settle(&one(1, |_| {})).await;
    let said = rig.said();
    let image = Uuid::from_u128(0x200);
    let vm = about(&said, vm_id(1).0);
    let position = |what: &str| {
        let found = vm.iter().position(|line| *line == what);
        found.unwrap_or_else(|| panic!("{what:?} is not in {vm:#?}"))
    };
    let steps = [
        position(&format!("image {image}: fetching 1000 bytes")),
        position(&format!("image {image}: fetched, 1000 bytes")),
        position("volume disk-1: made, 1 GiB"),
        position("defined, 1 CPUs, 256 MiB"),
        position("started"),
    ];
    assert!(steps.is_sorted(), "{vm:#?}");
    position("network net: set up");
    assert_eq!(about(&said, volume_id(1).0).last(), Some(&"volume disk-1: made, 1 GiB"));
    assert!(said.iter().flat_map(|line| &line.about).all(|subject| subject.generation.0 == 1));
    assert!(said.iter().zip(1..).all(|(line, n)| line.sequence == n));

    // A second VM on the same network and image: the first one, which is as it should be, hears nothing more.
    let mut both = manifest(1, &[Some(Wish::default()), Some(Wish::default())]);
    both.revision = 2;
    rig.settle(&both).await;
    let said = rig.said();
    assert!(about(&said, vm_id(1).0).is_empty(), "{said:#?}");
    let second = about(&said, vm_id(2).0);
    assert_eq!(second.last(), Some(&"started"), "{second:?}");
    assert!(!second.iter().any(|line| line.contains("image")), "it was there: {second:?}");
}

#[tokio::test]
async fn t1_a_guest_is_asked_then_forced_and_then_removed() {
    let mut rig = Rig::new();
    let first = one(1, |w| w.grace_seconds = 30);
    rig.settle(&first).await;
    rig.said();
    rig.host.with_world(|world| world.deaf.insert(vm_id(1)));
    rig.settle(&one(2, |w| (w.power, w.grace_seconds) = (Power::Stopped, 30))).await;
    let said = rig.said();
    assert_eq!(
        about(&said, vm_id(1).0),
        ["the guest was asked to shut down", "forced off"],
        "asked three times, said once"
    );
    assert!(said.iter().flat_map(|line| &line.about).all(|subject| subject.generation.0 == 2));
    rig.settle(&nothing(3, &first)).await;
    let said = rig.said();
    assert!(about(&said, vm_id(1).0).contains(&"definition removed"), "{said:#?}");
    assert_eq!(about(&said, volume_id(1).0), [format!("volume {}: removed", volume_id(1))]);
    assert!(said.iter().flat_map(|l| &l.about).any(|s| s.kind == ItemKind::Network), "{said:#?}");
}

#[tokio::test]
async fn t1_a_failure_is_said_once_with_its_reason_however_often_it_is_tried() {
    let mut rig = Rig::new();
    for _ in 0..6 {
        rig.host.inject_next(Resource::Volume(volume_id(1)), Fault::FailBefore);
    }
    rig.settle(&manifest(1, &[Some(Wish::default()), Some(Wish::default())])).await;
    let said = rig.said();
    let failures = |id: Uuid| {
        let lines = about(&said, id);
        lines.into_iter().filter(|line| line.contains("failed")).map(str::to_owned).collect::<Vec<_>>()
    };
    let of_vm = failures(vm_id(1).0);
    assert_eq!(of_vm.len(), 1, "{of_vm:#?}");
    assert!(of_vm[0].starts_with("volume disk-1: making the volume failed ("), "{of_vm:?}");
    assert!(of_vm[0].contains("it is tried again"), "{of_vm:?}");
    assert_eq!(failures(volume_id(1).0), of_vm);
    assert!(failures(vm_id(2).0).is_empty(), "it was none of the other's");
    // What is wanted anew is told anew.
    rig.host.inject_next(Resource::Vm(vm_id(1)), Fault::Refuse);
    rig.settle(&manifest(
        2,
        &[Some(Wish { power: Power::Paused, ..Wish::default() }), Some(Wish::default())],
    ))
    .await;
    let said = rig.said();
    let lines = about(&said, vm_id(1).0);
    assert!(lines.len() >= 2 && lines.last() == Some(&"paused"), "{lines:#?}");
}
