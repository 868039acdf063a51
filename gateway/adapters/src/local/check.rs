//! Whether what runs is well, asked from outside: an open port, or an answer to GET. Every wording stands still, so that
//! two looks at the same thing are equal.

use super::{
    container::Container,
    recipe::{Check, Recipe},
};
use basalt_model::DateTime;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What stands in `raw.check`: nothing where nothing is checked.
pub(super) async fn look(container: &Container, now: DateTime) -> Option<Value> {
    let recipe = Recipe::of(container)?;
    let check = recipe.check.as_ref().filter(|_| container.is_running())?;
    let seen = match tokio::time::timeout(PATIENCE, ask(&recipe, check)).await {
        Ok(Ok(())) => return Some(json!({ "state": "well" })),
        Ok(Err(seen)) => seen,
        Err(_) => format!("no answer in {} s", PATIENCE.as_secs()),
    };
    let up = container.started_at().map_or(i64::MAX, |at| (now - at).num_seconds());
    if up <= i64::from(check.start_seconds) {
        // What is seen while it begins changes by itself and says nothing.
        return Some(json!({ "state": "starting" }));
    }
    Some(json!({ "state": "failing", "seen": seen }))
}

async fn ask(recipe: &Recipe, check: &Check) -> Result<(), String> {
    let io = |e: std::io::Error| e.kind().to_string();
    let host = recipe.address.parse().map_err(|_| "the address is none".to_owned())?;
    let at = std::net::SocketAddr::new(host, recipe.port);
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
