//! R30, R31: hosts that hear nothing, are not heard, or both, and what becomes of their guests.

use crate::cluster::{Cluster, until};
use basalt_lab::{host::Host, journey, netns::SWITCH_ADDRESS};
use basalt_model::{hosts::HostState, vms::ObservedPower};
use basalt_wire::rest::{self, Phase, Vm};
use serde_json::{Value, json};
use std::time::Duration;

/// How a host is cut off from the gateway.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Its cables are out.
    BothWays,
    /// What the gateway sends does not arrive.
    ToHost,
    /// What the host sends does not arrive.
    ToGateway,
}

impl Cut {
    fn set(self, cluster: &Cluster, host: &Host, cut: bool) {
        let (verb, switch) = (if cut { "add" } else { "del" }, cluster.lab.switch().netns());
        let hole = |address: String| [verb.to_owned(), "blackhole".to_owned(), address];
        match self {
            Self::BothWays => host.set_links(!cut).unwrap(),
            Self::ToHost => {
                let route = hole(format!("{}/32", host.address()));
                switch.ip(&[&["route"][..], &route.each_ref().map(String::as_str)].concat()).unwrap();
            }
            Self::ToGateway => {
                let route = hole(format!("{SWITCH_ADDRESS}/32"));
                host.run(&[&["ip", "route"][..], &route.each_ref().map(String::as_str)].concat()).unwrap();
            }
        }
    }
}

async fn vm(cluster: &Cluster, project: &str, host: &str) -> Vm {
    let path = format!("{project}/vms/vm-{host}");
    cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()))
}

async fn is_host(cluster: &Cluster, name: &str, state: HostState) -> bool {
    let path = format!("/v1/hosts/{name}");
    let host: rest::Host = cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
    host.state == state
}

/// The seconds-long sample of what `1 s..1 h` says: long enough that the host counts as unreachable.
#[tokio::test(flavor = "multi_thread")]
async fn r30_r31_cut_off_hosts_keep_their_guests_and_take_up_what_changed_when_they_are_back() {
    let cuts = [("h1", Cut::BothWays), ("h2", Cut::ToHost), ("h3", Cut::ToGateway)];
    let cluster = Cluster::with_hosts(&cuts.map(|(host, _)| host)).await;
    let project = cluster.project("demo").await;
    let mut guests = Vec::new();
    for (host, cut) in cuts {
        let body = json!({"name": format!("vm-{host}"), "spec": {"cpus": 1, "memory_bytes": 134_217_728u64,
            "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
            "placement": {"host": host}, "stop_grace_seconds": 2}});
        let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
        cluster.follow(&made).await;
        let there = cluster.lab.host(host).unwrap();
        let qemu = there.pids_of("qemu-system-x86");
        assert_eq!(qemu.len(), 1, "{host}");
        guests.push((there, cut, qemu));
    }
    for (host, cut, _) in &guests {
        cut.set(&cluster, host, true);
    }
    let mut asked = Vec::new();
    for (host, cut, qemu) in &guests {
        let name = host.name();
        until(&format!("{name} is unreachable ({cut:?})"), Duration::from_secs(60), async || {
            is_host(&cluster, name, HostState::Unreachable).await
        })
        .await;
        until(
            &format!("nobody knows of {name}'s guest now ({cut:?})"),
            Duration::from_secs(10),
            async || vm(&cluster, &project, name).await.phase == Phase::Unknown,
        )
        .await;
        let verb = format!("{project}/vms/vm-{name}/pause");
        let answer: Value = cluster.client.call(&verb).await.unwrap_or_else(|e| panic!("{}", e.text()));
        asked.push(answer);
        assert_eq!(host.pids_of("qemu-system-x86"), *qemu, "the guest goes on ({cut:?})");
    }
    for (host, cut, _) in &guests {
        cut.set(&cluster, host, false);
    }
    for ((host, cut, qemu), answer) in guests.iter().zip(&asked) {
        let name = host.name();
        cluster.follow(answer).await;
        until(&format!("{name} is back ({cut:?})"), Duration::from_secs(30), async || {
            is_host(&cluster, name, HostState::Ready).await
        })
        .await;
        let seen = vm(&cluster, &project, name).await;
        assert_eq!(seen.observed.power, ObservedPower::Paused, "{cut:?}");
        assert_eq!(host.pids_of("qemu-system-x86"), *qemu, "the same guest, once ({cut:?})");
    }
}
