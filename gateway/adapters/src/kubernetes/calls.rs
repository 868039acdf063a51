//! Requests to the API server, in JSON, each of them with a time and a name in case it goes wrong.
//!
//! Not through kube's typed `Api`: that logs whole answers that it cannot parse, Secrets too, and forgets `Retry-After`.

use super::{FIELD_MANAGER, kubeconfig::Read, reasons};
use crate::Result;
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::{Value, json};
use std::time::Duration;

/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Most pages of one list: 500 objects each.
const MAX_PAGES: usize = 200;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
}

pub(super) const DEPLOYMENT: Kind =
    Kind { group: "apps", version: "v1", plural: "deployments", kind: "Deployment" };
pub(super) const SERVICE: Kind = Kind { group: "", version: "v1", plural: "services", kind: "Service" };
pub(super) const SECRET: Kind = Kind { group: "", version: "v1", plural: "secrets", kind: "Secret" };
pub(super) const POD: Kind = Kind { group: "", version: "v1", plural: "pods", kind: "Pod" };
pub(super) const EVENT: Kind = Kind { group: "", version: "v1", plural: "events", kind: "Event" };
pub(super) const REVIEW: Kind = Kind {
    group: "authorization.k8s.io",
    version: "v1",
    plural: "selfsubjectaccessreviews",
    kind: "SelfSubjectAccessReview",
};

impl Kind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        let space = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
        format!("/{root}/{}/{space}{}", self.api_version(), self.plural)
    }
}

/// What is asked, to name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub verb: &'static str,
    pub kind: Kind,
    pub part: &'static str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Call<'_> {
    /// `pods/log`, as rights name it.
    pub fn resource(&self) -> String {
        if self.part.is_empty() {
            self.kind.plural.to_owned()
        } else {
            format!("{}/{}", self.kind.plural, self.part)
        }
    }

    /// `deployment/tools/web-1234`.
    pub fn subject(&self) -> String {
        let kind = self.kind.kind.to_lowercase();
        let words = [kind.as_str(), self.namespace, self.name];
        words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join("/")
    }
}

/// The way to one cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    client: kube::Client,
    pub server: String,
    time: Duration,
}

type Request = http::Request<Vec<u8>>;

fn request(method: &str, uri: String, kind: &str, body: Vec<u8>) -> Result<Request> {
    let built = http::Request::builder().method(method).uri(uri).header("content-type", kind).body(body);
    built.map_err(|_| {
        reasons::error(
            basalt_model::deployments::ErrorClass::Permanent,
            "bad_name",
            "deployment",
            "a name in it has no place in an address",
            "rename it",
        )
    })
}

/// Parameters, as they stand in an address.
pub(super) fn query(parameters: &[(&str, &str)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        text.append_pair(name, value);
    }
    text.finish()
}

impl Cluster {
    pub fn new(read: Read, time: Duration) -> Result<Self> {
        let server = read.server;
        let client = kube::Client::try_from(read.config).map_err(|_| {
            // What it says may quote a key.
            reasons::error(
                basalt_model::deployments::ErrorClass::Permanent,
                "credentials_unusable",
                "kubeconfig",
                "the kubeconfig's certificates or keys cannot be used",
                "put `client-certificate-data` and `client-key-data` there, PEM in base64, or a `token`",
            )
        })?;
        Ok(Self { client, server, time })
    }

