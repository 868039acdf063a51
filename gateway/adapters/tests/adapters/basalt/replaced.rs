//! When a VM is written in place, when it is made anew, and what becomes of the old one.

use super::project;
use crate::contract::{changed, ready};
use basalt_adapters::{Adapter, Applied, Removed};
use basalt_model::{Epoch, deployments::ErrorClass, vms::Power};

#[tokio::test]
async fn what_somebody_stopped_is_started_in_place() {
    let project = project().await;
    let wanted = project.plain(1);
    project.basalt().deploy(&wanted).await.unwrap();
    let before = project.only();
    project.change(&before, |vm| {
        vm.spec.power = Power::Stopped;
        vm.phase = "stopped".to_owned();
    });
    let seen = project.seen(&wanted.owner).await.unwrap();
    assert_eq!(seen.drift, ["power: stopped instead of running"]);
    assert_eq!(project.basalt().deploy(&wanted).await.unwrap(), Applied::Changed);
    assert_eq!((project.only().id, project.only().spec.power), (before.id, Power::Running));
    assert_eq!(ready(&project, &wanted.owner).await.drift, Vec::<String>::new());
}

#[tokio::test]
async fn another_fingerprint_over_the_same_vm_is_written_in_place() {
    let project = project().await;
    let wanted = project.plain(1);
    project.basalt().deploy(&wanted).await.unwrap();
    let before = project.only();
    let mut next = wanted.clone();
    (next.fingerprint, next.epoch) = ("0123456789abcdef".repeat(4), Epoch(2));
    assert_eq!(project.basalt().deploy(&next).await.unwrap(), Applied::Changed);
    let seen = ready(&project, &wanted.owner).await;
    assert_eq!((seen.fingerprint, seen.epoch), (Some(next.fingerprint.clone()), Some(Epoch(2))));
    assert_eq!(project.only().id, before.id);
    assert_eq!(project.basalt().deploy(&next).await.unwrap(), Applied::Unchanged);
    assert_eq!(project.basalt().deploy(&wanted).await.unwrap_err().class, ErrorClass::Conflict);
}

#[tokio::test]
async fn another_size_by_somebody_is_drift_and_made_anew_at_the_same_address() {
    let project = project().await;
    let wanted = project.plain(1);
    project.basalt().deploy(&wanted).await.unwrap();
    let before = project.only();
    project.change(&before, |vm| vm.spec.cpus = 2);
    assert_eq!(project.seen(&wanted.owner).await.unwrap().drift, ["cpus: 2 instead of 1"]);
    assert_eq!(project.basalt().deploy(&wanted).await.unwrap(), Applied::Changed);
    let after = project.only();
    assert_ne!(after.id, before.id);
    assert_eq!((after.spec.cpus, &after.nics), (1, &before.nics));
}

#[tokio::test]
async fn the_old_one_goes_only_when_a_new_one_would_be_taken() {
    let project = project().await;
    let wanted = project.plain(1);
    project.basalt().deploy(&wanted).await.unwrap();
    let before = project.only();
    project.server.there().images.clear();
    let error = project.basalt().deploy(&changed(&wanted)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Missing);
    assert_eq!((project.only().id, project.server.asked("DELETE")), (before.id, 0));
    // What is full because of the old one has room without it.
    project.server.there().images.insert("runner", "ready");
    let full = super::server::reason(409, "quota_exceeded", "quota/cpus");
    project.server.fail("POST /v1/projects/agents/vms?dry_run", 1, full);
    project.basalt().deploy(&changed(&wanted)).await.unwrap();
    assert_ne!(project.only().id, before.id);
}

#[tokio::test]
async fn a_protected_vm_is_not_taken_away_and_it_is_said_what_would_help() {
    let project = project().await;
    let wanted = project.plain(1);
    project.basalt().deploy(&wanted).await.unwrap();
    project.change(&project.only(), |vm| vm.spec.protected = true);
    let error = project.basalt().undeploy(&wanted.owner, Epoch(1)).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Conflict, "protected"));
}

#[tokio::test]
async fn who_dies_after_any_step_leaves_what_the_next_attempt_ends() {
    let project = project().await;
    let wanted = project.plain(1);
    let next = changed(&wanted);
    // Before the deletion, after it, and before the new one is there.
    for step in ["DELETE", "GET /v1/projects/agents/vms/0", "POST /v1/projects/agents/vms"] {
        project.basalt().deploy(&wanted).await.unwrap();
        ready(&project, &wanted.owner).await;
        let skipped = usize::from(step.starts_with("POST"));
        if skipped == 1 {
            // The dry run is asked first.
            project.server.fail("POST /v1/projects/agents/vms?dry_run", 1, (200, serde_json::json!({})));
        }
        project.server.fail(step, 1, (500, serde_json::json!({})));
        project.basalt().deploy(&next).await.unwrap_err();
        project.basalt().deploy(&next).await.unwrap();
        let seen = ready(&project, &wanted.owner).await;
        assert_eq!((seen.fingerprint.as_deref(), project.vms().len()), (Some("f-2"), 1), "{step}");
        assert_eq!(project.basalt().undeploy(&wanted.owner, next.epoch).await.unwrap(), Removed::Gone);
        assert!(project.vms().is_empty());
    }
}
