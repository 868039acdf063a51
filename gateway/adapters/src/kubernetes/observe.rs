//! Looking: everything in the provider's namespaces, as it stands still while nothing happens.
//!
//! Of foreign things only what tells what they are is kept: their variables, arguments and annotations may hold what
//! their owners would not want told. Pods are no things of their own here; what they say is written at their
//! Deployment, for their names come and go.

use super::{
    Kubernetes, all_of,
    calls::{Call, DEPLOYMENT, EVENT, Kind, POD, SERVICE},
    drift, objects, reasons,
};
use crate::{Discovered, Error, Result, labels};
use basalt_model::{DeploymentId, deployments::Owner};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The kinds of kagent, where they are served.
const KAGENT: &str = "kagent.dev";
const KAGENT_KINDS: [(&str, &str, &str); 2] =
    [("agents", "Agent", "agent.kagent.dev"), ("mcpservers", "MCPServer", "mcpserver.kagent.dev")];
/// Annotations and labels of others that say what something is.
const KNOWN_PREFIXES: [&str; 4] = ["basalt/", "kagent.dev/", "kgateway.dev/", "app.kubernetes.io/"];

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What of a `matchLabels` selects these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object();
    wanted.is_some_and(|w| !w.is_empty() && w.iter().all(|(name, value)| labels.get(name) == Some(value)))
}

impl Kubernetes {
    pub(super) async fn look_at_all(&self) -> Result<Vec<Discovered>> {
        let served = self.kagent_kinds().await?;
        let each = self.namespaces.iter().map(|namespace| self.look_at(namespace.as_str(), &served));
        let all: Vec<Vec<Discovered>> = all_of(each).await?;
        Ok(all.into_iter().flatten().collect())
    }

    pub(super) async fn look_at_one(&self, owner: &Owner) -> Result<Vec<Discovered>> {
        let selector = format!("{}={}", labels::DEPLOYMENT, owner.id.0);
        let each = self.namespaces.iter().map(|namespace| {
            let selector = &selector;
            async move {
                let namespace = namespace.as_str();
                let (deployments, services) = futures::try_join!(
                    self.cluster.list(DEPLOYMENT, namespace, selector, ""),
                    self.cluster.list(SERVICE, namespace, selector, ""),
                )?;
                if deployments.is_empty() && services.is_empty() {
                    return Ok::<_, Error>(Vec::new());
                }
                self.look_at(namespace, &[]).await
            }
        });
        let all: Vec<Vec<Discovered>> = all_of(each).await?;
        Ok(all.into_iter().flatten().filter(|found| found.owner == Some(owner.id)).collect())
    }

    /// Which of kagent's kinds the cluster serves, by discovery.
    async fn kagent_kinds(&self) -> Result<Vec<(Kind, &'static str)>> {
        let call = Call { verb: "get", kind: DEPLOYMENT, part: "", namespace: "", name: "" };
        let groups = self.cluster.get_path(&call, "/apis").await?;
        let Some(groups) = groups["groups"].as_array() else {
            return Err(reasons::garbage(&call, &self.cluster.server));
        };
        let mut served = Vec::new();
        let group = groups.iter().find(|group| group["name"] == KAGENT);
        let versions = group.and_then(|group| group["versions"].as_array()).into_iter().flatten();
        for version in versions.filter_map(|v| v["version"].as_str()) {
            let Some(version) =
                ["v1", "v1beta1", "v1alpha2", "v1alpha1"].into_iter().find(|known| *known == version)
            else {
                continue;
            };
            let list = self.cluster.get_path(&call, &format!("/apis/{KAGENT}/{version}")).await?;
            let resources = list["resources"].as_array().into_iter().flatten();
            let names: BTreeSet<&str> = resources.filter_map(|r| r["name"].as_str()).collect();
            for (plural, kind, shown) in KAGENT_KINDS {
                if names.contains(plural) && !served.iter().any(|(k, _): &(Kind, &str)| k.plural == plural) {
                    served.push((Kind { group: KAGENT, version, plural, kind }, shown));
                }
            }
        }
        Ok(served)
    }

