//! An engine of the test's own with the test programs in an image, and adapters for it.

use crate::contract::Bench;
use basalt_adapters::{
    Adapter, EngineOptions, Normalise,
    local::{self, Local},
};
use basalt_model::{
    Name,
    artifacts::{HealthCheck, Source, Transport},
    deployments::Program,
};
use basalt_test_programs::{Engine, Image, program};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// The image with the test programs.
pub const IMAGE: &str = "localhost/basalt/test:1";

/// How long a call may last here.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct LocalBench {
    pub engine: Mutex<Engine>,
    pub options: EngineOptions,
}

impl LocalBench {
    /// Containers share the machine's network here: what is quickest.
    pub fn start() -> Self {
        let engine = Engine::start().unwrap();
        let program = program("basalt-test-program").unwrap();
        let image = Image {
            files: vec![(&*program, "/program")],
            changes: vec![r#"ENTRYPOINT ["/program"]"#, r#"CMD ["agent"]"#],
        };
        engine.image(IMAGE, &image).unwrap();
        let options = serde_json::from_value(serde_json::json!({
            "socket": engine.socket(), "network": "host", "max_open_files": 1024, "max_processes": 1024,
        }));
        Self { engine: Mutex::new(engine), options: options.unwrap() }
    }

    /// An adapter with options changed.
    pub fn with(&self, change: impl FnOnce(&mut EngineOptions)) -> Local {
        let mut options = self.options.clone();
        change(&mut options);
        Local::new("default", options, LIMIT, Arc::new(now))
    }

    pub fn podman(&self, args: &[&str]) -> String {
        self.engine.lock().unwrap().podman(args).unwrap()
    }
}

/// The real time: what is looked at really runs.
#[allow(clippy::disallowed_methods)]
pub fn now() -> basalt_model::DateTime {
    chrono::Utc::now()
}

impl Bench for LocalBench {
    fn adapter(&self) -> Arc<dyn Adapter> {
        Arc::new(self.with(|_| {}))
    }

    fn normalise(&self) -> Normalise {
        local::normalise
    }

    fn program(&self) -> Program {
        Program {
            source: Source::Image { image: IMAGE.into() },
            transport: Transport::StreamableHttp { port: 8080, path: "/".into() },
            command: Vec::new(),
            args: Vec::new(),
            health: Some(HealthCheck { path: "/healthz".into(), start_seconds: 30 }),
        }
    }

    fn log_text(&self) -> &'static str {
        "agent begins"
    }

    fn namespace(&self) -> Option<Name> {
        None
    }
}

/// The text at a URL.
pub fn http(url: &str) -> Result<String, String> {
    use std::io::{Read, Write};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(host).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP")?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(format!("{head}\n{body}")) }
}
