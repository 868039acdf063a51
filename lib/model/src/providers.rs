//! Providers: places where deployments run, each on one platform and with the settings of that platform.

use crate::{
    GIB, MIB, Name,
    artifacts::SecretRef,
    validate::{FieldError, Validate, at, multiple_of, within},
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
    /// VMs of a project of Basalt: this one or another.
    Basalt,
}

impl Platform {
    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kubernetes => "kubernetes",
            Self::Basalt => "basalt",
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
    /// VMs of a project of Basalt: this one or another.
    Basalt(BasaltProvider),
}

impl ProviderSpec {
    /// Its platform.
    pub fn platform(&self) -> Platform {
        match self {
            Self::Local(_) => Platform::Local,
            Self::Kubernetes(_) => Platform::Kubernetes,
            Self::Basalt(_) => Platform::Basalt,
        }
    }

    /// The secret that holds how one gets there.
    pub fn secret(&self) -> Option<&SecretRef> {
        self.access().map(|(_, secret)| secret)
    }

    /// The secret that holds how one gets there, with the field of the spec that names it.
    pub fn access(&self) -> Option<(&'static str, &SecretRef)> {
        match self {
            Self::Local(_) => None,
            Self::Kubernetes(cluster) => Some(("kubeconfig", &cluster.kubeconfig)),
            Self::Basalt(place) => Some(("access", &place.access)),
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

/// VMs of a project of Basalt, one for each deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BasaltProvider {
    /// The secret whose value says where that Basalt is and who we are there, in TOML: `url`, `token`, and `ca` (PEM)
    /// where its certificates are of an authority of its own.
    pub access: SecretRef,
    /// The project there.
    pub project: Name,
    /// The image of that project that VMs begin with: a cloud image with podman, or with `basalt-run`.
    pub image: Name,
    /// The network of that project that VMs are put on.
    pub network: Name,
    /// The pool that disks are kept in; default: the one of the host with the most room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Processors of a VM whose deployment does not say `resources.cpu_millis`, 1 to 256; default 1.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// Memory of a VM whose deployment does not say `resources.memory_bytes`, a multiple of 1 MiB, 64 MiB to 4 TiB;
    /// default 512 MiB.
    #[serde(default = "default_memory_bytes")]
    pub memory_bytes: u64,
    /// Size of a VM's disk, a multiple of 1 MiB; default: the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Whether the gateway asks the program in the VM if it is well. It has to reach the network for that; without it, what
    /// runs in a VM that runs counts as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// Whether the values of secrets may stand in the user-data of VMs, which everybody may read who may read the VMs.
    /// Without it, what has secret variables is refused here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secrets_in_user_data: bool,
}

fn default_cpus() -> u32 {
    1
}

fn default_memory_bytes() -> u64 {
    512 * MIB
}

impl Validate for ProviderSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        match self {
            Self::Local(_) => {}
            Self::Kubernetes(cluster) => cluster.validate(path, errors),
            Self::Basalt(place) => place.validate(path, errors),
        }
    }
}

impl Validate for BasaltProvider {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        within(errors, at(path, "cpus"), self.cpus.into(), (1, 256), "CPUs");
        for (field, bytes, bounds) in [
            ("memory_bytes", Some(self.memory_bytes), (64 * MIB, 4096 * GIB)),
            ("disk_bytes", self.disk_bytes, (MIB, 64 * 1024 * GIB)),
        ] {
            if let Some(bytes) = bytes
                && within(errors, at(path, field), bytes, bounds, "bytes")
            {
                multiple_of(errors, at(path, field), bytes, MIB);
            }
        }
    }
}

impl Validate for KubernetesProvider {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.namespaces.len() > MAX_NAMESPACES {
            let reason =
                format!("{} namespaces; at most {MAX_NAMESPACES} are watched", self.namespaces.len());
            let remedy = "make a second provider for the others";
            errors.push(FieldError::new(at(path, "namespaces"), "too_many", reason, remedy));
        }
        if self.context.as_ref().is_some_and(|c| c.is_empty() || c.len() > 253) {
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
        let vms = parse(
            serde_json::json!({ "platform": "basalt", "access": { "secret": "a" }, "project": "agents",
            "image": "runner", "network": "lan" }),
        )
        .unwrap();
        let access = vms.access().map(|(field, secret)| (field, secret.secret.as_str()));
        assert_eq!((vms.platform().as_str(), access), ("basalt", Some(("access", "a"))));
        assert_eq!(vms.errors(), vec![]);
        for (json, field) in [
            (serde_json::json!({ "platform": "local", "namespace": "x" }), "namespace"),
            (serde_json::json!({ "platform": "kubernetes" }), "kubeconfig"),
            (
                serde_json::json!({ "platform": "basalt", "access": { "secret": "a" }, "project": "p" }),
                "image",
            ),
            (serde_json::json!({ "platform": "basalt", "token": "t" }), "token"),
            (serde_json::json!({ "platform": "nomad" }), "nomad"),
        ] {
            let refused = parse(json).unwrap_err().to_string();
            assert!(refused.contains(field), "{refused}");
        }
    }

    #[test]
    fn absurd_sizes_of_vms_name_the_field() {
        let spec: ProviderSpec = serde_json::from_value(serde_json::json!({ "platform": "basalt",
            "access": { "secret": "a" }, "project": "p", "image": "i", "network": "n",
            "cpus": 0, "memory_bytes": 512 * MIB + 1, "disk_bytes": 5 }))
        .unwrap();
        let fields: Vec<String> = spec.errors().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["spec.cpus", "spec.memory_bytes", "spec.disk_bytes"]);
    }
}
