//! The adapter of Basalt's own VMs against an API over real HTTP and TLS, which keeps its VMs in memory.

mod errors;
mod looks;
mod ownership;
mod replaced;
mod server;

use crate::contract::{self, Bench};
use basalt_adapters::{
    Adapter, Normalise,
    basalt::{Basalt, normalise},
};
use basalt_model::{
    Name,
    artifacts::{Source, Transport},
    deployments::{ObservedWorkload, Owner, Program, SecretText, Workload},
    providers::BasaltProvider,
};
use serde_json::{Value, json};
use server::{Server, TOKEN, Vm};
use std::{sync::Arc, time::Duration};

/// A project `agents` of a Basalt with the image `runner` and the network `lan`.
pub struct Project {
    pub server: Server,
    pub provider: BasaltProvider,
}

pub async fn project() -> Project {
    with(json!({ "secrets_in_user_data": true })).await
}

/// The same, and the provider says this besides.
pub async fn with(more: Value) -> Project {
    Project { server: Server::start().await, provider: provider(more) }
}

pub fn provider(more: Value) -> BasaltProvider {
    let mut spec =
        json!({ "access": { "secret": "a" }, "project": "agents", "image": "runner", "network": "lan" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

pub fn access(url: &str, token: &str, ca: &str) -> SecretText {
    SecretText::new(format!("url = \"{url}\"\ntoken = \"{token}\"\nca = \"\"\"\n{ca}\"\"\"\n"))
}

pub fn basalt(provider: &BasaltProvider, access: &SecretText) -> Basalt {
    let now = Arc::new(|| "2026-11-22T15:51:17Z".parse().unwrap());
    Basalt::new(provider, access, Duration::from_secs(4), now).unwrap()
}

impl Project {
    pub fn basalt(&self) -> Basalt {
        basalt(&self.provider, &access(&self.server.url, TOKEN, &self.server.ca))
    }

    pub fn vms(&self) -> Vec<Vm> {
        self.server.there().vms.values().cloned().collect()
    }

    pub fn only(&self) -> Vm {
        let mut all = self.vms();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    pub fn change(&self, vm: &Vm, change: impl FnOnce(&mut Vm)) {
        let mut there = self.server.there();
        let vm = there.vms.get_mut(&vm.id).unwrap();
        vm.generation += 1;
        change(vm);
    }

    pub async fn seen(&self, owner: &Owner) -> Option<ObservedWorkload> {
        contract::seen(self, owner).await
    }

    /// The contract's workload, with nothing that is secret.
    pub fn plain(&self, number: u128) -> Workload {
        let mut plain = contract::workload(self, number);
        plain.secret_env.clear();
        plain
    }
}

impl Bench for Project {
    fn adapter(&self) -> Arc<dyn Adapter> {
        Arc::new(self.basalt())
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
        None
    }
}

mod keeps_the_contract {
    crate::contract::contract_tests!(super::project().await);
}
