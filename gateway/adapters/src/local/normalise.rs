//! From what [`super::observe`] wrote down to the words of all platforms. Pure, and good for what a former life of the
//! gateway wrote down as well.

use crate::{Discovered, labels};
use basalt_model::{
    CapabilityReason, DeploymentId, Epoch, Generation,
    artifacts::ArtifactKind,
    deployments::{Endpoint, ObservedWorkload, Readiness},
};
use serde_json::Value;

/// Label by which the registry of MCP servers knows an image: its value is the server's name there.
pub(super) const MCP_NAME: &str = "io.modelcontextprotocol.server.name";
/// Label of kagent; `true` on what serves the protocol.
pub(super) const MCP_SERVICE: &str = "kagent.dev/mcp-service";

/// What the containers of one owner, or one container without an owner, come to.
pub fn normalise(found: &[Discovered]) -> Option<ObservedWorkload> {
    let text = |d: &Discovered, key: &str| d.raw.get(key).and_then(Value::as_str).map(str::to_owned);
    // Between two attempts there may be an old one beside the one that is to replace it: the newest one counts.
    let newest = found.iter().filter(|d| d.kind == "container").max_by_key(|d| {
        (d.raw.get("epoch").and_then(Value::as_i64), text(d, "state").as_deref() == Some("running"))
    })?;
    let label = |key: &str| Some(newest.raw.get("labels")?.get(key)?.as_str()?.to_owned());
    let mut drift: Vec<String> = newest.raw.get("drift").into_iter().flat_map(strings).collect();
    if found.len() > 1 {
        drift.push(format!("containers: {} instead of 1", found.len()));
    }
    let readiness = readiness(newest);
    let state = text(newest, "state").unwrap_or_default();
    if newest.owner.is_some() && !matches!(&*state, "running" | "restarting") {
        drift.push(format!("state: {state} instead of running"));
    }
    let hinted = label(MCP_NAME).is_some() || label(MCP_SERVICE).as_deref() == Some("true");
    let kind = match label(labels::KIND).as_deref() {
        Some("agent") => Some(ArtifactKind::Agent),
        Some("server") => Some(ArtifactKind::Server),
        _ => hinted.then_some(ArtifactKind::Server),
    };
    Some(ObservedWorkload {
        owner: newest.owner.or_else(|| text(newest, "owner")?.parse().ok().map(DeploymentId)),
        project: label(labels::PROJECT),
        fingerprint: label(labels::FINGERPRINT),
        generation: newest.raw.get("generation").and_then(Value::as_i64).map(Generation),
        epoch: newest.raw.get("epoch").and_then(Value::as_i64).map(Epoch),
        kind,
        image: text(newest, "image").filter(|image| !image.is_empty()),
        readiness,
        endpoints: endpoints(newest, hinted),
        drift,
    })
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn readiness(of: &Discovered) -> Readiness {
    let state = of.raw.get("state").and_then(Value::as_str).unwrap_or_default();
    let subject = format!("container/{}", of.name);
    let not = |code: &'static str, message: String, evidence: String, remedy: &str| Readiness::NotReady {
        reason: CapabilityReason::new(code, &subject, message, remedy).with_evidence(evidence),
    };
    let code = of.raw.get("exit_code").and_then(Value::as_i64).unwrap_or_default();
    let error = of.raw.get("error").and_then(Value::as_str).unwrap_or_default().to_owned();
    match state {
        "running" => {}
        "restarting" => {
            return not(
                "restarting",
                format!("its program ended with code {code} and is being started again"),
                error,
                "read its log",
            );
        }
        "created" => {
            return not("not_started", "it was made but not started".into(), error, "deploy it again");
        }
        "paused" => {
            return not("paused", "somebody paused it".into(), error, "podman unpause, or deploy it again");
        }
        _ if of.raw.get("oom_killed").and_then(Value::as_bool) == Some(true) => {
            return not(
                "out_of_memory",
                "it used more memory than it may, and was ended".into(),
                format!("exit code {code}"),
                "give the deployment more `resources.memory_bytes`, or none",
            );
        }
        "exited" => {
            return not(
                "exited",
                format!("its program ended with code {code}"),
                error,
                match code {
                    0 => "it ended without an error, or was stopped by hand; deploy it again",
                    125..=127 => "the program is missing or cannot be run: correct `command`, or the image",
                    137 => "it was killed; read its log, and deploy it again",
                    _ => "read its log",
                },
            );
        }
        other => {
            return not("not_running", format!("the engine calls it {other}"), error, "deploy it again");
        }
    }
    let Some(check) = of.raw.get("check") else { return Readiness::Ready };
    match check.get("state").and_then(Value::as_str) {
        Some("well") => Readiness::Ready,
        Some("starting") => Readiness::Starting,
        _ => not(
            "unhealthy",
            "it runs but is not well".into(),
            check.get("seen").and_then(Value::as_str).unwrap_or_default().to_owned(),
            "read its log; when it needs longer to begin, raise `health.start_seconds`",
        ),
    }
}

