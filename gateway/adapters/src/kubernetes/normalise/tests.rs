//! What recorded things come to.

use super::*;
use serde_json::json;

fn found(kind: &str, name: &str, owner: Option<u128>, raw: Value) -> Discovered {
    let owner = owner.map(|id| basalt_model::DeploymentId(uuid::Uuid::from_u128(id)));
    Discovered { kind: kind.into(), namespace: Some("tools".into()), name: name.into(), owner, raw }
}

/// A Deployment as it was recorded, with this in place of what is said.
fn deployment(changes: &[(&str, Value)]) -> Discovered {
    let mut raw = json!({
        "labels": { "basalt/project": "p", "basalt/kind": "server" },
        "annotations": { "basalt/epoch": "4", "basalt/generation": "2", "basalt/fingerprint": "f" },
        "spec": {
            "replicas": 2,
            "template": { "spec": { "containers": [{ "name": "side", "image": "s" }, { "name": "main", "image": "i:1" }] } },
        },
        "status": {
            "observed": true, "replicas": 2, "updated": 2, "ready": 2, "available": 2,
            "conditions": [{ "type": "Available", "status": "True", "reason": "MinimumReplicasAvailable" }],
        },
        "instances": [],
        "services": [{
            "name": "web", "labels": {}, "annotations": { "basalt/path": "/x" },
            "ports": [{ "port": 8080, "protocol": "TCP" }, { "port": 53, "protocol": "UDP" }],
        }],
    });
    for (path, value) in changes {
        *raw.pointer_mut(path).unwrap() = value.clone();
    }
    found("deployment", "web", Some(1), raw)
}

fn code(found: &Discovered) -> String {
    match normalise(std::slice::from_ref(found)).unwrap().readiness {
        Readiness::NotReady { reason } => reason.code.to_string(),
        Readiness::Ready => "ready".to_owned(),
        Readiness::Starting => "starting".to_owned(),
    }
}

#[test]
fn what_is_written_on_it_is_read() {
    let seen = normalise(&[deployment(&[])]).unwrap();
    assert_eq!(seen.project.as_deref(), Some("p"));
    assert_eq!((seen.epoch, seen.generation), (Some(Epoch(4)), Some(Generation(2))));
    assert_eq!((seen.fingerprint.as_deref(), seen.image.as_deref()), (Some("f"), Some("i:1")));
    assert_eq!(seen.kind, Some(ArtifactKind::Server));
    let url = "http://web.tools.svc:8080/x".to_owned();
    assert_eq!(seen.endpoints, [Endpoint { name: "mcp".into(), url }]);
    assert_eq!(seen.readiness, Readiness::Ready);
}

/// Ready is what the present template runs in full, and nothing else beside it.
#[test]
fn it_is_ready_only_when_all_of_the_present_one_is() {
    for (path, value) in [
        ("/status/observed", json!(false)),
        ("/status/updated", json!(1)),
        ("/status/available", json!(1)),
        ("/status/replicas", json!(3)),
    ] {
        assert_eq!(code(&deployment(&[(path, value)])), "starting", "{path}");
    }
    assert_eq!(code(&deployment(&[("/spec/replicas", json!(0))])), "scaled_to_zero");
}

#[test]
fn each_trouble_of_a_pod_has_its_reason() {
    let with = |instance: Value| {
        code(&deployment(&[
            ("/status/updated", json!(1)),
            ("/instances", json!([{ "name": "p" }, instance])),
        ]))
    };
    let trouble = |reason: &str| with(json!({ "name": "q", "trouble": { "reason": reason } }));
    assert_eq!(trouble("ImagePullBackOff"), "image_pull");
    assert_eq!(trouble("InvalidImageName"), "image_pull");
    assert_eq!(trouble("CrashLoopBackOff"), "crash_loop");
    assert_eq!(trouble("CreateContainerConfigError"), "config_missing");
    assert_eq!(trouble("SomethingNew"), "container_waiting");
    assert_eq!(with(json!({ "name": "q", "unscheduled": { "message": "0/3" } })), "unschedulable");
    let ended = |reason: &str| {
        with(json!({ "name": "q", "trouble": { "ended": { "reason": reason, "exit_code": 137 } } }))
    };
    assert_eq!(ended("OOMKilled"), "out_of_memory");
    assert_eq!(ended("Error"), "starting", "ended once is no trouble yet");
}

#[test]
fn what_the_cluster_says_of_the_whole_is_read() {
    let with = |condition: Value| {
        code(&deployment(&[("/status/available", json!(0)), ("/status/conditions", json!([condition]))]))
    };
    let failure =
        |message: &str| with(json!({ "type": "ReplicaFailure", "status": "True", "message": message }));
    assert_eq!(failure("exceeded quota: q"), "quota_exceeded");
    assert_eq!(failure("serviceaccount \"x\" not found"), "service_account_missing");
    assert_eq!(failure("violates PodSecurity"), "pods_refused");
    assert_eq!(
        with(json!({ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" })),
        "progress_deadline"
    );
}

/// Of two that say the same owner the newest speaks, and the other is a difference.
#[test]
fn a_second_one_of_the_same_owner_is_a_difference() {
    let mut old = deployment(&[("/annotations/basalt~1epoch", json!("3"))]);
    old.namespace = Some("more".into());
    let seen = normalise(&[old.clone(), deployment(&[])]).unwrap();
    assert_eq!(seen.epoch, Some(Epoch(4)));
    assert_eq!(seen.drift, ["deployment/more/web is there too"]);
    old.raw["going"] = true.into();
    assert_eq!(normalise(&[old, deployment(&[])]).unwrap().drift, Vec::<String>::new());
}

/// A Service that only stands before a foreign Deployment is no thing of its own.
#[test]
fn a_service_before_a_deployment_is_no_second_thing() {
    let service = |behind: Value, labels: Value| {
        let ports = json!([{ "port": 80, "protocol": "TCP", "appProtocol": "kgateway.dev/mcp" }]);
        let raw =
            json!({ "labels": labels, "annotations": {}, "spec": { "ports": ports }, "behind": behind });
        normalise(&[found("service", "s", None, raw)])
    };
    assert_eq!(service(json!(["web"]), json!({})), None);
    let alone = service(json!([]), json!({})).unwrap();
    assert_eq!((alone.kind, alone.readiness), (Some(ArtifactKind::Server), Readiness::Ready));
    assert_eq!(normalise(&[]), None);
    assert_eq!(normalise(&[found("configmap", "c", None, json!({}))]), None);
}
