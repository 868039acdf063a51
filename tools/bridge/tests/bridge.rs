//! The bridge itself, with commands of the shell as servers: what it answers, and that nothing of theirs is left.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Bridge {
    process: Child,
    port: u16,
}

/// A status, the session's id, and the body.
type Answer = (u16, Option<String>, String);

impl Bridge {
    fn start(script: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(env!("CARGO_BIN_EXE_basalt-mcp-bridge"))
            .args(["--", "sh", "-c", script])
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let bridge = Self { process, port };
        until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        bridge
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let further: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let host = format!("127.0.0.1:{}", self.port);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{further}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).map(str::to_owned);
        (status, session, body.to_owned())
    }

    fn post(&self, headers: &[(&str, &str)], message: &Value) -> Answer {
        self.ask("POST", "/mcp", headers, &message.to_string())
    }

    fn begin(&self) -> String {
        let (status, session, body) = self.post(&[], &request(1, "initialize"));
        assert_eq!(status, 200, "{body}");
        session.unwrap()
    }

    fn healthy(&self) -> (u16, String) {
        let (status, _, body) = self.ask("GET", "/healthz", &[], "");
        (status, body)
    }

    fn terminate(&mut self) {
        Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}

fn until(mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < end, "not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn request(id: u64, method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method })
}

/// Answers every request by its id; prints what is no message first; tells of progress before it answers `tell`.
const SERVER: &str = r#"
echo "hello, I am no message"
while read -r line; do
	id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
	case $line in *'"tell"'*) echo '{"jsonrpc":"2.0","method":"notifications/progress"}' ;; esac
	case $line in *'"die"'*) exit 1 ;; esac
	[ -n "$id" ] && echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"process":'$$'}}'
done"#;

#[test]
fn a_request_is_answered_as_json_or_as_events_with_what_was_told_before() {
    let bridge = Bridge::start(SERVER);
    let session = bridge.begin();
    let own = [("Mcp-Session-Id", &*session)];
    let (status, _, body) = bridge.post(&own, &request(2, "ping"));
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()["id"]), (200, &json!(2)));
    let events = [own[0], ("Accept", "application/json, text/event-stream")];
    let (status, _, body) = bridge.post(&events, &request(3, "tell"));
    let told = body.find("notifications/progress").unwrap();
    assert!(status == 200 && told < body.find("\"id\":3").unwrap(), "{body}");
    let (status, _, body) =
        bridge.post(&own, &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    assert_eq!((status, &*body), (202, ""));
    assert_eq!(bridge.ask("DELETE", "/mcp", &own, "").0, 204);
    assert_eq!(
        bridge.post(&own, &request(4, "ping")).0,
        404,
        "by this a client knows that it has to begin anew"
    );
}

#[test]
fn what_is_no_session_no_message_or_from_elsewhere_is_refused() {
    let bridge = Bridge::start(SERVER);
    let (status, _, body) = bridge.post(&[], &request(7, "server/discover"));
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()["id"]), (400, &json!(7)));
    assert_eq!(bridge.post(&[("Mcp-Session-Id", "guessed")], &request(1, "ping")).0, 404);
    assert_eq!(bridge.ask("POST", "/mcp", &[], "{").0, 400);
    assert_eq!(bridge.ask("POST", "/mcp", &[], "[]").0, 400);
    assert_eq!(bridge.ask("PUT", "/mcp", &[], "").0, 405);
    assert_eq!(bridge.ask("GET", "/else", &[], "").0, 404);
    assert_eq!(bridge.post(&[("Origin", "https://evil.example")], &request(1, "initialize")).0, 403);
    let own = format!("http://127.0.0.1:{}", bridge.port);
    assert_eq!(bridge.post(&[("Origin", &own)], &request(1, "initialize")).0, 200);
}

#[test]
fn a_server_that_dies_answers_with_an_error_and_another_is_there_for_the_next() {
    let bridge = Bridge::start(SERVER);
    let session = bridge.begin();
    let (status, _, body) = bridge.post(&[("Mcp-Session-Id", &session)], &request(2, "die"));
    assert!(status == 502 && body.contains("ended before it answered"), "{status} {body}");
    assert_eq!(bridge.post(&[("Mcp-Session-Id", &session)], &request(3, "ping")).0, 404);
    until(|| bridge.healthy().0 == 200);
    bridge.begin();
}

#[test]
fn a_server_that_ends_at_once_is_not_well_and_is_started_again_after_growing_pauses() {
    let starts = tempfile::NamedTempFile::new().unwrap();
    let bridge = Bridge::start(&format!("echo x >>{}; exit 1", starts.path().display()));
    until(|| bridge.healthy() == (503, "it ended at once".to_owned()));
    let (status, _, body) = bridge.post(&[], &request(1, "initialize"));
    assert!(status == 503 && body.contains("does not run"), "{status} {body}");
    std::thread::sleep(Duration::from_secs(3));
    let count = std::fs::read_to_string(starts.path()).unwrap().lines().count();
    assert!((2..=6).contains(&count), "started {count} times");
}

#[test]
fn told_to_end_it_ends_and_everything_that_it_started_with_it() {
    let mark = format!("987{}", std::process::id());
    let mut bridge =
        Bridge::start(&format!("sleep {mark} & trap '' TERM; while read -r l; do :; done; sleep {mark}"));
    let running = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
            .filter(|line| line.starts_with(format!("sleep\0{mark}\0").as_bytes()))
            .count()
    };
    until(|| running() > 0);
    bridge.terminate();
    until(|| running() == 0);
}

/// The ended processes that nobody has waited for, of the bridge's children.
fn ended_children(of: u32) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = all.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    stats
        .filter(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {of} "))))
        .count()
}

#[test]
fn what_a_server_leaves_behind_is_taken_in_when_it_ends() {
    let bridge = Bridge::start(&format!("for i in 1 2 3; do (sleep 0.2 &); done; {SERVER}"));
    bridge.begin();
    std::thread::sleep(Duration::from_millis(500));
    until(|| ended_children(bridge.process.id()) == 0);
    assert_eq!(bridge.healthy().0, 200, "the server itself is waited for by whoever started it");
}
