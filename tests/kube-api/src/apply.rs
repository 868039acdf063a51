//! Server-side apply: who owns which field, how lists are merged by key, what is taken away and who is in the way.
//!
//! A set of fields is a set of paths to leaves, as `fieldsV1` writes them: `f:` a field, `k:` an item of a list by its
//! key, `v:` an item of a set. The rules are those of Kubernetes' "Server-Side Apply" and of structured-merge-diff.

use crate::status::Status;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Elem {
    Field(String),
    Key(String),
    Value(String),
}

pub(crate) type Path = Vec<Elem>;
pub(crate) type Set = BTreeSet<Path>;

/// Who wrote: a name, whether by apply, and of which part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    pub name: String,
    pub applies: bool,
    pub subresource: String,
}

/// One manager's fields and when it last changed them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owned {
    pub fields: Set,
    pub api_version: String,
    pub time: String,
}

pub(crate) type Managers = BTreeMap<Manager, Owned>;

enum List {
    Atomic,
    Set,
    Map(&'static [&'static str]),
}

fn names(path: &[Elem]) -> Vec<&str> {
    path.iter().filter_map(|e| if let Elem::Field(name) = e { Some(name.as_str()) } else { None }).collect()
}

/// How a list is merged: what the API's schema says in `x-kubernetes-list-type`.
fn list(path: &[Elem]) -> List {
    match names(path).as_slice() {
        [.., "containers" | "initContainers", "ports"] => List::Map(&["containerPort", "protocol"]),
        ["spec", "ports"] => List::Map(&["port", "protocol"]),
        [.., "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets"] => {
            List::Map(&["name"])
        }
        [.., "volumeMounts"] => List::Map(&["mountPath"]),
        [.., "conditions"] => List::Map(&["type"]),
        ["metadata", "ownerReferences"] => List::Map(&["uid"]),
        ["metadata", "finalizers"] => List::Set,
        _ => List::Atomic,
    }
}

/// Objects that are written as one: what the schema says in `x-kubernetes-map-type`.
fn atomic(path: &[Elem]) -> bool {
    matches!(
        names(path).as_slice(),
        ["spec", "selector"] | [.., "secretKeyRef" | "configMapKeyRef" | "fieldRef" | "resourceFieldRef"]
    )
}

/// What nobody owns: identity, and what the server writes.
fn unowned(path: &[Elem]) -> bool {
    matches!(
        names(path).as_slice(),
        ["apiVersion" | "kind"]
            | [
                "metadata",
                "name"
                    | "namespace"
                    | "uid"
                    | "resourceVersion"
                    | "generation"
                    | "creationTimestamp"
                    | "deletionTimestamp"
                    | "deletionGracePeriodSeconds"
                    | "managedFields"
                    | "selfLink",
                ..
            ]
    )
}

fn key_of(item: &Value, keys: &[&str]) -> Option<String> {
    let mut key = Map::new();
    for name in keys {
        key.insert((*name).to_owned(), item.get(*name)?.clone());
    }
    Some(Value::Object(key).to_string())
}

/// The fields of an object. Items without their key are refused, as old servers do.
pub(crate) fn fields(object: &Value) -> Result<Set, Status> {
    let mut set = Set::new();
    collect(object, &mut Vec::new(), &mut set)?;
    Ok(set)
}

fn collect(value: &Value, path: &mut Path, set: &mut Set) -> Result<(), Status> {
    if unowned(path) {
        return Ok(());
    }
    match value {
        Value::Object(map) if !map.is_empty() && !atomic(path) => {
            for (name, value) in map {
                path.push(Elem::Field(name.clone()));
                collect(value, path, set)?;
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match list(path) {
            List::Atomic => _ = set.insert(path.clone()),
            List::Set => {
                for item in items {
                    path.push(Elem::Value(item.to_string()));
                    set.insert(path.clone());
                    path.pop();
                }
            }
            List::Map(keys) => {
                for (i, item) in items.iter().enumerate() {
                    let key = key_of(item, keys).ok_or_else(|| keyless(path, i, item, keys))?;
                    path.push(Elem::Key(key));
                    set.insert(path.clone());
                    collect(item, path, set)?;
                    path.pop();
                }
            }
        },
        _ if path.is_empty() => {}
        _ => _ = set.insert(path.clone()),
    }
    Ok(())
}

fn keyless(path: &[Elem], index: usize, item: &Value, keys: &[&str]) -> Status {
    let missing = keys.iter().find(|k| item.get(**k).is_none()).copied().unwrap_or_default();
    let message = format!(
        "failed to create typed patch object: {}: element {index}: associative list with keys has an element that \
         omits key field {missing:?}",
        show(path)
    );
    Status::new(500, "InternalError", message)
}

/// A path as messages write it: `.spec.template.spec.containers[name="main"].image`.
pub(crate) fn show(path: &[Elem]) -> String {
    let mut text = String::new();
    for elem in path {
        match elem {
            Elem::Field(name) => text.push_str(&format!(".{name}")),
            Elem::Key(key) => {
                let keys: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let parts: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                text.push_str(&format!("[{}]", parts.join(",")));
            }
            Elem::Value(value) => text.push_str(&format!("[={value}]")),
        }
    }
    text
}

fn find<'a>(items: &'a [Value], key: &str) -> Option<(usize, &'a Value)> {
    let wanted: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
    items
        .iter()
        .enumerate()
        .find(|(_, item)| wanted.iter().all(|(name, value)| item.get(name) == Some(value)))
}

/// What stands at a path.
pub(crate) fn get<'a>(value: &'a Value, path: &[Elem]) -> Option<&'a Value> {
    path.iter().try_fold(value, |at, elem| match elem {
        Elem::Field(name) => at.get(name),
        Elem::Key(key) => at.as_array().and_then(|items| find(items, key)).map(|(_, item)| item),
        Elem::Value(text) => at.as_array()?.iter().find(|item| &item.to_string() == text),
    })
}

