//! What the verbs do to what is there: delete with its policies, patches, lists in pages.

use crate::{
    apply,
    kinds::{Kind, POD},
    select::Selector,
    state::{Key, State, Write},
    status::Status,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How something is deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    pub policy: String,
    pub grace: Option<u64>,
    pub uid: Option<String>,
    pub version: Option<String>,
    pub dry_run: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    propagation_policy: Option<String>,
    grace_period_seconds: Option<u64>,
    preconditions: Preconditions,
    dry_run: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Deletion {
    pub fn parse(body: &[u8], query: &dyn Fn(&str) -> Option<String>) -> Result<Self, Status> {
        let options: DeleteOptions = if body.is_empty() {
            DeleteOptions::default()
        } else {
            serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string()))?
        };
        let policy = query("propagationPolicy").or(options.propagation_policy).unwrap_or_default();
        Ok(Self {
            policy,
            grace: query("gracePeriodSeconds").and_then(|g| g.parse().ok()).or(options.grace_period_seconds),
            uid: options.preconditions.uid,
            version: options.preconditions.resource_version,
            dry_run: !options.dry_run.is_empty() || query("dryRun").is_some(),
        })
    }
}

/// Deletes one object, or marks it as going.
pub(crate) fn delete(
    state: &mut State,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    deletion: &Deletion,
) -> Result<Value, Status> {
    let old = state.need(kind, namespace, name)?.clone();
    let is = |field: &str| old["metadata"][field].as_str();
    for (wanted, field, word) in
        [(&deletion.uid, "uid", "UID"), (&deletion.version, "resourceVersion", "ResourceVersion")]
    {
        if wanted.as_deref().is_some_and(|wanted| Some(wanted) != is(field)) {
            return Err(Status::new(
                409,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {} {name:?}: the {word} in the precondition ({}) does not match the {word} in record ({}). The object might have been deleted and then recreated",
                    kind.resource(),
                    wanted.as_deref().unwrap_or_default(),
                    is(field).unwrap_or_default()
                ),
            ));
        }
    }
    if deletion.dry_run {
        return Ok(Value::clone(&old));
    }
    if deletion.policy == "Orphan" {
        orphan(state, is("uid").unwrap_or_default());
    }
    let mut new = Value::clone(&old);
    if deletion.policy == "Foreground" && old["metadata"]["deletionTimestamp"].is_null() {
        let mut finalizers = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        finalizers.push("foregroundDeletion".into());
        new["metadata"]["finalizers"] = finalizers.into();
    }
    let held = new["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let graceful = kind == &POD && deletion.grace != Some(0) && !state.options.termination.is_zero();
    if !held && !graceful {
        state.commit(Key::new(kind, namespace, name), None);
        return Ok(Value::clone(&old));
    }
    let is_going = !old["metadata"]["deletionTimestamp"].is_null();
    if is_going {
        return Ok(Value::clone(&old));
    }
    new["metadata"]["deletionTimestamp"] = apply::now().into();
    new["metadata"]["deletionGracePeriodSeconds"] = if graceful { 30 } else { 0 }.into();
    if kind.generation {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = generation.into();
    }
    state.version += 1;
    new["metadata"]["resourceVersion"] = state.version.to_string().into();
    state.version -= 1;
    let new = Arc::new(new);
    state.commit(Key::new(kind, namespace, name), Some(new.clone()));
    Ok(Value::clone(&new))
}

fn orphan(state: &mut State, uid: &str) {
    let dependents: Vec<(Key, Arc<Value>)> =
        state.objects.iter().map(|(k, o)| (k.clone(), o.clone())).collect();
    for (key, object) in dependents {
        let Some(owners) = object["metadata"]["ownerReferences"].as_array() else { continue };
        let left: Vec<Value> = owners.iter().filter(|o| o["uid"] != uid).cloned().collect();
        if left.len() == owners.len() {
            continue;
        }
        let mut new = Value::clone(&object);
        new["metadata"]["ownerReferences"] = left.into();
        let named = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        if let Some(kind) = state.served.by_name(&named("apiVersion"), &named("kind")) {
            _ = state.replace(kind, &key.namespace, &object, new, &Write::by("kube-controller-manager"));
        }
    }
}

/// A merge patch (RFC 7386).
pub(crate) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge_patch(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A strategic merge patch: lists by key, `null` takes away.
pub(crate) fn strategic_patch(target: &mut Value, patch: &Value) {
    let mut merged = apply::merge(target, patch, &mut Vec::new());
    drop_nulls(&mut merged);
    *target = merged;
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A patch of single steps (RFC 6902): add, remove, replace and test.
pub(crate) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Status> {
    for step in patch.as_array().into_iter().flatten() {
        let path = step["path"].as_str().unwrap_or_default();
        let refuse = |why: &str| {
            Status::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {path}: {why}"),
            )
        };
        let (parent, last) = path.rsplit_once('/').ok_or_else(|| refuse("no path"))?;
        let last = last.replace("~1", "/").replace("~0", "~");
        if step["op"] == "test" {
            let found = target.pointer(path).cloned().unwrap_or(Value::Null);
            if found != step["value"] {
                return Err(refuse("testing value failed"));
            }
            continue;
        }
        let at = target.pointer_mut(parent).ok_or_else(|| refuse("missing"))?;
        let value = step["value"].clone();
        match (step["op"].as_str().unwrap_or_default(), at) {
            ("add" | "replace", Value::Object(map)) => _ = map.insert(last, value),
            ("remove", Value::Object(map)) => _ = map.remove(&last).ok_or_else(|| refuse("missing"))?,
            ("add", Value::Array(items)) if last == "-" => items.push(value),
            (op, Value::Array(items)) => {
                let index: usize = last.parse().map_err(|_| refuse("no index"))?;
                match op {
                    "add" if index <= items.len() => items.insert(index, value),
                    "replace" if index < items.len() => items[index] = value,
                    "remove" if index < items.len() => _ = items.remove(index),
                    _ => return Err(refuse("out of range")),
                }
            }
            _ => return Err(refuse("unknown step")),
        }
    }
    Ok(())
}

/// What a list asks for.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub limit: Option<usize>,
    pub token: Option<String>,
}

/// A page of a list: the items, its version, and the token of the next page.
pub(crate) fn list(
    state: &mut State,
    kind: &Kind,
    namespace: Option<&str>,
    selector: &Selector,
    page: &Page,
) -> Result<(Vec<Arc<Value>>, Value), Status> {
    let (version, mut rest) = match &page.token {
        Some(token) => state.pages.remove(token).ok_or_else(|| {
            Status::gone("The provided continue parameter is too old to display a consistent list result.")
        })?,
        None => {
            let all = state.list(kind, namespace).filter(|o| selector.matches(o)).cloned().collect();
            (state.version, all)
        }
    };
    let most = page.limit.unwrap_or(usize::MAX).min(if page.limit.is_some() {
        state.options.page_size
    } else {
        usize::MAX
    });
    let mut meta = json!({ "resourceVersion": version.to_string() });
    if rest.len() > most {
        let left = rest.split_off(most);
        let token = format!("{version}-{}", state.unique());
        meta["continue"] = token.clone().into();
        meta["remainingItemCount"] = left.len().into();
        state.pages.insert(token, (version, left));
    }
    Ok((rest, meta))
}

/// What is left of an object for those who ask for its metadata only.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}
