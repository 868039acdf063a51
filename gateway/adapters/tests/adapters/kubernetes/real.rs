//! The same contract against a real cluster, when there is one: `BASALT_TEST_KUBECONFIG` is the path of a kubeconfig
//! whose user may make workloads in the namespace `BASALT_TEST_NAMESPACE` (default: `basalt-test`), and
//! `BASALT_TEST_IMAGE` an image that serves HTTP at 8080 when it is started with `netexec --http-port=8080`.

use super::name;
use crate::contract::{self, Bench};
use basalt_adapters::{
    Adapter, Normalise,
    kubernetes::{Kubernetes, Options, normalise},
};
use basalt_model::{
    Name,
    artifacts::{HealthCheck, Source, Transport},
    deployments::{Program, SecretText},
    providers::KubernetesProvider,
};
use std::sync::Arc;

struct Real {
    kubeconfig: SecretText,
    provider: KubernetesProvider,
    image: String,
}

impl Bench for Real {
    fn adapter(&self) -> Arc<dyn Adapter> {
        Arc::new(Kubernetes::new(&self.provider, &self.kubeconfig, Options::default()).unwrap())
    }

    fn normalise(&self) -> Normalise {
        normalise
    }

    fn program(&self) -> Program {
        Program {
            source: Source::Image { image: self.image.clone() },
            transport: Transport::StreamableHttp { port: 8080, path: "/".to_owned() },
            command: Vec::new(),
            args: vec!["netexec".to_owned(), "--http-port=8080".to_owned()],
            health: Some(HealthCheck { path: "/healthz".to_owned(), start_seconds: 60 }),
        }
    }

    fn log_text(&self) -> &'static str {
        "http"
    }

    fn namespace(&self) -> Option<Name> {
        Some(self.provider.namespace.clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_cluster_keeps_the_contract() {
    let Some(path) = std::env::var_os("BASALT_TEST_KUBECONFIG") else {
        println!("skipped: BASALT_TEST_KUBECONFIG names no kubeconfig");
        return;
    };
    let namespace = std::env::var("BASALT_TEST_NAMESPACE").unwrap_or_else(|_| "basalt-test".to_owned());
    let image = std::env::var("BASALT_TEST_IMAGE");
    let bench = Real {
        kubeconfig: SecretText::new(std::fs::read_to_string(path).unwrap()),
        provider: serde_json::from_value(serde_json::json!({
            "kubeconfig": { "secret": "k" }, "namespace": name(&namespace),
        }))
        .unwrap(),
        image: image.unwrap_or_else(|_| "registry.k8s.io/e2e-test-images/agnhost:2.53".to_owned()),
    };
    contract::deploy_is_idempotent(&bench).await;
    contract::a_change_is_applied(&bench).await;
    contract::undeploy_is_idempotent(&bench).await;
    contract::another_owner_is_left_alone(&bench).await;
    contract::nothing_of_another_owner_is_taken_over(&bench).await;
    contract::an_older_attempt_is_refused(&bench).await;
    contract::looks_stand_still_and_agree(&bench).await;
    contract::secrets_are_nowhere(&bench).await;
    contract::logs_are_read(&bench).await;
}
