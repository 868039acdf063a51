//! The loss of a host: leases that agents ask for, and the word of a person who saw that the power is off.

use crate::{
    App, Error,
    agent_identity::Agent,
    authentication::Permit,
    body::{Json, NoBody},
    enrolment::agent_change,
    query::{NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::HeaderMap,
};
use basalt_model::{host_loss::HostDeath, hosts::HOST_LEASE_SECONDS};
use basalt_plan::host_loss::HA_LEASE_SECONDS;
use basalt_store::{
    Key,
    host_loss::{self, Ask, Granted},
    hosts,
};
use basalt_wire::agent::lease::{LeaseAnswer, LeaseRequest};

/// Gives the calling host its lease. It is durable when this answers: who sees no newer one for as long as it holds knows
/// that it is over. A host that needs none, and was not given up for dead, is given none: that costs no work of the database.
#[utoipa::path(post, path = "/agent/v1/lease", tag = "agents", request_body = LeaseRequest,
    responses((status = 200, body = LeaseAnswer), crate::openapi::Problems))]
pub async fn renew_lease(
    State(app): State<App>,
    agent: Agent,
    _: Query<NoParams>,
    headers: HeaderMap,
    Json { value, .. }: Json<LeaseRequest>,
) -> Result<Answer<LeaseAnswer>, Error> {
    let (host, now) = (agent.host_id, app.clock.now());
    crate::agent::check_start(&app, host, &headers).await?;
    app.links.beat(host, now);
    if !value.needed && app.hub.is_synced() && !app.hub.read(|rows| rows.is_proven_dead(host)) {
        return Ok(Answer(LeaseAnswer::default()));
    }
    let change = agent_change(&app, host, &host.to_string(), now);
    let ask = Ask {
        agent_boot: value.agent_boot,
        boot_id: value.boot_id,
        manifest_revision: value.manifest_revision,
        fencer: value.fencer,
    };
    let mut tx = app.store.system().await?;
    match host_loss::grant(&mut tx, &change, host, &ask).await? {
        Granted::Dead(reason) => Ok(Answer(LeaseAnswer { seconds: None, refused: Some(reason) })),
        Granted::Yes => {
            tx.commit().await?;
            Ok(Answer(LeaseAnswer { seconds: Some(HA_LEASE_SECONDS), refused: None }))
        }
    }
}

/// Says that somebody saw that the power of a host is off: its VMs with an HA policy are started elsewhere. Refused while it
/// gives signs of life. Who says so of a host that is on has VMs executed twice.
#[utoipa::path(post, path = "/v1/hosts/{host}/confirm-power-off", tag = "hosts", params(("host" = String, Path, description = "Name or id")),
    responses((status = 200, body = HostDeath), crate::openapi::Problems))]
pub async fn confirm_power_off(
    State(app): State<App>,
    permit: Permit,
    Path(host): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<Answer<HostDeath>, Error> {
    let key = Key::parse("host", &host)?;
    let mut tx = app.store.system().await?;
    let found = hosts::get(&mut tx, &key).await?;
    let seen = app.links.seen(found.host.id());
    let death =
        host_loss::confirm_power_off(&mut tx, &permit.change(&app), &key, seen, HOST_LEASE_SECONDS).await?;
    tx.commit().await?;
    Ok(Answer(death))
}
