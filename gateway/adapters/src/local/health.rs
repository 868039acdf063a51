//! What the engine is, and what it cannot do here.

use super::{Local, engine::Answer, reasons::failed};
use crate::{Health, Result};
use basalt_model::CapabilityReason;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Info {
    pub(super) memory_limit: bool,
    pub(super) cpu_cfs_quota: bool,
    default_runtime: String,
    security_options: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Version {
    version: String,
    components: Option<Vec<Component>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Component {
    name: String,
}

impl Local {
    pub(super) async fn info(&self) -> Answer<Info> {
        self.engine.get("/info", &[]).await
    }

    pub(super) async fn health_within(&self) -> Result<Health> {
        let failed = |f| failed(&self.name, "asking for its version", &f);
        let version: Version = self.engine.get("/version", &[]).await.map_err(failed)?;
        let info = self.info().await.map_err(failed)?;
        let podman = version.components.iter().flatten().any(|c| c.name.starts_with("Podman"));
        let product = if podman { "podman" } else { "docker" };
        Ok(Health {
            version: format!("{product} {}", version.version),
            limits: self.limits(&info, podman).await,
        })
    }

    async fn limits(&self, info: &Info, podman: bool) -> Vec<CapabilityReason> {
        let subject = format!("engine/{}", self.name);
        let mut limits = Vec::new();
        for (can, what) in [(info.memory_limit, "memory_bytes"), (info.cpu_cfs_quota, "cpu_millis")] {
            if !can {
                limits.push(unlimited(&self.name, what));
            }
        }
        if info.security_options.iter().flatten().any(|option| option.starts_with("name=rootless")) {
            limits.push(CapabilityReason::new(
                "rootless",
                &subject,
                "the engine runs without root: ports below 1024 cannot be published, and programs that need more rights fail",
                "use an engine that runs as root where that matters",
            ));
        }
        if self.options.network.as_deref() != Some("host") && self.options.address.is_loopback() {
            limits.push(CapabilityReason::new(
                "loopback_address",
                &subject,
                format!("containers have networks of their own, in which {} is themselves: agents do not reach servers", self.options.address),
                "set `address` of the engine in gateway.toml to another address of this machine, or `network` to host",
            ));
        }
        // Podman takes the runtime from its own configuration and ignores a request's.
        if let Some(runtime) = self.options.runtime.as_ref().filter(|r| podman && **r != info.default_runtime)
        {
            let reason = CapabilityReason::new(
                "runtime_ignored",
                &subject,
                format!("Podman runs containers with {}, whatever `runtime` says", info.default_runtime),
                format!("set runtime = \"{runtime}\" in containers.conf of the engine"),
            );
            limits.push(reason);
        }
        if let Some(bridge) = &self.options.bridge
            && !tokio::fs::metadata(bridge).await.is_ok_and(|file| file.is_file())
        {
            limits.push(CapabilityReason::new(
                "bridge_missing",
                &subject,
                format!("there is no program at {}, so servers that speak by standard input and output do not run", bridge.display()),
                "install basalt-mcp-bridge there, or correct `bridge` of the engine in gateway.toml",
            ));
        }
        limits
    }
}

/// The engine cannot hold a program to this.
pub(super) fn unlimited(engine: &str, what: &str) -> CapabilityReason {
    CapabilityReason::new(
        "not_limited",
        format!("engine/{engine}"),
        format!("the engine cannot limit {what}: the control group for it is not there, or not its own"),
        format!("leave {what} out of the deployment, or run the engine as root with that control group"),
    )
}
