//! Who may call which route: one row for every route of both doors. A route without a row is
//! refused to everybody, and a test that walks the OpenAPI document fails.
//!
//! A row names the role and where the scope comes from. When the scope stands in the path, the
//! check is done before the handler runs; when it is in the body or in the object itself, the
//! handler is given a [`Permit`](crate::authentication::Permit) whose `demand` it must call; when
//! the route lists rows, the rows are filtered by what the caller may see.

use axum::http::Method;
use basalt_model::roles::Role;
use std::{collections::HashMap, sync::OnceLock};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without a credential.
    Anyone,
    /// Everybody with a valid credential; the answer is about the caller alone.
    Caller,
    /// Everybody with a role at a scope.
    Role(Role, ScopeSource),
    /// A host's agent, by its client certificate.
    Agent,
    /// The image service, by its client certificate.
    ImageService,
    /// Whoever holds a join token that was not used yet.
    JoinToken,
}

/// Where the scope of a check comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeSource {
    /// The whole system.
    System,
    /// The project in the path. Without the right to read it, it does not exist.
    Project,
    /// The object itself, or what the body names: the handler demands it.
    Handler,
    /// Rows are filtered: the caller sees what the role holds for.
    Rows,
}

/// One route and who may call it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// HTTP method.
    pub method: &'static str,
    /// Path as the router spells it.
    pub path: &'static str,
    /// Who may call it.
    pub who: Who,
}

use Role::{Admin, Operator, Viewer};
use ScopeSource::{Handler, Project, Rows, System};

const fn rule(method: &'static str, path: &'static str, who: Who) -> Rule {
    Rule { method, path, who }
}
const fn role(method: &'static str, path: &'static str, role: Role, scope: ScopeSource) -> Rule {
    rule(method, path, Who::Role(role, scope))
}

