//! Who may do what, for every route, and what a stranger can learn.

use crate::door::{Answer, Door, in_project, small_vm, system};
use basalt_api::authorization::{RULES, Rule, ScopeSource, Who};
use basalt_model::{ProjectId, TenantId, roles::Role};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

/// A tenant with one object of every noun, and callers of every kind.
struct World {
    door: Door,
    project: (TenantId, ProjectId),
    other: (TenantId, ProjectId),
    ids: BTreeMap<&'static str, String>,
    tokens: BTreeMap<&'static str, String>,
}

impl World {
    async fn new() -> Self {
        let door = Door::new().await;
        let (project, other) = (door.project("acme").await, door.project("rival").await);
        let mut ids = BTreeMap::from([("project", project.1.to_string()), ("tenant", project.0.to_string())]);
        let base = format!("/v1/projects/{}", project.1);
        let post = |path: &str, body: Value| door.admin("POST", &format!("{base}/{path}")).json(body).send();
        post("networks", json!({"name": "net", "spec": {"cidr": "10.0.0.0/24"}})).await.expect(202);
        post("volumes", json!({"name": "vol", "spec": {"size_bytes": 1048576}})).await.expect(202);
        post("images", json!({"name": "img", "spec": {"format": "raw", "size_bytes": 1}})).await.expect(202);
        let mut vm = small_vm("vm");
        vm["spec"]["nics"] = json!([{"network": "net"}]);
        let made = post("vms", vm).await.expect(202);
        ids.insert("task", made.body["task"]["id"].as_str().unwrap().to_owned());
        ids.insert("kind", "vm".into());
        ids.insert("id", made.body["object"]["id"].as_str().unwrap().to_owned());
        let ports = door.admin("GET", &format!("{base}/ports")).send().await.expect(200);
        ids.insert("port", ports.body["items"][0]["port_id"].as_str().unwrap().to_owned());
        for (name, value) in
            [("network", "net"), ("volume", "vol"), ("image", "img"), ("vm", "vm"), ("host", "h1")]
        {
            ids.insert(name, value.into());
        }
        door.host("h1").await;
        let pools = door.admin("GET", "/v1/pools").send().await.expect(200);
        ids.insert("pool", pools.body["items"][0]["id"].as_str().unwrap().to_owned());
        let user = json!({"name": "someone", "password": "a long enough password"});
        door.admin("POST", "/v1/users").json(user).send().await.expect(201);
        ids.insert("user", "someone".into());
        let mut tokens = BTreeMap::new();
        for role in ["viewer", "operator", "admin"] {
            tokens.insert(
                word("project", role),
                door.token(&format!("p-{role}"), role, in_project(project)).await,
            );
            tokens.insert(word("system", role), door.token(&format!("s-{role}"), role, system()).await);
        }
        let tenant = json!({"kind": "tenant", "tenant_id": project.0});
        tokens.insert("tenant admin", door.token("t-admin", "admin", tenant).await);
        tokens.insert(
            "stranger",
            door.token("x-admin", "admin", json!({"kind": "tenant", "tenant_id": other.0})).await,
        );
        let bindings = door.admin("GET", "/v1/role-bindings").send().await.expect(200);
        ids.insert("binding", bindings.body["items"][0]["id"].as_str().unwrap().to_owned());
        ids.insert("token", basalt_model::ServiceTokenId(uuid::Uuid::from_u128(5)).to_string());
        Self { door, project, other, ids, tokens }
    }

    fn path(&self, rule: &Rule) -> String {
        self.ids
            .iter()
            .fold(rule.path.to_owned(), |path, (name, id)| path.replace(&format!("{{{name}}}"), id))
    }

    /// A request of a route. The body of writes is refused after the check of rights, so nothing is
    /// changed; where the body says what the rights are about, it is a whole one.
    async fn ask(&self, rule: &Rule, token: Option<&str>) -> Answer {
        let mut path = self.path(rule);
        if rule.path == "/debug/graph" {
            path.push_str("?about=counters");
        }
        if rule.path == "/v1/apply" {
            path.push_str(&format!("?project={}", self.project.1));
        }
        let mut call = self.door.call(rule.method, &path);
        if let Some(token) = token {
            call = call.token(token);
        }
        let scope = json!({"kind": "tenant", "tenant_id": self.project.0});
        let body = match (rule.method, rule.path) {
            ("GET", _) => None,
            // What the rights are about is looked up by the handler; nothing is deleted that holds something.
            ("DELETE", "/v1/projects/{project}")
            | (_, "/v1/tasks/{task}/cancel" | "/v1/tasks/{task}/retry") => None,
            (_, "/v1/unstick/{kind}/{id}") => Some(json!({"way": "wait"})),
            (_, "/v1/apply") => Some(json!({"documents": []})),
            (_, "/v1/tasks/{task}/dependencies") => Some(json!({"depends_on": []})),
            (_, "/v1/projects") => Some(json!({"name": "main", "tenant": self.project.0})),
            ("PUT", "/v1/projects/{project}") => Some(
                json!({"spec": {"max_vms": 0, "max_cpus": 0, "max_memory_bytes": 0, "max_storage_bytes": 0}}),
            ),
            (_, "/v1/service-tokens") => {
                Some(json!({"name": "t", "grants": [{"role": "viewer", "scope": scope}]}))
            }
            (_, "/v1/role-bindings") => {
                Some(json!({"principal_id": uuid::Uuid::nil(), "grant": {"role": "viewer", "scope": scope}}))
            }
            _ => Some(json!({"no_such_field": 1})),
        };
        match body {
            Some(body) => call.json(body).send().await,
            None if rule.path == "/v1/watch" => {
                let open = call.open().await;
                Answer { status: open.status().as_u16(), headers: open.headers().clone(), body: Value::Null }
            }
            None => call.send().await,
        }
    }
}

