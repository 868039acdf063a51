//! H5: what a host reports as foreign is taken over by one request, and every refusal says why and what would help.

use crate::door::{Answer, Door, in_project, system};
use basalt_api::rows::Noun;
use basalt_model::{
    GIB, ProjectId, TenantId,
    adoption::{ForeignDisk, ForeignMarks, ForeignNic, ForeignVm, ForeignVolume},
    hosts::Foreign,
    vms::{Firmware, ObservedPower},
};
use basalt_store::testkit::{self, name};
use serde_json::{Value, json};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0xf0_0001);

fn file(text: &str, users: &[&str]) -> ForeignVolume {
    ForeignVolume {
        pool: name("default"),
        file: text.into(),
        format: "qcow2".into(),
        size_bytes: 3 * GIB,
        volume_id: None,
        incarnation: 0,
        image_id: None,
        refers_to: None,
        users: users.iter().map(|u| (*u).to_owned()).collect(),
    }
}

fn stray(volume: ForeignVolume) -> Foreign {
    let name = format!("default/{}", volume.file);
    Foreign { kind: "volume".into(), name, volume: Some(volume), ..Foreign::default() }
}

fn machine(text: &str, id: Uuid, change: impl FnOnce(&mut ForeignVm)) -> Foreign {
    let disk = ForeignDisk {
        name: None,
        path: format!("/pools/default/volumes/{text}.qcow2"),
        format: "qcow2".into(),
        boot_order: None,
        volume: Some(file(&format!("{text}.qcow2"), &[text])),
        iso_image_id: None,
    };
    let mac = "52:54:00:aa:bb:cc".into();
    let nic = ForeignNic { mac, port_id: None, network_id: None, address: None };
    let mut vm = ForeignVm {
        power: ObservedPower::Running,
        cpus: 1,
        memory_bytes: GIB,
        firmware: Firmware::Bios,
        disks: vec![disk],
        nics: vec![nic],
        unsupported: Vec::new(),
        marks: None,
    };
    change(&mut vm);
    Foreign { kind: "vm".into(), name: text.into(), id: id.to_string(), vm: Some(vm), ..Foreign::default() }
}

struct House {
    door: Door,
    project: (TenantId, ProjectId),
}

impl House {
    /// A project with the network `lan`, and a host `h1` on which these stand.
    async fn with(foreign: Vec<Foreign>) -> Self {
        let door = Door::new().await;
        let project = door.project("acme").await;
        let lan = json!({"name": "lan", "spec": {"cidr": "10.1.0.0/24"}});
        let networks = format!("/v1/projects/{}/networks", project.1);
        door.admin("POST", &networks).json(lan).send().await.expect(202);
        let mut facts = testkit::facts(8, 16 * GIB, 100 * GIB);
        facts.foreign = foreign;
        testkit::host(&door.db, &door.ids, "h1", facts).await;
        Self { door, project }
    }

    fn body(&self, id: &str) -> Value {
        json!({"kind": "vm", "id": id, "project": self.project.1, "name": "web", "network": "lan"})
    }

    async fn adopt(&self, body: Value) -> Answer {
        self.door.admin("POST", "/v1/hosts/h1/adopt").json(body).send().await
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/projects/{}/{rest}", self.project.1)
    }

    async fn get(&self, rest: &str) -> Answer {
        self.door.admin("GET", &self.path(rest)).send().await
    }

    /// Nothing was declared by a request that was refused.
    async fn is_empty(&self) {
        for kind in ["vms", "volumes", "ports"] {
            let list = self.get(kind).await.expect(200);
            assert_eq!(list.body["items"].as_array().unwrap().len(), 0, "{kind}: {}", list.body);
        }
    }
}

