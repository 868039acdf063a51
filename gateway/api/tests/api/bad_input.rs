//! Bad input: each case is a 4xx problem that names the field, the reason and the remedy, and
//! leaves nothing half-made behind.

use crate::door::{Door, small_vm};
use basalt_api::rows::Noun;
use basalt_model::{Epoch, GIB, HostId, ProjectId, TenantId, hosts::BridgeFacts};
use basalt_store::{placements, testkit};
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

/// A VM with one part of it replaced.
fn vm(pointer: &str, value: Value) -> Value {
    let mut body = small_vm("bad");
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[key] = value;
    body
}

type VmRow = (&'static str, &'static str, Value, &'static str, &'static str);

fn vm_case((about, pointer, value, code, field): VmRow) -> Case {
    Case { about, path: "vms", body: vm(pointer, value), status: 422, code, field }
}

fn blank(bytes: u64) -> Value {
    json!([{"name": "root", "source": {"kind": "blank"}, "size_bytes": bytes}])
}

fn from(source: Value) -> Value {
    json!([{"name": "root", "source": source}])
}

/// VMs that are wrong in themselves: every one is an `invalid_body`.
fn vm_shapes() -> impl Iterator<Item = Case> {
    let keys = json!({"ssh_authorized_keys": ["hello"]});
    let key_field = "spec.cloud_init.ssh_authorized_keys[0]";
    let rows = [
        ("an unknown field", "/spec/xml", json!("<domain/>"), "spec.xml"),
        ("a server-owned field", "/generation", json!(7), "generation"),
        ("a size with a unit", "/spec/memory_bytes", json!("256MiB"), "spec.memory_bytes"),
        ("a size in another unit", "/spec/memory_mib", json!(256), "spec.memory_mib"),
        ("megabytes of 10^6", "/spec/memory_bytes", json!(256_000_000u64), "spec.memory_bytes"),
        ("a number as text", "/spec/cpus", json!("2"), "spec.cpus"),
        ("no CPU", "/spec/cpus", json!(0), "spec.cpus"),
        ("too many CPUs", "/spec/cpus", json!(100_000), "spec.cpus"),
        ("no memory", "/spec/memory_bytes", json!(0), "spec.memory_bytes"),
        ("absurd memory", "/spec/memory_bytes", json!(1u64 << 60), "spec.memory_bytes"),
        ("a disk of nothing", "/spec/disks", blank(0), "spec.disks[0].size_bytes"),
        ("no disk", "/spec/disks", json!([]), "spec.disks"),
        ("no size", "/spec/disks", from(json!({"kind": "blank"})), "spec.disks[0].size_bytes"),
        ("a name that is no DNS label", "/name", json!("My_VM"), "name"),
        ("a name that is too long", "/name", json!("a".repeat(64)), "name"),
        ("a label that is none", "/labels", json!({"a b": "c"}), "labels.a b"),
        ("an unknown word", "/spec/power", json!("on"), "spec.power"),
        ("no SSH key", "/spec/cloud_init", keys, key_field),
    ];
    rows.into_iter().map(|(about, at, value, field)| vm_case((about, at, value, "invalid_body", field)))
}

