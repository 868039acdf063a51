//! Adapters for the providers that this gateway may reach: the engines of its configuration, clusters by kubeconfig, and
//! projects of Basalt by token.

use crate::Config;
use basalt_adapters::{
    Adapter, EngineOptions, Error, LogOptions, Now, basalt::Basalt, kubernetes::Kubernetes, local::Local,
};
use basalt_api::{Logs, LogsAsked};
use basalt_daemon::Clock;
use basalt_model::{
    CapabilityReason, Name,
    deployments::{ErrorClass, SecretText},
    providers::ProviderSpec,
};
use basalt_reconciler::platforms::{Hands, Open, Platforms};
use basalt_store::{secrets::SealingKeys, work::Executor};
use futures::{FutureExt, StreamExt};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

/// How long a call to an engine may last; the pull of an image is part of one.
const ENGINE_CALL: Duration = Duration::from_secs(600);
/// How long a call to another Basalt may last; the end of a VM that is replaced is waited for in half of it.
const BASALT_CALL: Duration = Duration::from_secs(120);

/// Makes adapters as the configuration says.
pub struct Opener {
    engines: BTreeMap<Name, EngineOptions>,
    kubernetes: basalt_adapters::kubernetes::Options,
    clock: Arc<dyn Clock>,
}

impl Opener {
    /// For a configuration.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Self {
        Self { engines: config.engines.clone(), kubernetes: config.kubernetes.clone(), clock }
    }

    fn now(&self) -> Now {
        let clock = Arc::clone(&self.clock);
        Arc::new(move || clock.now())
    }
}

impl Open for Opener {
    fn open(
        &self,
        provider: &ProviderSpec,
        access: Option<&SecretText>,
    ) -> Result<Arc<dyn Adapter>, Box<Error>> {
        match provider {
            ProviderSpec::Local(local) => {
                let name = local.engine.as_str();
                let options = self.engines.get(&local.engine).ok_or_else(|| unknown_engine(name))?;
                Ok(Arc::new(Local::new(name, options.clone(), ENGINE_CALL, self.now())))
            }
            ProviderSpec::Kubernetes(cluster) => {
                let access = access.ok_or_else(|| no_access(provider))?;
                let reached = Kubernetes::new(cluster, access, self.kubernetes.clone());
                Ok(Arc::new(reached.map_err(Box::new)?))
            }
            ProviderSpec::Basalt(place) => {
                let access = access.ok_or_else(|| no_access(provider))?;
                let reached = Basalt::new(place, access, BASALT_CALL, self.now());
                Ok(Arc::new(reached.map_err(Box::new)?))
            }
        }
    }
}

/// What the reconciler reaches platforms by. Another start of this gateway takes over at once what this one leaves.
pub fn hands(config: &Config, clock: &Arc<dyn Clock>, keys: Arc<SealingKeys>, holder: Uuid) -> Hands {
    let executor = Executor { id: holder, start: clock.new_id() };
    Hands { open: Arc::new(Opener::new(config, Arc::clone(clock))), keys, executor }
}

/// How the door reads logs: through the same adapters, also where another gateway is the one that acts.
pub fn logs(platforms: Arc<Platforms>) -> Logs {
    Arc::new(move |asked: LogsAsked| {
        let platforms = Arc::clone(&platforms);
        async move {
            let options = LogOptions { tail: asked.tail, follow: asked.follow, since: None };
            let lines = platforms.logs(&asked.provider, &asked.owner, options).await;
            let lines = lines.map_err(|error| error.reason)?;
            Ok(lines.map(|line| line.map_err(|error| error.reason)).boxed())
        }
        .boxed()
    })
}

fn unknown_engine(name: &str) -> Box<Error> {
    let reason = CapabilityReason::new(
        "unknown_engine",
        format!("engine/{name}"),
        "the configuration of this gateway has no engine of this name",
        format!("name it in gateway.toml of every gateway: [engines.{name}] socket"),
    );
    Box::new(Error::new(ErrorClass::Missing, reason))
}

fn no_access(provider: &ProviderSpec) -> Box<Error> {
    let field = provider.access().map_or("spec", |(field, _)| field);
    let reason = CapabilityReason::new(
        "secret_missing",
        field,
        format!("the platform {} is reached by a secret, and there is none", provider.platform()),
        format!("name the secret that holds it in spec.{field} of the provider"),
    );
    Box::new(Error::new(ErrorClass::Missing, reason))
}
