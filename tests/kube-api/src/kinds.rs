//! The kinds of objects that are served, and discovery, which tells them.

use serde_json::{Value, json};

/// A kind of object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    /// Whether a change of what is wanted counts in `metadata.generation`.
    pub generation: bool,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    generation: bool,
) -> Kind {
    Kind { group, version, plural, kind, namespaced: true, generation }
}

pub(crate) static NAMESPACE: Kind = Kind {
    group: "",
    version: "v1",
    plural: "namespaces",
    kind: "Namespace",
    namespaced: false,
    generation: false,
};
pub(crate) static POD: Kind = kind("", "v1", "pods", "Pod", false);
pub(crate) static EVENT: Kind = kind("", "v1", "events", "Event", false);
pub(crate) static SERVICE: Kind = kind("", "v1", "services", "Service", false);
pub(crate) static SECRET: Kind = kind("", "v1", "secrets", "Secret", false);
pub(crate) static CONFIG_MAP: Kind = kind("", "v1", "configmaps", "ConfigMap", false);
pub(crate) static SERVICE_ACCOUNT: Kind = kind("", "v1", "serviceaccounts", "ServiceAccount", false);
pub(crate) static DEPLOYMENT: Kind = kind("apps", "v1", "deployments", "Deployment", true);
pub(crate) static REPLICA_SET: Kind = kind("apps", "v1", "replicasets", "ReplicaSet", true);
pub(crate) static AGENT: Kind = kind("kagent.dev", "v1alpha2", "agents", "Agent", true);
pub(crate) static MCP_SERVER: Kind = kind("kagent.dev", "v1alpha1", "mcpservers", "MCPServer", true);

static ALL: [&Kind; 11] = [
    &NAMESPACE,
    &POD,
    &EVENT,
    &SERVICE,
    &SECRET,
    &CONFIG_MAP,
    &SERVICE_ACCOUNT,
    &DEPLOYMENT,
    &REPLICA_SET,
    &AGENT,
    &MCP_SERVER,
];

impl Kind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, as messages name it.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Which groups are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub apps: bool,
    pub kagent: bool,
}

impl Served {
    pub fn kinds(self) -> impl Iterator<Item = &'static Kind> {
        ALL.into_iter().filter(move |kind| match kind.group {
            "apps" => self.apps,
            "kagent.dev" => self.kagent,
            _ => true,
        })
    }

    pub fn find(self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.kinds().find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    pub fn by_name(self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        self.kinds().find(|k| k.kind == kind && k.api_version() == api_version)
    }

    fn versions(self, group: &str) -> Vec<&'static str> {
        let mut versions: Vec<&str> = self.kinds().filter(|k| k.group == group).map(|k| k.version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.reverse();
        versions
    }

    /// What `/apis` says.
    pub fn groups(self) -> Value {
        let mut groups: Vec<&str> = self.kinds().map(|k| k.group).filter(|g| !g.is_empty()).collect();
        groups.push("authorization.k8s.io");
        groups.sort_unstable();
        groups.dedup();
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|group| {
                let mut versions = self.versions(group);
                if group == "authorization.k8s.io" {
                    versions.push("v1");
                }
                let each = |v: &&str| json!({ "groupVersion": format!("{group}/{v}"), "version": v });
                let all: Vec<Value> = versions.iter().map(each).collect();
                json!({ "name": group, "versions": all, "preferredVersion": all[0] })
            })
            .collect();
        json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
    }

    /// What `/api/v1` and `/apis/GROUP/VERSION` say; none when the group is not served.
    pub fn resources(self, group: &str, version: &str) -> Option<Value> {
        let verbs =
            ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"].as_slice();
        let mut resources: Vec<Value> = self
            .kinds()
            .filter(|k| k.group == group && k.version == version)
            .map(|k| {
                json!({
                    "name": k.plural, "singularName": k.kind.to_lowercase(), "namespaced": k.namespaced,
                    "kind": k.kind, "verbs": verbs,
                })
            })
            .collect();
        if (group, version) == ("authorization.k8s.io", "v1") {
            for (name, kind) in [
                ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
                ("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
            ] {
                resources.push(json!({
                    "name": name, "singularName": "", "namespaced": false, "kind": kind, "verbs": ["create"],
                }));
            }
        }
        let of = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        (!resources.is_empty()).then(
            || json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": of, "resources": resources }),
        )
    }
}
