//! What a cluster's controllers do: pods of deployments, their state, and taking away what has lost its owner.

use crate::{
    apply::now,
    kinds::{DEPLOYMENT, EVENT, Kind, POD, REPLICA_SET, SECRET, SERVICE_ACCOUNT},
    select::match_labels,
    state::{Key, State, Write},
    verbs::{Deletion, delete},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// What pods do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// They run and are ready.
    Ready,
    /// They run and are never ready.
    NeverReady,
    /// Their image cannot be pulled.
    ImagePullBackOff,
    /// They end at once, again and again.
    CrashLoopBackOff,
    /// No node takes them.
    Unschedulable,
    /// They are ready after so long.
    Slow(Duration),
}

#[derive(Debug, Default)]
pub(crate) struct Controller {
    pub behaviours: BTreeMap<String, Behaviour>,
    born: BTreeMap<String, Instant>,
    ending: BTreeMap<String, Instant>,
    /// Whether it stands still, as a controller that is down.
    pub stopped: bool,
}

const ME: &str = "kube-controller-manager";

/// One pass over everything; how long until the next is due by time alone.
pub(crate) fn step(state: &mut State) -> Option<Duration> {
    if state.controller.stopped {
        return None;
    }
    collect(state);
    let deployments: Vec<Arc<Value>> = state.list(&DEPLOYMENT, None).cloned().collect();
    for deployment in deployments {
        if deployment["metadata"]["deletionTimestamp"].is_null() {
            roll(state, &deployment);
        }
    }
    let pods: Vec<Arc<Value>> = state.list(&POD, None).cloned().collect();
    pods.iter().filter_map(|pod| pod_step(state, pod)).min()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn owned_by(object: &Value, uid: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["uid"] == uid)
}

/// What has owners, none of which is there, goes; what waits for its dependents goes after them.
fn collect(state: &mut State) {
    let everything: Vec<(Key, Arc<Value>)> =
        state.objects.iter().map(|(k, o)| (k.clone(), o.clone())).collect();
    let foreground = |o: &Value| {
        let finalizers = o["metadata"]["finalizers"].as_array();
        finalizers.into_iter().flatten().any(|f| f == "foregroundDeletion")
    };
    let mut living: BTreeMap<&str, bool> = BTreeMap::new();
    for (_, object) in &everything {
        living.insert(text(object, "/metadata/uid"), foreground(object));
    }
    for (key, object) in &everything {
        let Some(owners) = object["metadata"]["ownerReferences"].as_array() else { continue };
        let needed = owners.iter().any(|o| living.get(text(o, "/uid")) == Some(&false));
        let blocked = owners.iter().any(|o| living.get(text(o, "/uid")) == Some(&true));
        if needed || !object["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let deletion = Deletion {
            policy: if blocked { "Foreground" } else { "Background" }.into(),
            ..Deletion::default()
        };
        if let Some(kind) = state.served.by_name(text(object, "/apiVersion"), text(object, "/kind")) {
            _ = delete(state, kind, &key.namespace, &key.name, &deletion);
        }
    }
    for (key, object) in &everything {
        let uid = text(object, "/metadata/uid");
        if foreground(object) && !everything.iter().any(|(_, other)| owned_by(other, uid)) {
            let Some(kind) = state.served.by_name(text(object, "/apiVersion"), text(object, "/kind")) else {
                continue;
            };
            let Some(old) = state.objects.get(key).cloned() else { continue };
            let mut new = Value::clone(&old);
            if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|f| f != "foregroundDeletion");
            }
            _ = state.replace(kind, &key.namespace, &old, new, &Write::by(ME));
        }
    }
}

fn hash(value: &Value) -> String {
    let sum = value
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{:010x}", sum & 0xff_ffff_ffff)
}

