//! N5: groups of networks, VMs, interfaces and rules: resolved by name, and kept while somebody uses them.

use crate::fixture::{House, small};
use basalt_model::{Labels, Name, SecurityGroupId, security_groups::SecurityGroupSpec, tasks::TaskState};
use basalt_store::{
    Accepted, Error, Key, New, Page, Update, networks,
    security_groups::{self, SecurityGroup},
    testkit::name,
    vms,
};
use serde_json::{Value, json};

fn group(rules: Value) -> SecurityGroupSpec {
    serde_json::from_value(json!({ "rules": rules })).unwrap()
}

fn friends_of(group: &str) -> Value {
    json!([{"direction": "ingress", "remote": {"security_group": group}}])
}

impl House {
    async fn group(&self, text: &str, rules: Value) -> Result<Accepted<SecurityGroup>, Error> {
        let new = New { name: name(text), labels: Labels::default(), spec: group(rules) };
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let made = security_groups::insert(&mut tx, &self.change(), self.project, &new).await?;
        tx.commit().await?;
        Ok(made)
    }

    async fn regroup(&self, text: &str, rules: Value) -> Result<SecurityGroup, Error> {
        let update = Update { expected: None, labels: None, spec: group(rules) };
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let key = Key::Name(name(text));
        let changed = security_groups::update(&mut tx, &self.change(), self.project, &key, &update).await?;
        tx.commit().await?;
        Ok(changed)
    }

    async fn drop_group(&self, text: &str) -> Result<Accepted<SecurityGroup>, Error> {
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let key = Key::Name(name(text));
        let gone = security_groups::delete(&mut tx, &self.change(), self.project, &key, None).await?;
        tx.commit().await?;
        Ok(gone)
    }

