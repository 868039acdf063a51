//! VMs declared together: what each of them asked is written, and nobody pays for another one's mistake.

use crate::fixture::{House, small, spec};
use basalt_model::{Labels, vms::VmSpec};
use basalt_store::{
    Accepted, Error, Key, New,
    testkit::name,
    vms::{self, Vm},
};
use serde_json::json;
use sqlx::Executor;
use std::{collections::BTreeSet, sync::Arc};
use tokio::task::JoinSet;

/// As the API does it: together with others, and alone when something was refused.
async fn declare(h: &House, text: &str) -> Result<Accepted<Vm>, Error> {
    let new = New { name: name(text), labels: Labels::from_iter([("called", text)]), spec: small() };
    declared(h, new).await
}

async fn declared(h: &House, new: New<VmSpec>) -> Result<Accepted<Vm>, Error> {
    let made = vms::declare(&h.db.store, h.tenant, h.project, h.change(), new.clone()).await?;
    match made {
        Some(made) => Ok(made),
        None => h.try_vm(new.name.as_str(), new.spec).await,
    }
}

async fn at_once(
    h: &Arc<House>,
    names: impl IntoIterator<Item = String>,
) -> Vec<Result<Accepted<Vm>, Error>> {
    let mut all = JoinSet::new();
    for text in names {
        let h = h.clone();
        all.spawn(async move { declare(&h, &text).await });
    }
    all.join_all().await
}

async fn count(h: &House, what: &str) -> i64 {
    let mut admin = h.db.superuser().await;
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {what}")))
        .fetch_one(&mut admin)
        .await
        .unwrap()
}

#[tokio::test]
async fn vms_declared_together_are_each_what_they_would_be_alone() {
    let h = Arc::new(House::new().await);
    let alone = h.vm("alone").await.object;
    let made = at_once(&h, (0..60).map(|n| format!("vm-{n}"))).await;
    let made: Vec<Vm> = made.into_iter().map(|m| m.unwrap().object).collect();
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let mut addresses = BTreeSet::new();
    for vm in &made {
        let found = vms::get(&mut tx, h.project, &Key::from(vm.id())).await.unwrap();
        assert_eq!(&found.vm, vm);
        assert_eq!(vm.metadata.labels, Labels::from_iter([("called", vm.metadata.name.as_str())]));
        assert_eq!((vm.nics.len(), vm.disks.len()), (alone.nics.len(), alone.disks.len()));
        addresses.insert(vm.nics[0].address);
    }
    assert_eq!(addresses.len(), 60);
    drop(tx);
    for what in [
        "ports WHERE mac IS NOT NULL",
        "volumes WHERE owned AND image_id IS NOT NULL",
        "tasks WHERE kind = 'vm_create' AND subject_id IN (SELECT id FROM vms)",
        "audit_events WHERE action = 'vm.create' AND subject_id IN (SELECT id FROM vms)",
    ] {
        assert_eq!(count(&h, what).await, 61, "{what}");
    }
    let used = count(
        &h,
        "quotas WHERE used_vms = 61 AND used_cpus = 61 AND used_memory_bytes = 61 * (1::bigint << 30)",
    )
    .await;
    assert_eq!(used, 1);
    // It is the same transaction for many: each has its own line in the log of changes.
    let transactions = count(&h, "(SELECT DISTINCT xmin FROM vms) x").await;
    assert!(transactions < 40, "{transactions} transactions for 61 VMs");
}

#[tokio::test]
async fn one_that_is_refused_among_those_declared_together_harms_nobody() {
    let h = Arc::new(House::new().await);
    h.vm("taken").await;
    let names = (0..40).map(|n| if n % 5 == 0 { "taken".to_string() } else { format!("vm-{n}") });
    let made = at_once(&h, names).await;
    let refused: Vec<&Error> = made.iter().filter_map(|m| m.as_ref().err()).collect();
    assert_eq!(refused.len(), 8);
    assert!(refused.iter().all(|e| matches!(e, Error::NameTaken { kind: "vm", .. })), "{refused:?}");
    assert_eq!(count(&h, "vms").await, 33);
    let unknown = New {
        name: name("lost"),
        labels: Labels::default(),
        spec: spec(
            json!({"cpus": 1, "memory_bytes": 1u64 << 30, "nics": [{"network": "nowhere"}], "disks": []}),
        ),
    };
    let (lost, found) = tokio::join!(declared(&h, unknown), declare(&h, "found"));
    assert!(matches!(lost.unwrap_err(), Error::ReferenceNotFound { kind: "network", .. }));
    found.unwrap();
}

#[tokio::test]
async fn a_quota_is_filled_to_its_limit_by_those_declared_together() {
    let h = Arc::new(House::new().await);
    let mut admin = h.db.superuser().await;
    admin.execute("UPDATE quotas SET max_vms = 25").await.unwrap();
    let made = at_once(&h, (0..40).map(|n| format!("vm-{n}"))).await;
    assert_eq!(made.iter().filter(|m| m.is_ok()).count(), 25);
    let refused =
        |m: &Result<_, Error>| matches!(m, Err(Error::QuotaExceeded { resource: "vms", limit: 25, .. }));
    assert_eq!(made.iter().filter(|m| refused(m)).count(), 15);
    assert_eq!(count(&h, "vms").await, 25);
}

/// Who goes away before its turn is not declared; the others of its transaction are.
#[tokio::test]
async fn who_gives_up_while_declared_together_takes_nobody_along() {
    let h = Arc::new(House::new().await);
    let mut all = Vec::new();
    for n in 0..48 {
        let h = h.clone();
        all.push(tokio::spawn(async move { declare(&h, &format!("vm-{n}")).await }));
    }
    tokio::task::yield_now().await;
    let mut kept = 0;
    for (n, one) in all.into_iter().enumerate() {
        if n % 3 == 0 {
            one.abort();
        } else {
            one.await.unwrap().unwrap();
            kept += 1;
        }
    }
    // Some of those who went away may have been written already; whole, then.
    let there = count(&h, "vms").await;
    assert!((kept..=48).contains(&there), "{there}");
    assert_eq!(count(&h, "ports").await, there);
    assert_eq!(count(&h, "volumes").await, there);
    assert_eq!(count(&h, &format!("quotas WHERE used_vms = {there}")).await, 1);
}
