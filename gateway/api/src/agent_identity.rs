//! Who calls at the agents' door: the certificate's URI names the host, and on every request the
//! serial is checked against the rows of certificates and hosts (S38). The feed keeps those rows in
//! memory to the moment; a serial that is not there yet is looked up in the store.

use crate::{App, Error};
use axum::{extract::FromRequestParts, http::request::Parts};
use basalt_daemon::tls::Peer;
use basalt_model::HostId;
use basalt_store::hosts::{self, Certificate};
use std::sync::Arc;

/// URI of a host's certificate, without its id.
pub const HOST_URI: &str = "basalt:host:";
/// URI of the image service's certificate.
pub const IMAGE_SERVICE_URI: &str = "basalt:image-service";

/// The host whose agent calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The host.
    pub host_id: HostId,
}

impl<S: Send + Sync> FromRequestParts<S> for Agent {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let agent = parts.extensions.get::<Agent>().copied();
        agent.ok_or_else(|| {
            Error::internal("authorising", "a handler needs an agent and its route gives none")
        })
    }
}

/// Lets a host's agent pass.
pub async fn agent(app: &App, parts: &mut Parts) -> Result<(), Error> {
    let peer = parts.extensions.get::<Peer>().ok_or(Error::Unauthenticated)?;
    let host_id = match peer.uris.as_slice() {
        [uri] => uri.strip_prefix(HOST_URI).and_then(|id| id.parse::<HostId>().ok()),
        _ => None,
    };
    let host_id = host_id.ok_or(Error::Unauthenticated)?;
    let (known, certificate) = app.hub.read(|rows| (rows.host(host_id), rows.certificate(&peer.serial)));
    let certificate = match certificate {
        Some(certificate) => certificate,
        None => stored(app, &peer.serial).await?,
    };
    let valid = certificate.host_id == host_id
        && certificate.revoked_at.is_none()
        && app.clock.now() < certificate.not_after;
    let host_goes = known.is_some_and(|h| h.metadata.deletion_requested_at.is_some());
    if !valid || host_goes {
        return Err(Error::Unauthenticated);
    }
    parts.extensions.insert(Agent { host_id });
    Ok(())
}

async fn stored(app: &App, serial: &str) -> Result<Arc<Certificate>, Error> {
    let mut tx = app.store.system_read().await?;
    hosts::certificate(&mut tx, serial).await?.map(Arc::new).ok_or(Error::Unauthenticated)
}

/// Lets the image service pass.
pub fn image_service(parts: &Parts) -> Result<(), Error> {
    match parts.extensions.get::<Peer>() {
        Some(peer) if peer.uris.as_slice() == [IMAGE_SERVICE_URI] => Ok(()),
        _ => Err(Error::Unauthenticated),
    }
}
