//! What the things of one owner, or one foreign thing, come to in the words of all platforms. Pure.

use super::{drift, objects};
use crate::{Discovered, labels};
use basalt_model::{
    CapabilityReason, Epoch, Generation,
    artifacts::ArtifactKind,
    deployments::{Endpoint, ObservedWorkload, Readiness},
};
use serde_json::Value;

fn text<'a>(raw: &'a Value, pointer: &str) -> Option<&'a str> {
    raw.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn annotation<'a>(found: &'a Discovered, name: &str) -> Option<&'a str> {
    found.raw["annotations"][name].as_str()
}

fn label<'a>(found: &'a Discovered, name: &str) -> Option<&'a str> {
    found.raw["labels"][name].as_str()
}

fn epoch(found: &Discovered) -> i64 {
    annotation(found, labels::EPOCH).and_then(|e| e.parse().ok()).unwrap_or(0)
}

fn subject(found: &Discovered) -> String {
    format!("{}/{}/{}", found.kind, found.namespace.as_deref().unwrap_or_default(), found.name)
}

/// What [`crate::Adapter::observe`] showed of one owner, or one foreign thing; none of what is nothing of ours: a
/// Service that only stands before a Deployment, a Service of anything.
pub fn normalise(found: &[Discovered]) -> Option<ObservedWorkload> {
    let mut deployments: Vec<&Discovered> = found.iter().filter(|f| f.kind == "deployment").collect();
    // What is going is still there, but the last to speak for its owner.
    deployments.sort_by_key(|d| (d.raw["going"] == true, -epoch(d)));
    if let Some((first, others)) = deployments.split_first() {
        let mut workload = from_deployment(first);
        for other in others.iter().filter(|o| o.raw["going"] != true) {
            workload.drift.push(format!("{} is there too", subject(other)));
        }
        if let Some(id) = first.owner {
            add_service(&mut workload, first, found, id);
        }
        workload.drift.sort();
        return Some(workload);
    }
    let first = found.first()?;
    match first.kind.as_str() {
        "service" => from_service(first),
        "agent.kagent.dev" => Some(from_custom(first, ArtifactKind::Agent)),
        "mcpserver.kagent.dev" => Some(from_custom(first, ArtifactKind::Server)),
        _ => None,
    }
}

/// What is written on it, whatever it is.
fn base(found: &Discovered) -> ObservedWorkload {
    let number = |name: &str| annotation(found, name).and_then(|n| n.parse::<i64>().ok());
    ObservedWorkload {
        owner: found.owner,
        project: label(found, labels::PROJECT).map(str::to_owned),
        fingerprint: annotation(found, labels::FINGERPRINT).map(str::to_owned),
        generation: number(labels::GENERATION).map(Generation),
        epoch: number(labels::EPOCH).map(Epoch),
        kind: match label(found, labels::KIND) {
            Some("agent") => Some(ArtifactKind::Agent),
            Some("server") => Some(ArtifactKind::Server),
            _ => None,
        },
        image: None,
        readiness: Readiness::Starting,
        endpoints: Vec::new(),
        drift: Vec::new(),
    }
}

fn from_deployment(found: &Discovered) -> ObservedWorkload {
    let mut workload = base(found);
    let containers = &found.raw["spec"]["template"]["spec"]["containers"];
    let main = containers.as_array().into_iter().flatten();
    let main = main.clone().find(|c| c["name"] == objects::CONTAINER).or(containers.get(0));
    workload.image = main.and_then(|c| text(c, "/image")).map(str::to_owned);
    workload.readiness = readiness(found);
    let services = found.raw["services"].as_array().into_iter().flatten();
    for service in services {
        let hint = hint(service);
        workload.kind = workload.kind.or(hint);
        workload.endpoints.extend(endpoints(service, found.namespace.as_deref(), workload.kind));
    }
    if workload.kind.is_none() && label(found, "app.kubernetes.io/managed-by") == Some("kmcp") {
        workload.kind = Some(ArtifactKind::Server);
    }
    workload.endpoints.sort();
    if let Some(digest) = annotation(found, objects::APPLIED) {
        workload.drift = drift::differences(digest, &shaped(found));
    }
    workload
}

/// The object as the comparison wants it.
fn shaped(found: &Discovered) -> Value {
    serde_json::json!({ "metadata": { "labels": found.raw["labels"] }, "spec": found.raw["spec"] })
}

