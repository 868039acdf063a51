//! Bad input: each case is a 4xx problem that names the field, the reason and the remedy, and
//! leaves nothing half-made behind.

use crate::door::{Door, small_vm};
use basalt_api::rows::Noun;
use basalt_model::{GIB, ProjectId, TenantId, hosts::BridgeFacts};
use serde_json::{Value, json};

/// One refused request: what is sent, and the status, code and field of the answer.
struct Case {
    about: &'static str,
    path: &'static str,
    body: Value,
    status: u16,
    code: &'static str,
    field: &'static str,
}

fn case(about: &'static str, path: &'static str, body: Value, status: u16, code: &'static str, field: &'static str) -> Case {
    Case { about, path, body, status, code, field }
}

/// A VM with one part of its spec replaced.
fn vm(pointer: &str, value: Value) -> Value {
    let mut body = small_vm("bad");
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[key] = value;
    body
}

fn vm_cases() -> Vec<Case> {
    let disk = |source: Value| json!([{"name": "root", "source": source}]);
    let blank = |bytes: u64| json!([{"name": "root", "source": {"kind": "blank"}, "size_bytes": bytes}]);
    vec![
        case("an unknown field", "vms", vm("/spec/xml", json!("<domain/>")), 422, "invalid_body", "spec.xml"),
        case("a server-owned field", "vms", vm("/generation", json!(7)), 422, "invalid_body", "generation"),
        case("a size with a unit", "vms", vm("/spec/memory_bytes", json!("256MiB")), 422, "invalid_body", "spec.memory_bytes"),
        case("a size in another unit", "vms", vm("/spec/memory_mib", json!(256)), 422, "invalid_body", "spec.memory_mib"),
        case("megabytes of 10^6", "vms", vm("/spec/memory_bytes", json!(256_000_000u64)), 422, "invalid_body", "spec.memory_bytes"),
        case("a number as text", "vms", vm("/spec/cpus", json!("2")), 422, "invalid_body", "spec.cpus"),
        case("no CPU", "vms", vm("/spec/cpus", json!(0)), 422, "invalid_body", "spec.cpus"),
        case("too many CPUs", "vms", vm("/spec/cpus", json!(100_000)), 422, "invalid_body", "spec.cpus"),
        case("no memory", "vms", vm("/spec/memory_bytes", json!(0)), 422, "invalid_body", "spec.memory_bytes"),
        case("absurd memory", "vms", vm("/spec/memory_bytes", json!(1u64 << 60)), 422, "invalid_body", "spec.memory_bytes"),
        case("a disk of nothing", "vms", vm("/spec/disks", blank(0)), 422, "invalid_body", "spec.disks[0].size_bytes"),
        case("no disk", "vms", vm("/spec/disks", json!([])), 422, "invalid_body", "spec.disks"),
        case("a blank disk without size", "vms", vm("/spec/disks", disk(json!({"kind": "blank"}))), 422, "invalid_body", "spec.disks[0].size_bytes"),
        case("a name that is no DNS label", "vms", vm("/name", json!("My_VM")), 422, "invalid_body", "name"),
        case("a name that is too long", "vms", vm("/name", json!("a".repeat(64))), 422, "invalid_body", "name"),
        case("a label that is none", "vms", vm("/labels", json!({"a b": "c"})), 422, "invalid_body", "labels.a b"),
        case("an unknown word", "vms", vm("/spec/power", json!("on")), 422, "invalid_body", "spec.power"),
        case("no SSH key", "vms", vm("/spec/cloud_init", json!({"ssh_authorized_keys": ["hello"]})), 422, "invalid_body", "spec.cloud_init.ssh_authorized_keys[0]"),
        case("an unknown image", "vms", vm("/spec/disks", disk(json!({"kind": "image", "image": "nope"}))), 422, "not_found", "spec.disks[0].source.image"),
        case("an image that is not ready", "vms", vm("/spec/disks", disk(json!({"kind": "image", "image": "awaited"}))), 422, "image_not_ready", "spec.disks[0].source.image"),
        case("a disc that is a disk", "vms", vm("/spec/disks", disk(json!({"kind": "iso", "image": "debian"}))), 422, "image_wrong_format", "spec.disks[0].source.image"),
        case("an unknown volume", "vms", vm("/spec/disks", disk(json!({"kind": "volume", "volume": "nope"}))), 422, "not_found", "spec.disks[0].source.volume"),
        case("an unknown network", "vms", vm("/spec/nics", json!([{"network": "nope"}])), 422, "not_found", "spec.nics[0].network"),
        case("an exhausted subnet", "vms", vm("/spec/nics", json!([{"network": "full"}])), 422, "subnet_exhausted", "spec.nics[0].network"),
        case("an address that is taken", "vms", vm("/spec/nics", json!([{"network": "lan", "address": "10.1.0.9"}])), 422, "address_taken", "spec.nics[0].address"),
        case("an address of another network", "vms", vm("/spec/nics", json!([{"network": "lan", "address": "10.9.0.9"}])), 422, "address_outside", "spec.nics[0].address"),
        case("the router's address", "vms", vm("/spec/nics", json!([{"network": "lan", "address": "10.1.0.1"}])), 422, "address_outside", "spec.nics[0].address"),
        case("more than any pool holds", "vms", vm("/spec/disks", blank(1000 * GIB)), 422, "impossible", "spec.disks"),
        case("more memory than any host has", "vms", vm("/spec/memory_bytes", json!(64 * GIB)), 422, "impossible", "spec.memory_bytes"),
        case("a pool that is not there", "vms", vm("/spec/disks", json!([{"name": "root", "source": {"kind": "blank"}, "size_bytes": 1 << 30, "pool": "fast"}])), 422, "impossible", "spec.disks"),
        case("a host that lacks the capability", "vms", vm("/spec/firmware", json!("uefi")), 422, "impossible", "spec.firmware"),
    ]
}

