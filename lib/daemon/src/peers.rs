//! Mutual TLS between two equals: both show a client certificate of the same authority, and each is known by its URI name.
//!
//! Certificates of hosts name no address, so the usual check of a server's name has nothing to look at. Instead the chain
//! is verified as that of a client is, by webpki, and the one URI that is expected must be among its names.

use crate::{
    Error,
    tls::{self, Peer},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use std::sync::Arc;

/// What one shows to its peers, PEM.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its certificate.
    pub cert_pem: &'a str,
    /// Its key.
    pub key_pem: &'a str,
    /// The authority that all peers' certificates come from.
    pub ca_pem: &'a str,
}

impl Shown<'_> {
    fn identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        crate::boot::crypto();
        let certs = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::tls("certificate", e))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::tls("key", e))?;
        Ok((certs, key))
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let roots = Arc::new(tls::roots(self.ca_pem)?);
        WebPkiClientVerifier::builder(roots).build().map_err(|e| Error::tls("CA", e))
    }

    /// For the one that is called. Only peers with a certificate come through; who it is the caller looks at.
    pub fn callee(&self) -> Result<ServerConfig, Error> {
        let (certs, key) = self.identity()?;
        ServerConfig::builder_with_protocol_versions(&[&TLS13])
            .with_client_cert_verifier(self.verifier()?)
            .with_single_cert(certs, key)
            .map_err(|e| Error::tls("identity", e))
    }

    /// For the one that calls: the other end must be the peer with this URI.
    pub fn caller(&self, expected: &str) -> Result<ClientConfig, Error> {
        let (certs, key) = self.identity()?;
        let verifier = Named { chain: self.verifier()?, expected: expected.to_owned() };
        ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(certs, key)
            .map_err(|e| Error::tls("identity", e))
    }
}

/// Who the other end of a connection is.
pub fn who(certificates: Option<&[CertificateDer<'_>]>) -> Peer {
    certificates.and_then(|c| c.first()).map(tls::identify).unwrap_or_default()
}

/// Verifies that the one that was called is who is expected.
#[derive(Debug)]
struct Named {
    chain: Arc<dyn ClientCertVerifier>,
    expected: String,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match tls::identify(end_entity).uris.contains(&self.expected) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("peers speak TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Subject, key_and_request};
    use chrono::Utc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    fn issue(ca: &Authority, uri: &str, seconds: i64) -> (String, String) {
        let (key, csr) = key_and_request().unwrap();
        let (now, ends) = (Utc::now(), Utc::now() + chrono::TimeDelta::seconds(seconds));
        let subject =
            Subject { name: "host", hosts: &[], uri: Some(uri), now, not_after: ends, serial: [1; 16] };
        (ca.sign_request(&csr, &subject).unwrap().cert_pem, key)
    }

    /// Who the callee sees, if both let each other in.
    async fn meet(caller: Shown<'_>, expected: &str, callee: Shown<'_>) -> Option<Vec<String>> {
        let (here, there) = duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::new(callee.callee().unwrap()));
        let connector = TlsConnector::from(Arc::new(caller.caller(expected).unwrap()));
        let called = async {
            let mut stream = acceptor.accept(there).await.ok()?;
            let peer = who(stream.get_ref().1.peer_certificates());
            stream.write_all(b"x").await.ok()?;
            Some(peer.uris)
        };
        let calling = async {
            let name = ServerName::try_from("peer").unwrap();
            let mut stream = connector.connect(name, here).await.ok()?;
            stream.read_u8().await.ok()
        };
        let (called, calling) = tokio::join!(called, calling);
        calling.and(called)
    }

    #[tokio::test]
    async fn s46_hosts_know_each_other_by_certificate_and_nobody_else_comes_through() {
        let (ca, _) = Authority::create("ours", Utc::now()).unwrap();
        let (other, _) = Authority::create("theirs", Utc::now()).unwrap();
        let shown = |of: &'static str, ca: &Authority, seconds| {
            let (cert, key) = issue(ca, of, seconds);
            (cert, key)
        };
        let (a, b) = (shown("basalt:host:a", &ca, 60), shown("basalt:host:b", &ca, 60));
        let (forged, old) = (shown("basalt:host:b", &other, 60), shown("basalt:host:b", &ca, -30));
        let ca_pem = ca.cert_pem();
        let of = |pair: &'static (String, String)| Shown { cert_pem: &pair.0, key_pem: &pair.1, ca_pem };
        let leak = |pair: (String, String)| -> &'static (String, String) { Box::leak(Box::new(pair)) };
        let (a, b, forged, old) = (of(leak(a)), of(leak(b)), of(leak(forged)), of(leak(old)));
        assert_eq!(meet(a, "basalt:host:b", b).await, Some(vec!["basalt:host:a".to_owned()]));
        assert_eq!(meet(a, "basalt:host:c", b).await, None, "another host answers");
        assert_eq!(meet(a, "basalt:host:b", forged).await, None, "another authority's host answers");
        assert_eq!(meet(forged, "basalt:host:a", a).await, None, "another authority's host calls");
        assert_eq!(meet(old, "basalt:host:a", a).await, None, "its certificate has ended");
        assert_eq!(meet(a, "basalt:host:b", old).await, None, "its certificate has ended");
    }
}
