//! The first administrator, and nobody before.

use crate::door::Door;
use basalt_daemon::Clock;
use serde_json::json;
use std::sync::Arc;

#[tokio::test]
async fn s17_there_are_no_default_credentials_and_the_first_boot_token_works_once() {
    let door = Door::new().await;
    let login = |body| door.call("POST", "/v1/login").json(body).send();
    for (user, password) in [("admin", "admin"), ("root", "root"), ("admin", ""), ("basalt", "basalt")] {
        let refused = login(json!({"user": user, "password": password})).await.expect(401);
        assert_eq!(refused.code(), "login_refused");
    }
    let clock: Arc<dyn Clock> = door.clock.clone();
    let token = basalt_api::first_boot_token(&door.db.store, &clock).await.unwrap().unwrap();
    let first = json!({"user": "alice", "password": "correct horse battery", "first_boot_token": token});
    let short = json!({"user": "alice", "password": "short", "first_boot_token": token});
    login(short).await.expect(422);
    let session = login(first.clone()).await.expect(200);
    let bearer = session.body["token"].as_str().unwrap();
    let me = door.call("GET", "/v1/whoami").token(bearer).send().await.expect(200);
    assert_eq!((&me.body["name"], &me.body["grants"][0]["role"]), (&json!("alice"), &json!("admin")));
    let again = json!({"user": "mallory", "password": "correct horse battery", "first_boot_token": token});
    login(again).await.expect(401);
    assert!(basalt_api::first_boot_token(&door.db.store, &clock).await.unwrap().is_none());
    login(json!({"user": "alice", "password": "correct horse battery"})).await.expect(200);
    login(json!({"user": "alice", "password": "wrong horse battery"})).await.expect(401);
    door.call("POST", "/v1/logout").token(bearer).send().await.expect(204);
    door.call("GET", "/v1/whoami").token(bearer).send().await.expect(401);
}

#[tokio::test]
async fn s17_the_first_boot_token_expires_and_a_new_one_voids_the_old() {
    let door = Door::new().await;
    let clock: Arc<dyn Clock> = door.clock.clone();
    let first = |token: &str| json!({"user": "alice", "password": "correct horse battery", "first_boot_token": token});
    let login = |token: &str| door.call("POST", "/v1/login").json(first(token)).send();
    let old = basalt_api::first_boot_token(&door.db.store, &clock).await.unwrap().unwrap();
    let new = basalt_api::first_boot_token(&door.db.store, &clock).await.unwrap().unwrap();
    login(&old).await.expect(401);
    door.clock.advance(chrono::TimeDelta::hours(basalt_api::FIRST_BOOT_HOURS));
    login(&new).await.expect(401);
}