fn word(scope: &str, role: &str) -> &'static str {
    match (scope, role) {
        ("project", "viewer") => "project viewer",
        ("project", "operator") => "project operator",
        ("project", _) => "project admin",
        (_, "viewer") => "system viewer",
        (_, "operator") => "system operator",
        _ => "system admin",
    }
}

/// What a caller must be told: nothing about rights (`None`), or one of these statuses.
fn expected(rule: &Rule, caller: &str) -> Option<u16> {
    let Who::Role(need, scope) = rule.who else { return None };
    let role = match caller.rsplit(' ').next() {
        Some("viewer") => Role::Viewer,
        Some("operator") => Role::Operator,
        _ => Role::Admin,
    };
    let of_system = caller.starts_with("system");
    match scope {
        ScopeSource::Rows => None,
        ScopeSource::System if of_system && role >= need => None,
        ScopeSource::System => Some(403),
        ScopeSource::Project | ScopeSource::Handler if caller == "stranger" => Some(404),
        ScopeSource::Project => (role < need).then_some(403),
        ScopeSource::Handler => handler(rule, caller, role, need),
    }
}

/// Routes whose handler demands the right, each with where.
fn handler(rule: &Rule, caller: &str, role: Role, need: Role) -> Option<u16> {
    let in_project = caller.starts_with("project");
    match rule.path {
        "/v1/tasks/{task}" | "/v1/tasks/{task}/logs" | "/v1/tasks/{task}/cancel" => {
            (role < need).then_some(403)
        }
        // Of the tenant: one who has a role in a project of it only is told there is none.
        "/v1/projects" | "/v1/tenants/{tenant}" | "/v1/service-tokens" | "/v1/role-bindings"
            if in_project =>
        {
            Some(404)
        }
        "/v1/projects/{project}" if in_project => Some(403),
        _ => (role < need).then_some(403),
    }
}

#[tokio::test]
async fn s1_every_route_for_every_caller() {
    let world = World::new().await;
    let expired = world.tokens["system admin"].replace("basalt_", "basalt_x");
    for rule in RULES {
        match rule.who {
            Who::Anyone | Who::Agent | Who::ImageService | Who::JoinToken => continue,
            Who::Caller | Who::Role(..) => {}
        }
        let at = format!("{} {}", rule.method, rule.path);
        assert_eq!(world.ask(rule, None).await.status, 401, "{at} without a credential");
        assert_eq!(world.ask(rule, Some(&expired)).await.status, 401, "{at} with an unknown token");
        if rule.path == "/v1/logout" {
            continue;
        }
        for (caller, token) in &world.tokens {
            let answer = world.ask(rule, Some(token)).await;
            match expected(rule, caller) {
                Some(status) => assert_eq!(answer.status, status, "{at} by {caller}: {:#}", answer.body),
                None => assert!(![401, 403].contains(&answer.status), "{at} by {caller}: {:#}", answer.body),
            }
        }
    }
}

#[tokio::test]
async fn s1_expired_tokens_are_refused_to_the_second() {
    let door = Door::new().await;
    door.admin("GET", "/v1/whoami").send().await.expect(200);
    door.clock.advance(chrono::TimeDelta::days(30) - chrono::TimeDelta::seconds(1));
    door.admin("GET", "/v1/whoami").send().await.expect(200);
    door.clock.advance(chrono::TimeDelta::seconds(1));
    assert_eq!(door.admin("GET", "/v1/whoami").send().await.expect(401).code(), "unauthenticated");
}

#[tokio::test]
async fn s1_the_agents_routes_take_no_users_token() {
    let door = Door::new().await;
    for rule in RULES.iter().filter(|r| matches!(r.who, Who::Agent | Who::ImageService)) {
        let path = rule.path.replace("{image}", &uuid::Uuid::nil().to_string());
        let answer = door.agent_call(rule.method, &path).token(&door.admin).json(json!({})).send().await;
        assert_eq!(answer.status, 401, "{} {}", rule.method, rule.path);
        assert_eq!(
            door.admin(rule.method, &path).send().await.status,
            404,
            "{path} stands at the agents' door only"
        );
    }
}