/// VMs that name what is not there or not free, or what no host has.
fn vm_references() -> impl Iterator<Item = Case> {
    let (image, nic) = ("spec.disks[0].source.image", "spec.nics[0].network");
    let (volume, address) = ("spec.disks[0].source.volume", "spec.nics[0].address");
    let of = |name: &str| from(json!({"kind": "image", "image": name}));
    let disc = from(json!({"kind": "iso", "image": "debian"}));
    let no_volume = from(json!({"kind": "volume", "volume": "nope"}));
    let on = |network: &str| json!([{"network": network}]);
    let at = |address: &str| json!([{"network": "lan", "address": address}]);
    let (disks, nics) = ("/spec/disks", "/spec/nics");
    let mut fast = blank(1 << 30);
    fast[0]["pool"] = json!("fast");
    let rows: [VmRow; 13] = [
        ("an unknown image", disks, of("nope"), "not_found", image),
        ("an image that is not ready", disks, of("awaited"), "image_not_ready", image),
        ("a disc that is a disk", disks, disc, "image_wrong_format", image),
        ("an unknown volume", disks, no_volume, "not_found", volume),
        ("an unknown network", nics, on("nope"), "not_found", nic),
        ("an exhausted subnet", nics, on("full"), "subnet_exhausted", nic),
        ("an address that is taken", nics, at("10.1.0.9"), "address_taken", address),
        ("an address of another network", nics, at("10.9.0.9"), "address_outside", address),
        ("the router's address", nics, at("10.1.0.1"), "address_outside", address),
        ("more than any pool holds", disks, blank(1000 * GIB), "impossible", "spec.disks"),
        (
            "more memory than any host",
            "/spec/memory_bytes",
            json!(64 * GIB),
            "impossible",
            "spec.memory_bytes",
        ),
        ("a pool that is not there", disks, fast, "impossible", "spec.disks"),
        ("a host that cannot", "/spec/firmware", json!("uefi"), "impossible", "spec.firmware"),
    ];
    rows.into_iter().map(vm_case)
}

fn networks() -> impl Iterator<Item = Case> {
    let net = |spec: Value| json!({"name": "n", "spec": spec});
    let mtu = net(json!({"cidr": "10.5.0.0/24", "mtu": 60000}));
    let router = net(json!({"cidr": "10.5.0.0/24", "gateway": "10.6.0.1"}));
    let taken = json!({"name": "lan", "spec": {"cidr": "10.77.0.0/24"}});
    let range = |cidr: &str| net(json!({"cidr": cidr}));
    let six = |prefix: &str| net(json!({"cidr": "10.5.0.0/24", "cidr6": prefix}));
    let vlan = |vlan_id: u32, uplink: &str| {
        net(json!({"cidr": "10.5.0.0/24", "segment": {"kind": "vlan", "vlan_id": vlan_id, "uplink": uplink}}))
    };
    let wide = net(json!({"cidr": "10.5.0.0/24", "mtu": 1451}));
    let rows = [
        ("a VLAN number that is none", vlan(4095, "br-ext"), 422, "invalid_body", "spec.segment.vlan_id"),
        ("an uplink that is no bridge's name", vlan(7, "br ext"), 422, "invalid_body", "spec.segment.uplink"),
        ("an MTU larger than the path", wide, 422, "invalid_body", "spec.mtu"),
        ("a prefix that is no /64", six("fd00::/48"), 422, "invalid_body", "spec.cidr6"),
        ("a link-local prefix", six("fe80::/64"), 422, "invalid_body", "spec.cidr6"),
        ("host bits of IPv6", six("fd00::1/64"), 422, "invalid_body", "spec.cidr6"),
        ("an overlapping subnet", range("10.1.0.128/25"), 422, "cidr_overlap", "spec.cidr"),
        ("host bits", range("10.5.0.1/24"), 422, "invalid_body", "spec.cidr"),
        ("a prefix too short", range("10.0.0.0/7"), 422, "invalid_body", "spec.cidr"),
        ("no prefix", range("ten"), 422, "invalid_body", "spec.cidr"),
        ("an absurd MTU", mtu, 422, "invalid_body", "spec.mtu"),
        ("a router outside", router, 422, "invalid_body", "spec.gateway"),
        ("a name that is taken", taken, 409, "name_taken", "name"),
    ];
    let case =
        |(about, body, status, code, field)| Case { about, path: "networks", body, status, code, field };
    rows.into_iter().map(case)
}