#[tokio::test]
async fn h5_a_foreign_vm_is_declared_with_its_own_id_and_followed_by_a_task() {
    let house =
        House::with(vec![machine("handmade", ID, |_| {}), stray(file("handmade.qcow2", &["handmade"]))])
            .await;
    let dry = house.door.admin("POST", "/v1/hosts/h1/adopt?dry_run=true").json(house.body("handmade"));
    let dry = dry.send().await.expect(200);
    assert_eq!((&dry.body["object"]["id"], dry.body.get("task")), (&json!(ID), None));
    house.is_empty().await;

    let made = house.adopt(house.body("handmade")).await.expect(202);
    let vm = &made.body["object"];
    assert_eq!((&vm["id"], &vm["name"]), (&json!(ID), &json!("web")));
    assert_eq!((&vm["spec"]["power"], &vm["placement"]["host"]), (&json!("running"), &json!("h1")));
    assert_eq!(vm["nics"][0]["mac"], "52:54:00:aa:bb:cc");
    let task = &made.body["task"];
    assert_eq!((&task["kind"], &task["subject"]["id"]), (&json!("vm_adopt"), &json!(ID)));
    assert_eq!(made.header("location"), format!("/v1/tasks/{}", task["id"].as_str().unwrap()));
    let disk = house.get("volumes/web-root").await.expect(200);
    assert_eq!(disk.body["spec"]["source"], json!({"kind": "adopted", "file": "handmade.qcow2"}));
    let explained = house.get("vms/web/explain").await.expect(200);
    assert_eq!(explained.body["host"], "h1");
    // What is shown is what may be written.
    let update = json!({"spec": vm["spec"]});
    house.door.admin("PUT", &house.path("vms/web")).json(update).send().await.expect(202);
    // A second time it is ours, by name and by id.
    for id in ["handmade".to_owned(), ID.to_string()] {
        let again = house.adopt(house.body(&id)).await.expect(422);
        assert_eq!(
            (again.code(), &again.body["reasons"][0]["code"]),
            ("not_adoptable", &json!("already_ours"))
        );
    }
    // Taking the task back does not take the VM back: it would be destroyed.
    let cancelled = house.door.admin("POST", &format!("/v1/tasks/{}/cancel", task["id"].as_str().unwrap()));
    cancelled.send().await.expect(200);
    assert_eq!(
        house.get("vms/web").await.expect(200).body.get("deletion_requested_at"),
        None,
        "it is not deleted"
    );
}

#[tokio::test]
async fn h5_a_repeated_key_gets_the_first_answer() {
    let house = House::with(vec![machine("handmade", ID, |_| {})]).await;
    let send = || {
        let call = house.door.admin("POST", "/v1/hosts/h1/adopt").header("idempotency-key", "k1");
        call.json(house.body("handmade")).send()
    };
    let first = send().await.expect(202);
    let second = send().await.expect(202);
    assert_eq!(
        (first.body, first.headers["location"].clone()),
        (second.body, second.headers["location"].clone())
    );
}

#[tokio::test]
async fn h5_a_foreign_file_becomes_a_volume() {
    let house =
        House::with(vec![stray(file("data.qcow2", &[])), stray(file("busy.qcow2", &["payroll"]))]).await;
    let body = |id: &str| json!({"kind": "volume", "id": id, "project": house.project.1, "name": "data"});
    let made = house.adopt(body("default/data.qcow2")).await.expect(202);
    assert_eq!(made.body["object"]["spec"]["size_bytes"], 3 * GIB);
    assert_eq!(made.body["task"]["kind"], "volume_adopt");
    let busy = house.adopt(body("default/busy.qcow2")).await.expect(422);
    assert_eq!(busy.body["reasons"][0]["code"], "volume_in_use");
    assert!(busy.body["reasons"][0]["message"].as_str().unwrap().contains("payroll"));
    // Nobody declares such a volume in any other way.
    let direct =
        json!({"name": "x", "spec": {"size_bytes": 1 << 20, "source": {"kind": "adopted", "file": "y"}}});
    let direct = house.door.admin("POST", &house.path("volumes")).json(direct).send().await.expect(422);
    assert_eq!(direct.body["errors"][0]["field"], "spec.source");
    assert!(direct.body["errors"][0]["remedy"].as_str().unwrap().contains("adopt"));
}

