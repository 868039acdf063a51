//! As much of the Model Context Protocol as the test programs need: a server with the tools `echo`, `env` and `words`,
//! and a client that calls `echo`.

use crate::http;
use serde_json::{Value, json};
use std::io::{BufRead, Write};

const TOOLS: [&str; 5] = ["echo", "env", "words", "process", "exit"];

/// The answer to one message; none to a notification.
fn answer(message: &Value) -> Option<Value> {
    let id = message.get("id")?;
    let result = match message["method"].as_str()? {
        "initialize" => Ok(json!({
            "protocolVersion": message["params"]["protocolVersion"].as_str().unwrap_or("2025-06-18"),
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "basalt-test", "version": "1" },
        })),
        "ping" => Ok(json!({})),
        "tools/list" => {
            let schema = json!({ "type": "object", "properties": { "text": { "type": "string" } } });
            let tool = |name: &str| json!({ "name": name, "inputSchema": schema });
            Ok(json!({ "tools": TOOLS.map(tool) }))
        }
        "tools/call" => call(&message["params"]),
        other => Err(json!({ "code": -32601, "message": format!("there is no method {other}") })),
    };
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
    })
}

fn call(params: &Value) -> Result<Value, Value> {
    let text = params["arguments"]["text"].as_str().unwrap_or_default();
    let said = match params["name"].as_str().unwrap_or_default() {
        "echo" => format!("echo: {text}"),
        "env" => std::env::var(text).unwrap_or_default(),
        "words" => std::env::args().collect::<Vec<_>>().join(" "),
        "process" => std::process::id().to_string(),
        "exit" => std::process::exit(7),
        other => return Err(json!({ "code": -32602, "message": format!("there is no tool {other}") })),
    };
    Ok(json!({ "content": [{ "type": "text", "text": said }], "isError": false }))
}

pub fn over_http(request: &http::Request) -> http::Response {
    match (&*request.method, &*request.path) {
        ("POST", "/mcp") => {}
        ("GET", "/healthz") => return http::Response::text("well"),
        (_, "/mcp") => return http::Response::status(405),
        _ => return http::Response::status(404),
    }
    let Ok(message) = serde_json::from_slice::<Value>(&request.body) else {
        return http::Response::status(400);
    };
    match answer(&message) {
        Some(answer) => {
            http::Response { kind: "application/json", ..http::Response::text(&answer.to_string()) }
        }
        None => http::Response::status(202),
    }
}

pub fn over_stdio(words: &[String]) {
    eprintln!("speaking by standard input and output, called as {}", words.join(" "));
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(answer) = answer(&message) {
            let _ = writeln!(out, "{answer}");
            let _ = out.flush();
        }
    }
}

/// Calls the tool `echo` of the server at a URL, as a client does: begins a session, calls, and takes the text.
pub fn call_echo(url: &str, text: &str) -> Result<String, String> {
    let begin = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "basalt-agent", "version": "1" } } });
    let (status, headers, body) = http::post(url, None, &begin.to_string())?;
    if status != 200 {
        return Err(format!("initialize: HTTP {status}: {body}"));
    }
    let session = headers.get("mcp-session-id").map(String::as_str);
    let begun = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    http::post(url, session, &begun.to_string())?;
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": { "name": "echo", "arguments": { "text": text } } });
    let (status, _, body) = http::post(url, session, &call.to_string())?;
    // As JSON, or as the data of events, the last of which is the answer.
    let json = body.lines().filter_map(|l| l.strip_prefix("data:")).next_back().unwrap_or(&body);
    let answer: Value =
        serde_json::from_str(json.trim()).map_err(|e| format!("HTTP {status}: {e}: {body}"))?;
    let text = answer["result"]["content"][0]["text"].as_str();
    text.map(str::to_owned).ok_or_else(|| format!("no text in {answer}"))
}