    async fn network_groups(&self, groups: &[&str]) -> Result<networks::Network, Error> {
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let key = Key::Name(name("net"));
        let mut spec = networks::get(&mut tx, self.project, &key).await?.network.spec;
        spec.security_groups = names(groups);
        let update = Update { expected: None, labels: None, spec };
        let changed = networks::update(&mut tx, &self.change(), self.project, &key, &update).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Changes the groups of a VM and of its one interface.
    async fn vm_groups(&self, vm: &str, of_vm: &[&str], of_nic: &[&str]) -> Result<vms::Vm, Error> {
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let key = Key::Name(name(vm));
        let mut spec = vms::get(&mut tx, self.project, &key).await?.vm.spec;
        spec.security_groups = names(of_vm);
        spec.nics[0].security_groups = names(of_nic);
        let update = Update { expected: None, labels: None, spec };
        let changed = vms::update(&mut tx, &self.change(), self.project, &key, &update).await?;
        tx.commit().await?;
        Ok(changed.object)
    }
}

fn names(all: &[&str]) -> Vec<Name> {
    all.iter().map(|n| name(n)).collect()
}

fn in_use(e: &Error) -> Vec<String> {
    match e {
        Error::InUse { kind: "security group", by, .. } => by.clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn n5_the_groups_of_network_vm_and_interface_are_those_of_the_port() {
    let h = House::new().await;
    let mut ids: Vec<SecurityGroupId> = Vec::new();
    for n in ["of-network", "of-vm", "of-nic", "other"] {
        ids.push(h.group(n, json!([])).await.unwrap().object.id());
    }
    let mut wanted = small();
    wanted.security_groups = names(&["of-vm"]);
    wanted.nics[0].security_groups = names(&["of-nic", "of-vm"]);
    let vm = h.try_vm("web", wanted).await.unwrap().object;
    let nic = &vm.nics[0];
    assert_eq!(nic.security_groups, [ids[1], ids[2]], "each once, in order");
    let network = h.network_groups(&["of-network"]).await.unwrap();
    assert_eq!(network.security_groups, [ids[0]]);
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let of_port = security_groups::of_port(&mut tx, h.project, nic.port_id).await.unwrap();
    assert_eq!(of_port.unwrap(), ids[..3]);
    let there = security_groups::of_address(&mut tx, h.project, nic.address.into()).await.unwrap();
    assert_eq!(there.into_iter().collect::<Vec<_>>(), ids[..3]);
    let nobody = "10.10.9.9".parse().unwrap();
    assert!(security_groups::of_address(&mut tx, h.project, nobody).await.unwrap().is_empty());
    let listed = networks::ports(&mut tx, h.project, None, &Page::default()).await.unwrap().items;
    assert_eq!(listed[0].nic, *nic, "the list of ports shows them too");
    drop(tx);
    // Groups change while everything else of the interfaces stays.
    let changed = h.vm_groups("web", &[], &["other"]).await.unwrap();
    assert_eq!(changed.nics[0].security_groups, [ids[3]]);
    assert_eq!((changed.nics[0].port_id, &changed.nics[0].mac), (nic.port_id, &nic.mac));
    assert_eq!(changed.metadata.generation.0, 2);
    let again = h.vm_groups("web", &[], &["other"]).await.unwrap();
    assert_eq!(again.metadata.generation.0, 2, "what changes nothing moves no generation");
}

#[tokio::test]
async fn n5_a_name_that_is_no_group_is_refused_where_it_stands() {
    let h = House::new().await;
    let field = |e: Error| match e {
        Error::ReferenceNotFound { kind: "security group", field, .. } => field,
        other => panic!("{other}"),
    };
    let mut wanted = small();
    wanted.security_groups = names(&["nope"]);
    assert_eq!(field(h.try_vm("a", wanted).await.unwrap_err()), "spec.security_groups[0]");
    let mut wanted = small();
    wanted.nics[0].security_groups = names(&["nope"]);
    assert_eq!(field(h.try_vm("a", wanted).await.unwrap_err()), "spec.nics[0].security_groups[0]");
    h.vm("b").await;
    assert_eq!(field(h.vm_groups("b", &["nope"], &[]).await.unwrap_err()), "spec.security_groups[0]");
    assert_eq!(field(h.network_groups(&["nope"]).await.unwrap_err()), "spec.security_groups[0]");
    let rules = friends_of("nope");
    assert_eq!(field(h.group("c", rules).await.unwrap_err()), "spec.rules[0].remote.security_group");
    h.group("c", json!([])).await.unwrap();
    let rules = json!([{"direction": "egress"}, friends_of("nope")[0]]);
    assert_eq!(field(h.regroup("c", rules).await.unwrap_err()), "spec.rules[1].remote.security_group");
}

#[tokio::test]
async fn n5_a_group_in_use_stays_and_says_by_whom_and_goes_at_once_without() {
    let h = House::new().await;
    let made = h.group("web", json!([])).await.unwrap();
    assert_eq!((made.task.state, made.object.metadata.generation.0), (TaskState::Completed, 1));
    let mut wanted = small();
    wanted.security_groups = names(&["web"]);
    h.try_vm("vm-1", wanted).await.unwrap();
    assert_eq!(in_use(&h.drop_group("web").await.unwrap_err()), ["vm/vm-1"]);
    h.vm_groups("vm-1", &[], &["web"]).await.unwrap();
    assert_eq!(in_use(&h.drop_group("web").await.unwrap_err()), ["vm/vm-1"]);
    h.vm_groups("vm-1", &[], &[]).await.unwrap();
    h.network_groups(&["web"]).await.unwrap();
    assert_eq!(in_use(&h.drop_group("web").await.unwrap_err()), ["network/net"]);
    h.network_groups(&[]).await.unwrap();
    h.group("friends", friends_of("web")).await.unwrap();
    assert_eq!(in_use(&h.drop_group("web").await.unwrap_err()), ["security_group/friends"]);
    h.regroup("friends", json!([])).await.unwrap();
    // Its own rules do not keep it.
    let own = h.regroup("web", friends_of("web")).await.unwrap();
    assert_eq!(own.named, [(name("web"), own.id())].into());
    let gone = h.drop_group("web").await.unwrap();
    assert_eq!(gone.task.state, TaskState::Completed);
    assert!(matches!(h.drop_group("web").await.unwrap_err(), Error::NotFound { .. }));
    let selfish = h.group("web", friends_of("web")).await.unwrap().object;
    assert_eq!(selfish.named, [(name("web"), selfish.id())].into());
    let taken = h.group("web", json!([])).await.unwrap_err();
    assert!(matches!(taken, Error::NameTaken { kind: "security group", .. }), "{taken}");
}

#[tokio::test]
async fn n5_of_a_group_that_goes_and_one_who_begins_to_use_it_one_wins() {
    let h = House::new().await;
    for round in 0..12 {
        let group = format!("g-{round}");
        h.group(&group, json!([])).await.unwrap();
        let mut wanted = small();
        wanted.security_groups = names(&[&group]);
        let vm = format!("vm-{round}");
        let (used, gone) = tokio::join!(h.try_vm(&vm, wanted), h.drop_group(&group));
        match (&used, &gone) {
            (Ok(_), Err(Error::InUse { .. })) => {}
            (Err(Error::ReferenceNotFound { .. } | Error::Conflict(_)), Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