/// Every route of both doors.
pub static RULES: &[Rule] = &[
    rule("GET", "/healthz", Who::Anyone),
    rule("GET", "/readyz", Who::Anyone),
    rule("GET", "/openapi.json", Who::Anyone),
    role("GET", "/metrics", Viewer, System),
    role("GET", "/debug/graph", Admin, System),
    rule("POST", "/v1/login", Who::Anyone),
    rule("POST", "/v1/logout", Who::Caller),
    rule("GET", "/v1/whoami", Who::Caller),
    role("GET", "/v1/tenants", Viewer, Rows),
    role("POST", "/v1/tenants", Admin, System),
    role("GET", "/v1/tenants/{tenant}", Viewer, Handler),
    role("GET", "/v1/projects", Viewer, Rows),
    role("POST", "/v1/projects", Admin, Handler),
    role("GET", "/v1/projects/{project}", Viewer, Project),
    role("PUT", "/v1/projects/{project}", Admin, Handler),
    role("DELETE", "/v1/projects/{project}", Admin, Handler),
    role("GET", "/v1/projects/{project}/vms", Viewer, Project),
    role("POST", "/v1/projects/{project}/vms", Operator, Project),
    role("GET", "/v1/projects/{project}/vms/{vm}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/vms/{vm}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/vms/{vm}", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/start", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/stop", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/pause", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/resume", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/reboot", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/reset", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/redeploy", Operator, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/migrate", Operator, Project),
    role("GET", "/v1/projects/{project}/migrations", Viewer, Project),
    role("GET", "/v1/projects/{project}/migrations/{migration}", Viewer, Project),
    role("GET", "/v1/projects/{project}/vms/{vm}/console", Viewer, Project),
    role("POST", "/v1/projects/{project}/vms/{vm}/console", Operator, Project),
    role("GET", "/v1/projects/{project}/vms/{vm}/explain", Viewer, Project),
    role("POST", "/v1/projects/{project}/placement/explain", Viewer, Project),
    role("GET", "/v1/projects/{project}/networks", Viewer, Project),
    role("POST", "/v1/projects/{project}/networks", Operator, Project),
    role("GET", "/v1/projects/{project}/networks/{network}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/networks/{network}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/networks/{network}", Operator, Project),
    role("GET", "/v1/projects/{project}/agents", Viewer, Project),
    role("POST", "/v1/projects/{project}/agents", Operator, Project),
    role("GET", "/v1/projects/{project}/agents/{agent}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/agents/{agent}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/agents/{agent}", Operator, Project),
    role("GET", "/v1/projects/{project}/servers", Viewer, Project),
    role("POST", "/v1/projects/{project}/servers", Operator, Project),
    role("GET", "/v1/projects/{project}/servers/{server}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/servers/{server}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/servers/{server}", Operator, Project),
    role("GET", "/v1/projects/{project}/providers", Viewer, Project),
    role("POST", "/v1/projects/{project}/providers", Admin, Project),
    role("GET", "/v1/projects/{project}/providers/{provider}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/providers/{provider}", Admin, Project),
    role("DELETE", "/v1/projects/{project}/providers/{provider}", Admin, Project),
    role("GET", "/v1/projects/{project}/secrets", Viewer, Project),
    role("POST", "/v1/projects/{project}/secrets", Operator, Project),
    role("GET", "/v1/projects/{project}/secrets/{secret}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/secrets/{secret}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/secrets/{secret}", Operator, Project),
    role("GET", "/v1/projects/{project}/deployments", Viewer, Project),
    role("POST", "/v1/projects/{project}/deployments", Operator, Project),
    role("GET", "/v1/projects/{project}/deployments/{deployment}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/deployments/{deployment}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/deployments/{deployment}", Operator, Project),
    role("POST", "/v1/projects/{project}/deployments/{deployment}/cancel", Operator, Project),
    role("POST", "/v1/projects/{project}/deployments/{deployment}/deploy", Operator, Project),
    role("POST", "/v1/projects/{project}/deployments/{deployment}/retry", Operator, Project),
    role("POST", "/v1/projects/{project}/deployments/{deployment}/adopt", Operator, Project),
    role("GET", "/v1/projects/{project}/deployments/{deployment}/events", Viewer, Project),
    role("GET", "/v1/projects/{project}/deployments/{deployment}/explain", Viewer, Project),
    role("GET", "/v1/projects/{project}/deployments/{deployment}/logs", Viewer, Project),
    role("GET", "/v1/projects/{project}/routers", Viewer, Project),
    role("POST", "/v1/projects/{project}/routers", Operator, Project),
    role("GET", "/v1/projects/{project}/routers/{router}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/routers/{router}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/routers/{router}", Operator, Project),
    role("GET", "/v1/projects/{project}/ports", Viewer, Project),
    role("GET", "/v1/projects/{project}/ports/{port}", Viewer, Project),
    role("GET", "/v1/projects/{project}/ports/{port}/explain", Viewer, Project),
    role("GET", "/v1/projects/{project}/security-groups", Viewer, Project),
    role("POST", "/v1/projects/{project}/security-groups", Operator, Project),
    role("GET", "/v1/projects/{project}/security-groups/{security_group}", Viewer, Project),
    role("PUT", "/v1/projects/{project}/security-groups/{security_group}", Operator, Project),
    role("DELETE", "/v1/projects/{project}/security-groups/{security_group}", Operator, Project),
    role("GET", "/v1/projects/{project}/ports/{port}/counters", Viewer, Project),
    role("GET", "/v1/projects/{project}/volumes", Viewer, Project),
    role("POST", "/v1/projects/{project}/volumes", Operator, Project),
    role("GET", "/v1/projects/{project}/volumes/{volume}", Viewer, Project),
    role("DELETE", "/v1/projects/{project}/volumes/{volume}", Operator, Project),
    role("GET", "/v1/projects/{project}/images", Viewer, Project),
    role("POST", "/v1/projects/{project}/images", Operator, Project),
    role("GET", "/v1/projects/{project}/images/{image}", Viewer, Project),
    role("DELETE", "/v1/projects/{project}/images/{image}", Operator, Project),
    role("POST", "/v1/projects/{project}/images/{image}/upload", Operator, Project),
    role("GET", "/v1/hosts", Viewer, System),
    role("POST", "/v1/hosts", Admin, System),
    role("GET", "/v1/hosts/{host}", Viewer, System),
    role("PUT", "/v1/hosts/{host}", Operator, System),
    role("DELETE", "/v1/hosts/{host}", Admin, System),
    role("POST", "/v1/hosts/{host}/join-token", Admin, System),
    role("POST", "/v1/hosts/{host}/revoke", Admin, System),
    role("POST", "/v1/hosts/{host}/confirm-power-off", Operator, System),
    role("POST", "/v1/hosts/{host}/adopt", Admin, System),
    role("POST", "/v1/hosts/{host}/drain", Operator, System),
    role("GET", "/v1/hosts/{host}/drains", Viewer, System),
    role("GET", "/v1/hosts/{host}/drains/{drain}", Viewer, System),
    role("GET", "/v1/pools", Viewer, System),
    role("GET", "/v1/pools/{pool}", Viewer, System),
    role("POST", "/v1/apply", Operator, Handler),
    role("POST", "/v1/sim", Viewer, System),
    role("GET", "/v1/unstick/{kind}/{id}", Viewer, Handler),
    role("POST", "/v1/unstick/{kind}/{id}", Operator, Handler),
    role("GET", "/v1/tasks", Viewer, Rows),
    role("GET", "/v1/tasks/{task}", Viewer, Handler),
    role("GET", "/v1/tasks/{task}/logs", Viewer, Handler),
    role("POST", "/v1/tasks/{task}/cancel", Operator, Handler),
    role("POST", "/v1/tasks/{task}/retry", Operator, Handler),
    role("PUT", "/v1/tasks/{task}/dependencies", Operator, Handler),
    role("GET", "/v1/audit", Viewer, Rows),
    role("GET", "/v1/users", Admin, System),
    role("POST", "/v1/users", Admin, System),
    role("GET", "/v1/users/{user}", Admin, System),
    role("DELETE", "/v1/users/{user}", Admin, System),
    role("GET", "/v1/service-tokens", Admin, System),
    role("POST", "/v1/service-tokens", Admin, Handler),
    role("DELETE", "/v1/service-tokens/{token}", Admin, System),
    role("GET", "/v1/role-bindings", Admin, System),
    role("POST", "/v1/role-bindings", Admin, Handler),
    role("DELETE", "/v1/role-bindings/{binding}", Admin, System),
    role("GET", "/v1/watch", Viewer, Rows),
    rule("POST", "/agent/v1/enrol", Who::JoinToken),
    rule("POST", "/agent/v1/renew", Who::Agent),
    rule("GET", "/agent/v1/manifest", Who::Agent),
    rule("GET", "/agent/v1/directory", Who::Agent),
    rule("POST", "/agent/v1/report", Who::Agent),
    rule("POST", "/agent/v1/log", Who::Agent),
    rule("POST", "/agent/v1/lease", Who::Agent),
    rule("POST", "/agent/v1/images/{image}/download", Who::Agent),
    rule("GET", "/agent/v1/consoles", Who::Agent),
    rule("POST", "/agent/v1/consoles/{ticket}", Who::Agent),
    rule("POST", "/agent/v1/consoles/{ticket}/refuse", Who::Agent),
    rule("POST", "/agent/v1/questions/{question}", Who::Agent),
    rule("POST", "/image/v1/events", Who::ImageService),
    rule("POST", "/image/v1/work", Who::ImageService),
    rule("POST", "/image/v1/work/{task}", Who::ImageService),
];

/// The row of a route.
pub fn row(method: &Method, path: &str) -> Option<&'static Rule> {
    static INDEX: OnceLock<HashMap<(&'static str, &'static str), &'static Rule>> = OnceLock::new();
    let index = INDEX.get_or_init(|| RULES.iter().map(|r| ((r.method, r.path), r)).collect());
    // A HEAD is a GET whose body is left out.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    index.get(&(method, path)).copied()
}

/// Who may call a route.
pub fn who(method: &Method, path: &str) -> Option<Who> {
    row(method, path).map(|r| r.who)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_there_once() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in RULES {
            assert!(seen.insert((rule.method, rule.path)), "{} {} stands twice", rule.method, rule.path);
        }
        assert_eq!(who(&Method::HEAD, "/v1/hosts"), Some(Who::Role(Viewer, System)));
        assert_eq!(who(&Method::PATCH, "/v1/hosts"), None);
    }
}
