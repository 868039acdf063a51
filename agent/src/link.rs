//! The way to the gateway: enrolment, renewal, manifest, directory, report, lines for logs, image grants. Mutual TLS; every call
//! has a time limit; 429 and 503 are patience, not failure.

mod console;

use crate::{
    Error,
    config::Config,
    consoles::Typed,
    host::{Download, Downloads},
    identity::{Identity, key_and_request},
};
use basalt_daemon::Clock;
use basalt_model::{CapabilityReason, DateTime, ImageId};
use basalt_wire::{
    agent::{
        Report, ReportAnswer,
        console::Tickets,
        counters::Reply,
        directory::Directory,
        enrol,
        lease::{LeaseAnswer, LeaseRequest},
        task_logs::{LogAnswer, LogBatch},
    },
    rest::{Problem, TransferGrant},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, header};
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Longer than the gateway holds a poll (55 s).
const POLL_LIMIT: Duration = Duration::from_secs(70);
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A lease that comes later is worth little: asked again, it holds for longer.
const LEASE_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A download in which nothing arrives for so long is broken off; it resumes.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// The header in which an agent says which of its starts asks, so that of two with one identity the
/// older is fenced.
const BOOT_HEADER: &str = "basalt-agent-boot";

/// A manifest as it came, with its revision.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The revision that the ETag named.
    pub revision: i64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A directory as it came.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its ETag, as it is to be sent back.
    pub tag: String,
    /// The directory.
    pub directory: Directory,
}

/// What an agent asks of a gateway.
pub trait Gateway: Send + Sync + 'static {
    /// Waits for a manifest other than revision `have`; `None` when there was none for a while.
    fn manifest(&self, have: Option<i64>) -> impl Future<Output = Result<Option<Fetched>, Error>> + Send;

    /// Waits for a directory other than the one with the tag `have`; `None` when there was none for a while.
    fn directory(&self, _have: Option<&str>) -> impl Future<Output = Result<Option<Listed>, Error>> + Send {
        std::future::pending()
    }

    /// Sends a report; also the sign of life.
    fn report(&self, report: &Report) -> impl Future<Output = Result<ReportAnswer, Error>> + Send;

    /// Sends lines for the logs of tasks. A gateway without logs passes over them.
    fn log(&self, _batch: &LogBatch) -> impl Future<Output = Result<LogAnswer, Error>> + Send {
        std::future::ready(Ok(LogAnswer::default()))
    }

    /// Asks for the lease under which VMs execute that would be started elsewhere. A gateway without leases never answers.
    fn lease(&self, _request: &LeaseRequest) -> impl Future<Output = Result<LeaseAnswer, Error>> + Send {
        std::future::pending()
    }

    /// Renews the identity if it is time; answers when to ask again.
    fn renew(&self) -> impl Future<Output = Result<Option<DateTime>, Error>> + Send;

    /// Waits for consoles to open and questions to answer. A gateway without consoles never has any.
    fn tickets(&self) -> impl Future<Output = Result<Tickets, Error>> + Send {
        std::future::pending()
    }

    /// Redeems a ticket: sends what the guest writes until the channel closes, and answers what is typed.
    fn open_console(
        &self,
        _ticket: &str,
        _output: mpsc::Receiver<Bytes>,
    ) -> impl Future<Output = Result<Typed, Error>> + Send {
        std::future::pending()
    }

    /// Says why the console of a ticket cannot be opened.
    fn refuse_console(
        &self,
        _ticket: &str,
        _reason: CapabilityReason,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::pending()
    }

    /// Answers a question about a port.
    fn answer(&self, _question: Uuid, _reply: &Reply) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::pending()
    }
}

/// The gateway over mutual TLS.
pub struct Link {
    url: String,
    ca_pem: String,
    state_dir: PathBuf,
    clock: Arc<dyn Clock>,
    boot: Uuid,
    current: RwLock<(Client, Identity)>,
    /// Without a certificate: for the image service, which looks at tokens only.
    plain: Client,
}

impl Link {
    /// A link under an identity. `boot` names this start of the agent.
    ///
    /// # Errors
    /// [`Error::Identity`] when its key or certificate cannot be used.
    pub fn new(
        config: &Config,
        identity: Identity,
        clock: Arc<dyn Clock>,
        boot: Uuid,
    ) -> Result<Self, Error> {
        let ca_pem = read_ca(config)?;
        Ok(Self {
            url: config.gateway.url.trim_end_matches('/').into(),
            plain: client(&[&ca_pem, &identity.ca_pem], None)?,
            current: RwLock::new((client(&[&ca_pem, &identity.ca_pem], Some((&identity, boot)))?, identity)),
            boot,
            ca_pem,
            state_dir: config.state.dir.clone(),
            clock,
        })
    }

