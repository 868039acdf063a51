//! Whose a VM is: what is not ours is left alone, and can be adopted.

use super::project;
use crate::contract::{ready, workload};
use basalt_adapters::{Adapter, Applied, Removed};
use basalt_model::{Epoch, deployments::ErrorClass};

#[tokio::test]
async fn a_vm_that_has_the_name_and_no_owner_is_not_taken_over() {
    let project = project().await;
    let wanted = workload(&project, 1);
    project.basalt().deploy(&wanted).await.unwrap();
    project.change(&project.only(), |vm| vm.labels = Default::default());
    let error = project.basalt().deploy(&wanted).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Conflict, "other_owner"));
    assert_eq!(project.basalt().undeploy(&wanted.owner, Epoch(9)).await.unwrap(), Removed::Absent);
    assert_eq!(project.vms().len(), 1);
}

#[tokio::test]
async fn a_vm_is_adopted_by_labels_alone_and_made_anew_at_its_address_by_the_first_deploy() {
    let project = project().await;
    let theirs = workload(&project, 1);
    project.basalt().deploy(&theirs).await.unwrap();
    project.change(&project.only(), |vm| vm.labels = [("app", "db")].into_iter().collect());
    let before = project.only();
    let found = project.basalt().observe().await.unwrap().remove(0);

    let ours = workload(&project, 2);
    project.basalt().adopt(&found, &ours.owner, Epoch(1)).await.unwrap();
    let adopted = project.only();
    assert_eq!((adopted.id, &adopted.spec), (before.id, &before.spec));
    assert_eq!(adopted.labels.get("app"), Some("db"), "people's labels stay");
    project.basalt().adopt(&found, &ours.owner, Epoch(1)).await.unwrap();
    assert_eq!(project.only().generation, adopted.generation, "once is enough");
    let seen = project.seen(&ours.owner).await.unwrap();
    assert_eq!((seen.owner, seen.epoch, seen.fingerprint), (Some(ours.owner.id), Some(Epoch(1)), None));
    let error = project.basalt().adopt(&found, &theirs.owner, Epoch(5)).await.unwrap_err();
    assert_eq!(&*error.reason.code, "other_owner");

    assert_eq!(project.basalt().deploy(&ours).await.unwrap(), Applied::Changed);
    let seen = ready(&project, &ours.owner).await;
    assert_ne!(project.only().id, before.id);
    assert_eq!(project.only().name.as_str(), ours.owner.workload_name());
    assert!(seen.endpoints[0].url.contains(before.nics[0]["address"].as_str().unwrap()), "{seen:?}");
    project.basalt().undeploy(&ours.owner, Epoch(1)).await.unwrap();
    let error = project.basalt().adopt(&found, &ours.owner, Epoch(2)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Missing);
}

#[tokio::test]
async fn what_changed_since_it_was_looked_at_is_looked_at_again() {
    let project = project().await;
    let wanted = workload(&project, 1);
    project.basalt().deploy(&wanted).await.unwrap();
    project.change(&project.only(), |vm| vm.spec.power = basalt_model::vms::Power::Stopped);
    project.server.fail("PUT", 2, super::server::field(412, "generation_mismatch", "If-Match"));
    assert_eq!(project.basalt().deploy(&wanted).await.unwrap(), Applied::Changed);
    project.server.fail("DELETE", 2, super::server::field(412, "generation_mismatch", "If-Match"));
    assert_eq!(project.basalt().undeploy(&wanted.owner, Epoch(1)).await.unwrap(), Removed::Gone);
}
