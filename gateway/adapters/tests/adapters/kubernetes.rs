//! The adapter of Kubernetes against an API server over real HTTP and TLS, with exactly the rights that are shipped; and
//! against a real cluster when `BASALT_TEST_KUBECONFIG` names a kubeconfig.

mod crashes;
mod errors;
mod fencing;
mod looks;
mod ownership;
mod real;
mod rights;
mod server;
mod streams;

use crate::contract::{self, Bench};
use basalt_adapters::{
    Adapter, Normalise,
    kubernetes::{Kubernetes, Options, ROLE, normalise},
};
use basalt_kube_api::{Handle, Rule, Server};
use basalt_model::{
    Name,
    artifacts::{Source, Transport},
    deployments::{ObservedWorkload, Owner, Program, Readiness, SecretText, Workload},
    providers::KubernetesProvider,
};
use std::{sync::Arc, time::Duration};

/// A cluster with two namespaces that the provider may touch, `tools` and `more`, and one that it may not, `other`.
pub struct Cluster {
    pub server: Handle,
    pub kubeconfig: String,
    pub options: Options,
}

pub async fn cluster() -> Cluster {
    with(basalt_kube_api::Options::default()).await
}

pub async fn with(mut options: basalt_kube_api::Options) -> Cluster {
    options.namespaces = ["tools", "more", "other"].map(str::to_owned).to_vec();
    options.start_lines = vec!["it begins".to_owned(), "it listens".to_owned()];
    let server = Server::start(options).await.unwrap();
    let mut rules = Rule::parse(ROLE, "tools").unwrap();
    rules.extend(Rule::parse(ROLE, "more").unwrap());
    let kubeconfig = server.user("system:serviceaccount:tools:basalt", rules);
    Cluster {
        server,
        kubeconfig,
        options: Options { request_seconds: 2, call_seconds: 10, ..Options::default() },
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn provider() -> KubernetesProvider {
    serde_json::from_value(serde_json::json!({
        "kubeconfig": { "secret": "k" }, "namespace": "tools", "namespaces": ["more"],
    }))
    .unwrap()
}

impl Cluster {
    pub fn kubernetes(&self) -> Kubernetes {
        Kubernetes::new(&provider(), &SecretText::new(&self.kubeconfig), self.options.clone()).unwrap()
    }

    /// What is there of an owner, kind by kind, in any namespace.
    pub fn objects_of(&self, owner: &Owner) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for plural in ["deployments", "services", "secrets"] {
            for object in self.server.objects(plural) {
                let meta = &object["metadata"];
                if meta["labels"]["basalt/deployment"] == owner.id.0.to_string()
                    && meta["deletionTimestamp"].is_null()
                {
                    let text = |field: &str| meta[field].as_str().unwrap().to_owned();
                    found.push((plural.to_owned(), text("namespace"), text("name")));
                }
            }
        }
        found
    }

    pub async fn seen(&self, owner: &Owner) -> Option<ObservedWorkload> {
        contract::seen(self, owner).await
    }

    /// Waits until what is seen of an owner is as wanted.
    pub async fn until(&self, owner: &Owner, wanted: impl Fn(&ObservedWorkload) -> bool) -> ObservedWorkload {
        let mut last = None;
        for _ in 0..200 {
            last = self.seen(owner).await;
            if let Some(found) = last.take_if(|w| wanted(w)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{last:?}")
    }

    /// Waits until it is not ready for a reason with this code.
    pub async fn not_ready(&self, owner: &Owner, code: &str) -> basalt_model::CapabilityReason {
        let is = |w: &ObservedWorkload| matches!(&w.readiness, Readiness::NotReady { reason } if reason.code == code);
        match self.until(owner, is).await.readiness {
            Readiness::NotReady { reason } => reason,
            other => panic!("{other:?}"),
        }
    }
}

impl Bench for Cluster {
    fn adapter(&self) -> Arc<dyn Adapter> {
        Arc::new(self.kubernetes())
    }

    fn normalise(&self) -> Normalise {
        normalise
    }

    fn program(&self) -> Program {
        Program {
            source: Source::Image { image: "registry.example/web:1".to_owned() },
            transport: Transport::StreamableHttp { port: 8080, path: "/".to_owned() },
            command: Vec::new(),
            args: Vec::new(),
            health: None,
        }
    }

    fn log_text(&self) -> &'static str {
        "it listens"
    }

    fn namespace(&self) -> Option<Name> {
        Some(name("tools"))
    }
}

pub fn workload(cluster: &Cluster, number: u128) -> Workload {
    contract::workload(cluster, number)
}

mod keeps_the_contract {
    crate::contract::contract_tests!(super::cluster().await);
}