    /// Enrols this host with its join token: own key, certificate from the gateway, both kept.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the gateway does not take the token; [`Error::Link`] and [`Error::Busy`]
    /// when it is worth trying again.
    pub async fn enrol(config: &Config, clock: &dyn Clock) -> Result<Identity, Error> {
        let path = config.host.join_token_file.clone().ok_or_else(|| {
            Error::Identity("this host is not enrolled; set host.join_token_file in agent.toml".into())
        })?;
        let token = std::fs::read_to_string(&path).map_err(|e| Error::state(path, e))?;
        let (key_pem, csr_pem) = key_and_request()?;
        let request = enrol::EnrolRequest {
            join_token: token.trim().into(),
            csr_pem,
            hostname: config.host.name.as_str().into(),
        };
        let url = format!("{}/agent/v1/enrol", config.gateway.url.trim_end_matches('/'));
        let client = client(&[&read_ca(config)?], None)?;
        let call = client.post(url).timeout(CALL_LIMIT).json(&request);
        let signed: enrol::Identity =
            body("enrolment", answer("enrolment", call.send().await).await?).await?;
        let identity = Identity::new(signed, key_pem, clock.now());
        identity.save(&config.state.dir)?;
        Ok(identity)
    }

    fn current(&self) -> (Client, Identity) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn grant(&self, image_id: ImageId) -> Result<TransferGrant, Error> {
        let what = "asking for an image";
        let url = format!("{}/agent/v1/images/{image_id}/download", self.url);
        let call = self.current().0.post(url).timeout(CALL_LIMIT);
        body(what, answer(what, call.send().await).await?).await
    }

    async fn download(&self, image_id: ImageId, offset: u64) -> Result<Download, Error> {
        let what = "downloading an image";
        let grant = self.grant(image_id).await?;
        let mut call = self.plain.get(grant.url).bearer_auth(grant.token);
        if offset > 0 {
            call = call.header(header::RANGE, format!("bytes={offset}-"));
        }
        let response = answer(what, call.send().await).await?;
        let length = response.content_length().ok_or_else(|| Error::link(what, "no length was given"))?;
        // A server that does not know ranges sends everything; what is there already is passed over.
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let (size_bytes, mut skip) = if partial { (length + offset, 0) } else { (length, offset) };
        let bytes = response.bytes_stream().map(move |piece| {
            let mut piece = piece.map_err(|e| Error::link(what, chain(&e)))?;
            let over = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= over as u64;
            Ok(piece.split_off(over))
        });
        Ok(Download { size_bytes, bytes: bytes.boxed() })
    }
}

impl Gateway for Link {
    async fn manifest(&self, have: Option<i64>) -> Result<Option<Fetched>, Error> {
        let what = "asking for the manifest";
        let mut call = self.current().0.get(format!("{}/agent/v1/manifest", self.url)).timeout(POLL_LIMIT);
        if let Some(revision) = have {
            call = call.header(header::IF_NONE_MATCH, format!("\"{revision}\""));
        }
        let response = answer(what, call.send().await).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let revision = tag.and_then(|tag| tag.trim_start_matches("W/").trim_matches('"').parse().ok());
        let revision = revision.ok_or_else(|| Error::link(what, "the answer has no ETag with a revision"))?;
        let bytes = response.bytes().await.map_err(|e| Error::link(what, chain(&e)))?;
        Ok(Some(Fetched { revision, bytes: bytes.into() }))
    }

    async fn directory(&self, have: Option<&str>) -> Result<Option<Listed>, Error> {
        let what = "asking for the directory";
        let mut call = self.current().0.get(format!("{}/agent/v1/directory", self.url)).timeout(POLL_LIMIT);
        if let Some(tag) = have {
            call = call.header(header::IF_NONE_MATCH, tag);
        }
        let response = answer(what, call.send().await).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let tag = tag.ok_or_else(|| Error::link(what, "the answer has no ETag"))?.to_owned();
        let bytes = response.bytes().await.map_err(|e| Error::link(what, chain(&e)))?;
        let directory = Directory::read(&bytes).map_err(|e| Error::link(what, e))?;
        Ok(Some(Listed { tag, directory }))
    }

    async fn report(&self, report: &Report) -> Result<ReportAnswer, Error> {
        let what = "reporting";
        let call = self.current().0.post(format!("{}/agent/v1/report", self.url)).timeout(CALL_LIMIT);
        body(what, answer(what, call.json(report).send().await).await?).await
    }

