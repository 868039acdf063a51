//! The programs that tests run on platforms, in one static executable: which of them it is, its name or first word says.
//!
//! | word | is |
//! |---|---|
//! | `agent` | HTTP at `PORT`: `/healthz`, `/env/NAME`, `/ask/SERVER/TEXT` (asks an MCP server of `BASALT_SERVERS`), `/exit/CODE` |
//! | `mcp-http` | an MCP server that speaks streamable HTTP at `PORT`, `/mcp` |
//! | `mcp-stdio` | the same by standard input and output |
//! | `npx`, `uvx` | what a runner image has: the same as `mcp-stdio`, and tells the words that it was called with |
//! | `exit CODE`, `sleep` | nothing else |

mod http;
mod mcp;

use serde_json::Value;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let name = words[0].rsplit('/').next().unwrap_or_default();
    let (role, rest) = match name {
        "npx" | "uvx" => (name.to_owned(), &words[1..]),
        _ => (words.get(1).cloned().unwrap_or_default(), words.get(2..).unwrap_or_default()),
    };
    println!("{role} begins");
    match &*role {
        "agent" => http::serve(port(), agent),
        "mcp-http" => http::serve(port(), mcp::over_http),
        "mcp-stdio" | "npx" | "uvx" => {
            // What comes by standard input is all there is: its end is the program's.
            mcp::over_stdio(&words);
            return ExitCode::SUCCESS;
        }
        "exit" => return rest.first().and_then(|code| code.parse::<u8>().ok()).unwrap_or(1).into(),
        "sleep" => {}
        other => {
            eprintln!("there is no program {other:?}");
            return 2.into();
        }
    }
    until_told_to_end();
    println!("{role} ends");
    ExitCode::SUCCESS
}

fn port() -> u16 {
    std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080)
}

/// The first process of a container gets no signal that it does not ask for.
fn until_told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        if let Ok(mut told) = signal(SignalKind::terminate()) {
            told.recv().await;
        }
    });
}

fn agent(request: &http::Request) -> http::Response {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match parts[..] {
        [""] => http::Response::text("an agent of Basalt's tests"),
        ["healthz"] if std::env::var_os("UNWELL").is_some() => http::Response::status(503),
        ["healthz"] => http::Response::text("well"),
        ["env", name] => {
            std::env::var(name).map_or(http::Response::status(404), |v| http::Response::text(&v))
        }
        ["ask", server, text] => match ask(server, text) {
            Ok(answer) => http::Response::text(&answer),
            Err(error) => http::Response { status: 502, ..http::Response::text(&error) },
        },
        ["exit", code] => std::process::exit(code.parse().unwrap_or(1)),
        _ => http::Response::status(404),
    }
}

/// Asks the server's tool `echo`, at the address that the agent was told.
fn ask(server: &str, text: &str) -> Result<String, String> {
    let told = std::env::var("BASALT_SERVERS").map_err(|_| "BASALT_SERVERS is not set".to_owned())?;
    let told: Value = serde_json::from_str(&told).map_err(|e| format!("BASALT_SERVERS: {e}"))?;
    let entry = told.get(server).ok_or_else(|| format!("BASALT_SERVERS names no {server}"))?;
    let url = entry.as_str().or_else(|| entry.get("url")?.as_str()).ok_or("no url")?;
    mcp::call_echo(url, text)
}
