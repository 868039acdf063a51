//! What a request means: its path, verb and parameters, whether it is allowed, and what answers it.

use crate::{
    apply::Manager,
    faults::Recorded,
    handle::Shared,
    kinds::{Kind, POD},
    rbac,
    select::Selector,
    state::{Key, State, Write},
    status::Status,
    verbs::{self, Deletion, Page},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// A request whose path was understood.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub recorded: Recorded,
    pub kind: Option<&'static Kind>,
    pub part: String,
    pub query: Vec<(String, String)>,
    pub content_type: String,
    pub accept: String,
    pub body: Vec<u8>,
}

/// What answers.
pub(crate) enum Answer {
    Json(u16, Value),
    Text(String),
    Watch { kind: &'static Kind, namespace: Option<String>, selector: Selector, from: String },
    Log { namespace: String, pod: String },
}

impl Asked {
    pub fn param(&self, name: &str) -> Option<String> {
        self.query.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.clone())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.param(name).is_some_and(|v| v == "true" || v == "1")
    }

    fn write(&self, applies: bool) -> Write {
        let name = self.param("fieldManager").unwrap_or_else(|| "kube-api-test".to_owned());
        let subresource = self.part.clone();
        Write { manager: Manager { name, applies, subresource }, dry_run: self.param("dryRun").is_some() }
    }

    fn json(&self) -> Result<Value, Status> {
        let parsed = serde_json::from_slice(&self.body).ok();
        parsed
            .or_else(|| serde_saphyr::from_slice(&self.body).ok())
            .ok_or_else(|| Status::bad_request("the object provided is unrecognized: couldn't parse it"))
    }

    /// Whether only metadata is asked for.
    pub fn metadata_only(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }
}

/// Takes a path apart: group, resource, part, namespace, name.
pub(crate) fn parse(shared: &Shared, method: &str, path: &str, query: &str) -> Asked {
    let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let words: Vec<&str> = path.split('/').filter(|w| !w.is_empty()).collect();
    let (group, version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => ("", "", &[][..]),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let (plural, name, part) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, part] => (*plural, *name, *part),
        _ => ("", "", ""),
    };
    let has = |wanted: &str| query.iter().any(|(n, v)| n == wanted && (v == "true" || v == "1"));
    let verb = match (method, name.is_empty()) {
        ("GET", true) if has("watch") => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "",
    };
    let resource = if part.is_empty() { plural.to_owned() } else { format!("{plural}/{part}") };
    let kind = shared.state.lock().served.find(group, version, plural);
    // A namespace is in itself, as far as rights go.
    let namespace = if plural == "namespaces" { name } else { namespace };
    Asked {
        recorded: Recorded {
            user: String::new(),
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        kind,
        part: part.to_owned(),
        query,
        content_type: String::new(),
        accept: String::new(),
        body: Vec::new(),
    }
}

