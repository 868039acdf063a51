//! What another host must have so that a VM can come.

use super::{
    super::{
        Verdict, choose,
        tests::{host, name},
    },
    *,
};
use basalt_model::pools::PoolKind;
use std::sync::Arc;

fn ready(n: u128, change: impl FnOnce(&mut HostFacts)) -> HostView {
    let mut view = host(n);
    let mut facts = view.facts.as_deref().unwrap().clone();
    facts.migration_address = Some(format!("10.77.0.{n}:9446").parse().unwrap());
    facts.cpu_features = vec!["avx".into(), "sse".into()];
    facts.versions.qemu = "7.2.22".into();
    change(&mut facts);
    view.facts = Some(Arc::new(facts));
    view
}

fn on_first(pools: &[&str]) -> Request {
    let volume = |pool: &&str| VolumeRequest {
        name: name("root"),
        size_bytes: 1 << 30,
        pool: None,
        bound: Some((host(1).id, name(pool))),
    };
    Request {
        cpus: 1,
        memory_bytes: 1 << 28,
        volumes: pools.iter().map(volume).collect(),
        ..Request::default()
    }
}

fn codes(leaving: &Leaving, target: &HostView) -> Vec<String> {
    let decision = choose(&leaving.request, &Default::default(), [target]);
    let candidate = &decision.explanation.candidates[0];
    candidate.rejections.iter().map(|r| r.code.to_string()).collect()
}

fn share(facts: &mut HostFacts, id: u128) {
    let mut pool = facts.pools[0].clone();
    (pool.name, pool.kind, pool.shared_id) =
        (name("nfs"), PoolKind::SharedDirectory, Some(Uuid::from_u128(id)));
    facts.pools.push(pool);
}

#[test]
fn m2_r53_a_target_that_lacks_what_the_vm_needs_is_rejected_with_every_reason() {
    let source = ready(1, |f| f.accelerators[0].kind = "kvm".into());
    let live =
        Leaving::new(on_first(&["default"]), &source, (MigrationMode::Live, StallPolicy::Cancel), true)
            .unwrap();
    assert!(live.copies_storage);
    let kvm = |f: &mut HostFacts| f.accelerators[0].kind = "kvm".into();
    assert_eq!(codes(&live, &ready(2, kvm)), Vec::<String>::new());
    type Change = fn(&mut HostFacts);
    let moved = ready(2, |f| {
        kvm(f);
        f.pools[0].path = "/elsewhere".into();
    });
    assert_eq!(codes(&live, &moved), ["image_path_differs", "pool_path_differs"]);
    let cases: [(&str, Change); 4] = [
        ("cpu_features_missing", |f| f.cpu_features = vec!["sse".into()]),
        ("qemu_older", |f| f.versions.qemu = "6.0".into()),
        ("migration_unavailable", |f| f.migration_address = None),
        ("pool_missing", |f| f.pools[0].name = name("other")),
    ];
    for (code, change) in cases {
        let target = ready(2, |f| {
            kvm(f);
            change(f);
        });
        assert_eq!(codes(&live, &target), [code]);
        let reasons =
            rejections(live.request.departure.as_ref().unwrap(), &target, target.facts.as_deref().unwrap());
        assert!(reasons.iter().all(|r| !r.message.is_empty() && !r.remedy.is_empty()));
    }
    assert_eq!(codes(&live, &ready(2, |_| {})), ["accelerator_differs"]);
    // A guest that is off goes to any CPU and any QEMU.
    let cold =
        Leaving::new(on_first(&["default"]), &source, (MigrationMode::Cold, StallPolicy::Cancel), true)
            .unwrap();
    assert!(cold.copies_storage, "its volumes are sent");
    let other = ready(2, |f| (f.cpu_features, f.versions.qemu) = (vec![], "6.0".into()));
    assert_eq!(codes(&cold, &other), Vec::<String>::new());
    assert_eq!(codes(&live, &source), ["same_host"]);
}

