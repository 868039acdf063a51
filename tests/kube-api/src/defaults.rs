//! What the server writes itself where nothing is said, as `pkg/apis/*/v1/defaults.go` of Kubernetes does.

use crate::kinds::Kind;
use base64::Engine as _;
use serde_json::{Value, json};

/// Defaults that the first writer comes to own, since they are put in before owners are noted.
pub(crate) fn before_ownership(kind: &Kind, object: &mut Value) {
    fill(kind, object, None);
    if kind.kind == "Service"
        && let Some(spec) = object["spec"].as_object_mut()
    {
        // Addresses are given out later.
        spec.retain(|name, _| {
            !["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].contains(&name.as_str())
        });
    }
}

/// All defaults.
pub(crate) fn fill(kind: &Kind, object: &mut Value, old: Option<&Value>) {
    match kind.kind {
        "Deployment" => {
            let spec = &mut object["spec"];
            set(spec, "replicas", json!(1));
            set(spec, "revisionHistoryLimit", json!(10));
            set(spec, "progressDeadlineSeconds", json!(600));
            set(
                spec,
                "strategy",
                json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": "25%" } }),
            );
            pod(&mut spec["template"]["spec"]);
        }
        "Pod" => pod(&mut object["spec"]),
        "Service" => service(&mut object["spec"], old),
        "Secret" => secret(object),
        _ => {}
    }
}

fn set(at: &mut Value, name: &str, value: Value) {
    if let Some(map) = at.as_object_mut()
        && map.get(name).is_none_or(Value::is_null)
    {
        map.insert(name.to_owned(), value);
    }
}

fn pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "securityContext", json!({}));
    if let Some(account) = spec["serviceAccountName"].as_str().map(str::to_owned) {
        set(spec, "serviceAccount", json!(account));
    }
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            fill_container(container);
        }
    }
}

fn fill_container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default().to_owned();
    let tag = image.rsplit('/').next().unwrap_or_default().split_once(':').map(|(_, tag)| tag);
    let latest = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
    set(container, "imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" }));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    set(container, "resources", json!({}));
    for port in container["ports"].as_array_mut().into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
    }
    // Go leaves out what is empty.
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        if variable["value"] == "" {
            _ = variable.as_object_mut().map(|v| v.remove("value"));
        }
    }
    for name in ["readinessProbe", "startupProbe", "livenessProbe"] {
        let probe = &mut container[name];
        if !probe.is_object() {
            _ = container.as_object_mut().map(|c| c.remove(name));
            continue;
        }
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            set(probe, field, json!(value));
        }
        if probe["httpGet"].is_object() {
            set(&mut probe["httpGet"], "scheme", json!("HTTP"));
        }
    }
}

fn service(spec: &mut Value, old: Option<&Value>) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    set(spec, "internalTrafficPolicy", json!("Cluster"));
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
        let target = port["port"].clone();
        set(port, "targetPort", target);
    }
    let address = match old {
        Some(old) => old["spec"]["clusterIP"].clone(),
        None => {
            let text = spec.to_string();
            let sum = text.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
            json!(format!("10.96.{}.{}", (sum >> 8) & 0xff, sum & 0xff))
        }
    };
    set(spec, "clusterIP", address.clone());
    set(spec, "clusterIPs", json!([address]));
    set(spec, "ipFamilies", json!(["IPv4"]));
    set(spec, "ipFamilyPolicy", json!("SingleStack"));
}

fn secret(object: &mut Value) {
    set(object, "type", json!("Opaque"));
    let plain = object.as_object_mut().and_then(|o| o.remove("stringData"));
    for (name, value) in plain.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        object["data"][name] = base64::engine::general_purpose::STANDARD.encode(text).into();
    }
}
