//! What the guest itself sees, and what the host says of how it runs; and the README, on the same cluster.

use crate::{cluster::Cluster, readme};
use basalt_lab::journey;
use basalt_wire::rest::Host;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn v1_v5_h2_the_lines_of_the_readme_work_and_a_declared_vm_boots_with_its_seed() {
    let (cluster, outcome) = Cluster::with_vm().await;
    assert!(outcome.answer.contains("web-1"), "{}", outcome.answer);
    readme::every_line_works(&cluster).await;

    // H2: a KVM that boots nothing is told apart from one that does, by booting a probe.
    let host: Host = cluster.client.get("/v1/hosts/h1").await.unwrap_or_else(|e| panic!("{}", e.text()));
    let facts = host.facts.unwrap();
    let tcg = facts.accelerators.iter().find(|a| a.kind == "tcg").unwrap();
    let kvm = facts.accelerators.iter().find(|a| a.kind == "kvm").unwrap();
    assert!(tcg.usable && !tcg.evidence.is_empty() && !kvm.evidence.is_empty(), "{:?}", facts.accelerators);
    let best = if kvm.usable { "kvm" } else { "tcg" };
    assert_eq!(outcome.vm.observed.accelerator.as_deref(), Some(best));
    assert!(facts.memory_bytes > 0 && facts.threads > 0 && !facts.versions.qemu.is_empty());

    // V5: user-data and keys reach the guest byte for byte.
    let user_data = "#cloud-config\nruncmd:\n  - echo seeded > /www/seeded\n";
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvmC6WQzGHLZ9YJ6Vb1b0b1b0b1b0b1b0b1b0b1b0b1 me@example";
    let body = json!({"name": "seeded", "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
        "nics": [{"network": journey::NETWORK}], "stop_grace_seconds": 2,
        "cloud_init": {"user_data": user_data, "ssh_authorized_keys": [key]}}});
    let vms = format!("/v1/projects/{}/vms", journey::PROJECT);
    let answer: Value = cluster.client.post(&vms, &body).await.unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&answer).await;
    let address = answer["object"]["nics"][0]["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(cluster.page(address, "/seeded").await.trim(), "seeded");
    assert_eq!(cluster.page(address, "/user-data").await, user_data);
    assert!(cluster.page(address, "/meta-data").await.contains(key));

    // QEMU runs as its own user.
    let pids = cluster.host().pids_of("qemu-system-x86");
    assert_eq!(pids.len(), 2);
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid =
            status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap().split_whitespace().next().unwrap();
        assert_ne!(uid, "0", "QEMU runs as root");
    }
}
