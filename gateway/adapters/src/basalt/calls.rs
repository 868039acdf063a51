//! Requests to the other Basalt's API, in JSON, each with a time of its own and a name in case it goes wrong.

use super::{
    access::{Access, unusable},
    reasons,
    vm::Vm,
};
use crate::Result;
use basalt_model::{Name, deployments::SecretText};
use reqwest::{Client, Method, Response, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

/// How long one request may take; a console is waited for up to 20 s by the gateway there.
const REQUEST: Duration = Duration::from_secs(30);
/// After so long a watch is opened anew.
const WATCH: Duration = Duration::from_secs(3600);
/// How long it may take to be connected.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest answer, in bytes: 500 VMs with 64 KiB of user-data each.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// VMs on a page.
const PAGE: &str = "500";
/// Most pages of one list.
const MAX_PAGES: usize = 200;

/// The way to one project.
#[derive(Clone)]
pub(super) struct Calls {
    http: Client,
    url: String,
    token: SecretText,
    project: Name,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl Calls {
    pub(super) fn new(access: Access, project: &Name) -> Result<Self> {
        // Harmless when a provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .no_proxy()
            .https_only(true)
            // Who sends us elsewhere would be sent our token.
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(REQUEST);
        if let Some(ca) = access.ca {
            builder = builder.tls_certs_only(ca);
        }
        let http =
            builder.build().map_err(|_| unusable("`ca` holds a certificate that cannot be trusted"))?;
        Ok(Self { http, url: access.url, token: access.token, project: project.clone() })
    }

    /// Where it is.
    pub(super) fn server(&self) -> &str {
        &self.url
    }

    /// The project's own path, or one below it.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v1/projects/{}{rest}", self.project)
    }

    async fn send(&self, doing: &str, method: Method, path: &str, with: With<'_>) -> Result<Response> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).bearer_auth(self.token.expose());
        if let Some(body) = with.body {
            request = request.json(body);
        }
        if let Some(generation) = with.generation {
            request = request.header("if-match", format!("\"{generation}\""));
        }
        if let Some(limit) = with.limit {
            request = request.timeout(limit);
        }
        let response = request.send().await.map_err(|e| reasons::transport(&self.url, doing, e))?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let retry = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let body = self.read(doing, response).await.unwrap_or_default();
        let refused = reasons::refused(&self.url, doing, status, &body, retry);
        Err(reasons::without(refused, [self.token.expose()]))
    }

    async fn read(&self, doing: &str, mut response: Response) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if all.len() + piece.len() <= MAX_ANSWER_BYTES => {
                    all.extend_from_slice(&piece);
                }
                Ok(None) => return Ok(all),
                Ok(Some(_)) => return Err(reasons::garbage(&self.url, doing)),
                Err(e) => return Err(reasons::transport(&self.url, doing, e)),
            }
        }
    }

    async fn json<T: DeserializeOwned>(&self, doing: &str, response: Response) -> Result<T> {
        let body = self.read(doing, response).await?;
        serde_json::from_slice(&body).map_err(|_| reasons::garbage(&self.url, doing))
    }

    /// What stands at a path.
    pub(super) async fn get<T: DeserializeOwned>(&self, doing: &str, path: &str) -> Result<T> {
        let response = self.send(doing, Method::GET, path, With::default()).await?;
        self.json(doing, response).await
    }

    /// What stands at a path; none when it is not there. Only for what lies in the project, of which it is known that it
    /// is there and shown to us.
    pub(super) async fn find<T: DeserializeOwned>(&self, doing: &str, path: &str) -> Result<Option<T>> {
        match self.get(doing, path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if reasons::is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes at a path.
    pub(super) async fn bytes(&self, doing: &str, path: &str) -> Result<Vec<u8>> {
        let response = self.send(doing, Method::GET, path, With::default()).await?;
        self.read(doing, response).await
    }

    /// What becomes of the project's VMs, as it happens; whoever reads it minds its silence.
    pub(super) async fn watch(&self) -> Result<Response> {
        let path = format!("/v1/watch?{}", query(&[("kinds", "vm"), ("project", self.project.as_str())]));
        let with = With { limit: Some(WATCH), ..With::default() };
        self.send("watching the VMs", Method::GET, &path, with).await
    }

    /// One VM, by name or id.
    pub(super) async fn vm(&self, key: &str) -> Result<Option<Vm>> {
        self.find("looking at a VM", &self.path(&format!("/vms/{key}"))).await
    }

    /// Every VM that carries these labels (`key=value`), page by page; all of them, or an error. A project that is not
    /// shown to us has no VMs that we could count: that is an error, too.
    pub(super) async fn vms(&self, labels: &str) -> Result<Vec<Vm>> {
        let doing = "listing the VMs";
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let query = query(&[
                ("limit", PAGE),
                ("label_selector", labels),
                ("cursor", cursor.as_deref().unwrap_or_default()),
            ]);
            let path = self.path(&format!("/vms?{query}"));
            let page: Page<Vm> =
                self.get(doing, &path).await.map_err(|e| reasons::in_project(e, &self.project))?;
            all.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(all);
            }
        }
        Err(reasons::garbage(&self.url, doing))
    }

    /// Declares a VM, or asks only whether that would be taken.
    pub(super) async fn create(&self, body: &Value, dry_run: bool) -> Result<()> {
        let path = self.path(if dry_run { "/vms?dry_run=true" } else { "/vms" });
        let with = With { body: Some(body), ..With::default() };
        let answer = self.send("creating the VM", Method::POST, &path, with).await;
        answer.map(drop).map_err(|e| reasons::in_project(e, &self.project))
    }

    /// Changes a VM if it still is what was looked at.
    pub(super) async fn update(&self, vm: &Vm, body: &Value) -> Result<()> {
        let path = self.path(&format!("/vms/{}", vm.id));
        let with = With { body: Some(body), generation: Some(vm.generation), ..With::default() };
        self.send("changing the VM", Method::PUT, &path, with).await.map(drop)
    }

    /// Tells a VM to go if it still is what was looked at; false when it is gone already.
    pub(super) async fn delete(&self, vm: &Vm) -> Result<bool> {
        let path = self.path(&format!("/vms/{}", vm.id));
        let with = With { generation: Some(vm.generation), ..With::default() };
        match self.send("deleting the VM", Method::DELETE, &path, with).await {
            Ok(_) => Ok(true),
            Err(error) if reasons::is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Parameters, as they stand in an address.
fn query(parameters: &[(&str, &str)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        text.append_pair(name, value);
    }
    text.finish()
}

#[derive(Default)]
struct With<'a> {
    body: Option<&'a Value>,
    generation: Option<i64>,
    /// Instead of what a request may take.
    limit: Option<Duration>,
}