/// What an owner's Service adds: its differences, or that it is missing.
fn add_service(
    workload: &mut ObservedWorkload,
    deployment: &Discovered,
    found: &[Discovered],
    id: basalt_model::DeploymentId,
) {
    let beside =
        |f: &&Discovered| f.kind == "service" && f.owner == Some(id) && f.namespace == deployment.namespace;
    let services: Vec<&Discovered> = found.iter().filter(beside).collect();
    for service in &services {
        if let Some(digest) = annotation(service, objects::APPLIED) {
            let differences = drift::differences(digest, &shaped(service));
            workload.drift.extend(differences.into_iter().map(|path| format!("service {path}")));
        }
    }
    // An adopted Deployment has no Service of ours.
    if services.is_empty() && annotation(deployment, objects::APPLIED).is_some() {
        workload.drift.push("service is gone".to_owned());
    }
    let elsewhere =
        |f: &&Discovered| f.kind == "service" && f.owner == Some(id) && f.namespace != deployment.namespace;
    workload.drift.extend(found.iter().filter(elsewhere).map(|f| format!("{} is there too", subject(f))));
}

fn not_ready(
    code: &'static str,
    found: &Discovered,
    message: String,
    evidence: &str,
    remedy: &str,
) -> Readiness {
    let reason = CapabilityReason::new(code, subject(found), message, remedy).with_evidence(evidence);
    Readiness::NotReady { reason }
}

fn readiness(found: &Discovered) -> Readiness {
    let (raw, status) = (&found.raw, &found.raw["status"]);
    if raw["going"] == true {
        let remedy = "nothing, if it was meant; else deploy it again";
        return not_ready("going", found, "it is being deleted".to_owned(), "", remedy);
    }
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let wanted = raw["spec"]["replicas"].as_u64().unwrap_or(1);
    if wanted == 0 {
        let remedy = "deploy it again, or set `replicas`";
        return not_ready("scaled_to_zero", found, "it was scaled to nothing".to_owned(), "", remedy);
    }
    let ready = status["observed"] == true
        && count("updated") == wanted
        && count("available") >= wanted
        && count("replicas") == wanted;
    if ready {
        return Readiness::Ready;
    }
    let instances = raw["instances"].as_array().into_iter().flatten();
    if let Some(trouble) = instances.clone().find_map(|instance| trouble(found, instance)) {
        return trouble;
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    for condition in conditions {
        if condition["type"] == "ReplicaFailure" && condition["status"] == "True" {
            let said = text(condition, "/message").unwrap_or_default();
            let (code, remedy) = if said.contains("exceeded quota") {
                ("quota_exceeded", "raise the namespace's ResourceQuota, or make room in it")
            } else if said.contains("serviceaccount") {
                (
                    "service_account_missing",
                    "make the ServiceAccount, or name another one in `service_account`",
                )
            } else {
                ("pods_refused", "change what the cluster refuses, or its rules")
            };
            return not_ready(code, found, "the cluster makes no pods of it".to_owned(), said, remedy);
        }
        if condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded" {
            let message = format!("{} of {wanted} became ready in time", count("ready"));
            let remedy = "read its log, and the path and time of its health check";
            return not_ready("progress_deadline", found, message, "ProgressDeadlineExceeded", remedy);
        }
    }
    Readiness::Starting
}

/// What is wrong with one pod, if something is.
fn trouble(found: &Discovered, instance: &Value) -> Option<Readiness> {
    let name = text(instance, "/name").unwrap_or_default();
    if let Some(unscheduled) = instance.get("unscheduled") {
        let said = text(unscheduled, "/message").unwrap_or_default();
        let remedy = "give it less (`resources`), or the cluster more nodes";
        return Some(not_ready("unschedulable", found, "no node takes it".to_owned(), said, remedy));
    }
    let trouble = instance.get("trouble")?;
    let said = text(trouble, "/message").unwrap_or_default();
    let ended = || {
        let exit = trouble.pointer("/ended/exit_code").and_then(Value::as_i64);
        let reason = text(trouble, "/ended/reason").unwrap_or_default();
        exit.map_or_else(String::new, |exit| format!("{name}: {reason}, exit code {exit}"))
    };
    Some(match text(trouble, "/reason") {
        Some("ImagePullBackOff") => {
            let image = text(trouble, "/image").unwrap_or_default();
            let message = format!("the image {image} cannot be pulled");
            let remedy = "check the image's name and tag, and that the nodes may pull it";
            not_ready("image_pull", found, message, said, remedy)
        }
        Some("InvalidImageName") => {
            let remedy = "correct the image's name in the artifact";
            not_ready("image_pull", found, "the image's name is none".to_owned(), said, remedy)
        }
        Some("CrashLoopBackOff") => {
            let remedy = "read its log; correct its variables, arguments or image";
            not_ready("crash_loop", found, "it ends again and again".to_owned(), &ended(), remedy)
        }
        Some("CreateContainerConfigError") => {
            let remedy = "deploy it again, so that its Secret is made again";
            not_ready(
                "config_missing",
                found,
                "something that it refers to is not there".to_owned(),
                said,
                remedy,
            )
        }
        Some(reason) => {
            let remedy = "look at the pod with `kubectl describe`";
            not_ready("container_waiting", found, format!("its container waits: {reason}"), said, remedy)
        }
        // It ended once and begins again: that alone is no trouble yet, unless for want of memory.
        None if text(trouble, "/ended/reason") == Some("OOMKilled") => {
            let remedy = "give it more memory (`resources.memory_bytes`)";
            not_ready("out_of_memory", found, "it was killed for want of memory".to_owned(), &ended(), remedy)
        }
        None => return None,
    })
}