/// What a stranger sees, without what names the request and what the caller wrote themselves.
fn seen(answer: &Answer, wrote: &[&str]) -> String {
    let mut body = answer.body.clone();
    if let Some(map) = body.as_object_mut() {
        map.remove("request_id");
    }
    wrote.iter().fold(format!("{} {body}", answer.status), |text, w| text.replace(w, "…"))
}

#[tokio::test]
async fn s2_what_belongs_to_others_and_what_is_not_there_look_the_same() {
    let world = World::new().await;
    let (stranger, nowhere) = (&world.tokens["stranger"], uuid::Uuid::now_v7().to_string());
    for rule in RULES.iter().filter(|r| {
        r.method == "GET"
            && (r.path.contains("{project}") || r.path.contains("{task}") || r.path.contains("{tenant}"))
    }) {
        let theirs = world.path(rule);
        let container = ["task", "tenant", "project"]
            .into_iter()
            .find(|c| rule.path.contains(&format!("{{{c}}}")))
            .unwrap();
        let id = &world.ids[container];
        let nothing = theirs.replace(id, &nowhere);
        let a = world.door.call("GET", &theirs).token(stranger).send().await;
        let b = world.door.call("GET", &nothing).token(stranger).send().await;
        assert_eq!(a.status, 404, "{theirs}");
        assert_eq!(seen(&a, &[id]), seen(&b, &[&nowhere]), "{}", rule.path);
    }
    // Inside one's own project: an id of another tenant's object is as unknown as any.
    let vm =
        world.door.admin("GET", &format!("/v1/projects/{}/vms/vm", world.project.1)).send().await.expect(200);
    let id = vm.body["id"].as_str().unwrap();
    let own = format!("/v1/projects/{}/vms", world.other.1);
    let a = world.door.call("GET", &format!("{own}/{id}")).token(stranger).send().await.expect(404);
    let b = world.door.call("GET", &format!("{own}/{nowhere}")).token(stranger).send().await.expect(404);
    assert_eq!(seen(&a, &[id]), seen(&b, &[&nowhere]));
}

#[tokio::test]
async fn s2_and_take_the_same_time() {
    let world = World::new().await;
    let stranger = &world.tokens["stranger"];
    let median = async |path: &str| {
        let mut times = Vec::new();
        for _ in 0..41 {
            let begun = Instant::now();
            world.door.call("GET", path).token(stranger).send().await.expect(404);
            times.push(begun.elapsed());
        }
        times.sort();
        times[20]
    };
    let theirs = median(&format!("/v1/projects/{}/vms/vm", world.project.1)).await;
    let nothing = median(&format!("/v1/projects/{}/vms/vm", uuid::Uuid::now_v7())).await;
    let task = median(&format!("/v1/tasks/{}", world.ids["task"])).await;
    let no_task = median(&format!("/v1/tasks/{}", uuid::Uuid::now_v7())).await;
    for (a, b) in [(theirs, nothing), (task, no_task)] {
        assert!(a.abs_diff(b).as_millis() < 5, "{a:?} against {b:?}");
    }
}

#[tokio::test]
async fn s3_lists_show_a_stranger_nothing_of_others() {
    let world = World::new().await;
    let stranger = &world.tokens["stranger"];
    let rows = async |path: &str, token: &str| {
        let page = world.door.call("GET", path).token(token).send().await.expect(200);
        page.body["items"].as_array().unwrap().len()
    };
    assert_eq!(rows("/v1/tasks", stranger).await, 0);
    assert!(rows("/v1/tasks", &world.tokens["project viewer"]).await >= 1);
    for (caller, sees) in [("stranger", false), ("project viewer", true), ("system viewer", true)] {
        let audit = world
            .door
            .call("GET", "/v1/audit?limit=500")
            .token(&world.tokens[caller])
            .send()
            .await
            .expect(200);
        let all = audit.body["items"].as_array().unwrap();
        assert_eq!(all.iter().any(|e| e["action"] == "vm.create"), sees, "{caller}");
    }
    assert_eq!(rows("/v1/projects", stranger).await, 1);
    assert_eq!(rows("/v1/tenants", stranger).await, 1);
    assert_eq!(rows("/v1/tenants", &world.tokens["project viewer"]).await, 0);
    world
        .door
        .call("GET", &format!("/v1/tasks?project={}", world.project.1))
        .token(stranger)
        .send()
        .await
        .expect(404);
    world
        .door
        .call("GET", &format!("/v1/watch?project={}", world.project.1))
        .token(stranger)
        .send()
        .await
        .expect(404);
}