fn other_cases() -> Vec<Case> {
    let net = |cidr: &str| json!({"name": "n", "spec": {"cidr": cidr}});
    let volume = |bytes: u64| json!({"name": "v", "spec": {"size_bytes": bytes}});
    let image = |spec: Value| json!({"name": "i", "spec": spec});
    vec![
        case("an overlapping subnet", "networks", net("10.1.0.128/25"), 422, "cidr_overlap", "spec.cidr"),
        case("host bits", "networks", net("10.5.0.1/24"), 422, "invalid_body", "spec.cidr"),
        case("a prefix too short", "networks", net("10.0.0.0/7"), 422, "invalid_body", "spec.cidr"),
        case("no prefix", "networks", net("ten"), 422, "invalid_body", "spec.cidr"),
        case("an absurd MTU", "networks", json!({"name": "n", "spec": {"cidr": "10.5.0.0/24", "mtu": 60000}}), 422, "invalid_body", "spec.mtu"),
        case("a router outside", "networks", json!({"name": "n", "spec": {"cidr": "10.5.0.0/24", "gateway": "10.6.0.1"}}), 422, "invalid_body", "spec.gateway"),
        case("a name that is taken", "networks", json!({"name": "lan", "spec": {"cidr": "10.77.0.0/24"}}), 409, "name_taken", "name"),
        case("a volume of nothing", "volumes", volume(0), 422, "invalid_body", "spec.size_bytes"),
        case("a crooked size", "volumes", volume(1_000_000_001), 422, "invalid_body", "spec.size_bytes"),
        case("a volume of an image that is not ready", "volumes", json!({"name": "v", "spec": {"size_bytes": 1 << 30, "source": {"kind": "image", "image": "awaited"}}}), 422, "image_not_ready", "spec.source.image"),
        case("a volume smaller than its image", "volumes", json!({"name": "v", "spec": {"size_bytes": 1 << 20, "source": {"kind": "image", "image": "debian"}}}), 422, "size_too_small", "spec.size_bytes"),
        case("an image of nothing", "images", image(json!({"format": "raw", "size_bytes": 0})), 422, "invalid_body", "spec.size_bytes"),
        case("a digest that is none", "images", image(json!({"format": "raw", "size_bytes": 1, "sha256": "abc"})), 422, "invalid_body", "spec.sha256"),
        case("an unknown format", "images", image(json!({"format": "vmdk", "size_bytes": 1})), 422, "invalid_body", "spec.format"),
    ]
}

/// A project in which the cases are wrong for one reason each.
async fn world(door: &Door) -> (TenantId, ProjectId) {
    let project = door.project("acme").await;
    let post = |noun: &str, body: Value| door.admin("POST", &format!("/v1/projects/{}/{noun}", project.1)).json(body).send();
    door.image(project, "debian").await;
    post("images", json!({"name": "awaited", "spec": {"format": "raw", "size_bytes": 10}})).await.expect(202);
    post("networks", json!({"name": "lan", "spec": {"cidr": "10.1.0.0/24"}})).await.expect(202);
    post("networks", json!({"name": "full", "spec": {"cidr": "10.2.0.0/29"}})).await.expect(202);
    let mut taken = small_vm("taken");
    taken["spec"]["nics"] = json!([{"network": "lan", "address": "10.1.0.9"}, {"network": "full"}, {"network": "full"}, {"network": "full"}, {"network": "full"}]);
    post("vms", taken).await.expect(202);
    let mut facts = basalt_store::testkit::facts(8, 16 * GIB, 100 * GIB);
    facts.uefi = false;
    facts.bridges = vec![BridgeFacts { name: "br-int".into(), datapath: "netdev".into(), integration: true }];
    basalt_store::testkit::host(&door.db, &door.ids, "h1", facts).await;
    door.until("the host's pool", |rows| rows.all(Noun::Pool).len() == 1).await;
    project
}