/// What a Service hints that it leads to.
fn hint(service: &Value) -> Option<ArtifactKind> {
    let ports = || service["ports"].as_array().into_iter().flatten();
    let speaks = |protocol: &str| ports().any(|port| port["appProtocol"] == protocol);
    let labelled = service["labels"]["kagent.dev/mcp-service"] == "true"
        || service["labels"]["app.kubernetes.io/managed-by"] == "kmcp";
    if speaks("kgateway.dev/mcp") || labelled {
        Some(ArtifactKind::Server)
    } else if speaks("kgateway.dev/a2a") {
        Some(ArtifactKind::Agent)
    } else {
        None
    }
}

fn endpoints(service: &Value, namespace: Option<&str>, kind: Option<ArtifactKind>) -> Vec<Endpoint> {
    let (name, path) = match kind {
        Some(ArtifactKind::Server) => ("mcp", "/mcp"),
        _ => ("http", "/"),
    };
    let annotations = &service["annotations"];
    let said = [objects::PATH, "kagent.dev/mcp-service-path"].iter().find_map(|a| annotations[*a].as_str());
    let path = said.unwrap_or(path);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let host =
        format!("{}.{}.svc", service["name"].as_str().unwrap_or_default(), namespace.unwrap_or_default());
    let ports = service["ports"].as_array().into_iter().flatten();
    let ports = ports.filter(|p| p["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
    ports
        .filter_map(|port| port["port"].as_u64())
        .map(|port| Endpoint { name: name.to_owned(), url: format!("http://{host}:{port}{path}") })
        .collect()
}

/// A Service by itself: something only if it says what it leads to, and no Deployment here speaks for it.
fn from_service(found: &Discovered) -> Option<ObservedWorkload> {
    let service = serde_json::json!({
        "name": found.name, "ports": found.raw["spec"]["ports"], "labels": found.raw["labels"],
        "annotations": found.raw["annotations"],
    });
    let behind = found.raw["behind"].as_array().is_some_and(|b| !b.is_empty());
    let kind = hint(&service);
    if found.owner.is_none() && (kind.is_none() || behind) {
        return None;
    }
    let mut workload = base(found);
    workload.kind = workload.kind.or(kind);
    workload.endpoints = endpoints(&service, found.namespace.as_deref(), workload.kind);
    if annotation(found, objects::APPLIED).is_some() {
        workload.drift = vec!["deployment is gone".to_owned()];
        let remedy = "deploy it again";
        workload.readiness =
            not_ready("deployment_gone", found, "its Deployment is not there".to_owned(), "", remedy);
    } else {
        // What it leads to is not looked at; that it is there is all that is known.
        workload.readiness = Readiness::Ready;
    }
    Some(workload)
}

fn from_custom(found: &Discovered, kind: ArtifactKind) -> ObservedWorkload {
    let mut workload = base(found);
    workload.kind = Some(kind);
    workload.image = text(&found.raw, "/spec/image").map(str::to_owned);
    let conditions = || found.raw["conditions"].as_array().into_iter().flatten();
    let ready = conditions().find(|c| c["type"] == "Ready");
    workload.readiness = match ready.map(|c| c["status"] == "True") {
        Some(true) => Readiness::Ready,
        Some(false) => {
            let said = ready.and_then(|c| text(c, "/message")).unwrap_or_default();
            let remedy = "look at it with `kubectl describe`";
            not_ready("not_ready", found, "its operator says that it is not ready".to_owned(), said, remedy)
        }
        None => Readiness::Starting,
    };
    let host = format!("{}.{}.svc", found.name, found.namespace.as_deref().unwrap_or_default());
    let (name, port, path) = match kind {
        ArtifactKind::Agent => ("http", 8080, "/"),
        ArtifactKind::Server => ("mcp", found.raw["spec"]["port"].as_u64().unwrap_or(3000), "/mcp"),
    };
    workload.endpoints = vec![Endpoint { name: name.to_owned(), url: format!("http://{host}:{port}{path}") }];
    workload
}

#[cfg(test)]
mod tests;