fn security_groups() -> impl Iterator<Item = Case> {
    let of = |more: Value| {
        let mut rule = json!({"direction": "ingress", "protocol": "tcp"});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": "g", "spec": {"rules": [rule]}})
    };
    let ports = |from: u32, to: u32| of(json!({"ports": {"from": from, "to": to}}));
    let icmp = of(json!({"protocol": "icmp", "ports": {"from": 1, "to": 2}}));
    let nobody = of(json!({"remote": {"security_group": "nope"}}));
    let at = "spec.rules[0]";
    let rows = [
        ("ports in reverse", ports(90, 80), "invalid_body", format!("{at}.ports")),
        ("a port of nothing", ports(0, 80), "invalid_body", format!("{at}.ports.from")),
        ("a port too high", ports(80, 65_536), "invalid_body", format!("{at}.ports.to")),
        ("ports of ICMP", icmp, "invalid_body", format!("{at}.ports")),
        ("a type of TCP", of(json!({"icmp_type": 8})), "invalid_body", format!("{at}.icmp_type")),
        (
            "host bits",
            of(json!({"remote": {"cidr": "10.0.0.1/8"}})),
            "invalid_body",
            format!("{at}.remote.cidr"),
        ),
        ("a group that is not there", nobody, "not_found", format!("{at}.remote.security_group")),
    ];
    rows.into_iter().map(|(about, body, code, field)| Case {
        about,
        path: "security-groups",
        body,
        status: 422,
        code,
        field: field.leak(),
    })
}

fn storage() -> impl Iterator<Item = Case> {
    let new = |spec: Value| json!({"name": "v", "spec": spec});
    let bytes = |n: u64| new(json!({"size_bytes": n}));
    let of = |image: &str, n: u64| new(json!({"size_bytes": n, "source": {"kind": "image", "image": image}}));
    let (empty, vmdk) =
        (json!({"format": "raw", "size_bytes": 0}), json!({"format": "vmdk", "size_bytes": 1}));
    let digest = json!({"format": "raw", "size_bytes": 1, "sha256": "abc"});
    let (size, source) = ("spec.size_bytes", "spec.source.image");
    let rows = [
        ("a volume of nothing", "volumes", bytes(0), "invalid_body", size),
        ("a crooked size", "volumes", bytes(1_000_000_001), "invalid_body", size),
        ("a volume of an awaited image", "volumes", of("awaited", 1 << 30), "image_not_ready", source),
        ("a volume smaller than its image", "volumes", of("debian", 1 << 20), "size_too_small", size),
        ("an image of nothing", "images", new(empty), "invalid_body", size),
        ("a digest that is none", "images", new(digest), "invalid_body", "spec.sha256"),
        ("an unknown format", "images", new(vmdk), "invalid_body", "spec.format"),
    ];
    rows.into_iter().map(|(about, path, body, code, field)| Case {
        about,
        path,
        body,
        status: 422,
        code,
        field,
    })
}

fn routers() -> impl Iterator<Item = Case> {
    let new = |spec: Value| json!({"name": "r", "spec": spec});
    let with = |key: &str, value: Value| {
        let mut spec = json!({"networks": ["lan"], "uplink": {"network": "wide"}});
        spec[key] = value;
        new(spec)
    };
    let bad = "invalid_body";
    let route = |to: &str, by: &str| with("routes", json!([{"destination": to, "next_hop": by}]));
    let forward = |vm: &str, port: u16| json!({"protocol": "tcp", "port": port, "vm": vm, "to_port": 80});
    let twice = with("port_forwards", json!([forward("taken", 80), forward("taken", 80)]));
    let full = new(json!({"networks": ["lan"], "uplink": {"network": "full"}}));
    let rows = [
        ("a router without an uplink", new(json!({"networks": ["lan"]})), bad, "spec.uplink"),
        ("a router without networks", with("networks", json!([])), bad, "spec.networks"),
        ("an uplink inside", with("networks", json!(["lan", "wide"])), bad, "spec.networks[1]"),
        ("an unknown network", with("networks", json!(["nope"])), "not_found", "spec.networks[0]"),
        ("a route to host bits", route("10.9.0.1/16", "10.1.0.7"), bad, "spec.routes[0].destination"),
        ("a next hop nowhere near", route("10.9.0.0/16", "10.9.0.1"), bad, "spec.routes[0].next_hop"),
        ("a port that is used twice", twice, bad, "spec.port_forwards[1].port"),
        ("port 0", with("port_forwards", json!([forward("taken", 0)])), bad, "spec.port_forwards[0].port"),
        (
            "an unknown VM",
            with("floating_ips", json!([{"vm": "nope"}])),
            "not_found",
            "spec.floating_ips[0].vm",
        ),
        ("an uplink without addresses", full, "subnet_exhausted", "spec.uplink.address"),
    ];
    rows.into_iter().map(|(about, body, code, field)| Case {
        about,
        path: "routers",
        body,
        status: 422,
        code,
        field,
    })
}

