//! Deployments: an artifact that runs, or is to run no more, at a provider. Intent, settings, and what was seen.

use crate::{
    CapabilityReason, DateTime, DeploymentId, Epoch, GIB, Generation, MIB, Name,
    artifacts::{ArtifactRef, Env, validate_env},
    providers::{Platform, ProviderSpec},
    validate::{FieldError, Validate, at, within},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a user wants of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSpec {
    /// What runs.
    pub target: ArtifactRef,
    /// Where it runs: a provider of the project.
    pub provider: Name,
    /// Variables; they overrule those of the artifact.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// What it may use.
    #[serde(default)]
    pub resources: Resources,
    /// Settings that only Kubernetes has; refused at providers of other platforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesSettings>,
    /// Settings that only a local engine has; refused at providers of other platforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalSettings>,
    /// What is done when it is seen to differ from what was deployed, or gone.
    #[serde(default)]
    pub on_drift: OnDrift,
    /// Whether it is to run.
    #[serde(default)]
    pub desired_state: DesiredState,
}

/// Whether a deployment is to run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// It runs.
    #[default]
    Deployed,
    /// Nothing of it is left at the provider; the deployment itself stays and can be deployed again.
    Undeployed,
}

/// What is done about a difference that nobody asked for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnDrift {
    /// It is put right.
    #[default]
    Reapply,
    /// It is said in the condition `Drifted`, and left as it is.
    Report,
}

/// What a deployment may use at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory in bytes, 4 MiB to 1 TiB; default: what the platform gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of a processor, 10 to 256,000; default: what the platform gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
}

/// Settings that only Kubernetes has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KubernetesSettings {
    /// One of the provider's namespaces; default: its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// How many of it run, 1 to 100; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The ServiceAccount that its pods have; default: the namespace's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Name>,
}

/// Settings that only a local engine has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalSettings {
    /// The port of the gateway's machine at which it is reached, 1 to 65535; default: a free one, kept for its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Whose a workload is: what is written on everything made for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The deployment; a deployment of the same name made later has another id.
    pub id: DeploymentId,
    /// Its project's name.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Where at the provider, on platforms that have namespaces.
    pub namespace: Option<Name>,
}

impl Owner {
    /// The name of what is made for it at the platform: its own, shortened so that with eight digits of its id it stays
    /// a DNS label. Two deployments of one name, of two projects or one after the other, are never taken for each other.
    pub fn workload_name(&self) -> String {
        let id = self.id.0.simple().to_string();
        let name = self.name.as_str();
        let stem = name[..name.len().min(54)].trim_end_matches('-');
        format!("{stem}-{}", &id[24..])
    }
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Takes it in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Hands it out, to the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// Why an attempt at a platform failed: what it says about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// It may well go the next time.
    Transient,
    /// It goes wrong the same way until an input changes.
    Permanent,
    /// The platform does not know us, or does not let us.
    Auth,
    /// The platform has no room.
    Capacity,
    /// Something that it needs is not there: an image, a namespace, a kind of object.
    Missing,
    /// Somebody else holds what we want to write.
    Conflict,
    /// No answer in time; it may have happened or not.
    Timeout,
}

impl ErrorClass {
    /// Whether time alone may make it go.
    pub fn is_retried(self) -> bool {
        self != Self::Permanent
    }

    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Auth => "auth",
            Self::Capacity => "capacity",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
        }
    }
}

/// Where a workload is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// `http` or `mcp`.
    pub name: String,
    /// Its address.
    pub url: String,
}

/// How a workload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Readiness {
    /// It runs and says that it is well.
    Ready,
    /// It begins; not ready yet, and nothing is wrong so far.
    Starting,
    /// It does not run, or is not well.
    NotReady {
        /// What was seen and what would mend it.
        reason: CapabilityReason,
    },
}

/// One workload as a platform showed it: the same words for every platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedWorkload {
    /// The deployment that is written on it; none on what Basalt did not start.
    pub owner: Option<DeploymentId>,
    /// The project that is written on it.
    pub project: Option<String>,
    /// What is written on it of the spec that it was made from.
    pub fingerprint: Option<String>,
    /// The generation that is written on it.
    pub generation: Option<Generation>,
    /// The attempt that is written on it; what carries a higher one is never overwritten by a lower.
    pub epoch: Option<Epoch>,
    /// What it seems to be, where it can be told.
    pub kind: Option<crate::artifacts::ArtifactKind>,
    /// The image it runs.
    pub image: Option<String>,
    /// How it is.
    pub readiness: Readiness,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
    /// What differs from what was applied, field by field; empty when nothing does.
    pub drift: Vec<String>,
}

/// One line of a workload's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When the platform took it, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime>,
    /// Which of several that run at once; empty where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// The line, at most 16 KiB.
    pub line: String,
}

/// What a platform can do beyond the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlatformCapabilities {
    /// Packages of npm run.
    pub npm: bool,
    /// Packages of the Python Package Index run.
    pub pypi: bool,
    /// Servers that speak by standard input and output run, behind a bridge.
    pub stdio: bool,
    /// More than one of a workload runs.
    pub replicas: bool,
    /// It knows namespaces.
    pub namespaces: bool,
}

