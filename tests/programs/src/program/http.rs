//! As much HTTP as the test programs need: one request a connection, bodies with a length.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
};

pub struct Request {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

pub struct Response {
    pub status: u16,
    pub kind: &'static str,
    pub body: String,
}

impl Response {
    pub fn text(body: &str) -> Self {
        Self { status: 200, kind: "text/plain", body: body.to_owned() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::text("") }
    }
}

/// Serves in the background.
pub fn serve(port: u16, answer: fn(&Request) -> Response) {
    let listener = match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("port {port}: {error}");
            std::process::exit(3);
        }
    };
    println!("listening on {port}");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || one(stream, answer));
        }
    });
}

fn one(mut stream: TcpStream, answer: fn(&Request) -> Response) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (first, headers) = head(&mut reader)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let Response { status, kind, body } = answer(&Request { method, path, body });
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn head(reader: &mut impl BufRead) -> io::Result<(String, BTreeMap<String, String>)> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok((first, headers));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

/// Posts JSON and gives the status, the headers and the body.
pub fn post(
    url: &str,
    session: Option<&str>,
    body: &str,
) -> Result<(u16, BTreeMap<String, String>, String), String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is spoken here")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let error = |e: io::Error| format!("{host}: {e}");
    let mut stream = TcpStream::connect(host).map_err(error)?;
    let session = session.map(|s| format!("Mcp-Session-Id: {s}\r\n")).unwrap_or_default();
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{session}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .map_err(error)?;
    let mut reader = BufReader::new(stream);
    let (first, headers) = head(&mut reader).map_err(error)?;
    let status = first.split_whitespace().nth(1).and_then(|s| s.parse().ok()).ok_or("no HTTP")?;
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(error)?;
    Ok((status, headers, text))
}
