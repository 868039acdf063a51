//! What the server knows: objects, the history of their changes, and how a write becomes one.

use crate::{
    Options,
    apply::{self, Manager, Managers},
    controller::Controller,
    defaults,
    kinds::{Kind, NAMESPACE, Served},
    logs::Logs,
    status::Status,
    validate,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
        Self { resource: kind.resource(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub version: u64,
    pub key: Key,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
    /// What was there last, with the version of its end.
    pub last: Arc<Value>,
}

/// Everything.
pub(crate) struct State {
    pub options: Options,
    pub served: Served,
    pub objects: BTreeMap<Key, Arc<Value>>,
    pub version: u64,
    pub history: Vec<Change>,
    /// Changes up to this are forgotten.
    pub compacted: u64,
    pub pages: BTreeMap<String, (u64, Vec<Arc<Value>>)>,
    pub quotas: BTreeMap<(String, String), usize>,
    pub controller: Controller,
    pub logs: Logs,
    made: u64,
}

/// Who writes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub manager: Manager,
    pub dry_run: bool,
}

impl Write {
    pub fn by(name: &str) -> Self {
        Self {
            manager: Manager { name: name.to_owned(), applies: false, subresource: String::new() },
            dry_run: false,
        }
    }

    pub fn of_status(name: &str) -> Self {
        let mut write = Self::by(name);
        "status".clone_into(&mut write.manager.subresource);
        write
    }
}

impl State {
    pub fn new(options: Options) -> Self {
        let served = Served { apps: options.apps, kagent: options.kagent };
        let namespaces = options.namespaces.clone();
        let mut state = Self {
            options,
            served,
            objects: BTreeMap::new(),
            version: 1,
            history: Vec::new(),
            compacted: 0,
            pages: BTreeMap::new(),
            quotas: BTreeMap::new(),
            controller: Controller::default(),
            logs: Logs::default(),
            made: 0,
        };
        for name in namespaces {
            state.add_namespace(&name);
        }
        state
    }

    pub fn add_namespace(&mut self, name: &str) {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
            "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
        });
        // A name that is no name makes no namespace; the test that wanted it sees that soon enough.
        _ = self.create(&NAMESPACE, "", namespace, &Write::by("kubectl"));
    }

    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&Key::new(kind, namespace, name))
    }

    pub fn need(&self, kind: &Kind, namespace: &str, name: &str) -> Result<&Arc<Value>, Status> {
        self.get(kind, namespace, name).ok_or_else(|| Status::not_found(&kind.resource(), name))
    }

    /// Every object of a kind, of one namespace or of all, in the order of names.
    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> impl Iterator<Item = &Arc<Value>> {
        let resource = kind.resource();
        let from = Key {
            resource: resource.clone(),
            namespace: namespace.unwrap_or_default().into(),
            name: String::new(),
        };
        let namespace = namespace.map(str::to_owned);
        self.objects
            .range(from..)
            .take_while(move |(key, _)| {
                key.resource == resource && namespace.as_ref().is_none_or(|n| *n == key.namespace)
            })
            .map(|(_, object)| object)
    }

    /// A word that no other thing made here has.
    pub fn unique(&mut self) -> String {
        self.made += 1;
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let (mut n, mut word) = (self.made * 7919 + 104_729, String::new());
        for _ in 0..5 {
            word.push(char::from(LETTERS[(n % LETTERS.len() as u64) as usize]));
            n /= LETTERS.len() as u64;
        }
        word
    }

    fn uid(&mut self) -> String {
        self.made += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.made, self.made)
    }

    /// Makes an object.
    pub fn create(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        write: &Write,
    ) -> Result<Value, Status> {
        if let Some(prefix) = object["metadata"]["generateName"].as_str()
            && object["metadata"]["name"].is_null()
        {
            let name = format!("{prefix}{}", self.unique());
            object["metadata"]["name"] = name.into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            return Err(Status::new(
                500,
                "InternalError",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if self.get(kind, namespace, &name).is_some() {
            return Err(Status::already_exists(&kind.resource(), &name));
        }
        self.namespace_takes(kind, namespace, &name)?;
        strip(&mut object, &["managedFields", "uid", "creationTimestamp", "generation", "deletionTimestamp"]);
        if write.manager.subresource.is_empty() && kind.generation {
            _ = object.as_object_mut().map(|o| o.remove("status"));
        }
        let managers = if write.manager.applies {
            let applied = Managers::new();
            apply::apply(&json!({}), &applied, &write.manager, &object, &kind.api_version(), false)?.1
        } else {
            let mut whole = object.clone();
            defaults::before_ownership(kind, &mut whole);
            apply::update(None, &whole, &Managers::new(), &write.manager, &kind.api_version())
        };
        self.settle(kind, namespace, None, object, managers, write)
    }

    fn namespace_takes(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), Status> {
        if !kind.namespaced {
            return Ok(());
        }
        let Some(space) = self.get(&NAMESPACE, "", namespace) else {
            return Err(Status::not_found("namespaces", namespace));
        };
        if !space["metadata"]["deletionTimestamp"].is_null() {
            return Err(Status::forbidden(format!(
                "{} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being \
                 terminated",
                kind.resource()
            )));
        }
        let count = format!("count/{}", kind.resource());
        for hard in [count, kind.plural.to_owned()] {
            let Some(most) = self.quotas.get(&(namespace.to_owned(), hard.clone())) else { continue };
            let used = self.list(kind, Some(namespace)).count();
            if used >= *most {
                return Err(Status::forbidden(format!(
                    "{} {name:?} is forbidden: exceeded quota: quota, requested: {hard}=1, used: {hard}={used}, \
                     limited: {hard}={most}",
                    kind.resource()
                )));
            }
        }
        Ok(())
    }

    /// Puts a new whole object in place of one that is there (PUT and the patches that are no apply).
    pub fn replace(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        old: &Arc<Value>,
        mut new: Value,
        write: &Write,
    ) -> Result<Value, Status> {
        let name = old["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        check_identity(kind, old, &new, &name)?;
        let status_only = write.manager.subresource == "status";
        if status_only {
            let status = new["status"].clone();
            new = Value::clone(old);
            new["status"] = status;
        } else if kind.generation && !old["status"].is_null() {
            new["status"] = old["status"].clone();
        }
        let rewritten = new["metadata"]["managedFields"] != old["metadata"]["managedFields"]
            && !new["metadata"]["managedFields"].is_null();
        let managers = apply::decode(if rewritten { &new } else { old });
        defaults::fill(kind, &mut new, Some(old));
        let managers = apply::update(Some(old), &new, &managers, &write.manager, &kind.api_version());
        self.settle(kind, namespace, Some(old), new, managers, write)
    }

    /// Applies a configuration to an object that is there, or makes it.
    pub fn apply(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        mut config: Value,
        force: bool,
        write: &Write,
    ) -> Result<Value, Status> {
        if !config["metadata"]["managedFields"].is_null() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let Some(old) = self.get(kind, namespace, name).cloned() else {
            let meta = &config["metadata"];
            if !meta["uid"].is_null() || !meta["resourceVersion"].is_null() {
                return Err(Status::new(
                    409,
                    "Conflict",
                    format!(
                        "Operation cannot be fulfilled on {} {name:?}: uid mismatch: the provided object specified uid {}, \
                     and no existing object was found",
                        kind.resource(),
                        meta["uid"]
                    ),
                ));
            }
            config["metadata"]["name"] = name.into();
            return self.create(kind, namespace, config, write);
        };
        check_identity(kind, &old, &config, name)?;
        _ = config.as_object_mut().map(|c| c.remove("status"));
        strip(&mut config, &["uid", "resourceVersion", "creationTimestamp", "generation"]);
        let managers = apply::decode(&old);
        let (mut new, managers) =
            apply::apply(&old, &managers, &write.manager, &config, &kind.api_version(), force)?;
        defaults::fill(kind, &mut new, Some(&old));
        self.settle(kind, namespace, Some(&old), new, managers, write)
    }

    /// The last steps of every write: defaults, rules, versions, and the change itself, if it is one.
    fn settle(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        old: Option<&Arc<Value>>,
        mut new: Value,
        managers: Managers,
        write: &Write,
    ) -> Result<Value, Status> {
        let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        new["apiVersion"] = kind.api_version().into();
        new["kind"] = kind.kind.into();
        if kind.namespaced {
            new["metadata"]["namespace"] = namespace.into();
        }
        defaults::fill(kind, &mut new, old.map(|o| &**o));
        validate::check(kind, &name, old.map(|o| &**o), &new)?;
        let same_owners = old.is_some_and(|old| same(&apply::decode(old), &managers));
        new["metadata"]["managedFields"] = match old {
            Some(old) if same_owners => old["metadata"]["managedFields"].clone(),
            _ => apply::encode(&managers),
        };
        match old {
            Some(old) => {
                for field in
                    ["uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp"]
                {
                    new["metadata"][field] = old["metadata"][field].clone();
                }
                prune(&mut new["metadata"]);
                if new == **old {
                    return Ok(new);
                }
                let part = |object: &Value| {
                    let mut object = object.clone();
                    _ = object.as_object_mut().map(|o| (o.remove("metadata"), o.remove("status")));
                    object
                };
                if kind.generation && part(&new) != part(old) {
                    let generation = old["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
                    new["metadata"]["generation"] = generation.into();
                }
            }
            None => {
                new["metadata"]["uid"] = self.uid().into();
                new["metadata"]["creationTimestamp"] = apply::now().into();
                if kind.generation {
                    new["metadata"]["generation"] = 1.into();
                }
            }
        }
        if write.dry_run {
            return Ok(new);
        }
        let finalizers = new["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let ending = !new["metadata"]["deletionTimestamp"].is_null();
        let graceful = new["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) > 0;
        let key = Key::new(kind, namespace, &name);
        if ending && !finalizers && !graceful {
            self.commit(key, None);
            return Ok(new);
        }
        self.version += 1;
        new["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.record(key, Some(Arc::new(new.clone())));
        Ok(new)
    }

    /// Takes an object away at once.
    pub fn commit(&mut self, key: Key, after: Option<Arc<Value>>) {
        self.version += 1;
        self.record(key, after);
    }

    fn record(&mut self, key: Key, after: Option<Arc<Value>>) {
        let before = match &after {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        let last = match (&after, &before) {
            (Some(after), _) => after.clone(),
            (None, Some(before)) => {
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = self.version.to_string().into();
                Arc::new(last)
            }
            (None, None) => return,
        };
        self.history.push(Change { version: self.version, key, before, after, last });
    }

    /// Forgets how it came to be as it is.
    pub fn compact(&mut self) {
        self.history.clear();
        self.pages.clear();
        self.compacted = self.version;
    }
}

/// What a write must say of the object that it writes to, if it says anything.
fn check_identity(kind: &Kind, old: &Value, new: &Value, name: &str) -> Result<(), Status> {
    let meta = &new["metadata"];
    let said = |field: &str| meta[field].as_str().filter(|text| !text.is_empty() && *text != "0");
    let is = |field: &str| old["metadata"][field].as_str();
    if said("uid").is_some_and(|uid| Some(uid) != is("uid")) {
        return Err(Status::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} {name:?}: Precondition failed: UID in precondition: {}, UID in object \
             meta: {}",
                kind.resource(),
                meta["uid"],
                old["metadata"]["uid"]
            ),
        ));
    }
    if said("resourceVersion").is_some_and(|version| Some(version) != is("resourceVersion")) {
        return Err(Status::modified(&kind.resource(), name));
    }
    if said("name").is_some_and(|n| n != name) {
        return Err(Status::bad_request("the name of the object does not match the name on the URL"));
    }
    Ok(())
}

fn strip(object: &mut Value, fields: &[&str]) {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in fields {
        meta.remove(*field);
    }
}

fn prune(meta: &mut Value) {
    if let Some(meta) = meta.as_object_mut() {
        meta.retain(|_, value| !value.is_null());
    }
}

/// Whether the same managers own the same fields, whenever they came to.
fn same(left: &Managers, right: &Managers) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|((a, x), (b, y))| a == b && x.fields == y.fields)
}