/// Everything that a refused request could have left.
async fn traces(door: &Door, project: ProjectId) -> Value {
    let mut all = json!({});
    for noun in ["vms", "networks", "ports", "volumes", "images"] {
        let page = door.admin("GET", &format!("/v1/projects/{project}/{noun}")).send().await.expect(200);
        all[noun] = page.body["items"].clone();
    }
    all["tasks"] = door.admin("GET", "/v1/tasks?limit=500").send().await.expect(200).body["items"].clone();
    all["audit"] = door.admin("GET", "/v1/audit?limit=500").send().await.expect(200).body["items"].clone();
    all["quota"] = door.admin("GET", &format!("/v1/projects/{project}")).send().await.expect(200).body["quota"].clone();
    all
}

#[tokio::test]
async fn v1_bad_input_names_field_reason_and_remedy_and_leaves_nothing() {
    let door = Door::new().await;
    let project = world(&door).await.1;
    let before = traces(&door, project).await;
    let mut wrong = Vec::new();
    for case in vm_cases().into_iter().chain(other_cases()) {
        let path = format!("/v1/projects/{project}/{}", case.path);
        let answer = door.admin("POST", &path).json(case.body).send().await;
        let error = &answer.body["errors"][0];
        let said = (answer.status, answer.code(), error["field"].as_str().unwrap_or_default());
        let complete = ["reason", "remedy"].iter().all(|f| error[f].as_str().is_some_and(|t| !t.is_empty()));
        let form = answer.header("content-type") == "application/problem+json" && answer.body["request_id"] == answer.header("x-request-id");
        if said != (case.status, case.code, case.field) || !complete || !form {
            wrong.push(format!("{}: {:#}", case.about, answer.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(traces(&door, project).await, before);
}

#[tokio::test]
async fn v1_a_pinned_host_that_cannot_is_refused_with_all_reasons() {
    let door = Door::new().await;
    let project = world(&door).await.1;
    let mut body = vm("/spec/firmware", json!("uefi"));
    body["spec"]["placement"] = json!({"host": "h1"});
    body["spec"]["memory_bytes"] = json!(64 * GIB);
    body["spec"]["disks"][0]["size_bytes"] = json!(1000 * GIB);
    let refused = door.admin("POST", &format!("/v1/projects/{project}/vms")).json(body).send().await.expect(422);
    let text = refused.body["reasons"].to_string();
    assert_eq!(refused.code(), "impossible");
    for word in ["memory", "uefi", "pool"] {
        assert!(text.to_lowercase().contains(word), "{word}: {:#}", refused.body);
    }
    assert!(refused.body["reasons"].as_array().unwrap().iter().all(|r| r["remedy"].as_str().is_some_and(|t| !t.is_empty())));
}

#[tokio::test]
async fn v1_quota_is_refused_with_its_figures() {
    let door = Door::new().await;
    let project = world(&door).await.1;
    let quota = json!({"spec": {"max_vms": 1, "max_cpus": 10, "max_memory_bytes": GIB, "max_storage_bytes": 100 * GIB}});
    door.admin("PUT", &format!("/v1/projects/{project}")).json(quota).send().await.expect(200);
    let refused = door.admin("POST", &format!("/v1/projects/{project}/vms")).json(small_vm("two")).send().await.expect(409);
    let reason = &refused.body["reasons"][0];
    assert_eq!((refused.code(), &reason["subject"]), ("quota_exceeded", &json!("quota/vms")));
    assert_eq!(reason["evidence"], "limit 1, used 1, asked 1");
    assert!(!reason["remedy"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_body_is_refused_before_anything_is_read_from_it() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    for (text, code, status) in [("", "not_json", 400), ("{", "not_json", 400), ("[1", "not_json", 400), ("\"x\"", "invalid_body", 422), ("[]", "invalid_body", 422)] {
        let refused = door.admin("POST", &vms).text(text).send().await.expect(status);
        assert_eq!(refused.code(), code, "{text}");
    }
    let plain = door.admin("POST", &vms).header("content-type", "text/plain").send().await;
    assert_eq!((plain.status, plain.code()), (415, "unsupported_media_type"));
    let huge = format!("{{\"name\": \"{}\"}}", "a".repeat(2 << 20));
    assert_eq!(door.admin("POST", &vms).text(&huge).send().await.expect(413).code(), "too_large");
    assert_eq!(door.admin("PATCH", &vms).json(json!({})).send().await.expect(405).code(), "method_not_allowed");
    assert_eq!(door.admin("GET", "/v1/nothing").send().await.expect(404).code(), "no_route");
    let unknown = door.admin("GET", &format!("{vms}?colour=red")).send().await.expect(400);
    assert_eq!(unknown.body["errors"][0]["field"], "colour");
    let with_body = door.admin("POST", &format!("{vms}/a/start")).json(json!({"force": true})).send().await.expect(422);
    assert_eq!(with_body.body["errors"][0]["field"], "body");
}
