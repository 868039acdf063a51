//! Who this host is: its own key, and the certificate that the gateway signed for it.

use crate::{Error, ledger::replace};
use basalt_model::{DateTime, HostId};
use basalt_wire::agent::enrol;
use serde::{Deserialize, Serialize};
use std::{io::ErrorKind, path::Path};

const FILE: &str = "identity.json";

/// A key, the certificate for it, and the authority that signed it. One file, so that they never disagree.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The host that the certificate names.
    pub host_id: HostId,
    /// The agent's own key, PEM. It never leaves the host.
    pub key_pem: String,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The gateway's authority, PEM.
    pub ca_pem: String,
    /// When it was signed.
    pub obtained_at: DateTime,
    /// When it ends.
    pub not_after: DateTime,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}, until {})", self.host_id, self.not_after)
    }
}

impl Identity {
    /// What the gateway signed for a key.
    pub fn new(signed: enrol::Identity, key_pem: String, now: DateTime) -> Self {
        Self {
            host_id: signed.host_id,
            key_pem,
            certificate_pem: signed.certificate_pem,
            ca_pem: signed.ca_pem,
            obtained_at: now,
            not_after: signed.not_after,
        }
    }

    /// Reads the identity of a state directory; `None` when this host was never enrolled.
    ///
    /// # Errors
    /// [`Error::State`] when it cannot be read, [`Error::Identity`] when it is damaged: then the host has
    /// to be enrolled anew, with a new join token, after the file was moved away.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::state(path, e)),
        };
        let broken = |e| {
            Error::Identity(format!(
                "{}: {e}; move the file away and enrol with a new join token",
                path.display()
            ))
        };
        serde_json::from_slice(&bytes).map(Some).map_err(broken)
    }

    /// Keeps it durably, readable by its owner alone.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|e| Error::Identity(e.to_string()))?;
        replace(&path, &bytes).map_err(|e| Error::state(path, e))
    }

    /// When to ask for the next certificate: at half of this one's life.
    pub fn renew_at(&self) -> DateTime {
        self.obtained_at + (self.not_after - self.obtained_at) / 2
    }
}

/// A new key and a request for a certificate, both PEM.
///
/// # Errors
/// [`Error::Identity`] when no key could be made.
pub fn key_and_request() -> Result<(String, String), Error> {
    basalt_daemon::pki::key_and_request().map_err(|e| Error::Identity(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn h1_a_certificate_is_renewed_at_half_of_its_life() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let signed = enrol::Identity {
            host_id: HostId(uuid::Uuid::from_u128(1)),
            certificate_pem: "c".into(),
            ca_pem: "a".into(),
            not_after: now + TimeDelta::hours(24),
        };
        let identity = Identity::new(signed, "secret".into(), now);
        assert_eq!(identity.renew_at(), now + TimeDelta::hours(12));
        assert!(!format!("{identity:?}").contains("secret"));
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::load(dir.path()).unwrap().is_none());
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap().unwrap().key_pem, "secret");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Identity::load(dir.path()).unwrap_err().to_string().contains("new join token"));
    }
}
