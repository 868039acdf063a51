//! `basalt-mcp-bridge -- COMMAND [ARGUMENT…]`: runs an MCP server that speaks by standard input and output, and speaks
//! streamable HTTP for it at `/mcp` of the port in `PORT` (default 8080). `/healthz` says whether it is well.
//!
//! ```text
//! client ──POST, GET, DELETE /mcp──► http ──► session ──stdin──► COMMAND
//!                                     ▲          │ one child      │
//!                                     └─ events ─┴──── stdout ────┘   stderr: the bridge's own
//! ```
//!
//! Such a server has one client in its life: what it was told in `initialize`, and what it asks back, belongs to that one.
//! So each session has a child of its own. One child is started before anybody asks, which shows that the command
//! runs; the first session takes it. When no child lives, one is started again, after a pause that doubles.

mod child;
mod http;
mod session;

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use session::Sessions;
use std::{net::Ipv4Addr, process::ExitCode, sync::Arc};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("basalt-mcp-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    ensure!(words.next().as_deref() == Some("--"), "usage: basalt-mcp-bridge -- COMMAND [ARGUMENT…]");
    let command: Vec<String> = words.collect();
    ensure!(!command.is_empty(), "usage: basalt-mcp-bridge -- COMMAND [ARGUMENT…]");
    let port = match std::env::var("PORT") {
        Ok(port) => port.parse().with_context(|| format!("PORT is {port:?}, which is no port"))?,
        Err(_) => 8080,
    };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("listening on port {port}"))?;
    println!("basalt-mcp-bridge: listening on {port}");
    // Outside of a container somebody else would get what servers leave behind.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut ended = signal(SignalKind::terminate())?;
    let sessions = Arc::new(Sessions::new(command));
    let keeping = tokio::spawn(Arc::clone(&sessions).keep());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let sessions = Arc::clone(&sessions);
                tokio::spawn(async move {
                    let answer = hyper::service::service_fn(|request| http::answer(&sessions, request));
                    // A client that goes away in the middle is nobody's error.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            _ = ended.recv() => break,
        }
    }
    keeping.abort();
    sessions.end().await;
    Ok(())
}
