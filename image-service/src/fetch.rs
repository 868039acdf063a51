//! Fetches an image from an address that a user gave: what may be reached is checked at each step of the way.
//!
//! The image service stands inside, where a user does not. So the name's addresses are checked when the connection is
//! made (a name that changes its address in between gains nothing), each redirect is checked like the first address,
//! no proxy is used, and no credential is ever sent.

use crate::config::Import;
use basalt_model::CapabilityReason;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use ipnet::IpNet;
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap},
    redirect::Policy,
};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// How long a server may take to be connected to.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// Fetches what may be fetched.
pub struct Fetcher {
    client: Client,
    allowed: Arc<[IpNet]>,
}

/// Bytes on their way.
pub struct Incoming {
    /// Length of the whole, in bytes.
    pub size_bytes: u64,
    /// Where in it the stream begins: where it was asked for, or 0 when the server cannot begin there.
    pub offset: u64,
    /// Says that two answers are of the same bytes.
    pub validator: Option<String>,
    /// The bytes.
    pub bytes: BoxStream<'static, Result<Bytes, String>>,
}

/// Why nothing comes.
#[derive(Debug)]
pub enum Refusal {
    /// It may come the next time.
    Later(String),
    /// It does not come until something is changed.
    Never(Box<CapabilityReason>),
}

fn never(code: &'static str, message: String, remedy: &str) -> Refusal {
    Refusal::Never(Box::new(CapabilityReason::new(code, "spec.source.url", message, remedy.to_owned())))
}

/// Addresses that a name has, without those that may not be reached.
struct Checked(Arc<[IpNet]>);