/// Answers a request that is let in.
pub(crate) fn answer(
    shared: &Shared,
    path: &str,
    asked: &Asked,
    rules: &[rbac::Rule],
) -> Result<Answer, Status> {
    let mut state = shared.state.lock();
    if let Some(answer) = discovery(&state, path) {
        return answer;
    }
    let ok = |value: Value| Ok(Answer::Json(200, value));
    match asked.recorded.resource.as_str() {
        "selfsubjectaccessreviews" => {
            return ok(rbac::access_review(rules, &asked.recorded.user, &asked.json()?));
        }
        "selfsubjectrulesreviews" => return ok(rbac::rules_review(rules, &asked.json()?)),
        _ => {}
    }
    let kind = asked.kind.ok_or_else(Status::no_such_path)?;
    if !rbac::allowed(rules, &asked.recorded) {
        return Err(rbac::refuse(&asked.recorded));
    }
    if asked.part == "log" && kind == &POD {
        let (namespace, pod) = (asked.recorded.namespace.clone(), asked.recorded.name.clone());
        return check_log(&state, asked, &namespace, &pod).map(|()| Answer::Log { namespace, pod });
    }
    if !["", "status"].contains(&asked.part.as_str()) {
        return Err(Status::no_such_path());
    }
    let namespace = if kind.namespaced { asked.recorded.namespace.clone() } else { String::new() };
    match asked.recorded.verb.as_str() {
        "get" => ok(view(asked, state.need(kind, &namespace, &asked.recorded.name)?)),
        "list" => list(&mut state, kind, &namespace, asked),
        "watch" => watch(&state, kind, &namespace, asked),
        "create" => {
            let made = state.create(kind, &namespace, asked.json()?, &asked.write(false))?;
            Ok(Answer::Json(201, made))
        }
        "update" => {
            let old = state.need(kind, &namespace, &asked.recorded.name)?.clone();
            ok(state.replace(kind, &namespace, &old, asked.json()?, &asked.write(false))?)
        }
        "patch" => patch(&mut state, kind, &namespace, asked, rules),
        "delete" => {
            let deletion = Deletion::parse(&asked.body, &|name| asked.param(name))?;
            let gone = verbs::delete(&mut state, kind, &namespace, &asked.recorded.name, &deletion)?;
            let going = state.objects.contains_key(&Key::new(kind, &namespace, &asked.recorded.name));
            ok(if going { gone } else { success() })
        }
        "deletecollection" => {
            let deletion = Deletion::parse(&asked.body, &|name| asked.param(name))?;
            let selector = selector(asked)?;
            let all: Vec<Arc<Value>> =
                state.list(kind, Some(&namespace)).filter(|o| selector.matches(o)).cloned().collect();
            for object in &all {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                _ = verbs::delete(&mut state, kind, &namespace, name, &deletion);
            }
            ok(success())
        }
        _ => Err(Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )),
    }
}

fn success() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" })
}

fn view(asked: &Asked, object: &Value) -> Value {
    if asked.metadata_only() { verbs::metadata_only(object) } else { object.clone() }
}

fn discovery(state: &State, path: &str) -> Option<Result<Answer, Status>> {
    let words: Vec<&str> = path.split('/').filter(|w| !w.is_empty()).collect();
    let json = match words.as_slice() {
        ["version"] => json!({
            "major": "1", "minor": state.options.version.split('.').nth(1).unwrap_or_default(),
            "gitVersion": state.options.version, "gitCommit": "0", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25", "compiler": "gc", "platform": "linux/amd64",
        }),
        ["healthz" | "readyz" | "livez"] => return Some(Ok(Answer::Text("ok".to_owned()))),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["apis"] => state.served.groups(),
        ["api", version] => return Some(resources(state, "", version)),
        ["apis", group, version] => return Some(resources(state, group, version)),
        ["apis", group] => {
            let groups = state.served.groups();
            let found =
                groups["groups"].as_array().into_iter().flatten().find(|g| g["name"] == *group).cloned();
            return Some(found.map(|g| Answer::Json(200, g)).ok_or_else(Status::no_such_path));
        }
        _ => return None,
    };
    Some(Ok(Answer::Json(200, json)))
}

fn resources(state: &State, group: &str, version: &str) -> Result<Answer, Status> {
    state
        .served
        .resources(group, version)
        .map(|list| Answer::Json(200, list))
        .ok_or_else(Status::no_such_path)
}

fn selector(asked: &Asked) -> Result<Selector, Status> {
    let text = |name: &str| asked.param(name).unwrap_or_default();
    Selector::parse(&text("labelSelector"), &text("fieldSelector"))
}

fn scope<'a>(kind: &Kind, namespace: &'a str) -> Option<&'a str> {
    (kind.namespaced && !namespace.is_empty()).then_some(namespace)
}

fn list(state: &mut State, kind: &'static Kind, namespace: &str, asked: &Asked) -> Result<Answer, Status> {
    let page = Page {
        limit: asked.param("limit").and_then(|l| l.parse().ok()).filter(|l| *l > 0),
        token: asked.param("continue"),
    };
    let (items, meta) = verbs::list(state, kind, scope(kind, namespace), &selector(asked)?, &page)?;
    let items: Vec<Value> = items
        .iter()
        .map(|object| {
            let mut shown = view(asked, object);
            if !asked.metadata_only()
                && let Some(shown) = shown.as_object_mut()
            {
                // Items of lists do not say what they are.
                shown.remove("apiVersion");
                shown.remove("kind");
            }
            shown
        })
        .collect();
    let (list_kind, version) = if asked.metadata_only() {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", kind.kind), kind.api_version())
    };
    Ok(Answer::Json(
        200,
        json!({ "kind": list_kind, "apiVersion": version, "metadata": meta, "items": items }),
    ))
}

