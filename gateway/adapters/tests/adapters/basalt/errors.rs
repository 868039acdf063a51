//! Every kind of failure: its class, a remedy, and never the token or a secret.

use super::{
    Project, access, basalt, project, provider,
    server::{TOKEN, field, reason},
    with,
};
use crate::contract::{SECRET, workload};
use basalt_adapters::{Adapter, Error};
use basalt_model::deployments::ErrorClass;
use serde_json::json;

fn said(error: &Error) -> (ErrorClass, String) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(TOKEN) && !text.contains(SECRET), "{text}");
    assert!(!error.reason.subject.is_empty() && !error.reason.remedy.is_empty(), "{error}");
    (error.class, error.reason.code.to_string())
}

async fn health(project: &Project) -> (ErrorClass, String) {
    said(&project.basalt().health().await.unwrap_err())
}

#[tokio::test]
async fn a_token_that_is_unknown_or_does_not_suffice_is_an_auth_error_with_a_remedy() {
    let project = project().await;
    let unknown = basalt(&project.provider, &access(&project.server.url, "other", &project.server.ca));
    let refused = unknown.health().await.unwrap_err();
    assert_eq!(said(&refused), (ErrorClass::Auth, "token_refused".to_owned()));
    assert_eq!(said(&unknown.observe().await.unwrap_err()).0, ErrorClass::Auth);

    project.server.there().role = Some("viewer");
    assert_eq!(health(&project).await, (ErrorClass::Auth, "not_allowed".to_owned()));
    let error = project.basalt().deploy(&workload(&project, 1)).await.unwrap_err();
    assert_eq!(said(&error), (ErrorClass::Auth, "not_allowed".to_owned()));

    project.server.there().role = None;
    assert_eq!(health(&project).await, (ErrorClass::Auth, "project_hidden".to_owned()));
    // That nothing is shown does not mean that nothing is there.
    let owner = workload(&project, 1).owner;
    for error in [
        project.basalt().observe().await.unwrap_err(),
        project.basalt().observe_one(&owner).await.unwrap_err(),
        project.basalt().undeploy(&owner, basalt_model::Epoch(1)).await.unwrap_err(),
    ] {
        assert_eq!(said(&error), (ErrorClass::Auth, "project_hidden".to_owned()));
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_not_there_or_no_basalt_is_told_apart() {
    let project = project().await;
    let stranger = super::server::Server::start().await;
    let untrusted = basalt(&project.provider, &access(&project.server.url, TOKEN, &stranger.ca));
    let error = untrusted.health().await.unwrap_err();
    assert_eq!(said(&error), (ErrorClass::Auth, "not_trusted".to_owned()));
    assert_eq!(project.server.asked(""), 0, "the token goes to nobody who is not trusted");
    let away = basalt(&project.provider, &access("https://127.0.0.1:1", TOKEN, &project.server.ca));
    let error = away.health().await.unwrap_err();
    assert_eq!(said(&error), (ErrorClass::Transient, "unreachable".to_owned()));
    project.server.fail("GET /v1/whoami", 1, (200, json!("<html>")));
    assert_eq!(health(&project).await, (ErrorClass::Transient, "not_understood".to_owned()));
    project.server.fail("GET /v1/whoami", 1, (302, json!(TOKEN)));
    assert_eq!(health(&project).await.0, ErrorClass::Permanent);
}

#[tokio::test]
async fn what_the_api_refuses_keeps_its_class_and_its_words() {
    let project = project().await;
    let wanted = workload(&project, 1);
    for (answer, class) in [
        (reason(409, "quota_exceeded", "quota/cpus"), ErrorClass::Capacity),
        (reason(422, "impossible", "host/h1"), ErrorClass::Capacity),
        (field(422, "not_found", "spec.disks[0].source.image"), ErrorClass::Missing),
        (field(422, "out_of_range", "spec.cpus"), ErrorClass::Permanent),
        (reason(503, "not_ready", "gateway"), ErrorClass::Transient),
        (reason(504, "slow", "gateway"), ErrorClass::Timeout),
        ((400, json!(format!("{TOKEN} {SECRET}"))), ErrorClass::Permanent),
        (
            (500, json!({ "code": "x", "detail": format!("it was {SECRET} of {TOKEN}") })),
            ErrorClass::Transient,
        ),
    ] {
        project.server.fail("POST /v1/projects/agents/vms", 1, answer.clone());
        let error = project.basalt().deploy(&wanted).await.unwrap_err();
        let (seen, code) = said(&error);
        assert_eq!(seen, class, "{answer:?}");
        if let Some(word) = answer.1["code"].as_str() {
            assert_eq!(code, word);
        }
        if answer.1["reasons"].is_array() || answer.1["errors"].is_array() {
            assert_eq!((&*error.reason.message, &*error.reason.remedy), ("it is so", "do otherwise"));
        }
    }
    assert!(project.vms().is_empty());
    // Somebody else was quicker: it is looked again, and it goes.
    project.server.fail("POST /v1/projects/agents/vms", 2, field(409, "name_taken", "name"));
    project.basalt().deploy(&wanted).await.unwrap();
}

#[tokio::test]
async fn a_call_ends_in_its_time() {
    let project = project().await;
    let wanted = project.plain(1);
    project.basalt().deploy(&wanted).await.unwrap();
    project.server.there().going = std::time::Duration::from_secs(3600);
    // The adapter has four seconds for a call, and leaves the half of it.
    let limit = std::time::Duration::from_secs(3);
    let adapter = project.basalt();
    let next = crate::contract::changed(&wanted);
    let error = tokio::time::timeout(limit, adapter.deploy(&next)).await.unwrap().unwrap_err();
    assert_eq!(said(&error), (ErrorClass::Transient, "old_vm_going".to_owned()));
    assert!(error.retry_after.is_some());
    let going = tokio::time::timeout(limit, adapter.undeploy(&wanted.owner, next.epoch)).await.unwrap();
    assert_eq!(going.unwrap(), basalt_adapters::Removed::Going);
    assert_eq!(project.vms().len(), 1);
}

#[tokio::test]
async fn secrets_stay_out_of_user_data_unless_the_provider_says_that_they_may_be_there() {
    let project = with(json!({})).await;
    let error = project.basalt().deploy(&workload(&project, 1)).await.unwrap_err();
    assert_eq!(said(&error), (ErrorClass::Permanent, "secrets_refused".to_owned()));
    assert_eq!(project.server.asked("POST"), 0);
    project.basalt().deploy(&project.plain(1)).await.unwrap();
}

#[tokio::test]
async fn what_the_project_lacks_is_a_limit_with_a_remedy() {
    let project = project().await;
    let whole = project.basalt().health().await.unwrap();
    assert_eq!((whole.version.as_str(), whole.limits), ("Basalt 0.1.0", vec![]));
    project.server.there().networks.clear();
    project.server.there().images.insert("runner", "pending");
    let codes = async || -> Vec<String> {
        project.basalt().health().await.unwrap().limits.iter().map(|l| l.code.to_string()).collect()
    };
    assert_eq!(codes().await, ["image_not_ready", "network_missing"]);
    project.server.there().images.clear();
    assert_eq!(codes().await, ["image_missing", "network_missing"]);
    let adapter = project.basalt();
    adapter.health().await.unwrap();
    let read = project.server.asked("GET /openapi.json");
    adapter.health().await.unwrap();
    assert_eq!(project.server.asked("GET /openapi.json"), read, "what is long is not read each time");
}

#[tokio::test]
async fn access_that_cannot_be_used_is_refused_before_anything_is_asked() {
    let now = std::sync::Arc::new(|| "2026-11-22T15:51:17Z".parse().unwrap());
    let text = basalt_model::deployments::SecretText::new(format!("url = \"http://b\"\ntoken = \"{TOKEN}\""));
    let limit = std::time::Duration::from_secs(1);
    let error = basalt_adapters::basalt::Basalt::new(&provider(json!({})), &text, limit, now).unwrap_err();
    assert_eq!(said(&error), (ErrorClass::Permanent, "access_unusable".to_owned()));
}
