//! Mass assignment: no body of any route may carry a field that the platform keeps.

use crate::door::{Door, small_vm, system};
use basalt_api::{body::SERVER_OWNED, openapi};
use serde_json::{Value, json};

/// A body that a route accepts in shape. A route with a body that is not here fails the test.
fn sample(method: &str, path: &str) -> Value {
    let quota = json!({"max_vms": 1, "max_cpus": 1, "max_memory_bytes": 1, "max_storage_bytes": 1});
    match (method, path) {
        ("POST", "/v1/login") => json!({"user": "a", "password": "p"}),
        ("POST", "/v1/tenants") => json!({"name": "a", "spec": {}}),
        ("POST", "/v1/projects") => json!({"name": "a"}),
        ("PUT", "/v1/projects/{project}") => json!({"spec": quota}),
        ("POST", "/v1/projects/{project}/vms" | "/v1/projects/{project}/placement/explain") => small_vm("a"),
        ("PUT", "/v1/projects/{project}/vms/{vm}") => json!({"spec": small_vm("a")["spec"]}),
        ("POST", "/v1/projects/{project}/networks") => json!({"name": "a", "spec": {"cidr": "10.0.0.0/24"}}),
        ("PUT", "/v1/projects/{project}/networks/{network}") => json!({"spec": {"cidr": "10.0.0.0/24"}}),
        ("POST", "/v1/projects/{project}/security-groups") => json!({"name": "a", "spec": {}}),
        ("PUT", "/v1/projects/{project}/security-groups/{security_group}") => json!({"spec": {}}),
        ("POST", "/v1/projects/{project}/routers") => json!({"name": "a", "spec": {"networks": ["lan"]}}),
        ("PUT", "/v1/projects/{project}/routers/{router}") => json!({"spec": {"networks": ["lan"]}}),
        ("POST", "/v1/projects/{project}/volumes") => json!({"name": "a", "spec": {"size_bytes": 1048576}}),
        ("POST", "/v1/projects/{project}/images") => {
            json!({"name": "a", "spec": {"format": "raw", "size_bytes": 1}})
        }
        ("POST", "/v1/projects/{project}/agents" | "/v1/projects/{project}/servers") => {
            json!({"name": "a", "spec": {"source": {"type": "image", "image": "a"}}})
        }
        ("PUT", "/v1/projects/{project}/agents/{agent}" | "/v1/projects/{project}/servers/{server}") => {
            json!({"spec": {"source": {"type": "image", "image": "a"}}})
        }
        ("POST", "/v1/projects/{project}/providers") => json!({"name": "a", "spec": {"platform": "local"}}),
        ("PUT", "/v1/projects/{project}/providers/{provider}") => json!({"spec": {"platform": "local"}}),
        ("POST", "/v1/projects/{project}/secrets") => json!({"name": "a", "spec": {"value": "v"}}),
        ("PUT", "/v1/projects/{project}/secrets/{secret}") => json!({"spec": {"value": "v"}}),
        (
            "POST",
            "/v1/projects/{project}/deployments" | "/v1/projects/{project}/deployments/{deployment}/adopt",
        ) => {
            json!({"name": "a", "spec": {"target": {"kind": "agent", "name": "a"}, "provider": "p"}})
        }
        ("PUT", "/v1/projects/{project}/deployments/{deployment}") => {
            json!({"spec": {"target": {"kind": "agent", "name": "a"}, "provider": "p"}})
        }
        ("PUT", "/v1/tasks/{task}/dependencies") => json!({"depends_on": []}),
        ("POST", "/v1/hosts") => json!({"name": "a", "spec": {}}),
        ("PUT", "/v1/hosts/{host}") => json!({"spec": {}}),
        ("POST", "/v1/hosts/{host}/adopt") => {
            json!({"kind": "vm", "id": "handmade", "project": "main", "name": "a", "network": "lan"})
        }
        ("POST", "/v1/apply") => json!({"documents": []}),
        ("POST", "/v1/sim") => json!({"events": []}),
        ("POST", "/v1/unstick/{kind}/{id}") => json!({"way": "wait"}),
        ("POST", "/v1/hosts/{host}/drain") => json!({"concurrency": 1}),
        ("POST", "/v1/users") => json!({"name": "a", "password": "a long enough password"}),
        ("POST", "/v1/service-tokens") => {
            json!({"name": "a", "grants": [{"role": "viewer", "scope": system()}]})
        }
        ("POST", "/v1/role-bindings") => {
            json!({"principal_id": uuid::Uuid::nil(), "grant": {"role": "viewer", "scope": system()}})
        }
        ("POST", "/v1/projects/{project}/vms/{vm}/migrate") => json!({"host": "h2"}),
        _ => panic!("{method} {path} takes a body, and no sample of it stands here"),
    }
}

#[tokio::test]
async fn s8_every_server_owned_field_is_refused_in_every_body() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["requestBody"]["content"].get("application/json").is_none()
                || path.starts_with("/agent")
                || path.starts_with("/image")
            {
                continue;
            }
            let method = method.to_uppercase();
            let body = sample(&method, path);
            let mut url = path.replace("{project}", &project.1.to_string()).replace(['{', '}'], "");
            if path == "/v1/apply" {
                url.push_str(&format!("?project={}", project.1));
            }
            for (at, into) in [("", vec![]), ("spec.", vec!["spec"])] {
                if !into.iter().all(|k| body.get(k).is_some()) {
                    continue;
                }
                for field in SERVER_OWNED {
                    let target = into.iter().fold(&body, |b, k| &b[k]);
                    // A VM's spec has interfaces and placement rules of its own.
                    let allowed = target.get("disks").is_some() && ["nics", "placement"].contains(&field);
                    if target.get(field).is_some() || allowed {
                        continue;
                    }
                    let mut bad = body.clone();
                    into.iter().fold(&mut bad, |b, k| &mut b[*k])[field] = json!(1);
                    let answer = door.admin(&method, &url).json(bad).send().await.expect(422);
                    let error = &answer.body["errors"][0];
                    assert_eq!(
                        (&error["field"], &error["code"]),
                        (&json!(format!("{at}{field}")), &json!("server_owned")),
                        "{method} {path}"
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 500, "{tried}");
}
