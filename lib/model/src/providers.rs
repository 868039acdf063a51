//! Providers: places where deployments run, each on one platform and with the settings of that platform.

use crate::{
    Name,
    artifacts::SecretRef,
    validate::{FieldError, Validate, at},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// Most namespaces that one provider looks at.
pub const MAX_NAMESPACES: usize = 64;

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// A container engine on the gateway's machine.
    Local,
    /// A Kubernetes cluster.
    Kubernetes,
}

impl Platform {
    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kubernetes => "kubernetes",
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a provider is: its platform and how one gets there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "platform", rename_all = "snake_case")]
pub enum ProviderSpec {
    /// A container engine on the gateway's machine.
    Local(LocalProvider),
    /// A Kubernetes cluster.
    Kubernetes(KubernetesProvider),
}

impl ProviderSpec {
    /// Its platform.
    pub fn platform(&self) -> Platform {
        match self {
            Self::Local(_) => Platform::Local,
            Self::Kubernetes(_) => Platform::Kubernetes,
        }
    }

    /// The secret that holds how one gets there.
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Local(_) => None,
            Self::Kubernetes(cluster) => Some(&cluster.kubeconfig),
        }
    }
}

/// A container engine on the gateway's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalProvider {
    /// An engine of the gateway's configuration file (`[engines.NAME]`). Which sockets of its machine may be used is
    /// for those to say who run the gateway, so a provider names one and never a path.
    #[serde(default = "default_engine")]
    pub engine: Name,
}

fn default_engine() -> Name {
    // `default` is a DNS label, so this cannot fail; a name has no other way into being.
    Name::new("default").unwrap_or_else(|_| unreachable!("a DNS label"))
}

/// A Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KubernetesProvider {
    /// The secret whose value is the kubeconfig. Programs that a kubeconfig may name (`exec`, `auth-provider`) are not
    /// run, nor are files read that it names: it must hold certificates and tokens itself.
    pub kubeconfig: SecretRef,
    /// The kubeconfig's context; default: its current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The namespace where deployments run that name none.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// Further namespaces that deployments may name and that are looked through, at most 64.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub namespaces: BTreeSet<Name>,
}

fn default_namespace() -> Name {
    default_engine()
}

impl KubernetesProvider {
    /// Every namespace that it may touch.
    pub fn all_namespaces(&self) -> BTreeSet<&Name> {
        self.namespaces.iter().chain([&self.namespace]).collect()
    }
}

impl Validate for ProviderSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let Self::Kubernetes(cluster) = self else { return };
        if cluster.namespaces.len() > MAX_NAMESPACES {
            let reason =
                format!("{} namespaces; at most {MAX_NAMESPACES} are watched", cluster.namespaces.len());
            let remedy = "make a second provider for the others";
            errors.push(FieldError::new(at(path, "namespaces"), "too_many", reason, remedy));
        }
        if cluster.context.as_ref().is_some_and(|c| c.is_empty() || c.len() > 253) {
            let reason = "a context's name has 1 to 253 characters";
            errors.push(FieldError::new(
                at(path, "context"),
                "malformed",
                reason,
                "leave it out or name one",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_its_own_fields_and_a_foreign_one_is_refused() {
        let parse = |json| serde_json::from_value::<ProviderSpec>(json);
        let local = parse(serde_json::json!({ "platform": "local" })).unwrap();
        assert_eq!(local, ProviderSpec::Local(LocalProvider { engine: Name::new("default").unwrap() }));
        let cluster =
            parse(serde_json::json!({ "platform": "kubernetes", "kubeconfig": { "secret": "k" } })).unwrap();
        assert_eq!(cluster.secret().unwrap().secret.as_str(), "k");
        for (json, field) in [
            (serde_json::json!({ "platform": "local", "namespace": "x" }), "namespace"),
            (serde_json::json!({ "platform": "kubernetes" }), "kubeconfig"),
            (serde_json::json!({ "platform": "nomad" }), "nomad"),
        ] {
            let refused = parse(json).unwrap_err().to_string();
            assert!(refused.contains(field), "{refused}");
        }
    }
}
