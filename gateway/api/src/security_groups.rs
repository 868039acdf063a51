//! Security groups: declare, read, change, delete; and whether a port's groups admit a flow.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::{
    CapabilityReason, FieldError, Name, PortId, SecurityGroupId,
    security_groups::{Direction, Protocol, SecurityGroupSpec},
};
use basalt_plan::{
    manifest,
    security::{self, Flow, Verdict},
};
use basalt_store::{Key, New, security_groups};
use basalt_wire::{
    agent::manifest::{Desired, RuleBody},
    rest::{Accepted, Create, FlowExplanation, Page, Phase, SecurityGroup, Update},
};
use serde::Deserialize;
use std::net::IpAddr;
use utoipa::IntoParams;
use uuid::Uuid;

const KIND: &str = "security group";

/// Lists the security groups of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/security-groups", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<SecurityGroup>), crate::openapi::Problems))]
pub async fn list_security_groups(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<SecurityGroup>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = security_groups::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Declares a security group.
#[utoipa::path(post, path = "/v1/projects/{project}/security-groups", tag = "networks", request_body = Create<SecurityGroupSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<SecurityGroup>), (status = 200, description = "Dry run", body = Accepted<SecurityGroup>), crate::openapi::Problems))]
pub async fn create_security_group(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<SecurityGroupSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let made = security_groups::insert(&mut writing.tx, &writing.change, writing.project.id, &new).await?;
    writing.accept(view(made.object), made.task).await
}

/// Shows a security group.
#[utoipa::path(get, path = "/v1/projects/{project}/security-groups/{security_group}", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("security_group" = String, Path, description = "Name or id")),
    responses((status = 200, body = SecurityGroup), crate::openapi::Problems))]
pub async fn get_security_group(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = security_groups::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.metadata.generation, view(found)))
}

/// Changes the rules of a security group. Connections that are established go on.
#[utoipa::path(put, path = "/v1/projects/{project}/security-groups/{security_group}", tag = "networks", request_body = Update<SecurityGroupSpec>,
    params(("project" = String, Path, description = "Name or id"), ("security_group" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = SecurityGroup), crate::openapi::Problems))]
pub async fn update_security_group(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<SecurityGroupSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let update = basalt_store::Update { expected: writing.expected, labels: value.labels, spec: value.spec };
    let changed =
        security_groups::update(&mut writing.tx, &writing.change, writing.project.id, &key, &update).await?;
    writing.answer(StatusCode::OK, None, &view(changed)).await
}

/// Deletes a security group; refused while something uses it.
#[utoipa::path(delete, path = "/v1/projects/{project}/security-groups/{security_group}", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("security_group" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<SecurityGroup>), (status = 200, description = "Dry run", body = Accepted<SecurityGroup>), crate::openapi::Problems))]
pub async fn delete_security_group(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let project = writing.project.id;
    let gone =
        security_groups::delete(&mut writing.tx, &writing.change, project, &key, writing.expected).await?;
    let object = SecurityGroup { phase: Phase::Deleting, ..view(gone.object) };
    writing.accept(object, gone.task).await
}

/// The security group as it is shown.
pub fn view(group: security_groups::SecurityGroup) -> SecurityGroup {
    SecurityGroup { metadata: group.metadata, spec: group.spec, phase: Phase::Ready }
}

/// The first packet that is asked about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FlowParams {
    /// To the guest, or from it.
    #[param(inline)]
    direction: Direction,
    /// Protocol.
    #[param(inline)]
    #[serde(default)]
    protocol: Protocol,
    /// Destination port, of TCP and UDP.
    port: Option<u16>,
    /// Type, of ICMP and ICMPv6.
    icmp_type: Option<u8>,
    /// Code, of ICMP and ICMPv6.
    icmp_code: Option<u8>,
    /// The other end's address.
    #[param(value_type = String)]
    remote: IpAddr,
}

impl FlowParams {
    fn flow(&self) -> Result<Flow, Error> {
        let protocol = self.protocol;
        let refuse = |field: &str, reason: String, remedy: &str| {
            Err(Error::Query(FieldError::new(field, "invalid", reason, remedy)))
        };
        let family = match protocol {
            Protocol::Icmp if self.remote.is_ipv6() => Some("icmpv6"),
            Protocol::Icmpv6 if self.remote.is_ipv4() => Some("icmp"),
            _ => None,
        };
        if let Some(other) = family {
            let reason = format!("{} is no protocol of {}", protocol.as_str(), self.remote);
            return refuse(
                "remote",
                reason,
                &format!("ask about {other}, or give an address of the other family"),
            );
        }
        match (protocol.has_ports(), self.port) {
            (true, None | Some(0)) => {
                return refuse(
                    "port",
                    format!("{} goes to a port", protocol.as_str()),
                    "give port, 1 to 65535",
                );
            }
            (false, Some(_)) => {
                return refuse("port", format!("{} has no ports", protocol.as_str()), "leave port out");
            }
            _ => {}
        }
        if !protocol.has_types() && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            let reason = format!("{} has no types", protocol.as_str());
            return refuse(
                "icmp_type",
                reason,
                "leave icmp_type and icmp_code out, or ask about icmp or icmpv6",
            );
        }
        Ok(Flow {
            direction: self.direction,
            protocol,
            port: self.port,
            // A ping, unless it is said otherwise.
            icmp_type: self.icmp_type.or(match protocol {
                Protocol::Icmp => Some(8),
                Protocol::Icmpv6 => Some(128),
                _ => None,
            }),
            icmp_code: self.icmp_code.or(protocol.has_types().then_some(0)),
            remote: self.remote,
        })
    }
}

