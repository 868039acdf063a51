//! H2: what a host can run is found by booting a guest.

use basalt_agent::host::{
    facts::accelerators::{all, disk, limit, probe, qemu_version},
    libvirt::Accelerator,
};
use std::time::Duration;

#[tokio::test]
async fn h2_an_accelerator_is_usable_only_if_a_guest_boots() {
    let dir = tempfile::tempdir().unwrap();
    let boots = disk(dir.path()).unwrap();
    let fact = probe(Accelerator::Tcg, &boots, limit(Accelerator::Tcg)).await;
    assert!(fact.usable, "{fact:?}");
    // The same machine and the same QEMU, but a disk that boots nothing.
    let empty = dir.path().join("empty.img");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let fact = probe(Accelerator::Tcg, &empty, Duration::from_secs(2)).await;
    assert!(!fact.usable && fact.evidence.contains("no guest boots"), "{fact:?}");
}

#[tokio::test]
async fn h2_every_accelerator_is_reported_with_evidence_and_the_result_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let version = qemu_version().await.unwrap();
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    let facts = all(dir.path(), "boot-1", &version).await.unwrap();
    let kinds: Vec<_> = facts.iter().map(|f| f.kind.as_str()).collect();
    assert_eq!(kinds, ["kvm", "tcg"]);
    assert!(facts.iter().all(|f| !f.evidence.is_empty()), "{facts:?}");
    let kept = std::fs::read_to_string(dir.path().join("accelerators.json")).unwrap();
    let changed = kept.replace("a guest booted", "a guest booted once");
    std::fs::write(dir.path().join("accelerators.json"), &changed).unwrap();
    assert!(all(dir.path(), "boot-1", &version).await.unwrap().iter().any(|f| f.evidence.ends_with("once")));
    // Another boot is probed anew.
    assert!(!all(dir.path(), "boot-2", &version).await.unwrap().iter().any(|f| f.evidence.ends_with("once")));
}