    async fn log(&self, batch: &LogBatch) -> Result<LogAnswer, Error> {
        let what = "sending lines for logs";
        let call = self.current().0.post(format!("{}/agent/v1/log", self.url)).timeout(CALL_LIMIT);
        body(what, answer(what, call.json(batch).send().await).await?).await
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseAnswer, Error> {
        let what = "asking for the lease";
        let call = self.current().0.post(format!("{}/agent/v1/lease", self.url)).timeout(LEASE_LIMIT);
        body(what, answer(what, call.json(request).send().await).await?).await
    }

    async fn renew(&self) -> Result<Option<DateTime>, Error> {
        let (old, identity) = self.current();
        let now = self.clock.now();
        if now < identity.renew_at() {
            return Ok(Some(identity.renew_at()));
        }
        let what = "renewing the certificate";
        let (key_pem, csr_pem) = key_and_request()?;
        let call = old.post(format!("{}/agent/v1/renew", self.url)).timeout(CALL_LIMIT);
        let call = call.json(&enrol::RenewRequest { csr_pem });
        let signed: enrol::Identity = body(what, answer(what, call.send().await).await?).await?;
        let identity = Identity::new(signed, key_pem, now);
        let next = client(&[&self.ca_pem, &identity.ca_pem], Some((&identity, self.boot)))?;
        // On the disk first: a certificate that only lived in memory would leave the host without one.
        identity.save(&self.state_dir)?;
        let renew_at = identity.renew_at();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (next, identity);
        tracing::info!(%renew_at, "the certificate was renewed");
        Ok(Some(renew_at))
    }

    async fn tickets(&self) -> Result<Tickets, Error> {
        self.take_tickets().await
    }

    async fn open_console(&self, ticket: &str, output: mpsc::Receiver<Bytes>) -> Result<Typed, Error> {
        self.redeem(ticket, output).await
    }

    async fn refuse_console(&self, ticket: &str, reason: CapabilityReason) -> Result<(), Error> {
        self.refuse(ticket, reason).await
    }

    async fn answer(&self, question: Uuid, reply: &Reply) -> Result<(), Error> {
        self.reply(question, reply).await
    }
}

impl Downloads for Link {
    fn open(&self, image_id: ImageId, offset: u64) -> BoxFuture<'_, Result<Download, Error>> {
        self.download(image_id, offset).boxed()
    }
}

fn read_ca(config: &Config) -> Result<String, Error> {
    let path = &config.gateway.ca;
    std::fs::read_to_string(path).map_err(|e| Error::state(path, e))
}

fn client(cas: &[&str], identity: Option<(&Identity, Uuid)>) -> Result<Client, Error> {
    configured(cas, identity)?.build().map_err(|e| Error::Identity(chain(&e)))
}

fn configured(cas: &[&str], identity: Option<(&Identity, Uuid)>) -> Result<ClientBuilder, Error> {
    let wrong = |e: reqwest::Error| Error::Identity(chain(&e));
    let mut roots = Vec::new();
    for pem in cas {
        roots.extend(Certificate::from_pem_bundle(pem.as_bytes()).map_err(wrong)?);
    }
    let mut builder: ClientBuilder = Client::builder()
        .no_proxy()
        .https_only(true)
        .tls_certs_only(roots)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .http2_keep_alive_while_idle(true);
    builder = match identity {
        Some((identity, boot)) => {
            let boot = header::HeaderValue::try_from(boot.to_string())
                .map_err(|e| Error::Identity(e.to_string()))?;
            builder = builder.default_headers(
                [(header::HeaderName::from_static(BOOT_HEADER), boot)].into_iter().collect(),
            );
            let pem = format!("{}\n{}", identity.certificate_pem, identity.key_pem);
            builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(wrong)?)
        }
        None => builder.read_timeout(SILENCE_LIMIT),
    };
    Ok(builder)
}

/// The answer, or what kind of "no" it was.
async fn answer(what: &str, sent: Result<Response, reqwest::Error>) -> Result<Response, Error> {
    let response = sent.map_err(|e| Error::link(what, chain(&e)))?;
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        return Err(Error::Busy(Duration::from_secs(after.unwrap_or(1).min(60))));
    }
    let text = response.text().await.unwrap_or_default();
    let (code, why) = match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => (problem.code.to_string(), format!("{status}: {}", problem.detail)),
        Err(_) => (String::new(), format!("{status}: {}", text.chars().take(300).collect::<String>())),
    };
    let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || code == "fenced";
    Err(if refused { Error::Rejected(why) } else { Error::link(what, why) })
}

async fn body<T: serde::de::DeserializeOwned>(what: &str, response: Response) -> Result<T, Error> {
    let bytes = response.bytes().await.map_err(|e| Error::link(what, chain(&e)))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::link(what, e))
}

/// An error with all its causes: reqwest says only "error sending request" by itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