fn endpoints(of: &Discovered, hinted: bool) -> Vec<Endpoint> {
    if let Some(ours) = of.raw.get("endpoint") {
        return serde_json::from_value(ours.clone()).into_iter().collect();
    }
    let ports = of.raw.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports
        .filter_map(|port| {
            let text = |key: &str| port.get(key).and_then(Value::as_str);
            text("inner")?.ends_with("/tcp").then_some(())?;
            let (name, path) = if hinted { ("mcp", "/mcp") } else { ("http", "/") };
            let address = match text("address")? {
                "" | "0.0.0.0" => "127.0.0.1",
                "::" => "::1",
                address => address,
            };
            Some(Endpoint { name: name.to_owned(), url: url(address, text("port")?, path) })
        })
        .collect()
}

pub(super) fn url(address: &str, port: &str, path: &str) -> String {
    if address.contains(':') {
        format!("http://[{address}]:{port}{path}")
    } else {
        format!("http://{address}:{port}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{container::Container, observe::raw};
    use serde_json::json;

    /// What Podman 4.3.1 showed of a container that we made, but for its folders.
    const PODMAN: &str = include_str!("recorded/podman-4.3.1.json");
    /// What Docker shows of somebody's container, with `null` where it has nothing.
    const DOCKER: &str = include_str!("recorded/docker.json");

    fn recorded(text: &str, change: impl FnOnce(&mut Value)) -> Discovered {
        let mut shown: Value = serde_json::from_str(text).unwrap();
        change(&mut shown);
        let check = shown.get("Check").cloned();
        let container: Container = serde_json::from_value(shown).unwrap();
        let (name, owner) = (container.name().to_owned(), container.owner());
        Discovered { kind: "container".into(), namespace: None, name, owner, raw: raw(&container, check) }
    }

    fn state(status: &str, further: Value) -> impl FnOnce(&mut Value) {
        let status = status.to_owned();
        move |shown| {
            shown["State"]["Status"] = json!(status);
            if let (Some(state), Value::Object(further)) = (shown["State"].as_object_mut(), further) {
                state.extend(further);
            }
        }
    }

    fn said(found: Discovered) -> (String, String, Vec<String>) {
        let observed = normalise(&[found]).unwrap();
        let Readiness::NotReady { reason } = observed.readiness else { panic!("{:?}", observed.readiness) };
        assert!(!reason.remedy.is_empty());
        (reason.code.to_string(), reason.message.clone(), observed.drift)
    }

    #[test]
    fn a_container_of_ours_is_read_whole() {
        let found = recorded(PODMAN, |_| {});
        let observed = normalise(std::slice::from_ref(&found)).unwrap();
        assert_eq!(observed.project.as_deref(), Some("contract"));
        assert_eq!(observed.fingerprint.as_deref(), Some("f-1"));
        assert_eq!((observed.generation, observed.epoch), (Some(Generation(1)), Some(Epoch(1))));
        assert_eq!((observed.kind, observed.owner), (Some(ArtifactKind::Agent), found.owner));
        assert_eq!(observed.image.as_deref(), Some("localhost/basalt/test:1"));
        assert_eq!(observed.drift, Vec::<String>::new());
        assert_eq!(observed.readiness, Readiness::Ready);
        assert!(observed.endpoints[0].url.starts_with("http://127.0.0.1:2"), "{:?}", observed.endpoints);
        let text = found.raw.to_string();
        assert!(!text.contains("hush") && !text.contains("hello") && !text.contains("/program"), "{text}");
    }

    #[test]
    fn each_state_says_what_is_wrong_and_what_mends_it() {
        let of = |status: &str, further: Value| said(recorded(PODMAN, state(status, further)));
        let (code, message, drift) = of("exited", json!({ "ExitCode": 3 }));
        assert_eq!((&*code, &*message), ("exited", "its program ended with code 3"));
        assert_eq!(drift, ["state: exited instead of running"]);
        assert_eq!(of("exited", json!({ "ExitCode": 137, "OOMKilled": true })).0, "out_of_memory");
        assert_eq!(of("restarting", json!({ "ExitCode": 1 })).0, "restarting");
        assert_eq!(of("created", json!({})).0, "not_started");
        assert_eq!(of("configured", json!({})).0, "not_started");
        assert_eq!(of("paused", json!({})).0, "paused");
        assert_eq!(of("dead", json!({})).0, "not_running");
        let check = |check: Value| recorded(PODMAN, move |shown| shown["Check"] = check);
        assert_eq!(said(check(json!({ "state": "failing", "seen": "HTTP 503" }))).0, "unhealthy");
        let starting = normalise(&[check(json!({ "state": "starting" }))]).unwrap();
        assert_eq!(starting.readiness, Readiness::Starting);
    }

    #[test]
    fn why_the_engine_could_not_start_it_is_told_without_its_secrets() {
        let error = "exec: hush-4711-never-shown: not found";
        let found = recorded(PODMAN, state("created", json!({ "Error": error })));
        assert_eq!(found.raw["error"], "exec: [secret]: not found");
    }

    #[test]
    fn what_others_changed_is_named_field_by_field() {
        let found = recorded(PODMAN, |shown| {
            shown["HostConfig"]["Memory"] = json!(1024);
            shown["HostConfig"]["NetworkMode"] = json!("bridge");
            shown["Args"] = json!(["else"]);
            shown["Image"] = json!("sha256:other");
            shown["Config"]["Env"] = json!(["GREETING=bye"]);
        });
        let drift = normalise(&[found]).unwrap().drift;
        for field in [
            "image: ",
            "command: ",
            "env.GREETING: another",
            "env.TOKEN: missing",
            "memory_bytes: 1024",
            "network: ",
        ] {
            assert!(drift.iter().any(|d| d.starts_with(field)), "{field} in {drift:?}");
        }
    }

    #[test]
    fn of_two_the_newer_attempt_counts_and_the_other_is_drift() {
        let old = recorded(PODMAN, |_| {});
        let new = recorded(PODMAN, |shown| {
            shown["Name"] = json!("/next");
            shown["Config"]["Labels"][labels::EPOCH] = json!("2");
        });
        let observed = normalise(&[new, old]).unwrap();
        assert_eq!(observed.epoch, Some(Epoch(2)));
        assert!(observed.drift.contains(&"containers: 2 instead of 1".to_owned()), "{:?}", observed.drift);
        assert_eq!(normalise(&[]), None);
    }

    #[test]
    fn a_stranger_is_told_by_its_labels_and_keeps_its_own_to_itself() {
        let found = recorded(DOCKER, |_| {});
        let observed = normalise(std::slice::from_ref(&found)).unwrap();
        assert_eq!((observed.owner, observed.kind), (None, Some(ArtifactKind::Server)));
        let urls: Vec<&str> = observed.endpoints.iter().map(|e| e.url.as_str()).collect();
        assert_eq!(urls, ["http://127.0.0.1:49153/mcp", "http://[::1]:49153/mcp"]);
        assert_eq!((observed.readiness, observed.drift), (Readiness::Ready, vec![]));
        assert!(!found.raw.to_string().contains("hush"), "{}", found.raw);
    }
}
