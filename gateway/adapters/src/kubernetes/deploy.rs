//! Writing: deploy, undeploy, adopt, and the fence between attempts.
//!
//! Every write is conditional on exactly what was looked at (uid and resource version), and what is not there yet is
//! made by POST, which fails when somebody else was faster. So an attempt that slept while a newer one worked finds
//! something else than it saw, looks again, and meets the newer epoch.

use super::{
    FIELD_MANAGER, Kubernetes, all_of,
    calls::{DEPLOYMENT, Kind, SECRET, SERVICE},
    drift, objects,
    reasons::{self, error},
};
use crate::{Applied, Discovered, Error, Removed, Result, labels};
use basalt_model::{
    Epoch,
    artifacts::Source,
    deployments::{ErrorClass, Owner, Workload},
};
use serde_json::{Value, json};
use std::time::Duration;

/// How often a write is tried again after somebody else was faster.
const RACES: usize = 8;

/// An object of one owner.
#[derive(Clone, Debug)]
struct Found {
    kind: Kind,
    object: Value,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["annotations"][name].as_str().unwrap_or_default()
}

fn owner_of(object: &Value) -> &str {
    object["metadata"]["labels"][labels::DEPLOYMENT].as_str().unwrap_or_default()
}

fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn subject(kind: Kind, object: &Value) -> String {
    format!(
        "{}/{}/{}",
        kind.kind.to_lowercase(),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

/// Refuses what a newer attempt wrote.
fn fence(kind: Kind, object: &Value, epoch: Epoch) -> Result<()> {
    let there: i64 = annotation(object, labels::EPOCH).parse().unwrap_or(0);
    if there <= epoch.0 {
        return Ok(());
    }
    Err(error(
        ErrorClass::Conflict,
        "newer_attempt",
        subject(kind, object),
        format!("attempt {there} wrote it, and this is attempt {}", epoch.0),
        "nothing: the newer attempt goes on with it",
    ))
}

/// Refuses what belongs to somebody else.
fn check_owner(kind: Kind, object: &Value, owner: &Owner) -> Result<()> {
    let there = owner_of(object);
    if there == owner.id.0.to_string() {
        return Ok(());
    }
    let (code, message, remedy) = if there.is_empty() {
        (
            "not_ours",
            "something of this name stands there that Basalt did not make".to_owned(),
            "delete it, or adopt it into a deployment of its own",
        )
    } else {
        (
            "other_owner",
            format!("it belongs to the deployment {there}"),
            "undeploy that one, or use another namespace",
        )
    };
    Err(error(ErrorClass::Conflict, code, subject(kind, object), message, remedy))
}

fn still_going(kind: Kind, object: &Value) -> Error {
    let mut error = error(
        ErrorClass::Transient,
        "still_going",
        subject(kind, object),
        "what was there before is still being deleted",
        "nothing: it is tried again; if it stays so, look at its finalizers",
    );
    error.retry_after = Some(Duration::from_secs(2));
    error
}

/// Whether what is there is what is wanted, so that nothing needs to be written.
fn is_so(wanted: &Value, live: &Value) -> bool {
    let same = |name: &str| annotation(wanted, name) == annotation(live, name);
    !is_going(live)
        && [labels::FINGERPRINT, objects::APPLIED, objects::PATH, objects::SECRETS].into_iter().all(same)
        && owner_of(wanted) == owner_of(live)
        && wanted["data"] == live["data"]
        && drift::differences(annotation(wanted, objects::APPLIED), live).is_empty()
}

impl Kubernetes {
    /// The namespace that a workload runs in: one that the provider may touch.
    fn namespace_of(&self, workload: &Workload) -> Result<String> {
        let wanted = workload.owner.namespace.as_ref().or(workload.kubernetes.namespace.as_ref());
        let wanted = wanted.unwrap_or(&self.namespace);
        if self.namespaces.contains(wanted) {
            return Ok(wanted.to_string());
        }
        Err(error(
            ErrorClass::Permanent,
            "namespace_not_allowed",
            format!("namespace/{wanted}"),
            "the provider may not touch this namespace",
            "add it to the provider's `namespaces`, or name another one",
        ))
    }

    /// Everything of an owner, in every namespace that the provider may touch. Secrets are asked for by name, so that no
    /// right is needed to list them.
    async fn look(&self, owner: &Owner) -> Result<Vec<Found>> {
        let selector = format!("{}={}", labels::DEPLOYMENT, owner.id.0);
        let name = owner.workload_name();
        let each = self.namespaces.iter().map(|namespace| {
            let (selector, name) = (&selector, &name);
            async move {
                let (deployments, services, secret) = futures::try_join!(
                    self.cluster.list(DEPLOYMENT, namespace.as_str(), selector, ""),
                    self.cluster.list(SERVICE, namespace.as_str(), selector, ""),
                    self.cluster.get(SECRET, namespace.as_str(), name),
                )?;
                let secret = secret.filter(|secret| owner_of(secret) == owner.id.0.to_string());
                let of = |kind: Kind| move |object: Value| Found { kind, object };
                let found: Vec<Found> = (deployments.into_iter().map(of(DEPLOYMENT)))
                    .chain(services.into_iter().map(of(SERVICE)))
                    .chain(secret.into_iter().map(of(SECRET)))
                    .collect();
                Ok::<_, Error>(found)
            }
        });
        let all: Vec<Vec<Found>> = all_of(each).await?;
        Ok(all.into_iter().flatten().collect())
    }

    pub(super) async fn apply_workload(&self, workload: &Workload) -> Result<Applied> {
        let (owner, epoch) = (&workload.owner, workload.epoch);
        if matches!(workload.program.source, Source::Remote { .. }) {
            // It runs elsewhere; what ran here before it did so goes.
            return Ok(match self.remove_owned(owner, epoch).await? {
                Removed::Absent => Applied::Unchanged,
                Removed::Gone | Removed::Going => Applied::Changed,
            });
        }
        let namespace = self.namespace_of(workload)?;
        let found = self.look(owner).await?;
        found.iter().try_for_each(|f| fence(f.kind, &f.object, epoch))?;
        let name = owner.workload_name();
        let live = |kind: Kind| {
            let here = |f: &&Found| {
                f.kind == kind
                    && text(&f.object, "/metadata/namespace") == namespace
                    && text(&f.object, "/metadata/name") == name
            };
            found.iter().find(here).map(|f| &f.object)
        };
        // Secrets that are as they were keep their version, so that pods do not begin anew for nothing.
        let data = objects::secret_data(workload);
        let kept = live(SECRET).filter(|secret| Some(&secret["data"]) == data.as_ref());
        let version = kept.map(|secret| annotation(secret, objects::SECRETS)).filter(|v| !v.is_empty());
        let version = version.map_or_else(|| epoch.0.to_string(), str::to_owned);
        let wanted = objects::wanted(workload, &self.options, &namespace, &version)?;
        let parts: Vec<(Kind, &Value)> = (wanted.secret.iter().map(|secret| (SECRET, secret)))
            .chain([(DEPLOYMENT, &wanted.deployment), (SERVICE, &wanted.service)])
            .collect();
        let wanted_here = |f: &Found| {
            text(&f.object, "/metadata/namespace") == namespace
                && text(&f.object, "/metadata/name") == name
                && parts.iter().any(|(kind, _)| *kind == f.kind)
        };
        let stray = |f: &&Found| !wanted_here(f) && !is_going(&f.object);
        let all_so = parts.iter().all(|(kind, part)| live(*kind).is_some_and(|live| is_so(part, live)));
        if all_so && !found.iter().any(|f| stray(&f)) {
            return Ok(Applied::Unchanged);
        }
        let written = async {
            for (kind, part) in &parts {
                self.put(*kind, &namespace, part, owner, epoch, live(*kind).cloned()).await?;
            }
            let after = self.look(owner).await?;
            after.iter().try_for_each(|f| fence(f.kind, &f.object, epoch))?;
            for f in after.iter().filter(stray) {
                self.delete_owned(f, epoch).await?;
            }
            Ok(Applied::Changed)
        };
        match written.await {
            Err(error) if ["newer_attempt", "still_going"].iter().any(|code| reasons::is(&error, code)) => {
                self.take_back(owner, epoch).await?;
                Err(error)
            }
            other => other,
        }
    }

    /// When a newer attempt worked meanwhile, perhaps elsewhere, what this one made beside it is not wanted.
    async fn take_back(&self, owner: &Owner, epoch: Epoch) -> Result<()> {
        let (ours, found) = (epoch.0.to_string(), self.look(owner).await?);
        let Some(newer) = found.iter().find_map(|f| fence(f.kind, &f.object, epoch).err()) else {
            return Ok(());
        };
        for f in found.iter().filter(|f| annotation(&f.object, labels::EPOCH) == ours && !is_going(&f.object))
        {
            self.delete_owned(f, epoch).await?;
        }
        Err(newer)
    }

    /// Makes one object so, whatever state of the same owner it is in.
    async fn put(
        &self,
        kind: Kind,
        namespace: &str,
        wanted: &Value,
        owner: &Owner,
        epoch: Epoch,
        mut live: Option<Value>,
    ) -> Result<()> {
        let name = text(wanted, "/metadata/name");
        let mut last = None;
        for _ in 0..RACES {
            let result = match &live {
                None => self.cluster.create(kind, namespace, wanted).await,
                Some(there) => self.put_over(kind, namespace, wanted, owner, epoch, there).await,
            };
            match result {
                Ok(_) => return Ok(()),
                Err(error)
                    if ["already_exists", "object_modified", "not_found"]
                        .iter()
                        .any(|c| reasons::is(&error, c)) =>
                {
                    last = Some(error);
                    live = self.cluster.get(kind, namespace, name).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.map_or_else(
            || still_going(kind, wanted),
            |mut error| {
                error.class = ErrorClass::Transient;
                error
            },
        ))
    }

    async fn put_over(
        &self,
        kind: Kind,
        namespace: &str,
        wanted: &Value,
        owner: &Owner,
        epoch: Epoch,
        there: &Value,
    ) -> Result<Value> {
        check_owner(kind, there, owner)?;
        fence(kind, there, epoch)?;
        if is_going(there) {
            return Err(still_going(kind, there));
        }
        let made = self.as_applied(kind, namespace, there).await?;
        let there = made.as_ref().unwrap_or(there);
        let mut config = wanted.clone();
        for field in ["uid", "resourceVersion"] {
            config["metadata"][field] = there["metadata"][field].clone();
        }
        match self.cluster.apply(kind, namespace, &config, false).await {
            // What people changed by hand is put right; what somebody else applies, or an autoscaler sets, is theirs.
            Err(error) if reasons::is(&error, "changed_by_hand") => {
                self.cluster.apply(kind, namespace, &config, true).await
            }
            other => other,
        }
    }

    /// What was made by POST is owned as by an update, and an apply would never take a field of it away again: from now
    /// on it is owned as if it had been applied. None when it is so already.
    async fn as_applied(&self, kind: Kind, namespace: &str, there: &Value) -> Result<Option<Value>> {
        let mut entries = there["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let ours = |e: &Value, operation: &str| {
            e["manager"] == FIELD_MANAGER
                && e["operation"] == operation
                && e["subresource"].as_str().unwrap_or_default().is_empty()
        };
        if !entries.iter().any(|e| ours(e, "Update")) {
            return Ok(None);
        }
        if entries.iter().any(|e| ours(e, "Apply")) {
            entries.retain(|e| !ours(e, "Update"));
        } else {
            for entry in entries.iter_mut().filter(|e| ours(e, "Update")) {
                entry["operation"] = "Apply".into();
            }
        }
        let steps = json!([
            { "op": "replace", "path": "/metadata/managedFields", "value": entries },
            { "op": "replace", "path": "/metadata/resourceVersion", "value": there["metadata"]["resourceVersion"] },
        ]);
        self.cluster.json_patch(kind, namespace, text(there, "/metadata/name"), &steps).await.map(Some)
    }

    /// Deletes what was looked at, unless a newer attempt has written it since.
    async fn delete_owned(&self, found: &Found, epoch: Epoch) -> Result<()> {
        let (kind, mut object) = (found.kind, found.object.clone());
        let (namespace, name) = (
            text(&found.object, "/metadata/namespace").to_owned(),
            text(&found.object, "/metadata/name").to_owned(),
        );
        let mut last = None;
        for _ in 0..RACES {
            match self.cluster.delete(kind, &object).await {
                Ok(_) => return Ok(()),
                Err(error) if reasons::is(&error, "object_modified") => {
                    let Some(now) = self.cluster.get(kind, &namespace, &name).await? else { return Ok(()) };
                    if owner_of(&now) != owner_of(&found.object) || is_going(&now) {
                        return Ok(());
                    }
                    fence(kind, &now, epoch)?;
                    object = now;
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.map_or_else(
            || still_going(kind, &object),
            |mut error| {
                error.class = ErrorClass::Transient;
                error
            },
        ))
    }

    pub(super) async fn remove_owned(&self, owner: &Owner, epoch: Epoch) -> Result<Removed> {
        let found = self.look(owner).await?;
        if found.is_empty() {
            return Ok(Removed::Absent);
        }
        found.iter().try_for_each(|f| fence(f.kind, &f.object, epoch))?;
        // The Service first: nobody is sent to what is about to go. The Secret last: pods that go may still begin anew.
        for kind in [SERVICE, DEPLOYMENT, SECRET] {
            for f in found.iter().filter(|f| f.kind == kind && !is_going(&f.object)) {
                self.delete_owned(f, epoch).await?;
            }
        }
        Ok(if self.look(owner).await?.is_empty() { Removed::Gone } else { Removed::Going })
    }

    pub(super) async fn write_owner_on(&self, found: &Discovered, owner: &Owner, epoch: Epoch) -> Result<()> {
        let namespace = found.namespace.as_deref().unwrap_or_default();
        let kind = match found.kind.as_str() {
            "deployment" => DEPLOYMENT,
            "service" => SERVICE,
            other => {
                return Err(error(
                    ErrorClass::Permanent,
                    "not_adoptable",
                    format!("{other}/{namespace}/{}", found.name),
                    format!("a {other} is made by its own operator, which would undo what is written on it"),
                    "deploy the artifact with Basalt, and delete this one where it was made",
                ));
            }
        };
        if !self.namespaces.iter().any(|n| n.as_str() == namespace) {
            return Err(error(
                ErrorClass::Permanent,
                "namespace_not_allowed",
                format!("namespace/{namespace}"),
                "the provider may not touch this namespace",
                "add it to the provider's `namespaces`",
            ));
        }
        let mut last = None;
        for _ in 0..RACES {
            let Some(there) = self.cluster.get(kind, namespace, &found.name).await? else {
                let subject = format!("{}/{namespace}/{}", found.kind, found.name);
                return Err(error(
                    ErrorClass::Missing,
                    "not_found",
                    subject,
                    "it is not there any more",
                    "look again",
                ));
            };
            match self.adopt_one(kind, namespace, &there, owner, epoch).await {
                Err(error) if reasons::is(&error, "object_modified") => last = Some(error),
                other => return other,
            }
        }
        last.map_or(Ok(()), Err)
    }

    async fn adopt_one(
        &self,
        kind: Kind,
        namespace: &str,
        there: &Value,
        owner: &Owner,
        epoch: Epoch,
    ) -> Result<()> {
        if !owner_of(there).is_empty() {
            check_owner(kind, there, owner)?;
        }
        fence(kind, there, epoch)?;
        let controllers = there["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        if let Some(controller) = controllers.into_iter().find(|o| o["controller"] == true) {
            return Err(error(
                ErrorClass::Conflict,
                "controlled",
                subject(kind, there),
                format!("it is made by {} {}", text(controller, "/kind"), text(controller, "/name")),
                "deploy the artifact with Basalt, and delete that one",
            ));
        }
        // Only the object itself is written on. Its pods stay as they are: a label on their template would begin them
        // anew.
        let config = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {
                "name": there["metadata"]["name"], "uid": there["metadata"]["uid"],
                "resourceVersion": there["metadata"]["resourceVersion"],
                "labels": {
                    labels::DEPLOYMENT: owner.id.0.to_string(), labels::PROJECT: owner.project.as_str(),
                    labels::NAME: owner.name.as_str(),
                },
                "annotations": { labels::EPOCH: epoch.0.to_string() },
            },
        });
        self.cluster.apply(kind, namespace, &config, false).await.map(|_| ())
    }
}