/// A project in which the cases are wrong for one reason each.
async fn world(door: &Door) -> (TenantId, ProjectId) {
    let project = door.project("acme").await;
    let post = |noun: &str, body: Value| {
        door.admin("POST", &format!("/v1/projects/{}/{noun}", project.1)).json(body).send()
    };
    door.image(project, "debian").await;
    post("images", json!({"name": "awaited", "spec": {"format": "raw", "size_bytes": 10}})).await.expect(202);
    post("networks", json!({"name": "lan", "spec": {"cidr": "10.1.0.0/24"}})).await.expect(202);
    post("networks", json!({"name": "wide", "spec": {"cidr": "10.3.0.0/24"}})).await.expect(202);
    post("networks", json!({"name": "full", "spec": {"cidr": "10.2.0.0/29"}})).await.expect(202);
    let mut taken = small_vm("taken");
    taken["spec"]["nics"] = json!([{"network": "lan", "address": "10.1.0.9"}, {"network": "full"}, {"network": "full"}, {"network": "full"}, {"network": "full"}]);
    post("vms", taken).await.expect(202);
    let mut facts = basalt_store::testkit::facts(8, 16 * GIB, 100 * GIB);
    facts.uefi = false;
    facts.tunnel_mtu = Some(1500);
    facts.bridges =
        vec![BridgeFacts { name: "br-int".into(), datapath: "netdev".into(), integration: true, mtu: None }];
    basalt_store::testkit::host(&door.db, &door.ids, "h1", facts).await;
    door.until("the host's pool", |rows| rows.all(Noun::Pool).len() == 1).await;
    project
}

/// Everything that a refused request could have left.
async fn traces(door: &Door, project: ProjectId) -> Value {
    let mut all = json!({});
    for noun in ["vms", "networks", "security-groups", "routers", "ports", "volumes", "images"] {
        let page = door.admin("GET", &format!("/v1/projects/{project}/{noun}")).send().await.expect(200);
        all[noun] = page.body["items"].clone();
    }
    all["tasks"] = door.admin("GET", "/v1/tasks?limit=500").send().await.expect(200).body["items"].clone();
    all["audit"] = door.admin("GET", "/v1/audit?limit=500").send().await.expect(200).body["items"].clone();
    all["quota"] =
        door.admin("GET", &format!("/v1/projects/{project}")).send().await.expect(200).body["quota"].clone();
    all
}

