//! A small certificate authority: servers by name, clients by URI, signed from a request's key alone.

use crate::{Error, config::write_secret};
use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use std::{fs, path::Path};
use time::OffsetDateTime;

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its serial number in lower-case hex.
    pub serial: String,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Common name, for people.
    pub name: &'a str,
    /// DNS names and IP addresses of a server.
    pub hosts: &'a [String],
    /// URI that identifies a client.
    pub uri: Option<&'a str>,
    /// Valid from (a minute earlier is written, for clocks that differ).
    pub now: DateTime<Utc>,
    /// Valid until.
    pub not_after: DateTime<Utc>,
    /// Random serial number.
    pub serial: [u8; 16],
}

/// A new key and a request for a certificate, both PEM: what an agent makes for itself.
pub fn key_and_request() -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|e| Error::tls("making a key", e))?;
    let request = CertificateParams::default().serialize_request(&key).and_then(|r| r.pem());
    Ok((key.serialize_pem(), request.map_err(|e| Error::tls("making a certificate request", e))?))
}

impl Authority {
    /// Makes a new authority, valid for ten years.
    pub fn create(name: &str, now: DateTime<Utc>) -> Result<(Self, String), Error> {
        let wrong = |e| Error::tls("making a certificate authority", e);
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(now, now + chrono::TimeDelta::days(3650))?;
        let cert_pem = params.self_signed(&key).map_err(wrong)?.pem();
        let key_pem = key.serialize_pem();
        Ok((Self { issuer: Issuer::new(params, key), cert_pem }, key_pem))
    }

    /// Loads an authority from PEM texts.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let wrong = |e| Error::tls("loading the certificate authority", e);
        let key = KeyPair::from_pem(key_pem).map_err(wrong)?;
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key).map_err(wrong)?;
        Ok(Self { issuer, cert_pem: cert_pem.into() })
    }

    /// Loads `ca.pem` and `ca.key` from a folder, or makes them there.
    pub fn open(dir: &Path, now: DateTime<Utc>) -> Result<Self, Error> {
        let (cert, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        if key.exists() && cert.exists() {
            let read = |p: &Path| fs::read_to_string(p).map_err(|e| Error::file(p, e));
            return Self::load(&read(&cert)?, &read(&key)?);
        }
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
        let (authority, key_pem) = Self::create("Basalt CA", now)?;
        // The certificate is written last: with it the pair is whole.
        write_secret(&key, key_pem.as_bytes())?;
        write_secret(&cert, authority.cert_pem.as_bytes())?;
        Ok(authority)
    }

    /// The authority's own certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Makes a key and a certificate that is good for serving (and, with a URI, as a client).
    pub fn issue(&self, subject: &Subject<'_>) -> Result<(Issued, String), Error> {
        let key = KeyPair::generate().map_err(|e| Error::tls("making a key", e))?;
        Ok((self.sign(&key, subject, true)?, key.serialize_pem()))
    }

    /// Signs a client certificate for the key of a request. Nothing else of the request is used.
    pub fn sign_request(&self, csr_pem: &str, subject: &Subject<'_>) -> Result<Issued, Error> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| Error::tls("reading the certificate request", e))?;
        self.sign(&request.public_key, subject, false)
    }

    fn sign(&self, key: &impl PublicKeyData, subject: &Subject<'_>, server: bool) -> Result<Issued, Error> {
        let wrong = |e| Error::tls("signing a certificate", e);
        let mut params = CertificateParams::new(subject.hosts.to_vec()).map_err(wrong)?;
        if let Some(uri) = subject.uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(wrong)?));
        }
        params.distinguished_name = distinguished(subject.name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = Vec::new();
        if server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.uri.is_some() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        // A positive number: DER integers are signed.
        let mut serial = subject.serial;
        serial[0] = (serial[0] & 0x7f) | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        (params.not_before, params.not_after) = validity(subject.now, subject.not_after)?;
        let cert_pem = params.signed_by(key, &self.issuer).map_err(wrong)?.pem();
        Ok(Issued { cert_pem, serial: serial.iter().map(|b| format!("{b:02x}")).collect() })
    }
}

fn distinguished(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

fn validity(from: DateTime<Utc>, to: DateTime<Utc>) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
    let at = |t: DateTime<Utc>| {
        OffsetDateTime::from_unix_timestamp(t.timestamp())
            .map_err(|e| Error::tls("validity of a certificate", e))
    };
    Ok((at(from - chrono::TimeDelta::minutes(1))?, at(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Drain,
        tls::{self, Peer},
    };
    use axum::{Extension, Router, routing::get};
    use std::net::TcpListener;

    fn at(seconds: i64) -> DateTime<Utc> {
        Utc::now() + chrono::TimeDelta::seconds(seconds)
    }

    fn subject<'a>(hosts: &'a [String], uri: Option<&'a str>) -> Subject<'a> {
        Subject { name: "test", hosts, uri, now: at(0), not_after: at(3600), serial: [0xff; 16] }
    }

    #[test]
    fn an_authority_is_made_once_and_loaded_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), at(0)).unwrap();
        assert_eq!(Authority::open(dir.path(), at(0)).unwrap().cert_pem(), first.cert_pem());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_handler_sees_who_the_client_is_and_strangers_are_refused() {
        crate::boot::crypto();
        let (ca, _) = Authority::create("ours", at(0)).unwrap();
        let (other, _) = Authority::create("theirs", at(0)).unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let (server, key) = ca.issue(&subject(&hosts, None)).unwrap();
        let config = tls::server_config(&server.cert_pem, &key, Some(ca.cert_pem())).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let url = format!("https://{}/", socket.local_addr().unwrap());
        let router = Router::new()
            .route("/", get(|Extension(p): Extension<Peer>| async move { p.uris.join(",") + &p.serial }));
        let drain = Drain::new();
        let serving = tokio::spawn(tls::serve(vec![socket], config, router, drain.clone()));

        let client = |identity: Option<(String, String)>| {
            let mut builder = reqwest::Client::builder()
                .tls_certs_only([reqwest::Certificate::from_pem(ca.cert_pem().as_bytes()).unwrap()]);
            if let Some((cert, key)) = identity {
                builder =
                    builder.identity(reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap());
            }
            builder.build().unwrap()
        };
        let (key_pem, csr) = key_and_request().unwrap();
        let signed = ca.sign_request(&csr, &subject(&[], Some("basalt:host:1"))).unwrap();
        let forged = other.sign_request(&csr, &subject(&[], Some("basalt:host:1"))).unwrap();
        let anonymous = client(None).get(&url).send().await.unwrap().text().await.unwrap();
        assert_eq!(anonymous, "");
        let known = client(Some((signed.cert_pem, key_pem.clone())))
            .get(&url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert_eq!(known, format!("basalt:host:1{}", signed.serial));
        assert!(client(Some((forged.cert_pem, key_pem))).get(&url).send().await.is_err());
        drain.begin();
        serving.await.unwrap().unwrap();
    }
}