#[derive(Debug, thiserror::Error)]
#[error("{0} is an address inside, which images are not fetched from")]
struct Inside(IpAddr);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let inside = found.iter().find(|a| !may_reach(&allowed, a.ip())).copied();
            let good: Vec<SocketAddr> = found.into_iter().filter(|a| may_reach(&allowed, a.ip())).collect();
            match inside {
                Some(inside) if good.is_empty() => Err(Inside(inside.ip()).into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether an address may be reached: every public one, and those that the configuration allows.
fn may_reach(allowed: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    let public = match address {
        IpAddr::V4(a) => is_public_v4(a),
        IpAddr::V6(a) => is_public_v6(a),
    };
    public || allowed.iter().any(|net| net.contains(&address))
}

/// Blocks that are not for the public, of IANA's registry of special-purpose addresses (RFC 6890).
fn is_public_v4(a: Ipv4Addr) -> bool {
    let [first, second, third, _] = a.octets();
    let shared = first == 100 && (64..128).contains(&second);
    let protocols = first == 192 && second == 0 && third == 0;
    let benchmarks = first == 198 && (18..20).contains(&second);
    !(a.is_private()
        || a.is_loopback()
        || a.is_link_local()
        || a.is_documentation()
        || shared
        || protocols
        || benchmarks
        || first == 0
        || first >= 224)
}

/// Global unicast alone, without what leads to IPv4 addresses by translation or tunnels.
fn is_public_v6(a: Ipv6Addr) -> bool {
    let [first, second, ..] = a.segments();
    let teredo_and_protocols = first == 0x2001 && second < 0x200;
    let documentation = first == 0x2001 && second == 0xdb8 || first == 0x3fff;
    first & 0xe000 == 0x2000 && first != 0x2002 && !teredo_and_protocols && !documentation
}

impl Fetcher {
    /// A fetcher that reaches what is public and what the configuration allows.
    pub fn new(config: &Import) -> Result<Self, crate::Error> {
        let allowed: Arc<[IpNet]> = config.allow.clone().into();
        let wrong = |e: String| crate::Error::Config(format!("[import]: {e}"));
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .dns_resolver(Arc::new(Checked(allowed.clone())))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if let Some(path) = &config.ca_file {
            let pem = fs::read(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
            let more = Certificate::from_pem_bundle(&pem).map_err(|e| wrong(e.to_string()))?;
            builder = builder.tls_certs_merge(more);
        }
        Ok(Self { client: builder.build().map_err(|e| wrong(e.to_string()))?, allowed })
    }

    /// Opens a stream of what is at an address, from an offset on if the server still has the same bytes. `verified`:
    /// their digest is known, so that the way they come does not matter.
    pub async fn open(
        &self,
        url: &str,
        offset: u64,
        validator: Option<&str>,
        verified: bool,
    ) -> Result<Incoming, Refusal> {
        let mut url = self.check(url, verified)?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            if let (Some(validator), true) = (validator, offset > 0) {
                request = request
                    .header(header::RANGE, format!("bytes={offset}-"))
                    .header(header::IF_RANGE, validator);
            }
            let response = request.send().await.map_err(|e| unreachable(&url, &e))?;
            if !response.status().is_redirection() {
                return incoming(response, offset);
            }
            let to = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
            let next = to.and_then(|to| url.join(to).ok());
            let next = next.ok_or_else(|| {
                let message = format!("{url} answers {} and not where to", response.status());
                never("redirected", message, "give the address that it should lead to")
            })?;
            url = self.check(next.as_str(), verified)?;
        }
        Err(never(
            "redirected",
            format!("it leads through more than {MAX_REDIRECTS} redirects"),
            "give the address that it ends at",
        ))
    }

    fn check(&self, text: &str, verified: bool) -> Result<Url, Refusal> {
        let remedy = "give an address like https://images.example/debian.qcow2";
        let url = Url::parse(text).map_err(|e| never("malformed", format!("{text}: {e}"), remedy))?;
        match url.scheme() {
            "https" => {}
            "http" if verified => {}
            "http" => {
                let message = format!("{url} is plain HTTP, where anybody on the way may send other bytes");
                return Err(never("unverifiable", message, "give sha256 as well, or fetch it by https"));
            }
            other => {
                return Err(never("malformed", format!("{other} is neither https nor http"), remedy));
            }
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        match host.parse::<IpAddr>() {
            Ok(address) if !may_reach(&self.allowed, address) => Err(inside(&Inside(address))),
            _ => Ok(url),
        }
    }
}

fn inside(why: &Inside) -> Refusal {
    never(
        "address_not_allowed",
        why.to_string(),
        "give a public address, or have whoever runs the image service allow it in [import] allow",
    )
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut said = String::new();
    while let Some(e) = cause {
        if let Some(why) = e.downcast_ref::<Inside>() {
            return inside(why);
        }
        said = e.to_string();
        cause = e.source();
    }
    Refusal::Later(format!("{}: {said}", url.host_str().unwrap_or_default()))
}

fn incoming(response: Response, asked: u64) -> Result<Incoming, Refusal> {
    let (status, headers) = (response.status(), response.headers());
    let size = match status {
        StatusCode::OK => length(headers, header::CONTENT_LENGTH.as_str()).map(|size| (0, size)),
        StatusCode::PARTIAL_CONTENT => range(headers).filter(|(from, _)| *from == asked),
        // What is there is shorter than what we have: from the beginning, then.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(Refusal::Later("the server has other bytes than before".into()));
        }
        s if s.is_server_error()
            || s == StatusCode::TOO_MANY_REQUESTS
            || s == StatusCode::REQUEST_TIMEOUT =>
        {
            return Err(Refusal::Later(format!("the server answers {s}")));
        }
        s => {
            let remedy = "give an address that answers without credentials";
            return Err(never("source_refused", format!("the server answers {s}"), remedy));
        }
    };
    let encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity");
    let (offset, size_bytes) = size.filter(|_| !encoded).ok_or_else(|| {
        let message = "the server does not say how many bytes there are".to_owned();
        never("length_unknown", message, "give the address of a plain file, or upload it with: basalt upload")
    })?;
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    // A weak tag is not enough to put parts together (RFC 9110, section 13.1.5).
    let tag = text(header::ETAG).filter(|tag| !tag.starts_with("W/"));
    let validator = tag.or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned);
    let bytes = response.bytes_stream().map(|part| part.map_err(|e| e.to_string()));
    Ok(Incoming { size_bytes, offset, validator, bytes: sized(bytes).boxed() })
}

fn sized<S: Stream<Item = Result<Bytes, String>>>(stream: S) -> impl Stream<Item = Result<Bytes, String>> {
    stream.filter(|part| std::future::ready(!matches!(part, Ok(bytes) if bytes.is_empty())))
}

fn length(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Where a partial answer begins, and how long the whole is: `bytes 5-9/10`.
fn range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, size) = text.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn im6_addresses_inside_are_not_reached_unless_they_are_allowed() {
        let allowed = ["10.1.0.0/16".parse().unwrap()];
        for (address, reached) in [
            ("93.184.216.34", true),
            ("2606:2800:220:1::1", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("10.1.2.3", true),
            ("192.168.1.1", false),
            ("172.16.0.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("198.18.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::7f00:1", false),
            ("2002:7f00:1::", false),
        ] {
            assert_eq!(may_reach(&allowed, address.parse().unwrap()), reached, "{address}");
        }
    }
}
