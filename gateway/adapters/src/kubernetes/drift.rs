//! What differs from what was applied. Pure.
//!
//! What was applied is written on the object, leaf by leaf (an annotation), so that the difference can be told by any
//! reader from the object alone. What others added beside it is no difference.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Longest value that is written out; a longer one is written as its sum.
const MAX_VALUE_BYTES: usize = 48;

/// The leaves of an object's labels and `spec`: a path and a short text each.
fn leaves(object: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for label in object["metadata"]["labels"].as_object().into_iter().flatten() {
        found.insert(format!("metadata.labels[{}]", label.0), short(label.1));
    }
    flatten("spec", &object["spec"], &mut found);
    found
}

fn flatten(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                // A label's name has dots of its own.
                let named =
                    ["matchLabels", "labels", "annotations", "selector"].iter().any(|n| path.ends_with(n));
                let path = if named { format!("{path}[{name}]") } else { format!("{path}.{name}") };
                flatten(&path, value, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                let key =
                    ["name", "mountPath", "containerPort", "port", "type"].iter().find_map(|k| item.get(*k));
                let key =
                    key.map_or_else(String::new, |k| k.as_str().map_or_else(|| k.to_string(), str::to_owned));
                flatten(&format!("{path}[{key}]"), item, found);
            }
        }
        _ => _ = found.insert(path.to_owned(), short(value)),
    }
}

fn short(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.len() <= MAX_VALUE_BYTES {
        return text;
    }
    // FNV-1a: this tells a difference apart, and guards nothing.
    let sum =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("#{sum:016x}")
}

/// What is written on an object about what is applied to it.
pub(super) fn digest(object: &Value) -> String {
    let leaves: Map<String, Value> =
        leaves(object).into_iter().map(|(path, text)| (path, text.into())).collect();
    Value::Object(leaves).to_string()
}

/// The paths that were applied.
pub(super) fn applied(digest: &str) -> BTreeMap<String, String> {
    serde_json::from_str(digest).unwrap_or_default()
}

/// The fields of what is there that are not as they were applied; values are not told.
pub(super) fn differences(digest: &str, object: &Value) -> Vec<String> {
    let live = leaves(object);
    applied(digest)
        .into_iter()
        .filter(|(path, text)| live.get(path) != Some(text))
        .map(|(path, _)| path)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_no_difference_and_what_they_change_or_take_is() {
        let made = json!({ "metadata": { "labels": { "basalt/name": "web" } }, "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "a.b/c": "x" } },
            "template": { "spec": { "containers": [
                { "name": "main", "image": "i:1", "args": ["a", "b"], "env": [{ "name": "A", "value": "1" }] },
            ] } },
        } });
        let digest = digest(&made);
        assert_eq!(differences(&digest, &made), Vec::<String>::new());
        let mut live = made.clone();
        live["metadata"]["labels"]["team"] = "x".into();
        live["spec"]["strategy"] = json!({ "type": "RollingUpdate" });
        live["spec"]["template"]["spec"]["containers"] = json!([
            { "name": "sidecar", "image": "s" },
            { "name": "main", "image": "i:1", "args": ["a", "b"], "env": [{ "name": "Z" }, { "name": "A", "value": "1" }] },
        ]);
        assert_eq!(differences(&digest, &live), Vec::<String>::new());
        live["spec"]["replicas"] = 5.into();
        live["spec"]["template"]["spec"]["containers"][1]["args"] = json!(["a"]);
        live["spec"]["template"]["spec"]["containers"][1]["env"] = json!([]);
        let main = "spec.template.spec.containers[main]";
        let expected = [
            "spec.replicas".to_owned(),
            format!("{main}.args"),
            format!("{main}.env[A].name"),
            format!("{main}.env[A].value"),
        ];
        let mut found = differences(&digest, &live);
        found.sort();
        assert_eq!(found, expected);
    }
}