/// Says whether the security groups of a port admit a new flow: by which rule, or why not and what would help.
#[utoipa::path(get, path = "/v1/projects/{project}/ports/{port}/explain", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("port" = Uuid, Path, description = "Id"), FlowParams),
    responses((status = 200, body = FlowExplanation), crate::openapi::Problems))]
pub async fn explain_port(
    State(app): State<App>,
    permit: Permit,
    Named(port): Named,
    Query(params): Query<FlowParams>,
) -> Result<Answer<FlowExplanation>, Error> {
    let project = permit.project()?;
    let id: Uuid = port.parse().map_err(|_| Error::not_found("port", &port))?;
    let flow = params.flow()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let ids = security_groups::of_port(&mut tx, project.id, PortId(id)).await?;
    let ids = ids.ok_or_else(|| Error::not_found("port", &port))?;
    let groups = security_groups::named_by(&mut tx, project.id, &ids).await?;
    let memberships = security_groups::of_address(&mut tx, project.id, flow.remote).await?;
    let rules: Vec<(SecurityGroupId, Vec<RuleBody>)> = groups.iter().map(|g| (g.id(), rules(g))).collect();
    let known: Vec<_> = rules.iter().map(|(id, rules)| (*id, Some(&**rules))).collect();
    let verdict = security::judge(&flow, &known, |group, _| memberships.contains(&group));
    let names: Vec<Name> = groups.iter().map(|g| g.metadata.name.clone()).collect();
    let name = |id: SecurityGroupId| groups.iter().find(|g| g.id() == id).map(|g| g.metadata.name.clone());
    Ok(Answer(explanation(&flow, verdict, names, name)))
}

/// The rules as hosts have them.
fn rules(group: &security_groups::SecurityGroup) -> Vec<RuleBody> {
    let view = manifest::SecurityGroup { metadata: &group.metadata, spec: &group.spec, named: &group.named };
    match manifest::security_group(view).desired {
        Desired::SecurityGroup(body) => body.rules,
        _ => Vec::new(),
    }
}

fn explanation(
    flow: &Flow,
    verdict: Verdict,
    groups: Vec<Name>,
    name: impl Fn(SecurityGroupId) -> Option<Name>,
) -> FlowExplanation {
    let what = described(flow);
    let mut out = FlowExplanation {
        admitted: verdict.admits(),
        summary: String::new(),
        security_group: None,
        rule: None,
        security_groups: groups,
        reason: None,
    };
    match verdict {
        Verdict::Admitted(group, rule) => {
            out.security_group = name(group);
            out.rule = Some(rule);
            let group = out.security_group.as_ref().map_or("", Name::as_str);
            out.summary = format!("{what} is admitted by rule {rule} of security group {group}");
        }
        Verdict::Unrestricted => {
            out.summary = format!("{what} is admitted: no group of the port restricts what goes out");
        }
        Verdict::Dropped => {
            let all: Vec<&str> = out.security_groups.iter().map(Name::as_str).collect();
            let why = match &*all {
                [] => "the port is in no security group, and nothing comes in without one".to_owned(),
                all => format!("no rule of {} admits it", all.join(", ")),
            };
            out.summary = format!("{what} is dropped: {why}");
            let remedy = format!(
                "add to a group of the port a rule with {}, or put the port, its VM or its network into a group that has one",
                wanted(flow)
            );
            out.reason = Some(CapabilityReason::new("not_admitted", "port", why, remedy));
        }
    }
    out
}

fn described(flow: &Flow) -> String {
    let port = flow.port.map(|p| format!(" port {p}")).unwrap_or_default();
    let kind = flow.icmp_type.map(|t| format!(" type {t}")).unwrap_or_default();
    let way = if flow.direction == Direction::Ingress { "from" } else { "to" };
    format!("{} {}{port}{kind} {way} {}", flow.direction.as_str(), flow.protocol.as_str(), flow.remote)
}

/// The rule that would admit it, as little as it takes.
fn wanted(flow: &Flow) -> String {
    let mut text = format!("direction {}, protocol {}", flow.direction.as_str(), flow.protocol.as_str());
    if let Some(port) = flow.port {
        text += &format!(", ports {port} to {port}");
    }
    let bits = if flow.remote.is_ipv4() { 32 } else { 128 };
    text + &format!(" and remote cidr {}/{bits}", flow.remote)
}
