//! The control socket: one JSON request a line in, one JSON response a line out.
//!
//! The lab's supervisor and the first process of every host speak it, so that `status`, `down` and the drill
//! work from another process.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::supervisor::{Service, ServiceStatus};

/// Requests are a line of a few hundred bytes; anything longer is not one.
const LONGEST_LINE_BYTES: u64 = 64 * 1024;
/// The longest request is a power-on, which waits for the host's services.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do to a supervised service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Start,
    Stop,
    Restart,
    Kill,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Without a host, a service of the lab itself.
    Service {
        verb: Verb,
        service: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    PowerCut {
        host: String,
    },
    PowerOn {
        host: String,
    },
    /// Ends everything and then the supervisor itself.
    Down,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    Done,
    Services { services: Vec<ServiceStatus> },
    Lab { status: Box<LabStatus> },
    Failed { message: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabStatus {
    pub data_dir: PathBuf,
    pub users_address: SocketAddr,
    pub image_address: SocketAddr,
    pub services: Vec<ServiceStatus>,
    pub hosts: Vec<HostStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    pub name: String,
    /// On the management network.
    pub address: Ipv4Addr,
    /// Where tunnels of other hosts end.
    pub tunnel_address: Ipv4Addr,
    pub powered: bool,
    /// Whether its agent holds a certificate.
    pub enrolled: bool,
    pub services: Vec<ServiceStatus>,
}

/// Applies a verb to one of several services.
pub fn apply<'a>(services: impl IntoIterator<Item = &'a Service>, verb: Verb, name: &str) -> Result<()> {
    let mut known = Vec::new();
    for service in services {
        if service.name() == name {
            return apply_to(service, verb);
        }
        known.push(service.name());
    }
    bail!("there is no service `{name}` here; there are: {}", known.join(", "))
}

fn apply_to(service: &Service, verb: Verb) -> Result<()> {
    match verb {
        Verb::Start => service.start(),
        Verb::Stop => service.stop(),
        Verb::Restart => service.restart(),
        Verb::Kill if service.kill() => {}
        Verb::Kill => bail!("`{}` is not running", service.name()),
    }
    Ok(())
}

/// Listens on `path` and answers every request by `answer`, each connection on a thread of its own,
/// as long as the process lives.
pub fn serve(path: &Path, answer: impl Fn(Request) -> Response + Send + Sync + 'static) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // Whoever may talk here is root on the lab.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let answer = Arc::new(answer);
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            let serving = std::thread::Builder::new().name("control-client".to_owned());
            // A caller that went away is no concern of ours, and one we have no thread for sees the end of file.
            let _ = serving.spawn(move || serve_one(&stream, answer.as_ref()));
        }
    })?;
    Ok(())
}

fn serve_one(stream: &UnixStream, answer: &dyn Fn(Request) -> Response) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    for line in BufReader::new(stream.take(LONGEST_LINE_BYTES)).lines() {
        let response = match serde_json::from_str(&line?) {
            Ok(request) => answer(request),
            Err(error) => Response::Failed { message: format!("not a request: {error}") },
        };
        write_line(stream, &response)?;
    }
    Ok(())
}

fn write_line<T: Serialize>(mut stream: &UnixStream, value: &T) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(())
}

/// Sends one request and waits for its response; a refusal becomes an error.
pub fn ask(path: &Path, request: &Request) -> Result<Response> {
    let stream =
        UnixStream::connect(path).with_context(|| format!("nobody answers at {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write_line(&stream, request)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    match serde_json::from_str(&line).context("the supervisor went away before it answered")? {
        Response::Failed { message } => bail!(message),
        response => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        serve(&path, |request| match request {
            Request::PowerCut { host } if host == "h1" => Response::Done,
            other => Response::Failed { message: format!("{other:?}") },
        })
        .unwrap();
        assert_eq!(ask(&path, &Request::PowerCut { host: "h1".to_owned() }).unwrap(), Response::Done);
        assert!(ask(&path, &Request::Down).unwrap_err().to_string().contains("Down"));

        let mut raw = UnixStream::connect(&path).unwrap();
        raw.write_all(b"{\"op\":\"explode\"}\n").unwrap();
        let mut said = String::new();
        BufReader::new(raw).read_line(&mut said).unwrap();
        assert!(said.contains("not a request"), "{said}");
    }

    #[test]
    fn the_wire_form_is_flat() {
        let request = Request::Service {
            verb: Verb::Kill,
            service: "libvirtd".to_owned(),
            host: Some("h1".to_owned()),
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"op":"service","verb":"kill","service":"libvirtd","host":"h1"}"#);
    }
}
