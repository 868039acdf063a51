//! Whether the cluster answers and lets us do what we need.

use super::{
    Kubernetes, all_of,
    calls::{Call, DEPLOYMENT, REVIEW},
    reasons::{self, error},
};
use crate::{Health, Result};
use basalt_model::{CapabilityReason, deployments::ErrorClass};
use serde_json::{Value, json};

/// What is needed in each namespace: group, resource, verbs, and what does not go without it. Without those that have
/// no sentence nothing goes.
const NEEDED: [(&str, &str, &[&str], Option<&str>); 6] = [
    ("apps", "deployments", &["get", "list", "watch", "create", "patch", "delete"], None),
    ("", "services", &["get", "list", "watch", "create", "patch", "delete"], None),
    ("", "secrets", &["get", "create", "patch", "delete"], None),
    ("", "pods", &["list", "watch"], None),
    ("", "pods/log", &["get"], Some("logs cannot be read")),
    ("", "events", &["list"], Some("why an image cannot be pulled is not told")),
];

/// A right that is not there.
struct Missing {
    namespace: String,
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    limits: Option<&'static str>,
}

impl Kubernetes {
    pub(super) async fn look_at_health(&self) -> Result<Health> {
        let call = Call { verb: "get", kind: DEPLOYMENT, part: "", namespace: "", name: "" };
        let version = self.cluster.get_path(&call, "/version").await?;
        let Some(version) = version["gitVersion"].as_str() else {
            return Err(reasons::garbage(&call, &self.cluster.server));
        };
        let apps = self.cluster.get_path(&call, "/apis/apps/v1").await?;
        let mut resources = apps["resources"].as_array().into_iter().flatten();
        if !resources.any(|r| r["name"] == "deployments") {
            return Err(reasons::api_missing("apps", "v1", "deployments"));
        }
        let each = self.namespaces.iter().map(|namespace| self.missing_rights(namespace.as_str()));
        let missing: Vec<Vec<Missing>> = all_of(each).await?;
        let missing: Vec<Missing> = missing.into_iter().flatten().collect();
        let (limits, needed): (Vec<Missing>, Vec<Missing>) =
            missing.into_iter().partition(|m| m.limits.is_some());
        if !needed.is_empty() {
            let rights: Vec<String> = needed.iter().map(Missing::shown).collect();
            return Err(error(
                ErrorClass::Auth,
                "rights_missing",
                "kubeconfig",
                format!("the kubeconfig's user may not {}", rights.join(", ")),
                "give it the Role of deploy/kubernetes/role.yaml in each of these namespaces",
            ));
        }
        let mut limits: Vec<CapabilityReason> = limits.iter().map(Missing::limit).collect();
        if !self.verified {
            limits.push(CapabilityReason::new(
                "tls_not_verified",
                format!("cluster/{}", self.cluster.server),
                "the kubeconfig tells not to verify the cluster's certificate, so anybody on the way can read along",
                "put the cluster's CA into `certificate-authority-data` and leave out `insecure-skip-tls-verify`",
            ));
        }
        Ok(Health { version: format!("kubernetes {version}"), limits })
    }

    /// One question for all rules of a namespace; then one for each right that they do not show, for a cluster may know
    /// more than it can list.
    async fn missing_rights(&self, namespace: &str) -> Result<Vec<Missing>> {
        let body = json!({
            "apiVersion": REVIEW.api_version(), "kind": "SelfSubjectRulesReview", "spec": { "namespace": namespace },
        });
        let rules = self.cluster.review("selfsubjectrulesreviews", &body).await?;
        let mut missing = Vec::new();
        for (group, resource, verbs, limits) in NEEDED {
            for verb in verbs.iter().copied() {
                if !listed(&rules, group, resource, verb)
                    && !self.may(namespace, group, resource, verb).await?
                {
                    missing.push(Missing { namespace: namespace.to_owned(), group, resource, verb, limits });
                }
            }
        }
        Ok(missing)
    }

    async fn may(&self, namespace: &str, group: &str, resource: &str, verb: &str) -> Result<bool> {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let body = json!({
            "apiVersion": REVIEW.api_version(), "kind": REVIEW.kind,
            "spec": { "resourceAttributes": {
                "namespace": namespace, "group": group, "resource": resource, "subresource": part, "verb": verb,
            } },
        });
        let answer = self.cluster.review(REVIEW.plural, &body).await?;
        Ok(answer["status"]["allowed"] == true)
    }
}

fn listed(rules: &Value, group: &str, resource: &str, verb: &str) -> bool {
    let rules = rules["status"]["resourceRules"].as_array().into_iter().flatten();
    let has = |list: &Value, word: &str| list.as_array().into_iter().flatten().any(|w| w == word || w == "*");
    // A rule that names objects is not for all of them.
    rules.into_iter().any(|rule| {
        rule["resourceNames"].as_array().is_none_or(Vec::is_empty)
            && has(&rule["apiGroups"], group)
            && has(&rule["resources"], resource)
            && has(&rule["verbs"], verb)
    })
}

impl Missing {
    fn shown(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        format!("{} {}{group} in {}", self.verb, self.resource, self.namespace)
    }

    fn limit(&self) -> CapabilityReason {
        CapabilityReason::new(
            "right_missing",
            format!("namespace/{}", self.namespace),
            self.limits.unwrap_or_default(),
            format!(
                "give the kubeconfig's user a Role there with apiGroups [{:?}], resources [{}], verbs [{}]",
                self.group, self.resource, self.verb
            ),
        )
    }
}