    /// For watches, which have times of their own.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    async fn open(&self, call: &Call<'_>, request: Request) -> Result<http::Response<Body>> {
        let sent = tokio::time::timeout(self.time, self.client.send(request.map(Body::from))).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(problem)) => return Err(reasons::transport(call, &self.server, &problem)),
            Err(_) => return Err(reasons::timeout(call, &self.server)),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let retry = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let body = self.read(call, response).await.unwrap_or_default();
        let status = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Err(reasons::refused(call, code, &status, retry))
    }

    async fn read(&self, call: &Call<'_>, response: http::Response<Body>) -> Result<Vec<u8>> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
        match tokio::time::timeout(self.time, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
            Ok(Err(_)) => Err(reasons::garbage(call, &self.server)),
            Err(_) => Err(reasons::timeout(call, &self.server)),
        }
    }

    async fn send(&self, call: &Call<'_>, request: Request) -> Result<Value> {
        let response = self.open(call, request).await?;
        let body = self.read(call, response).await?;
        serde_json::from_slice(&body).map_err(|_| reasons::garbage(call, &self.server))
    }

    /// What stands at a path that is no object's: versions, discovery.
    pub async fn get_path(&self, call: &Call<'_>, path: &str) -> Result<Value> {
        self.send(call, request("GET", path.to_owned(), "application/json", Vec::new())?).await
    }

    /// One object; none when it is not there.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Value>> {
        let call = Call { verb: "get", kind, part: "", namespace, name };
        match self.get_path(&call, &format!("{}/{name}", kind.path(namespace))).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if reasons::is(&error, "not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object that is selected, page by page; from the beginning again when the pages went stale on the way.
    pub async fn list(&self, kind: Kind, namespace: &str, labels: &str, fields: &str) -> Result<Vec<Value>> {
        for _ in 0..2 {
            match self.list_once(kind, namespace, labels, fields).await {
                Err(error) if reasons::is(&error, "expired") => {}
                other => return other,
            }
        }
        self.list_once(kind, namespace, labels, fields).await
    }

    async fn list_once(&self, kind: Kind, namespace: &str, labels: &str, fields: &str) -> Result<Vec<Value>> {
        let call = Call { verb: "list", kind, part: "", namespace, name: "" };
        let (mut all, mut token) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let parameters = [
                ("labelSelector", labels),
                ("fieldSelector", fields),
                ("limit", "500"),
                ("continue", &token),
            ];
            let path = format!("{}?{}", kind.path(namespace), query(&parameters));
            let mut page = self.get_path(&call, &path).await?;
            let Some(items) = page["items"].as_array_mut() else {
                return Err(reasons::garbage(&call, &self.server));
            };
            all.append(items);
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => return Ok(all),
            }
        }
        // A part is never taken for the whole.
        Err(reasons::error(
            basalt_model::deployments::ErrorClass::Permanent,
            "too_many_objects",
            format!("namespace/{namespace}"),
            format!("there are more than {} {} in it", MAX_PAGES * 500, kind.plural),
            "give deployments a namespace of their own",
        ))
    }

    /// Makes an object that must not be there.
    pub async fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Value> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let call = Call { verb: "create", kind, part: "", namespace, name };
        let path = format!("{}?{}", kind.path(namespace), query(&[("fieldManager", FIELD_MANAGER)]));
        self.send(&call, request("POST", path, "application/json", object.to_string().into_bytes())?).await
    }

    /// Applies a configuration.
    pub async fn apply(&self, kind: Kind, namespace: &str, object: &Value, force: bool) -> Result<Value> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let call = Call { verb: "patch", kind, part: "", namespace, name };
        let force = if force { "true" } else { "" };
        let parameters = query(&[("fieldManager", FIELD_MANAGER), ("force", force)]);
        let path = format!("{}/{name}?{parameters}", kind.path(namespace));
        self.send(
            &call,
            request("PATCH", path, "application/apply-patch+yaml", object.to_string().into_bytes())?,
        )
        .await
    }

    /// Patches step by step.
    pub async fn json_patch(&self, kind: Kind, namespace: &str, name: &str, steps: &Value) -> Result<Value> {
        let call = Call { verb: "patch", kind, part: "", namespace, name };
        let path = format!("{}/{name}?{}", kind.path(namespace), query(&[("fieldManager", FIELD_MANAGER)]));
        self.send(
            &call,
            request("PATCH", path, "application/json-patch+json", steps.to_string().into_bytes())?,
        )
        .await
    }

    /// Deletes exactly what was looked at; true when it was there.
    pub async fn delete(&self, kind: Kind, object: &Value) -> Result<bool> {
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let call = Call { verb: "delete", kind, part: "", namespace, name };
        // A Deployment stays until its pods are gone, so that their end is seen by whoever asks again.
        let policy = if kind == DEPLOYMENT { "Foreground" } else { "Background" };
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy,
            "preconditions": { "uid": meta["uid"], "resourceVersion": meta["resourceVersion"] },
        });
        let path = format!("{}/{name}", kind.path(namespace));
        match self
            .send(&call, request("DELETE", path, "application/json", options.to_string().into_bytes())?)
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if reasons::is(&error, "not_found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks what one may do.
    pub async fn review(&self, plural: &'static str, body: &Value) -> Result<Value> {
        let kind = Kind { plural, ..REVIEW };
        let call = Call { verb: "create", kind, part: "", namespace: "", name: "" };
        self.send(&call, request("POST", kind.path(""), "application/json", body.to_string().into_bytes())?)
            .await
    }

    /// A pod's log, as its bytes come.
    pub async fn log(&self, namespace: &str, pod: &str, parameters: &[(&str, &str)]) -> Result<Body> {
        let call = Call { verb: "get", kind: POD, part: "log", namespace, name: pod };
        let path = format!("{}/{pod}/log?{}", POD.path(namespace), query(parameters));
        Ok(self.open(&call, request("GET", path, "application/json", Vec::new())?).await?.into_body())
    }
}
