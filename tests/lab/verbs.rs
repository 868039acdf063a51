//! Every power verb on a real guest; a foreign domain through all of it; and nothing left at the end.

use crate::cluster::{Cluster, until};
use basalt_lab::journey;
use basalt_wire::rest::{Host, Phase};
use serde_json::Value;
use std::time::Duration;

const FOREIGN: &str = "<domain type='qemu'><name>handmade</name><memory unit='MiB'>32</memory>\
    <os><type arch='x86_64'>hvm</type></os></domain>";

#[tokio::test(flavor = "multi_thread")]
async fn v2_h5_r36_verbs_do_what_they_say_and_foreign_domains_are_left_alone() {
    let (cluster, outcome) = Cluster::with_vm().await;
    let (id, host) = (outcome.vm.metadata.id, cluster.host());
    let xml = host.dir().join("lib-basalt").join("handmade.xml");
    std::fs::write(&xml, FOREIGN).unwrap();
    host.run(&["virsh", "define", "/var/lib/basalt/handmade.xml"]).unwrap();
    host.run(&["virsh", "start", "handmade"]).unwrap();
    until("the foreign domain is reported", Duration::from_secs(40), async || {
        let host: Host = cluster.client.get("/v1/hosts/h1").await.unwrap_or_else(|e| panic!("{}", e.text()));
        host.facts.is_some_and(|f| f.foreign.iter().any(|f| f.name == "handmade"))
    })
    .await;

    cluster.verb("pause").await;
    assert_eq!(cluster.domain_state(id), "paused");
    cluster.verb("resume").await;
    assert_eq!(cluster.domain_state(id), "running");
    cluster.verb("reset").await;
    cluster.verb("stop").await;
    assert_eq!((cluster.domain_state(id).as_str(), cluster.vm().await.phase), ("shut off", Phase::Stopped));
    cluster.verb("start").await;
    assert!(cluster.page(outcome.address, "/").await.contains("web-1"));
    cluster.verb("reboot").await;
    cluster.verb("redeploy").await;
    let vm = cluster.vm().await;
    assert_eq!(
        (vm.incarnation, vm.nics[0].address, vm.metadata.id),
        (1 + outcome.vm.incarnation, outcome.address, id)
    );
    assert!(cluster.page(outcome.address, "/").await.contains("web-1"));

    let path = format!("/v1/projects/{}/vms/{}", journey::PROJECT, journey::VM);
    let answer: Value = cluster.client.delete(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&answer).await;
    assert!(cluster.client.find::<Value>(&path).await.unwrap_or_else(|e| panic!("{}", e.text())).is_none());
    assert_eq!(cluster.domain_state(id), "none");
    let pool = host.dir().join("lib-basalt/pools/default");
    let left: Vec<_> = std::fs::read_dir(&pool).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|f| f.to_string_lossy().ends_with(".qcow2")), "{left:?}");

    assert_eq!(host.run(&["virsh", "domstate", "handmade"]).unwrap().trim(), "running");
}
