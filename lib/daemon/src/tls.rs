//! Serving TLS: server identity, optional client certificates, the peer's identity for handlers.

use crate::{Drain, Error};
use axum::{Router, extract::connect_info::IntoMakeServiceWithConnectInfo};
use axum_server::{
    Handle,
    accept::{Accept, NoDelayAcceptor},
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tower::{Layer, Service};

/// How long a drained connection may finish what it does.
pub const DRAIN_SECONDS: u64 = 10;

/// The certificate a peer showed (and the CA signed), as an extension of every request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// URI names of the certificate; empty when none was shown.
    pub uris: Vec<String>,
    /// Serial number in lower-case hex; empty when none was shown.
    pub serial: String,
}

/// A server configuration. With a client CA, certificates of clients are asked for and verified,
/// but not demanded: each route decides.
pub fn server_config(
    cert_pem: &str,
    key_pem: &str,
    client_ca_pem: Option<&str>,
) -> Result<ServerConfig, Error> {
    crate::boot::crypto();
    let certs = CertificateDer::pem_slice_iter(cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::tls("server certificate", e))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| Error::tls("server key", e))?;
    let builder = ServerConfig::builder();
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?)).allow_unauthenticated();
            builder.with_client_cert_verifier(verifier.build().map_err(|e| Error::tls("client CA", e))?)
        }
    };
    let mut config = builder.with_single_cert(certs, key).map_err(|e| Error::tls("server identity", e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A root store of the certificates in a PEM text.
pub fn roots(ca_pem: &str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let cert = cert.map_err(|e| Error::tls("CA certificate", e))?;
        store.add(cert).map_err(|e| Error::tls("CA certificate", e))?;
    }
    Ok(store)
}

/// Serves a router on sockets until the drain begins, then lets connections finish for
/// [`DRAIN_SECONDS`]. A slow handshake never blocks the accepting of others.
pub async fn serve(
    sockets: Vec<TcpListener>,
    config: ServerConfig,
    router: Router,
    drain: Drain,
) -> Result<(), Error> {
    let config = RustlsConfig::from_config(Arc::new(config));
    let mut servers = tokio::task::JoinSet::new();
    for socket in sockets {
        let (config, router, drain) = (config.clone(), router.clone(), drain.clone());
        servers.spawn(async move { serve_one(socket, config, router, drain).await });
    }
    while let Some(done) = servers.join_next().await {
        done.map_err(|e| Error::tls("server task", e))??;
    }
    Ok(())
}

async fn serve_one(
    socket: TcpListener,
    config: RustlsConfig,
    router: Router,
    drain: Drain,
) -> Result<(), Error> {
    let handle = Handle::new();
    let stop = handle.clone();
    let watch = tokio::spawn(async move {
        drain.begun().await;
        stop.graceful_shutdown(Some(Duration::from_secs(DRAIN_SECONDS)));
    });
    let acceptor = RustlsAcceptor::new(config)
        .handshake_timeout(Duration::from_secs(10))
        .acceptor(NoDelayAcceptor::new());
    let server = axum_server::from_tcp(socket)
        .map_err(|source| Error::Listen { address: "inherited".into(), source })?;
    let service: IntoMakeServiceWithConnectInfo<Router, SocketAddr> =
        router.into_make_service_with_connect_info();
    let result = server.acceptor(PeerAcceptor(acceptor)).handle(handle).serve(service).await;
    watch.abort();
    result.map_err(|e| Error::tls("serving", e))
}

/// Puts the peer's certificate into every request of its connection.
#[derive(Clone)]
struct PeerAcceptor(RustlsAcceptor<NoDelayAcceptor>);

impl<S: Send + 'static> Accept<TcpStream, S> for PeerAcceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = WithPeer<S>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepting = self.0.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            let peer = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|c| c.first())
                .map(identify)
                .unwrap_or_default();
            Ok((stream, AddPeer(peer).layer(service)))
        })
    }
}

pub(crate) fn identify(cert: &CertificateDer<'_>) -> Peer {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let Ok((_, cert)) = X509Certificate::from_der(cert) else {
        return Peer::default();
    };
    let names = cert.subject_alternative_name().ok().flatten();
    let uris = names.iter().flat_map(|n| &n.value.general_names).filter_map(|n| match n {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let serial = cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect();
    Peer { uris: uris.collect(), serial }
}

#[derive(Clone)]
struct AddPeer(Peer);

impl<S> Layer<S> for AddPeer {
    type Service = WithPeer<S>;
    fn layer(&self, inner: S) -> WithPeer<S> {
        WithPeer { inner, peer: self.0.clone() }
    }
}

/// A service whose requests carry the [`Peer`].
#[derive(Clone)]
pub struct WithPeer<S> {
    inner: S,
    peer: Peer,
}

impl<S, B> Service<axum::http::Request<B>> for WithPeer<S>
where
    S: Service<axum::http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: axum::http::Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}
