//! Enrolment and renewal: the agent keeps its key, the gateway signs.

use basalt_model::{DateTime, HostId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /agent/v1/enrol`, the only agent route without a client certificate.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The one-time token an operator gave.
    pub join_token: String,
    /// PKCS#10 certificate request, PEM. Only its public key is used.
    pub csr_pem: String,
    /// The host's own name; must equal the host the token was made for.
    pub hostname: String,
}

/// `POST /agent/v1/renew`, under the certificate that is to be replaced.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS#10 certificate request, PEM.
    pub csr_pem: String,
}

/// The answer to both.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// The host that the certificate names.
    pub host_id: HostId,
    /// Client certificate, PEM.
    pub certificate_pem: String,
    /// The gateway's certificate authority, PEM.
    pub ca_pem: String,
    /// When the certificate ends; renew at half of its life.
    pub not_after: DateTime,
}