    async fn look_at(&self, namespace: &str, served: &[(Kind, &'static str)]) -> Result<Vec<Discovered>> {
        let (deployments, services, pods) = futures::try_join!(
            self.cluster.list(DEPLOYMENT, namespace, "", ""),
            self.cluster.list(SERVICE, namespace, "", ""),
            self.cluster.list(POD, namespace, "", ""),
        )?;
        let pods: Vec<Value> =
            pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
        let events = if pods.iter().any(waiting_for_image) {
            match self.cluster.list(EVENT, namespace, "", "involvedObject.kind=Pod,reason=Failed").await {
                // They only say why; what is so is known without them.
                Err(error) if reasons::is(&error, "forbidden") => Vec::new(),
                events => events?,
            }
        } else {
            Vec::new()
        };
        let mut found = Vec::new();
        for deployment in &deployments {
            let selector = &deployment["spec"]["selector"]["matchLabels"];
            let mut own: Vec<&Value> =
                pods.iter().filter(|pod| selects(selector, &pod["metadata"]["labels"])).collect();
            own.sort_by_key(|pod| text(pod, "/metadata/name"));
            found.push(seen(
                "deployment",
                namespace,
                deployment,
                raw_deployment(deployment, &own, &events, &services),
            ));
        }
        for service in &services {
            found.push(seen("service", namespace, service, raw_service(service, &deployments)));
        }
        for (kind, shown) in served {
            for object in self.cluster.list(*kind, namespace, "", "").await? {
                found.push(seen(shown, namespace, &object, raw_custom(&object)));
            }
        }
        Ok(found)
    }
}

fn seen(kind: &str, namespace: &str, object: &Value, raw: Value) -> Discovered {
    let owner = object["metadata"]["labels"][labels::DEPLOYMENT].as_str();
    Discovered {
        kind: kind.to_owned(),
        namespace: Some(namespace.to_owned()),
        name: text(object, "/metadata/name").to_owned(),
        owner: owner.and_then(|id| uuid::Uuid::parse_str(id).ok()).map(DeploymentId),
        raw,
    }
}

/// Labels, and the annotations that say what something is.
fn head(object: &Value) -> Value {
    let meta = &object["metadata"];
    let annotations = meta["annotations"].as_object().into_iter().flatten();
    let known: Map<String, Value> = annotations
        .filter(|(name, _)| KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut raw =
        json!({ "labels": meta["labels"].as_object().cloned().unwrap_or_default(), "annotations": known });
    let controllers = meta["ownerReferences"].as_array().into_iter().flatten();
    let mut controllers = controllers.filter(|o| o["controller"] == true);
    if let Some(controller) = controllers.next() {
        raw["controller"] = format!("{}/{}", text(controller, "/kind"), text(controller, "/name")).into();
    }
    if !meta["deletionTimestamp"].is_null() {
        raw["going"] = true.into();
    }
    raw
}

fn raw_deployment(object: &Value, pods: &[&Value], events: &[Value], services: &[Value]) -> Value {
    let mut raw = head(object);
    raw["spec"] = shown_spec(object);
    let (spec, status) = (&object["spec"], &object["status"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<Value> = conditions
        .filter(|c| ["Available", "Progressing", "ReplicaFailure"].iter().any(|kind| c["type"] == *kind))
        .map(|c| {
            let mut shown = json!({ "type": c["type"], "status": c["status"], "reason": c["reason"] });
            if c["type"] == "ReplicaFailure" {
                // Before that stands the name of a pod that was never made, another one at each try.
                let said = text(c, "/message");
                shown["message"] = said.split_once(" is forbidden: ").map_or(said, |(_, why)| why).into();
            }
            shown
        })
        .collect();
    raw["status"] = json!({
        "observed": count("observedGeneration") >= generation,
        "replicas": count("replicas"), "updated": count("updatedReplicas"), "ready": count("readyReplicas"),
        "available": count("availableReplicas"), "conditions": conditions,
    });
    raw["instances"] = pods.iter().map(|pod| instance(pod, events)).collect();
    let labels = &spec["template"]["metadata"]["labels"];
    let behind = services.iter().filter(|service| selects(&service["spec"]["selector"], labels));
    raw["services"] = behind
        .map(|s| {
            let shown = head(s);
            json!({ "name": s["metadata"]["name"], "ports": s["spec"]["ports"], "labels": shown["labels"], "annotations": shown["annotations"] })
        })
        .collect();
    raw
}

/// What is wanted of it. What Basalt did not apply is kept only as far as it tells nothing that might be secret.
fn shown_spec(object: &Value) -> Value {
    let digest = text(object, &format!("/metadata/annotations/{}", objects::APPLIED.replace('/', "~1")));
    let applied = drift::applied(digest);
    let mut spec = object["spec"].clone();
    let pod = &mut spec["template"]["spec"];
    for list in ["containers", "initContainers"] {
        for container in pod[list].as_array_mut().into_iter().flatten() {
            let path = format!("spec.template.spec.{list}[{}]", text(container, "/name"));
            if !applied.contains_key(&format!("{path}.name")) {
                *container = json!({ "name": container["name"], "image": container["image"], "ports": container["ports"] });
                continue;
            }
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                let ours = applied.contains_key(&format!("{path}.env[{}].name", text(variable, "/name")));
                if !ours {
                    *variable = json!({ "name": variable["name"] });
                }
            }
        }
    }
    if !applied.is_empty() {
        return spec;
    }
    let template = &spec["template"];
    json!({
        "replicas": spec["replicas"], "selector": spec["selector"],
        "template": {
            "metadata": { "labels": template["metadata"]["labels"] },
            "spec": {
                "containers": template["spec"]["containers"],
                "serviceAccountName": template["spec"]["serviceAccountName"],
            },
        },
    })
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |name: &str| pod["status"][name].as_array().into_iter().flatten();
    list("initContainerStatuses").chain(list("containerStatuses"))
}

/// `ErrImagePull` and `ImagePullBackOff` take turns while nothing changes: they are one.
fn waiting_reason(container: &Value) -> &str {
    match text(container, "/state/waiting/reason") {
        "ErrImagePull" | "ImageInspectError" | "ErrImageNeverPull" | "RegistryUnavailable" => {
            "ImagePullBackOff"
        }
        other => other,
    }
}

fn waiting_for_image(pod: &Value) -> bool {
    containers(pod).any(|c| waiting_reason(c) == "ImagePullBackOff")
}

/// One pod, without what counts or ticks.
fn instance(pod: &Value, events: &[Value]) -> Value {
    let status = &pod["status"];
    let mut shown = json!({ "name": pod["metadata"]["name"], "phase": status["phase"] });
    let conditions = status["conditions"].as_array().into_iter().flatten();
    for condition in conditions {
        if condition["type"] == "Ready" {
            shown["ready"] = (condition["status"] == "True").into();
        }
        if condition["type"] == "PodScheduled" && condition["status"] == "False" {
            shown["unscheduled"] = json!({ "reason": condition["reason"], "message": condition["message"] });
        }
    }
    for container in containers(pod) {
        let reason = waiting_reason(container);
        let last = [&container["state"]["terminated"], &container["lastState"]["terminated"]];
        let ended = last.into_iter().find(|t| t.is_object());
        let is_trouble = !["", "ContainerCreating", "PodInitializing"].contains(&reason);
        if is_trouble || ended.is_some_and(|e| e["exitCode"] != 0) {
            let mut trouble = json!({ "container": container["name"] });
            if is_trouble {
                trouble["reason"] = reason.into();
                // The kubelet's sentence about a back-off holds its present length.
                if !["CrashLoopBackOff", "ImagePullBackOff"].contains(&reason) {
                    trouble["message"] = container["state"]["waiting"]["message"].clone();
                }
            }
            if let Some(ended) = ended {
                trouble["ended"] = json!({ "reason": ended["reason"], "exit_code": ended["exitCode"] });
            }
            if reason == "ImagePullBackOff" {
                trouble["image"] = container["image"].clone();
                if let Some(said) = pull_failure(pod, events) {
                    trouble["message"] = said.into();
                }
            }
            shown["trouble"] = trouble;
        }
    }
    shown
}

/// What the kubelet said about the image, by the latest event that says why.
fn pull_failure<'a>(pod: &Value, events: &'a [Value]) -> Option<&'a str> {
    let about = events.iter().filter(|event| event["involvedObject"]["uid"] == pod["metadata"]["uid"]);
    let failed = about.filter(|event| text(event, "/message").starts_with("Failed to pull image"));
    failed.max_by_key(|event| text(event, "/lastTimestamp")).map(|event| text(event, "/message"))
}

fn raw_service(object: &Value, deployments: &[Value]) -> Value {
    let mut raw = head(object);
    let spec = &object["spec"];
    raw["spec"] = json!({ "type": spec["type"], "selector": spec["selector"], "ports": spec["ports"] });
    let behind = |d: &&Value| selects(&spec["selector"], &d["spec"]["template"]["metadata"]["labels"]);
    raw["behind"] = deployments.iter().filter(behind).map(|d| d["metadata"]["name"].clone()).collect();
    raw
}

fn raw_custom(object: &Value) -> Value {
    let mut raw = head(object);
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    raw["conditions"] = conditions
        .map(|c| json!({ "type": c["type"], "status": c["status"], "reason": c["reason"], "message": c["message"] }))
        .collect();
    let deployment = &object["spec"]["deployment"];
    raw["spec"] = json!({
        "type": object["spec"]["type"], "image": deployment["image"], "port": deployment["port"],
        "transport": object["spec"]["transportType"],
    });
    raw
}
