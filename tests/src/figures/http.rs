//! A lean HTTP/1.1 client over TLS: the load generator shares the machine with what it measures, so it
//! writes prepared bytes and reads lengths, and nothing else.

use super::Latencies;
use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// One kept-alive connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// Where and as whom.
#[derive(Clone)]
pub struct Target {
    /// `127.0.0.1:9443`.
    pub address: String,
    /// The authority, PEM.
    pub ca_pem: String,
    /// The bearer token.
    pub token: String,
}

impl Target {
    /// The bytes of a request.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n",
            self.address, self.token
        );
        let rest = match body {
            "" => "\r\n".to_owned(),
            body => format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        };
        (head + &rest).into_bytes()
    }
}

impl Connection {
    /// Connects and shakes hands.
    pub async fn open(target: &Target) -> Result<Self> {
        let roots = basalt_daemon::tls::roots(&target.ca_pem)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let tcp = TcpStream::connect(&target.address).await?;
        tcp.set_nodelay(true)?;
        let host = target.address.split(':').next().unwrap_or_default().to_owned();
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host)?, tcp).await?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends a request and reads the answer whole: status and body.
    pub async fn call(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let text = std::str::from_utf8(&self.buffer[..head])?;
        let status = text.get(9..12).context("no status")?.parse()?;
        let length = text.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let end = head + length.context("an answer without a length")?;
        while self.buffer.len() < end {
            self.fill().await?;
        }
        Ok((status, &self.buffer[head..end]))
    }

    /// Sends a request whose answer does not end, and reads until it begins.
    pub async fn begin(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        while find(&self.buffer, b"\r\n\r\n").is_none() {
            self.fill().await?;
        }
        anyhow::ensure!(self.buffer.get(9..12) == Some(b"200"), "{}", String::from_utf8_lossy(&self.buffer));
        Ok(())
    }

    /// What came next of it, as it came.
    pub async fn some(&mut self) -> Result<&[u8]> {
        self.buffer.clear();
        self.fill().await?;
        Ok(&self.buffer)
    }

    async fn fill(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Load {
    /// Answers a second.
    pub rate: f64,
    /// Latencies of the answers.
    pub latencies: Latencies,
}

/// Sends requests over so many connections for a time; `make` gives the n-th request. Any status other
/// than the wanted one is an error.
pub async fn load(
    target: &Target,
    connections: usize,
    time: Duration,
    wanted: u16,
    make: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> Result<Load> {
    let (make, next) = (Arc::new(make), Arc::new(AtomicU64::new(0)));
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(Connection::open(target).await?);
    }
    let started = Instant::now();
    let workers: Vec<_> = opened
        .into_iter()
        .map(|mut connection| {
            let (make, next) = (make.clone(), next.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while started.elapsed() < time {
                    let request = make(next.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    let (status, body) = connection.call(&request).await?;
                    if status != wanted {
                        bail!("{status}: {}", String::from_utf8_lossy(body));
                    }
                    latencies.push(sent.elapsed());
                }
                Ok(latencies)
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??);
    }
    let rate = all.len() as f64 / started.elapsed().as_secs_f64();
    Ok(Load { rate, latencies: Latencies::new(all) })
}
