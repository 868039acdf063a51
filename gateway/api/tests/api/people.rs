//! Users, tokens and roles.

use crate::door::{Door, in_project, system};
use serde_json::json;

#[tokio::test]
async fn a_user_does_what_their_roles_say_and_no_more() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let user = json!({"name": "bob", "password": "a long enough password"});
    let made = door.admin("POST", "/v1/users").json(user).send().await.expect(201);
    let login = json!({"user": "bob", "password": "a long enough password"});
    let session = door.call("POST", "/v1/login").json(login).send().await.expect(200);
    let bob = session.body["token"].as_str().unwrap();
    let vms = format!("/v1/projects/{}/vms", project.1);
    door.call("GET", &vms).token(bob).send().await.expect(404);
    let grant =
        json!({"principal_id": made.body["id"], "grant": {"role": "viewer", "scope": in_project(project)}});
    let binding = door.admin("POST", "/v1/role-bindings").json(grant).send().await.expect(201);
    door.call("GET", &vms).token(bob).send().await.expect(200);
    door.call("POST", &vms).token(bob).json(crate::door::small_vm("a")).send().await.expect(403);
    door.admin("DELETE", &format!("/v1/role-bindings/{}", binding.body["id"].as_str().unwrap()))
        .send()
        .await
        .expect(204);
    door.call("GET", &vms).token(bob).send().await.expect(404);
    door.admin("DELETE", "/v1/users/bob").send().await.expect(204);
    door.call("GET", "/v1/whoami").token(bob).send().await.expect(401);
}

#[tokio::test]
async fn s4_a_token_never_gets_more_than_its_maker_has() {
    let door = Door::new().await;
    let (mine, other) = (door.project("acme").await, door.project("rival").await);
    let tenant_admin = door.token("ta", "admin", json!({"kind": "tenant", "tenant_id": mine.0})).await;
    let make = |name: &str, scope| {
        let body = json!({"name": name, "grants": [{"role": "viewer", "scope": scope}]});
        door.call("POST", "/v1/service-tokens").token(&tenant_admin).json(body).send()
    };
    make("ok", in_project(mine)).await.expect(201);
    make("up", system()).await.expect(403);
    make("beside", in_project(other)).await.expect(404);
    // A project that claims to be of one's own tenant, and is not.
    let forged = json!({"kind": "project", "tenant_id": mine.0, "project_id": other.1});
    make("forged", forged.clone()).await.expect(404);
    let binding = json!({"principal_id": uuid::Uuid::nil(), "grant": {"role": "viewer", "scope": forged}});
    door.call("POST", "/v1/role-bindings").token(&tenant_admin).json(binding).send().await.expect(404);
}

#[tokio::test]
async fn a_revoked_token_is_refused() {
    let door = Door::new().await;
    let body = json!({"name": "ci", "grants": [{"role": "admin", "scope": system()}]});
    let made = door.admin("POST", "/v1/service-tokens").json(body).send().await.expect(201);
    let token = made.body["token"].as_str().unwrap();
    door.call("GET", "/v1/whoami").token(token).send().await.expect(200);
    let list = door.admin("GET", "/v1/service-tokens").send().await.expect(200);
    assert!(!list.body.to_string().contains(token));
    door.admin("DELETE", &format!("/v1/service-tokens/{}", made.body["id"].as_str().unwrap()))
        .send()
        .await
        .expect(204);
    door.call("GET", "/v1/whoami").token(token).send().await.expect(401);
}

#[tokio::test]
async fn s13_logins_that_fail_too_often_are_refused_unseen_with_the_time_to_wait() {
    let door = Door::new().await;
    let user = json!({"name": "bob", "password": "a long enough password"});
    door.admin("POST", "/v1/users").json(user).send().await.expect(201);
    let login = |user: &str, password: &str, address: &str| {
        let body = json!({"user": user, "password": password});
        door.call("POST", "/v1/login").from(address).json(body).send()
    };
    let right = "a long enough password";
    login("bob", right, "10.0.0.7").await.expect(200);
    // A name that nobody has is counted in the same way.
    for name in ["bob", "nobody"] {
        for _ in 0..10 {
            login(name, "not this one at all", "10.6.6.6").await.expect(401);
        }
        let limited = login(name, right, "10.6.6.6").await.expect(429);
        assert_eq!((limited.code(), limited.header("retry-after")), ("login_limited", "30"));
        assert_eq!(limited.header("content-type"), "application/problem+json");
        assert!(limited.body["detail"].as_str().unwrap().contains("try again in 30 s"), "{}", limited.body);
        login(name, right, "10.6.6.7").await.expect(429);
    }
    // Bob is not locked out where he signs in; everybody else goes on as before.
    login("bob", right, "10.0.0.7").await.expect(200);
    login("root", "not this one at all", "10.0.0.8").await.expect(401);
    // Ten more names from the one address, and it is the address.
    for n in 0..10 {
        login(&format!("u{n}"), "not this one at all", "10.6.6.6").await.expect(401);
    }
    let limited = login("ada", "not this one at all", "10.6.6.6").await.expect(429);
    assert_eq!(limited.header("retry-after"), "5");
    let metrics = door.admin("GET", "/metrics").send().await.expect(200);
    assert!(metrics.body.as_str().unwrap().contains("basalt_logins_limited_total 5"), "{}", metrics.body);
    door.clock.advance(chrono::TimeDelta::seconds(30));
    login("bob", right, "10.6.6.6").await.expect(200);
}
