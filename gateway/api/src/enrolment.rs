//! Enrolment: a join token lets one agent have its key signed, once; renewal replaces the
//! certificate under the one it has. The gateway never sees a private key.

use crate::{
    App, Error,
    agent_identity::{Agent, HOST_URI},
    authentication::token_hash,
    body::Json,
    query::{NoParams, Query},
};
use axum::{Json as Answer, extract::State};
use basalt_daemon::pki::Subject;
use basalt_model::{DateTime, FieldError, HostId, tasks::Actor};
use basalt_store::{Change, Error as StoreError, Key, SystemTx, audit_events, hosts};
use basalt_wire::agent::enrol::{EnrolRequest, Identity, RenewRequest};
use chrono::TimeDelta;

/// Hours for which an agent's certificate is valid; it renews at half of that.
pub const CERTIFICATE_HOURS: i64 = 24;

/// Enrols an agent with its one-time token.
#[utoipa::path(post, path = "/agent/v1/enrol", tag = "agents", request_body = EnrolRequest,
    responses((status = 200, body = Identity), crate::openapi::Problems))]
pub async fn enrol(
    State(app): State<App>,
    _: Query<NoParams>,
    Json { value, .. }: Json<EnrolRequest>,
) -> Result<Answer<Identity>, Error> {
    let now = app.clock.now();
    let mut tx = app.store.system().await?;
    let host = match hosts::redeem_join_token(&mut tx, &token_hash(&value.join_token), now).await {
        // What is wrong with a token is nobody's business who has none.
        Err(StoreError::TokenInvalid | StoreError::NotFound { .. }) => return Err(Error::Unauthenticated),
        other => other?,
    };
    // Nothing was committed: the token is as good as before for the host it was made for.
    if host.metadata.name.as_str() != value.hostname {
        return Err(Error::Invalid(vec![FieldError::new(
            "hostname",
            "other_host",
            "the join token was made for a host of another name",
            "use the token that was given for this host, or correct [host] name",
        )]));
    }
    let host_id = HostId(host.metadata.id);
    let change = agent_change(&app, host_id, host.metadata.name.as_str(), now);
    let identity = sign(&app, &mut tx, host_id, host.metadata.name.as_str(), &value.csr_pem, now).await?;
    let entry =
        audit_events::Entry::new("host.enrol", None, None, "host", host_id.0, host.metadata.name.as_str());
    audit_events::record(&mut tx, &change, entry).await?;
    tx.commit().await?;
    Ok(Answer(identity))
}

/// Replaces an agent's certificate.
#[utoipa::path(post, path = "/agent/v1/renew", tag = "agents", request_body = RenewRequest,
    responses((status = 200, body = Identity), crate::openapi::Problems))]
pub async fn renew(
    State(app): State<App>,
    agent: Agent,
    _: Query<NoParams>,
    Json { value, .. }: Json<RenewRequest>,
) -> Result<Answer<Identity>, Error> {
    let now = app.clock.now();
    let mut tx = app.store.system().await?;
    let found = hosts::get(&mut tx, &Key::Id(agent.host_id.0)).await?;
    let identity =
        sign(&app, &mut tx, agent.host_id, found.host.metadata.name.as_str(), &value.csr_pem, now).await?;
    tx.commit().await?;
    Ok(Answer(identity))
}

async fn sign(
    app: &App,
    tx: &mut SystemTx,
    host_id: HostId,
    name: &str,
    csr_pem: &str,
    now: DateTime,
) -> Result<Identity, Error> {
    let not_after = now + TimeDelta::hours(CERTIFICATE_HOURS);
    let uri = format!("{HOST_URI}{host_id}");
    let mut serial = [0; 16];
    serial.copy_from_slice(&app.clock.secret()[..16]);
    let subject = Subject { name, hosts: &[], uri: Some(&uri), now, not_after, serial };
    let issued = app.authority.sign_request(csr_pem, &subject).map_err(|e| {
        tracing::debug!(error = %e, "a certificate request was refused");
        Error::Invalid(vec![FieldError::new(
            "csr_pem",
            "malformed",
            "this is no PKCS#10 certificate request in PEM with a valid signature",
            "send the request that belongs to the agent's own key",
        )])
    })?;
    let certificate =
        hosts::Certificate { serial: issued.serial, host_id, not_after, issued_at: now, revoked_at: None };
    hosts::record_certificate(tx, &certificate).await?;
    Ok(Identity {
        host_id,
        certificate_pem: issued.cert_pem,
        ca_pem: app.authority.cert_pem().into(),
        not_after,
    })
}

/// A change in the name of a host's agent.
pub fn agent_change(app: &App, host_id: HostId, name: &str, now: DateTime) -> Change {
    Change {
        actor: Actor { kind: "agent".into(), id: host_id.0, name: name.into() },
        request_id: None,
        now,
        ids: app.ids.clone(),
    }
}