impl DeploymentSpec {
    /// What is wrong with it at a provider of this spec: settings of another platform, a namespace that is not its.
    pub fn errors_at(&self, provider: &ProviderSpec) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let platform = provider.platform();
        let foreign = [
            ("spec.kubernetes", self.kubernetes.is_some() && platform != Platform::Kubernetes),
            ("spec.local", self.local.is_some() && platform != Platform::Local),
        ];
        for (field, _) in foreign.into_iter().filter(|(_, foreign)| *foreign) {
            errors.push(FieldError::new(
                field,
                "wrong_platform",
                format!(
                    "the provider {} is of the platform {platform}, which has no such settings",
                    self.provider
                ),
                "leave it out, or name a provider of that platform",
            ));
        }
        if let (ProviderSpec::Kubernetes(cluster), Some(settings)) = (provider, &self.kubernetes)
            && let Some(namespace) = &settings.namespace
            && !cluster.all_namespaces().contains(namespace)
        {
            let known: Vec<&str> = cluster.all_namespaces().into_iter().map(Name::as_str).collect();
            errors.push(FieldError::new(
                "spec.kubernetes.namespace",
                "namespace_not_allowed",
                format!("the provider {} may use {} only", self.provider, known.join(", ")),
                "name one of these, or add the namespace to the provider",
            ));
        }
        errors
    }

    /// The namespace that it runs in, on platforms that have them.
    pub fn namespace_at(&self, provider: &ProviderSpec) -> Option<Name> {
        let ProviderSpec::Kubernetes(cluster) = provider else { return None };
        let own = self.kubernetes.as_ref().and_then(|k| k.namespace.clone());
        Some(own.unwrap_or_else(|| cluster.namespace.clone()))
    }
}

impl Validate for DeploymentSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        validate_env(&self.env, &at(path, "env"), errors);
        let resources = at(path, "resources");
        if let Some(bytes) = self.resources.memory_bytes {
            within(errors, at(&resources, "memory_bytes"), bytes, (4 * MIB, 1024 * GIB), "bytes");
        }
        if let Some(millis) = self.resources.cpu_millis {
            let unit = "thousandths of a processor";
            within(errors, at(&resources, "cpu_millis"), u64::from(millis), (10, 256_000), unit);
        }
        if let Some(replicas) = self.kubernetes.as_ref().and_then(|k| k.replicas) {
            let field = at(&at(path, "kubernetes"), "replicas");
            within(errors, field, u64::from(replicas), (1, 100), "replicas");
        }
        if let Some(0) = self.local.as_ref().and_then(|l| l.port) {
            within(errors, at(&at(path, "local"), "port"), 0, (1, 65535), "");
        }
    }
}

/// Everything that a platform is told of one deployment: complete, every name resolved, every default put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Whose it is.
    pub owner: Owner,
    /// The generation of the deployment that it was made from.
    pub generation: Generation,
    /// The attempt; a platform refuses one that is lower than what it has seen.
    pub epoch: Epoch,
    /// What its inputs came to. Written on what is made, so that what runs says what it was made from.
    pub fingerprint: String,
    /// What runs.
    pub target: ArtifactRef,
    /// The program.
    pub program: Program,
    /// Variables in plain text.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets. They are in no label, event, log or error.
    pub secret_env: BTreeMap<String, SecretText>,
    /// What it may use.
    pub resources: Resources,
    /// Settings that only Kubernetes has.
    pub kubernetes: KubernetesSettings,
    /// Settings that only a local engine has.
    pub local: LocalSettings,
}

/// The program of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where it comes from.
    pub source: crate::artifacts::Source,
    /// How it is spoken to: an agent by HTTP at `/`, a server as its spec says.
    pub transport: crate::artifacts::Transport,
    /// Words in place of the image's own entry point.
    pub command: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
    /// How one sees that it is well.
    pub health: Option<crate::artifacts::HealthCheck>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_platform_are_dns_labels_of_their_own() {
        let owner = |name: &str, id: u128| Owner {
            id: DeploymentId(uuid::Uuid::from_u128(id)),
            project: Name::new("p").unwrap(),
            name: Name::new(name).unwrap(),
            namespace: None,
        };
        assert_eq!(owner("web", 0x1234_abcd).workload_name(), "web-1234abcd");
        let long = owner(&format!("{}-b", "a".repeat(53)), 7).workload_name();
        assert_eq!(long, format!("{}-00000007", "a".repeat(53)));
        assert!(Name::new(long).is_ok());
        assert_ne!(owner("web", 1).workload_name(), owner("web", 2).workload_name());
    }

    #[test]
    fn settings_of_another_platform_and_foreign_namespaces_are_refused_by_field() {
        let spec: DeploymentSpec = serde_json::from_value(serde_json::json!({
            "target": { "kind": "agent", "name": "a" }, "provider": "p",
            "kubernetes": { "namespace": "elsewhere" }, "local": { "port": 80 },
        }))
        .unwrap();
        let provider = |json| serde_json::from_value::<ProviderSpec>(json).unwrap();
        let codes = |p: &ProviderSpec| -> Vec<(String, String)> {
            spec.errors_at(p).into_iter().map(|e| (e.field, e.code)).collect()
        };
        let (field, code) = ("spec.kubernetes".to_owned(), "wrong_platform".to_owned());
        assert_eq!(codes(&provider(serde_json::json!({ "platform": "local" }))), [(field, code.clone())]);
        let cluster =
            provider(serde_json::json!({ "platform": "kubernetes", "kubeconfig": { "secret": "k" } }));
        let namespace = ("spec.kubernetes.namespace".to_owned(), "namespace_not_allowed".to_owned());
        assert_eq!(codes(&cluster), [("spec.local".to_owned(), code), namespace]);
        assert_eq!(format!("{:?}", SecretText::new("hush")), "[secret]");
    }
}
