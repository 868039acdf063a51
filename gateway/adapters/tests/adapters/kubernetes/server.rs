//! The API server in the tree is held to what real ones do, so that what it lets pass means something.

use super::cluster;
use serde_json::{Value, json};

fn deployment(extra: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": {
            "selector": { "matchLabels": { "a": "b" } },
            "template": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "containers": [{ "name": "main", "image": "i:1", "env": [{ "name": "A", "value": "1" }] }] },
            },
        },
    });
    for (path, value) in extra.as_object().unwrap() {
        *object.pointer_mut(path).unwrap() = value.clone();
    }
    object
}

/// An equal apply is no change; a field that is dropped goes; a second manager is in the way until it forces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_owns_fields_and_merges_lists_by_key() {
    let cluster = cluster().await;
    let server = &cluster.server;
    server.stop_controllers(true);
    let apply = |config: Value, manager: &str, force: bool| {
        server.apply("deployments", "tools", "d", config, manager, force)
    };
    let first = apply(deployment(json!({})), "one", false).unwrap();
    assert_eq!(first["metadata"]["generation"], 1);
    let version = server.version();
    assert_eq!(apply(deployment(json!({})), "one", false).unwrap(), first);
    assert_eq!(server.version(), version, "nothing happened, nobody is told");
    let two = deployment(json!({ "/spec/template/spec/containers": [{ "name": "main", "image": "i:2" }] }));
    let refused = apply(two.clone(), "two", false).unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    let cause = &refused.causes[0];
    assert_eq!(cause["reason"], "FieldManagerConflict");
    assert_eq!(cause["message"], "conflict with \"one\"");
    assert_eq!(cause["field"], ".spec.template.spec.containers[name=\"main\"].image");
    let forced = apply(two, "two", true).unwrap();
    let main = &forced["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((main["image"].as_str(), main["env"][0]["name"].as_str()), (Some("i:2"), Some("A")));
    assert_eq!(forced["metadata"]["generation"], 2);
    let without =
        deployment(json!({ "/spec/template/spec/containers": [{ "name": "main", "image": "i:2" }] }));
    let dropped = apply(without, "one", false).unwrap();
    assert!(dropped["spec"]["template"]["spec"]["containers"][0]["env"].is_null(), "{dropped}");
}

/// Exactly what was looked at, or nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_may_be_bound_to_what_was_looked_at() {
    let cluster = cluster().await;
    let server = &cluster.server;
    server.stop_controllers(true);
    let made = server.apply("deployments", "tools", "d", deployment(json!({})), "one", false).unwrap();
    let mut late = deployment(json!({}));
    late["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    server.edit("deployments", "tools", "d", "kubectl", |d| d["spec"]["paused"] = true.into()).unwrap();
    let refused = server.apply("deployments", "tools", "d", late.clone(), "one", true).unwrap_err();
    assert_eq!(refused.code, 409);
    assert!(refused.message.contains("the object has been modified"), "{}", refused.message);
    server.delete("deployments", "tools", "d").unwrap();
    assert_eq!(server.apply("deployments", "tools", "d", late, "one", true).unwrap_err().code, 409);
}

/// What old servers refuse: ports without a protocol in an apply, another selector, names that are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_as_strict_as_an_old_server() {
    let cluster = cluster().await;
    let server = &cluster.server;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" }, "spec": { "ports": [{ "port": 80 }] },
    });
    let refused = server.apply("services", "tools", "s", service, "one", false).unwrap_err();
    assert!(refused.message.contains("omits key field \"protocol\""), "{}", refused.message);
    server.apply("deployments", "tools", "d", deployment(json!({})), "one", false).unwrap();
    let other = deployment(json!({
        "/spec/selector": { "matchLabels": { "a": "c" } }, "/spec/template/metadata/labels": { "a": "c" },
    }));
    let refused = server.apply("deployments", "tools", "d", other, "one", false).unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("field is immutable"), "{}", refused.message);
    let named = json!({ "metadata": { "name": "Not_A_Name" }, "data": {} });
    assert_eq!(server.create("configmaps", "tools", named, "one").unwrap_err().code, 422);
}

/// What holds a finalizer goes when it is let go; what has lost its owner goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_and_owners_take_along() {
    let cluster = cluster().await;
    let server = &cluster.server;
    let owner = json!({ "metadata": { "name": "o", "finalizers": ["x/y"] } });
    let owner = server.create("configmaps", "tools", owner, "one").unwrap();
    let owned = json!({ "metadata": { "name": "p", "ownerReferences": [
        { "apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": owner["metadata"]["uid"] }] } });
    server.create("configmaps", "tools", owned, "one").unwrap();
    server.delete("configmaps", "tools", "o").unwrap();
    assert!(!server.object("configmaps", "tools", "o").unwrap()["metadata"]["deletionTimestamp"].is_null());
    server.edit("configmaps", "tools", "o", "one", |o| o["metadata"]["finalizers"] = json!([])).unwrap();
    assert_eq!(server.object("configmaps", "tools", "o"), None);
    for _ in 0..200 {
        if server.object("configmaps", "tools", "p").is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it outlives its owner");
}