/// What is sent, and the status, code and field of the answer.
type BadBody = (&'static str, fn(&mut Value), u16, &'static str, &'static str);

#[tokio::test]
async fn h5_s4_bad_input_names_field_reason_and_remedy() {
    let house = House::with(vec![machine("handmade", ID, |_| {})]).await;
    let cases: [BadBody; 11] = [
        ("no kind", |b| drop(b.as_object_mut().unwrap().remove("kind")), 422, "invalid_body", "kind"),
        ("an unknown kind", |b| b["kind"] = json!("port"), 422, "invalid_body", "kind"),
        ("an empty id", |b| b["id"] = json!(""), 422, "invalid_body", "id"),
        ("an id that is no text", |b| b["id"] = json!(7), 422, "invalid_body", "id"),
        ("a name that is none", |b| b["name"] = json!("My VM"), 422, "invalid_body", "name"),
        ("an unknown project", |b| b["project"] = json!("nope"), 422, "invalid_body", "project"),
        ("a field that is none", |b| b["host"] = json!("h1"), 422, "invalid_body", "host"),
        ("a size", |b| b["generation"] = json!(1), 422, "invalid_body", "generation"),
        ("a network of a volume", |b| b["kind"] = json!("volume"), 422, "invalid_body", "network"),
        ("an unknown network", |b| b["network"] = json!("nope"), 422, "not_adoptable", "network"),
        ("a thing that is not there", |b| b["id"] = json!("nope"), 422, "not_adoptable", "id"),
    ];
    for (about, change, status, code, field) in cases {
        let mut body = house.body("handmade");
        change(&mut body);
        let answer = house.adopt(body).await.expect(status);
        assert_eq!(answer.code(), code, "{about}: {:#}", answer.body);
        let error = &answer.body["errors"][0];
        assert_eq!(error["field"], field, "{about}: {:#}", answer.body);
        assert!(["reason", "remedy"].iter().all(|k| error[k].as_str().is_some_and(|t| !t.is_empty())));
    }
    let nowhere = house.door.admin("POST", "/v1/hosts/h9/adopt").json(house.body("handmade")).send().await;
    assert_eq!((nowhere.status, nowhere.code()), (404, "not_found"));
    house.is_empty().await;
}

#[tokio::test]
async fn h5_every_thing_that_cannot_be_adopted_is_refused_with_reason_and_remedy() {
    let marks = ForeignMarks { epoch: basalt_model::Epoch(1), incarnation: 0 };
    let id = |n: u128| Uuid::from_u128(0xf0_0100 + n);
    let things: Vec<(&str, Foreign)> = vec![
        ("device_unsupported", machine("a", id(1), |v| v.unsupported = vec!["a device hostdev".into()])),
        ("disk_outside_pools", machine("b", id(2), |v| v.disks[0].volume = None)),
        ("disk_format", machine("c", id(3), |v| v.disks[0].format = "raw".into())),
        ("uefi_variables", machine("d", id(4), |v| v.firmware = Firmware::Uefi)),
        ("power_unclear", machine("e", id(5), |v| v.power = ObservedPower::Stopping)),
        ("out_of_range", machine("f", id(6), |v| v.memory_bytes = 32 << 20)),
        ("on_two_hosts", machine("g", id(7), |v| v.marks = Some(marks))),
        ("not_described", Foreign { vm: None, ..machine("h", id(8), |_| {}) }),
    ];
    let house = House::with(things.iter().map(|t| t.1.clone()).collect()).await;
    let mut facts = testkit::facts(8, 16 * GIB, 100 * GIB);
    facts.foreign = vec![machine("g", id(7), |_| {})];
    testkit::host(&house.door.db, &house.door.ids, "h2", facts).await;
    for (code, thing) in &things {
        let refused = house.adopt(house.body(&thing.name)).await.expect(422);
        assert_eq!(refused.code(), "not_adoptable");
        let reasons = refused.body["reasons"].as_array().unwrap();
        assert_eq!(reasons[0]["code"], *code, "{:#}", refused.body);
        assert!(reasons.iter().all(|r| !r["remedy"].as_str().unwrap().is_empty()));
    }
    house.is_empty().await;
}

#[tokio::test]
async fn h5_names_quotas_and_full_hosts_are_kept() {
    let large = Uuid::from_u128(0xf0_0200);
    let house = House::with(vec![
        machine("handmade", ID, |_| {}),
        machine("large", large, |v| v.memory_bytes = 64 * GIB),
    ])
    .await;
    house.door.admin("POST", &house.path("vms")).json(crate::door::small_vm("web")).send().await.expect(202);
    let taken = house.adopt(house.body("handmade")).await.expect(409);
    assert_eq!((taken.code(), &taken.body["errors"][0]["field"]), ("name_taken", &json!("name")));
    let mut body = house.body("large");
    body["name"] = json!("large");
    let full = house.adopt(body).await.expect(409);
    assert_eq!((full.code(), &full.body["reasons"][0]["subject"]), ("host_full", &json!("host/h1")));
    assert!(!full.body["reasons"][0]["evidence"].as_str().unwrap().is_empty());
    let quota = json!({"spec": {"max_vms": 1, "max_cpus": 9, "max_memory_bytes": 1u64 << 40, "max_storage_bytes": 1u64 << 50}});
    house
        .door
        .admin("PUT", &format!("/v1/projects/{}", house.project.1))
        .json(quota)
        .send()
        .await
        .expect(200);
    let mut body = house.body("handmade");
    body["name"] = json!("other");
    let refused = house.adopt(body).await.expect(409);
    assert_eq!(
        (refused.code(), &refused.body["reasons"][0]["subject"]),
        ("quota_exceeded", &json!("quota/vms"))
    );
}

#[tokio::test]
async fn h5_s1_only_an_administrator_of_the_system_adopts() {
    let house = House::with(vec![machine("handmade", ID, |_| {})]).await;
    let door = &house.door;
    for (text, role, scope) in
        [("operator", "operator", system()), ("owner", "admin", in_project(house.project))]
    {
        let token = door.token(text, role, scope).await;
        let call = door.call("POST", "/v1/hosts/h1/adopt").token(&token).json(house.body("handmade"));
        call.send().await.expect(403);
    }
    door.call("POST", "/v1/hosts/h1/adopt").json(house.body("handmade")).send().await.expect(401);
    house.is_empty().await;
    door.until("the host", |rows| !rows.all(Noun::Host).is_empty()).await;
    let shown = door.admin("GET", "/v1/hosts/h1").send().await.expect(200);
    assert_eq!(shown.body["facts"]["foreign"][0]["vm"]["disks"][0]["volume"]["file"], "handmade.qcow2");
}