#[test]
fn m2_shared_storage_is_not_sent_and_must_be_seen_by_the_target() {
    let source = ready(1, |f| share(f, 7));
    let leaving =
        Leaving::new(on_first(&["nfs"]), &source, (MigrationMode::Live, StallPolicy::Cancel), false).unwrap();
    assert!(!leaving.copies_storage);
    assert_eq!(codes(&leaving, &ready(2, |_| {})), ["shared_pool_missing"]);
    assert_eq!(codes(&leaving, &ready(2, |f| share(f, 8))), ["shared_pool_missing"]);
    let sees = ready(2, |f| {
        share(f, 7);
        f.pools[1].name = name("same");
    });
    let decision = choose(&leaving.request, &Default::default(), [&sees]);
    let Verdict::Fits { pools, .. } = decision.verdict else { panic!("{:?}", decision.verdict) };
    assert_eq!(leaving.pools(&pools, sees.facts.as_deref().unwrap()), [name("same")]);
    let mixed = Leaving::new(
        on_first(&["nfs", "default"]),
        &source,
        (MigrationMode::Live, StallPolicy::Cancel),
        false,
    )
    .unwrap_err();
    assert_eq!(mixed.code, "mixed_storage");
}

#[test]
fn m2_nothing_leaves_a_host_that_is_not_heard_of() {
    let mut source = ready(1, |_| {});
    source.state = HostState::Unreachable;
    let refused =
        Leaving::new(on_first(&[]), &source, (MigrationMode::Cold, StallPolicy::Cancel), false).unwrap_err();
    assert_eq!(refused.code, "host_unreachable");
    let deaf = ready(1, |f| f.migration_address = None);
    let refused =
        Leaving::new(on_first(&[]), &deaf, (MigrationMode::Cold, StallPolicy::Cancel), false).unwrap_err();
    assert_eq!(refused.code, "migration_unavailable");
}

#[test]
fn m2_versions_are_compared_as_numbers() {
    assert!(older("7.2.22", "10.0.2") && !older("10.0.2", "7.2.22") && !older("7.2", "7.2.9"));
    assert!(!older("", "7.2") && !older("unknown", "7.2"));
}

#[test]
fn m5_a_vm_of_a_dead_host_goes_where_the_same_storage_is_seen_and_asks_nothing_of_the_dead() {
    let mut dead = ready(1, |f| share(f, 7));
    dead.state = HostState::Unreachable;
    let leaving = Leaving::of_dead(on_first(&["nfs"]), &dead, false).unwrap();
    let sees = ready(2, |f| {
        share(f, 7);
        f.pools[1].name = name("other-name");
        (f.migration_address, f.versions.qemu) = (None, "1.0".into());
    });
    assert_eq!(codes(&leaving, &sees), Vec::<String>::new(), "it begins anew: no QEMU or CPU must be alike");
    assert_eq!(leaving.pools(&[], sees.facts.as_deref().unwrap()), [name("other-name")]);
    assert_eq!(codes(&leaving, &ready(3, |f| share(f, 8))), ["shared_pool_missing"]);
    assert!(codes(&leaving, &dead).contains(&"same_host".to_owned()));
    for pools in [&["default"][..], &["nfs", "default"]] {
        let refused = Leaving::of_dead(on_first(pools), &dead, false).unwrap_err();
        assert_eq!(refused.code.as_ref(), "ha_local_storage", "{pools:?}");
    }
}

#[test]
fn m2_post_copy_is_refused_where_a_host_cannot_before_anything_moves() {
    let how = (MigrationMode::Live, StallPolicy::PostCopy);
    let refused = Leaving::new(on_first(&["default"]), &ready(1, |_| {}), how, false).unwrap_err();
    assert_eq!((refused.code.as_ref(), refused.subject.as_str()), ("post_copy_unavailable", "host/h1"));
    let able = |f: &mut HostFacts| f.post_copy = true;
    let leaving = Leaving::new(on_first(&["default"]), &ready(1, able), how, false).unwrap();
    assert_eq!(codes(&leaving, &ready(2, |_| {})), ["post_copy_unavailable"]);
    assert_eq!(codes(&leaving, &ready(2, able)), Vec::<String>::new());
    // A guest that is off is not sent by post-copy, whatever the policy says.
    let cold = (MigrationMode::Cold, StallPolicy::PostCopy);
    Leaving::new(on_first(&["default"]), &ready(1, |_| {}), cold, false).unwrap();
}