fn watch(state: &State, kind: &'static Kind, namespace: &str, asked: &Asked) -> Result<Answer, Status> {
    if asked.flag("sendInitialEvents") {
        let field = "sendInitialEvents".to_owned();
        let why = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(Status::invalid(
            "ListOptions.meta.k8s.io",
            "",
            &[(field, "FieldValueForbidden", why.to_owned())],
        ));
    }
    _ = state;
    Ok(Answer::Watch {
        kind,
        namespace: scope(kind, namespace).map(str::to_owned),
        selector: selector(asked)?,
        from: asked.param("resourceVersion").unwrap_or_default(),
    })
}

fn patch(
    state: &mut State,
    kind: &'static Kind,
    namespace: &str,
    asked: &Asked,
    rules: &[rbac::Rule],
) -> Result<Answer, Status> {
    let name = asked.recorded.name.as_str();
    let body = asked.json()?;
    if asked.content_type.starts_with("application/apply-patch") {
        if asked.param("fieldManager").is_none() {
            return Err(Status::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let there = state.get(kind, namespace, name).is_some();
        let creates = Recorded { verb: "create".to_owned(), ..asked.recorded.clone() };
        if !there && !rbac::allowed(rules, &creates) {
            return Err(rbac::refuse(&creates));
        }
        if body["kind"] != kind.kind || body["apiVersion"] != kind.api_version().as_str() {
            return Err(Status::bad_request(
                "the kind and apiVersion of the applied object must be those of the resource",
            ));
        }
        let applied = state.apply(kind, namespace, name, body, asked.flag("force"), &asked.write(true))?;
        return Ok(Answer::Json(if there { 200 } else { 201 }, applied));
    }
    let old = state.need(kind, namespace, name)?.clone();
    let mut new = Value::clone(&old);
    match asked.content_type.split(';').next().unwrap_or_default() {
        "application/merge-patch+json" => verbs::merge_patch(&mut new, &body),
        "application/json-patch+json" => verbs::json_patch(&mut new, &body)?,
        "application/strategic-merge-patch+json" => verbs::strategic_patch(&mut new, &body),
        other => {
            return Err(Status::new(
                415,
                "UnsupportedMediaType",
                format!("the body of the request was in an unknown format - {other}"),
            ));
        }
    }
    Ok(Answer::Json(200, state.replace(kind, namespace, &old, new, &asked.write(false))?))
}

fn check_log(state: &State, asked: &Asked, namespace: &str, name: &str) -> Result<(), Status> {
    let pod = state.need(&POD, namespace, name)?;
    let container = asked.param("container").unwrap_or_else(|| "main".to_owned());
    let named = pod["spec"]["containers"].as_array().into_iter().flatten();
    let names: Vec<&str> = named.filter_map(|c| c["name"].as_str()).collect();
    if asked.param("container").is_some() && !names.contains(&container.as_str()) {
        return Err(Status::bad_request(format!("container {container} is not valid for pod {name}")));
    }
    if asked.flag("previous") && state.logs.of(namespace, name).before.is_none() {
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {name:?} not found"
        )));
    }
    let waiting = pod.pointer("/status/containerStatuses/0/state/waiting/reason").and_then(Value::as_str);
    match waiting {
        Some("CrashLoopBackOff") => Ok(()),
        Some(reason) => Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is waiting to start: {}",
            if reason == "ImagePullBackOff" { "trying and failing to pull image" } else { reason }
        ))),
        None if pod["status"]["phase"] == "Pending" => Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is waiting to start: ContainerCreating"
        ))),
        None => Ok(()),
    }
}
