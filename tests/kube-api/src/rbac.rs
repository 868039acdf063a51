//! Who may do what: rules of Roles as they are shipped, and what the server says when there is none.

use crate::{faults::Recorded, status::Status};
use serde::Deserialize;
use serde_json::{Value, json};

/// One rule in one namespace, or everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The namespace; none means the whole cluster.
    pub namespace: Option<String>,
    /// Groups, `*` for all.
    pub groups: Vec<String>,
    /// Resources, with their parts (`pods/log`), `*` for all.
    pub resources: Vec<String>,
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    metadata: Meta,
    #[serde(default)]
    rules: Vec<PolicyRule>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicyRule {
    #[serde(default)]
    api_groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    verbs: Vec<String>,
}

impl Rule {
    /// Everything, everywhere.
    pub fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self { namespace: None, groups: all(), resources: all(), verbs: all() }
    }

    /// The rules of the Roles and ClusterRoles in a file of YAML documents. A Role without a namespace is one of
    /// `namespace`, as `kubectl apply -n` makes it.
    pub fn parse(yaml: &str, namespace: &str) -> Result<Vec<Self>, String> {
        let documents: Vec<Document> = serde_saphyr::from_multiple(yaml).map_err(|e| e.to_string())?;
        let mut rules = Vec::new();
        for document in documents {
            let scope = match document.kind.as_str() {
                "Role" => Some(document.metadata.namespace.unwrap_or_else(|| namespace.to_owned())),
                "ClusterRole" => None,
                _ => continue,
            };
            rules.extend(document.rules.into_iter().map(|rule| Self {
                namespace: scope.clone(),
                groups: rule.api_groups,
                resources: rule.resources,
                verbs: rule.verbs,
            }));
        }
        Ok(rules)
    }

    /// The same rule as single permissions.
    pub fn each(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    all.push(Self {
                        namespace: self.namespace.clone(),
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        verbs: vec![verb.clone()],
                    });
                }
            }
        }
        all
    }

    fn allows(&self, asked: &Recorded) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|w| w == "*" || w == word);
        self.namespace.as_ref().is_none_or(|n| *n == asked.namespace)
            && has(&self.groups, &asked.group)
            && has(&self.resources, &asked.resource)
            && has(&self.verbs, &asked.verb)
    }
}

pub(crate) fn allowed(rules: &[Rule], asked: &Recorded) -> bool {
    asked.group == "authorization.k8s.io" || rules.iter().any(|rule| rule.allows(asked))
}

/// The refusal.
pub(crate) fn refuse(asked: &Recorded) -> Status {
    let plural = asked.resource.split('/').next().unwrap_or_default();
    let of = if asked.group.is_empty() { plural.to_owned() } else { format!("{plural}.{}", asked.group) };
    let what = if asked.name.is_empty() { of } else { format!("{of} {:?}", asked.name) };
    let place = match asked.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    Status::forbidden(format!(
        "{what} is forbidden: User {:?} cannot {} resource {:?} in API group {:?} {place}",
        asked.user, asked.verb, asked.resource, asked.group
    ))
}

/// The answer to a `SelfSubjectAccessReview`.
pub(crate) fn access_review(rules: &[Rule], user: &str, body: &Value) -> Value {
    let asked = &body["spec"]["resourceAttributes"];
    let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    let resource = match text("subresource") {
        part if part.is_empty() => text("resource"),
        part => format!("{}/{part}", text("resource")),
    };
    let request = Recorded {
        user: user.to_owned(),
        verb: text("verb"),
        group: text("group"),
        resource,
        namespace: text("namespace"),
        name: text("name"),
    };
    let mut answer = body.clone();
    answer["status"] = json!({ "allowed": allowed(rules, &request) });
    answer
}

/// The answer to a `SelfSubjectRulesReview`.
pub(crate) fn rules_review(rules: &[Rule], body: &Value) -> Value {
    let namespace = body["spec"]["namespace"].as_str().unwrap_or_default();
    let known: Vec<Value> = rules
        .iter()
        .filter(|rule| rule.namespace.as_ref().is_none_or(|n| n == namespace))
        .map(|rule| json!({ "verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources }))
        .collect();
    let mut answer = body.clone();
    answer["status"] = json!({ "resourceRules": known, "nonResourceRules": [], "incomplete": false });
    answer
}