#[tokio::test]
async fn v1_bad_input_names_field_reason_and_remedy_and_leaves_nothing() {
    let door = Door::new().await;
    let project = world(&door).await.1;
    let before = traces(&door, project).await;
    let mut wrong = Vec::new();
    let wired = networks().chain(security_groups()).chain(routers());
    for case in vm_shapes().chain(vm_references()).chain(wired).chain(storage()) {
        let path = format!("/v1/projects/{project}/{}", case.path);
        let answer = door.admin("POST", &path).json(case.body).send().await;
        let error = &answer.body["errors"][0];
        let said = (answer.status, answer.code(), error["field"].as_str().unwrap_or_default());
        let complete = ["reason", "remedy"].iter().all(|f| error[f].as_str().is_some_and(|t| !t.is_empty()));
        let form = answer.header("content-type") == "application/problem+json"
            && answer.body["request_id"] == answer.header("x-request-id");
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
    let refused =
        door.admin("POST", &format!("/v1/projects/{project}/vms")).json(body).send().await.expect(422);
    let text = refused.body["reasons"].to_string();
    assert_eq!(refused.code(), "impossible");
    for word in ["memory", "uefi", "pool"] {
        assert!(text.to_lowercase().contains(word), "{word}: {:#}", refused.body);
    }
    assert!(
        refused.body["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["remedy"].as_str().is_some_and(|t| !t.is_empty()))
    );
}

/// Puts a VM on a host, as the reconciler does: its volume is promised in the pool `default`.
pub async fn place(door: &Door, made: &Value, host_id: HostId) {
    let volume = made["object"]["disks"][0]["volume_id"].as_str().unwrap().parse().unwrap();
    let place = placements::Place {
        vm_id: made["object"]["id"].as_str().unwrap().parse().unwrap(),
        generation: None,
        expected_epoch: Epoch(0),
        host_id,
        pools: vec![(volume, testkit::name("default"))],
        explanation: json!({}),
        now: testkit::now(),
    };
    let mut tx = door.db.store.system().await.unwrap();
    let placed = placements::place(&mut tx, &place).await.unwrap();
    assert!(matches!(placed, placements::Placed::Placed(_)), "{placed:?}");
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn v1_a_named_pool_without_room_is_refused_with_what_is_free_where() {
    let door = Door::new().await;
    let project = door.project("acme").await.1;
    let host = door.host("h1").await;
    door.until("the host's pool", |rows| rows.all(Noun::Pool).len() == 1).await;
    let (vms, volumes) = (format!("/v1/projects/{project}/vms"), format!("/v1/projects/{project}/volumes"));
    let disk = |name: &str, pool: Option<&str>| {
        let mut body = small_vm(name);
        body["spec"]["disks"][0]["size_bytes"] = json!(60 * GIB);
        if let Some(pool) = pool {
            body["spec"]["disks"][0]["pool"] = json!(pool);
        }
        body
    };
    let first = || door.admin("POST", &vms).header("idempotency-key", "k1").json(disk("a", Some("default")));
    let made = first().send().await.expect(202);
    place(&door, &made.body, host).await;
    door.until("the promise", |rows| {
        let pool = rows.all(Noun::Pool)[0];
        rows.object(Noun::Pool, pool.id).unwrap().json().unwrap()["claimed_bytes"] == json!(60 * GIB)
    })
    .await;

    let mut two = small_vm("b");
    let extra =
        json!({"name": "data", "source": {"kind": "blank"}, "size_bytes": 60 * GIB, "pool": "default"});
    two["spec"]["disks"].as_array_mut().unwrap().push(extra);
    let volume = json!({"name": "v", "spec": {"size_bytes": 60 * GIB, "pool": "default"}});
    for (path, body, field) in [
        (&vms, disk("b", Some("default")), "spec.disks[0].pool"),
        (&vms, two, "spec.disks[1].pool"),
        (&volumes, volume, "spec.pool"),
    ] {
        let refused = door.admin("POST", path).json(body).send().await.expect(422);
        let (error, reason) = (&refused.body["errors"][0], &refused.body["reasons"][0]);
        assert_eq!((refused.code(), &error["field"]), ("pool_full", &json!(field)), "{:#}", refused.body);
        let free = format!("free: {} bytes on h1", 40 * GIB);
        assert_eq!(reason["evidence"], json!(free));
        assert!(error["reason"].as_str().unwrap().contains(&free), "{error}");
        assert!(error["remedy"].as_str().unwrap().contains("leave the pool out"), "{error}");
    }
    for noun in [&vms, &volumes] {
        let kept = door.admin("GET", noun).send().await.expect(200);
        assert_eq!(kept.body["items"].as_array().unwrap().len(), 1, "only the first is there");
    }
    // Without a pool's name it waits for room; the first request again has its first answer; a taken name is told.
    door.admin("POST", &vms).json(disk("c", None)).send().await.expect(202);
    assert_eq!(first().send().await.expect(202).body, made.body);
    assert_eq!(
        door.admin("POST", &vms).json(disk("a", Some("default"))).send().await.expect(409).code(),
        "name_taken"
    );
}

#[tokio::test]
async fn v1_quota_is_refused_with_its_figures() {
    let door = Door::new().await;
    let project = world(&door).await.1;
    let quota = json!({"spec": {"max_vms": 1, "max_cpus": 10, "max_memory_bytes": GIB, "max_storage_bytes": 100 * GIB}});
    door.admin("PUT", &format!("/v1/projects/{project}")).json(quota).send().await.expect(200);
    let refused = door
        .admin("POST", &format!("/v1/projects/{project}/vms"))
        .json(small_vm("two"))
        .send()
        .await
        .expect(409);
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
    for (text, code, status) in [
        ("", "not_json", 400),
        ("{", "not_json", 400),
        ("[1", "not_json", 400),
        ("\"x\"", "invalid_body", 422),
        ("[]", "invalid_body", 422),
    ] {
        let refused = door.admin("POST", &vms).text(text).send().await.expect(status);
        assert_eq!(refused.code(), code, "{text}");
    }
    let plain = door.admin("POST", &vms).header("content-type", "text/plain").send().await;
    assert_eq!((plain.status, plain.code()), (415, "unsupported_media_type"));
    let huge = format!("{{\"name\": \"{}\"}}", "a".repeat(2 << 20));
    assert_eq!(door.admin("POST", &vms).text(&huge).send().await.expect(413).code(), "too_large");
    assert_eq!(
        door.admin("PATCH", &vms).json(json!({})).send().await.expect(405).code(),
        "method_not_allowed"
    );
    assert_eq!(door.admin("GET", "/v1/nothing").send().await.expect(404).code(), "no_route");
    let unknown = door.admin("GET", &format!("{vms}?colour=red")).send().await.expect(400);
    assert_eq!(unknown.body["errors"][0]["field"], "colour");
    let with_body =
        door.admin("POST", &format!("{vms}/a/start")).json(json!({"force": true})).send().await.expect(422);
    assert_eq!(with_body.body["errors"][0]["field"], "body");
}

#[tokio::test]
async fn pl3_rules_about_other_vms_are_checked_and_known_to_explain_before_a_vm_exists() {
    let door = Door::new().await;
    let project = door.project("acme").await.1;
    let host = door.host("h1").await;
    door.until("the host's pool", |rows| rows.all(Noun::Pool).len() == 1).await;
    let (vms, explain) =
        (format!("/v1/projects/{project}/vms"), format!("/v1/projects/{project}/placement/explain"));
    let with = |name: &str, rules: Value| {
        let mut body = small_vm(name);
        body["labels"] = json!({"app": "web"});
        body["spec"]["placement"] = rules;
        body
    };
    let apart = json!({"anti_affinity": [{"vm_labels": {"app": "web"}}]});
    let refused = door
        .admin("POST", &vms)
        .json(with("a", json!({"affinity": [{"vm_labels": {}}]})))
        .send()
        .await
        .expect(422);
    assert_eq!(refused.body["errors"][0]["field"], "spec.placement.affinity[0].vm_labels");
    assert!(refused.body["errors"][0]["remedy"].as_str().is_some_and(|t| !t.is_empty()));
    let free = door.admin("POST", &explain).json(with("b", apart.clone())).send().await.expect(200);
    assert_eq!(free.body["host"], "h1");
    let made = door.admin("POST", &vms).json(with("a", apart.clone())).send().await.expect(202);
    place(&door, &made.body, host).await;
    let id: uuid::Uuid = made.body["object"]["id"].as_str().unwrap().parse().unwrap();
    door.until("it is placed", |rows| {
        let shown = rows.object(Noun::Vm, id).and_then(|vm| vm.json().ok());
        shown.is_some_and(|vm| vm["placement"]["host"] == "h1")
    })
    .await;
    for (rules, why) in [(apart, "has the rule"), (json!({}), "is meant by the rule of the other")] {
        let told = door.admin("POST", &explain).json(with("b", rules)).send().await.expect(200);
        let rejection = &told.body["candidates"][0]["rejections"][0];
        assert_eq!(rejection["code"], "anti_affinity", "{why}: {}", told.body);
        assert!(rejection["evidence"].as_str().unwrap().starts_with("vm/a is placed there"), "{rejection}");
    }
    // A VM that must wait is taken in.
    door.admin("POST", &vms)
        .json(with("b", json!({"affinity": [{"vm_labels": {"app": "x"}}]})))
        .send()
        .await
        .expect(202);
}
