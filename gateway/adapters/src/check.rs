//! Whether what runs is well, asked from outside: an open port, or an answer to GET. Every wording stands still, so that
//! two looks at the same thing are equal.

use basalt_model::{
    artifacts::ArtifactKind,
    deployments::{Program, Workload},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How one sees that it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// An open port is well where there is none.
    pub(crate) path: Option<String>,
    /// How long it may take to begin.
    pub(crate) start_seconds: u32,
}

/// How long a program may take to begin.
pub(crate) fn start_seconds(program: &Program) -> u32 {
    program.health.as_ref().map_or(60, |h| h.start_seconds)
}

impl Check {
    /// As the artifact says. A server without a path is well when its port is open; an agent without one when it runs.
    pub(crate) fn of(workload: &Workload) -> Option<Self> {
        let start_seconds = start_seconds(&workload.program);
        match (&workload.program.health, workload.target.kind) {
            (Some(health), _) => Some(Self { path: Some(health.path.clone()), start_seconds }),
            (None, ArtifactKind::Server) => Some(Self { path: None, start_seconds }),
            (None, ArtifactKind::Agent) => None,
        }
    }
}

/// What stands in `raw.check` of something that has run for so many seconds.
pub(crate) async fn look(check: &Check, address: &str, port: u16, up_seconds: i64) -> Value {
    let seen = match tokio::time::timeout(PATIENCE, ask(check, address, port)).await {
        Ok(Ok(())) => return json!({ "state": "well" }),
        Ok(Err(seen)) => seen,
        Err(_) => format!("no answer in {} s", PATIENCE.as_secs()),
    };
    if up_seconds <= i64::from(check.start_seconds) {
        // What is seen while it begins changes by itself and says nothing.
        return json!({ "state": "starting" });
    }
    json!({ "state": "failing", "seen": seen })
}

async fn ask(check: &Check, address: &str, port: u16) -> Result<(), String> {
    let io = |e: std::io::Error| e.kind().to_string();
    let host: IpAddr = address.parse().map_err(|_| "the address is none".to_owned())?;
    let at = SocketAddr::new(host, port);
    let mut stream = TcpStream::connect(at).await.map_err(io)?;
    let Some(path) = &check.path else { return Ok(()) };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: basalt\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(io)?;
    let mut line = Vec::new();
    let mut piece = [0; 256];
    while !line.contains(&b'\n') && line.len() < 1024 {
        match stream.read(&mut piece).await.map_err(io)? {
            0 => break,
            read => line.extend_from_slice(&piece[..read]),
        }
    }
    match status(&line) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path}: HTTP {status}")),
        None => Err(format!("GET {path}: no HTTP")),
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line.split(|byte| *byte == b'\n').next()?).ok()?;
    line.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\nX: 1"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0-OpenSSH"), None);
        assert_eq!(status(b""), None);
    }
}