/// Puts what is applied over what is there.
pub(crate) fn merge(live: &Value, applied: &Value, path: &mut Path) -> Value {
    match (live, applied) {
        (Value::Object(old), Value::Object(new)) if !atomic(path) => {
            let mut merged = old.clone();
            for (name, value) in new {
                path.push(Elem::Field(name.clone()));
                let value = merge(old.get(name).unwrap_or(&Value::Null), value, path);
                path.pop();
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(old), Value::Array(new)) => match list(path) {
            List::Atomic => applied.clone(),
            List::Set => {
                let added = new.iter().filter(|item| !old.contains(item)).cloned();
                Value::Array(old.iter().cloned().chain(added).collect())
            }
            List::Map(keys) => {
                let mut merged = old.clone();
                for item in new {
                    let key = key_of(item, keys).unwrap_or_default();
                    path.push(Elem::Key(key.clone()));
                    match find(old, &key) {
                        Some((at, before)) => merged[at] = merge(before, item, path),
                        None => merged.push(item.clone()),
                    }
                    path.pop();
                }
                Value::Array(merged)
            }
        },
        _ => applied.clone(),
    }
}

/// Takes away what stands at a path, and what is empty afterwards around it.
fn remove(value: &mut Value, path: &[Elem]) {
    let [first, rest @ ..] = path else { return };
    match (first, value) {
        (Elem::Field(name), Value::Object(map)) => {
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(inner) = map.get_mut(name) {
                remove(inner, rest);
                let empty = inner.as_object().is_some_and(Map::is_empty)
                    || inner.as_array().is_some_and(Vec::is_empty);
                if empty {
                    map.remove(name);
                }
            }
        }
        (Elem::Key(key), Value::Array(items)) => {
            let Some((at, _)) = find(items, key) else { return };
            if rest.is_empty() {
                items.remove(at);
            } else {
                remove(&mut items[at], rest);
            }
        }
        (Elem::Value(text), Value::Array(items)) => items.retain(|item| &item.to_string() != text),
        _ => {}
    }
}

/// What an apply makes of an object that is there, or the refusal that names who is in the way.
pub(crate) fn apply(
    live: &Value,
    managers: &Managers,
    manager: &Manager,
    applied: &Value,
    api_version: &str,
    force: bool,
) -> Result<(Value, Managers), Status> {
    let wanted = fields(applied)?;
    let before = managers.get(manager).map(|owned| owned.fields.clone()).unwrap_or_default();
    let mut conflicts: BTreeMap<&Manager, Vec<&Path>> = BTreeMap::new();
    for (other, owned) in managers.iter().filter(|(other, _)| *other != manager) {
        let differs = |path: &&Path| {
            owned.fields.contains(*path)
                && !matches!(path.last(), Some(Elem::Key(_)))
                && get(live, path) != get(applied, path)
        };
        let paths: Vec<&Path> = wanted.iter().filter(differs).collect();
        if !paths.is_empty() {
            conflicts.insert(other, paths);
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(refuse(&conflicts, managers));
    }
    let mut after = managers.clone();
    for (other, paths) in conflicts {
        if let Some(owned) = after.get_mut(other) {
            owned.fields.retain(|path| !paths.contains(&path));
        }
    }
    let mut merged = merge(live, applied, &mut Vec::new());
    let held = |path: &Path| {
        let others = after.iter().filter(|(other, _)| *other != manager);
        others.flat_map(|(_, owned)| &owned.fields).any(|p| p.starts_with(path))
    };
    // Items before what is in them, for without its key an item is not found again.
    let mut dropped: Vec<&Path> = before.difference(&wanted).filter(|path| !held(path)).collect();
    dropped.sort_by_key(|path| path.len());
    for path in dropped {
        remove(&mut merged, path);
    }
    let owned = Owned { fields: wanted, api_version: api_version.to_owned(), time: now() };
    after.insert(manager.clone(), owned);
    after.retain(|_, owned| !owned.fields.is_empty());
    Ok((merged, after))
}

fn refuse(conflicts: &BTreeMap<&Manager, Vec<&Path>>, managers: &Managers) -> Status {
    let with = |manager: &Manager| {
        let mut text = format!("conflict with {:?}", manager.name);
        if !manager.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", manager.subresource));
        }
        if !manager.applies {
            let owned = managers.get(manager);
            let (version, time) =
                owned.map(|o| (o.api_version.as_str(), o.time.as_str())).unwrap_or_default();
            text.push_str(&format!(" using {version} at {time}"));
        }
        text
    };
    let mut causes = Vec::new();
    for (manager, paths) in conflicts {
        for path in paths {
            causes.push(json!({
                "reason": "FieldManagerConflict", "message": with(manager), "field": show(path),
            }));
        }
    }
    let lines: Vec<String> = conflicts
        .iter()
        .flat_map(|(m, paths)| paths.iter().map(move |p| (m, p)))
        .map(|(m, p)| format!("{}: {}", with(m), show(p)))
        .collect();
    let plural = if causes.len() == 1 { "" } else { "s" };
    let message = format!("Apply failed with {} conflict{plural}: {}", causes.len(), lines.join("\n"));
    let mut status = Status::new(409, "Conflict", message);
    status.causes = causes;
    status
}

/// Who owns what after a write that was no apply: the writer owns what it changed, and nobody else does any more.
pub(crate) fn update(
    old: Option<&Value>,
    new: &Value,
    managers: &Managers,
    manager: &Manager,
    api_version: &str,
) -> Managers {
    let before = old.map(|old| fields(old).unwrap_or_default()).unwrap_or_default();
    let after = fields(new).unwrap_or_default();
    let value = |path: &Path| old.and_then(|old| get(old, path));
    let leaf = |path: &Path| !matches!(path.last(), Some(Elem::Key(_)));
    let changed: Set = after
        .iter()
        .filter(|path| !before.contains(*path) || leaf(path) && value(path) != get(new, path))
        .cloned()
        .collect();
    let mut managers = managers.clone();
    for (_, owned) in managers.iter_mut().filter(|(other, _)| *other != manager) {
        owned
            .fields
            .retain(|path| after.contains(path) && !(changed.contains(path) && before.contains(path)));
    }
    let owned = managers.entry(manager.clone()).or_insert_with(|| Owned {
        fields: Set::new(),
        api_version: api_version.to_owned(),
        time: now(),
    });
    owned.fields.retain(|path| after.contains(path));
    if !changed.is_empty() {
        owned.time = now();
        owned.fields.extend(changed);
    }
    managers.retain(|_, owned| !owned.fields.is_empty());
    managers
}

pub(crate) fn now() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata.managedFields`.
pub(crate) fn encode(managers: &Managers) -> Value {
    let entries = managers.iter().map(|(manager, owned)| {
        let mut root = Map::new();
        for path in &owned.fields {
            let mut at = &mut root;
            for elem in path {
                let name = match elem {
                    Elem::Field(name) => format!("f:{name}"),
                    Elem::Key(key) => format!("k:{key}"),
                    Elem::Value(value) => format!("v:{value}"),
                };
                let next = at.entry(name).or_insert_with(|| json!({}));
                at = next.as_object_mut().unwrap_or_else(|| unreachable!("made an object"));
            }
            if matches!(path.last(), Some(Elem::Key(_))) {
                at.insert(".".to_owned(), json!({}));
            }
        }
        let operation = if manager.applies { "Apply" } else { "Update" };
        let mut entry = json!({
            "manager": manager.name, "operation": operation, "apiVersion": owned.api_version,
            "time": owned.time, "fieldsType": "FieldsV1", "fieldsV1": root,
        });
        if !manager.subresource.is_empty() {
            entry["subresource"] = manager.subresource.clone().into();
        }
        entry
    });
    Value::Array(entries.collect())
}

/// The managers that an object names.
pub(crate) fn decode(object: &Value) -> Managers {
    let mut managers = Managers::new();
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    for entry in entries {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let Some(root) = entry["fieldsV1"].as_object() else { continue };
        let mut fields = Set::new();
        read(root, &mut Vec::new(), &mut fields);
        let manager = Manager {
            name: text("manager"),
            applies: text("operation") == "Apply",
            subresource: text("subresource"),
        };
        managers.insert(manager, Owned { fields, api_version: text("apiVersion"), time: text("time") });
    }
    managers
}

fn read(at: &Map<String, Value>, path: &mut Path, set: &mut Set) {
    for (name, inner) in at {
        let elem = match name.split_once(':') {
            _ if name == "." => {
                set.insert(path.clone());
                continue;
            }
            Some(("f", field)) => Elem::Field(field.to_owned()),
            Some(("k", key)) => Elem::Key(key.to_owned()),
            Some(("v", value)) => Elem::Value(value.to_owned()),
            _ => continue,
        };
        path.push(elem);
        match inner.as_object() {
            Some(inner) if !inner.is_empty() => read(inner, path, set),
            _ => _ = set.insert(path.clone()),
        }
        path.pop();
    }
}