fn owner(object: &Value) -> Value {
    json!([{
        "apiVersion": object["apiVersion"], "kind": object["kind"], "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }])
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Makes the pods that a deployment wants, and takes away those it wants no more.
fn roll(state: &mut State, deployment: &Arc<Value>) {
    let namespace = text(deployment, "/metadata/namespace").to_owned();
    let template = &deployment["spec"]["template"];
    let wanted = usize::try_from(deployment["spec"]["replicas"].as_u64().unwrap_or(1)).unwrap_or(1);
    let stamp = hash(template);
    let name = format!("{}-{stamp}", text(deployment, "/metadata/name"));
    let uid = text(deployment, "/metadata/uid");
    let current = match state.get(&REPLICA_SET, &namespace, &name) {
        Some(set) => Value::clone(set),
        None => {
            let mut template = template.clone();
            template["metadata"]["labels"]["pod-template-hash"] = stamp.clone().into();
            let set = json!({
                "metadata": { "name": name, "ownerReferences": owner(deployment), "labels": template["metadata"]["labels"] },
                "spec": { "replicas": wanted, "selector": { "matchLabels": template["metadata"]["labels"] }, "template": template },
            });
            match state.create(&REPLICA_SET, &namespace, set, &Write::by(ME)) {
                Ok(set) => set,
                Err(_) => return,
            }
        }
    };
    let sets: Vec<Arc<Value>> =
        state.list(&REPLICA_SET, Some(&namespace)).filter(|s| owned_by(s, uid)).cloned().collect();
    let pods: Vec<Arc<Value>> = state.list(&POD, Some(&namespace)).cloned().collect();
    let of = |set: &Value| -> Vec<Arc<Value>> {
        let uid = text(set, "/metadata/uid");
        let alive = |p: &&Arc<Value>| owned_by(p, uid) && p["metadata"]["deletionTimestamp"].is_null();
        pods.iter().filter(alive).cloned().collect()
    };
    let new = of(&current);
    let mut failure = None;
    for _ in new.len()..wanted {
        if let Err(message) = make_pod(state, &namespace, &current) {
            failure = Some(message);
            break;
        }
    }
    let mut surplus: Vec<Arc<Value>> = new.iter().skip(wanted).cloned().collect();
    let old: Vec<Arc<Value>> = sets
        .iter()
        .filter(|s| s["metadata"]["name"] != current["metadata"]["name"])
        .flat_map(|s| of(s))
        .collect();
    let ready = new.iter().filter(|pod| is_ready(pod)).count();
    if ready >= wanted {
        surplus.extend(old.iter().cloned());
    }
    for pod in surplus {
        _ = delete(state, &POD, &namespace, text(&pod, "/metadata/name"), &Deletion::default());
    }
    let old_ready = old.iter().filter(|pod| is_ready(pod)).count();
    tell(
        state,
        deployment,
        [new.len().min(wanted), old.len(), ready.min(wanted), old_ready, wanted],
        failure,
    );
}

fn make_pod(state: &mut State, namespace: &str, set: &Value) -> Result<(), String> {
    let template = &set["spec"]["template"];
    let account = text(template, "/spec/serviceAccountName").to_owned();
    let prefix = format!("{}-", text(set, "/metadata/name"));
    if !account.is_empty()
        && account != "default"
        && state.get(&SERVICE_ACCOUNT, namespace, &account).is_none()
    {
        return Err(format!(
            "pods {prefix:?} is forbidden: error looking up service account {namespace}/{account}: serviceaccount \
             {account:?} not found"
        ));
    }
    let name = format!("{prefix}{}", state.unique());
    let pod = json!({
        "metadata": {
            "name": name, "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"].as_object().cloned().unwrap_or_default(),
            "ownerReferences": owner(set),
        },
        "spec": template["spec"], "status": { "phase": "Pending" },
    });
    // Without the made-up part of the name, so that the same refusal is not news.
    let made =
        state.create(&POD, namespace, pod, &Write::by(ME)).map_err(|s| s.message.replace(&name, &prefix))?;
    state.controller.born.insert(text(&made, "/metadata/uid").to_owned(), Instant::now());
    Ok(())
}

/// Writes a deployment's status.
fn tell(state: &mut State, deployment: &Arc<Value>, counts: [usize; 5], failure: Option<String>) {
    let [new, old, ready, old_ready, wanted] = counts;
    let (namespace, name) = (text(deployment, "/metadata/namespace"), text(deployment, "/metadata/name"));
    let all_ready = ready + old_ready;
    let before = &deployment["status"]["conditions"];
    let condition = |kind: &str, is: bool, reason: &str, message: &str| {
        let status = if is { "True" } else { "False" };
        let same = before
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind && c["status"] == status && c["reason"] == reason);
        let time = same.map_or_else(|| json!(now()), |c| c["lastTransitionTime"].clone());
        json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time, "lastUpdateTime": time })
    };
    let available = all_ready >= wanted;
    let done = new == wanted && ready == wanted && old == 0;
    let mut conditions = vec![
        if available {
            condition("Available", true, "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            condition(
                "Available",
                false,
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        },
        condition("Progressing", true, if done { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" }, ""),
    ];
    if let Some(message) = failure {
        conditions.push(condition("ReplicaFailure", true, "FailedCreate", &message));
    }
    let mut status =
        json!({ "observedGeneration": deployment["metadata"]["generation"], "conditions": conditions });
    for (field, count) in [
        ("replicas", new + old),
        ("updatedReplicas", new),
        ("readyReplicas", all_ready),
        ("availableReplicas", all_ready),
        ("unavailableReplicas", (new + old).max(wanted).saturating_sub(all_ready)),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    set_status(state, &DEPLOYMENT, namespace, name, status);
}

fn set_status(state: &mut State, kind: &'static Kind, namespace: &str, name: &str, status: Value) {
    let Some(old) = state.get(kind, namespace, name).cloned() else { return };
    if old["status"] == status {
        return;
    }
    let mut new = Value::clone(&old);
    new["status"] = status;
    _ = state.replace(kind, namespace, &old, new, &Write::of_status(ME));
}

/// What becomes of one pod; how long until something does.
fn pod_step(state: &mut State, pod: &Arc<Value>) -> Option<Duration> {
    let (namespace, name) =
        (text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned());
    let uid = text(pod, "/metadata/uid").to_owned();
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        let began = *state.controller.ending.entry(uid).or_insert_with(Instant::now);
        let left = state.options.termination.saturating_sub(began.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        state.commit(Key::new(&POD, &namespace, &name), None);
        return None;
    }
    let image = text(pod, "/spec/containers/0/image").to_owned();
    let behaviour = state.controller.behaviours.get(&image).copied().unwrap_or(state.options.behaviour);
    let age = state.controller.born.entry(uid).or_insert_with(Instant::now).elapsed();
    let missing = missing_secret(state, pod, &namespace);
    let delay = match behaviour {
        Behaviour::Slow(time) => time,
        _ => state.options.start,
    };
    let left = delay.saturating_sub(age);
    let status = pod_status(pod, behaviour, left.is_zero(), missing);
    if status["phase"] == "Running" && pod["status"]["phase"] != "Running" {
        for line in state.options.start_lines.clone() {
            state.logs.print(&namespace, &name, &line);
        }
    }
    if behaviour == Behaviour::ImagePullBackOff && pod["status"] != status {
        tell_event(state, pod, &image);
    }
    set_status(state, &POD, &namespace, &name, status);
    (!left.is_zero()).then_some(left)
}

fn missing_secret(state: &State, pod: &Value, namespace: &str) -> Option<String> {
    let env = pod.pointer("/spec/containers/0/env").and_then(Value::as_array);
    env.into_iter()
        .flatten()
        .filter_map(|v| v.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str))
        .find(|secret| state.get(&SECRET, namespace, secret).is_none())
        .map(|secret| format!("secret {secret:?} not found"))
}

fn pod_status(pod: &Value, behaviour: Behaviour, started: bool, missing: Option<String>) -> Value {
    let time = &pod["metadata"]["creationTimestamp"];
    let condition = |kind: &str, is: bool| json!({ "type": kind, "status": if is { "True" } else { "False" }, "lastTransitionTime": time });
    if behaviour == Behaviour::Unschedulable {
        let mut refused = condition("PodScheduled", false);
        refused["reason"] = "Unschedulable".into();
        refused["message"] = "0/3 nodes are available: 3 Insufficient memory.".into();
        return json!({ "phase": "Pending", "conditions": [refused], "qosClass": "BestEffort" });
    }
    let container = &pod["spec"]["containers"][0];
    let waiting =
        |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
    let (phase, ready, restarts, now, last) = match behaviour {
        _ if missing.is_some() => (
            "Pending",
            false,
            0,
            waiting("CreateContainerConfigError", &missing.unwrap_or_default()),
            json!({}),
        ),
        Behaviour::ImagePullBackOff => {
            let message = format!("Back-off pulling image {}", container["image"]);
            ("Pending", false, 0, waiting("ImagePullBackOff", &message), json!({}))
        }
        _ if !started => ("Pending", false, 0, waiting("ContainerCreating", ""), json!({})),
        Behaviour::CrashLoopBackOff => {
            let ended = json!({ "terminated": { "exitCode": 1, "reason": "Error", "startedAt": time, "finishedAt": time } });
            let message = "back-off 40s restarting failed container=main";
            ("Running", false, 3, waiting("CrashLoopBackOff", message), ended)
        }
        Behaviour::NeverReady => {
            ("Running", false, 0, json!({ "running": { "startedAt": time } }), json!({}))
        }
        _ => ("Running", true, 0, json!({ "running": { "startedAt": time } }), json!({})),
    };
    json!({
        "phase": phase, "qosClass": "BestEffort", "hostIP": "10.0.0.1", "podIP": "10.244.0.2", "startTime": time,
        "conditions": [
            condition("Initialized", true), condition("Ready", ready), condition("ContainersReady", ready),
            condition("PodScheduled", true),
        ],
        "containerStatuses": [{
            "name": container["name"], "image": container["image"], "imageID": "", "ready": ready,
            "started": ready, "restartCount": restarts, "state": now, "lastState": last,
        }],
    })
}

fn tell_event(state: &mut State, pod: &Value, image: &str) {
    let namespace = text(pod, "/metadata/namespace").to_owned();
    let event = json!({
        "metadata": { "generateName": format!("{}.", text(pod, "/metadata/name")) },
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "namespace": namespace,
            "uid": pod["metadata"]["uid"], "fieldPath": "spec.containers{main}",
        },
        "type": "Warning", "reason": "Failed", "count": 4, "firstTimestamp": now(), "lastTimestamp": now(),
        "message": format!("Failed to pull image {image:?}: rpc error: code = NotFound desc = failed to resolve reference: not found"),
        "source": { "component": "kubelet", "host": "node-1" },
    });
    _ = state.create(&EVENT, &namespace, event, &Write::by("kubelet"));
}

/// The pods that a deployment's selector selects.
pub(crate) fn pods_of(state: &State, namespace: &str, deployment: &str) -> Vec<String> {
    let Some(deployment) = state.get(&DEPLOYMENT, namespace, deployment) else { return Vec::new() };
    let selector = &deployment["spec"]["selector"]["matchLabels"];
    state
        .list(&POD, Some(namespace))
        .filter(|pod| match_labels(selector, &pod["metadata"]["labels"]))
        .map(|pod| text(pod, "/metadata/name").to_owned())
        .collect()
}
