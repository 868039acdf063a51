//! Fetches a page from a guest, from inside a network namespace that can reach it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::enter_path;

/// Largest page that is read; the lab's guests answer with a few hundred bytes.
const LARGEST_PAGE_BYTES: usize = 1024 * 1024;

/// What a guest answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub body: String,
}

/// `GET http://<address>:80<path>` from inside the network namespace that `netns` (a file) stands for.
/// The whole exchange ends within `limit`.
pub fn get(netns: &Path, address: Ipv4Addr, path: &str, limit: Duration) -> Result<Page> {
    get_from(netns, SocketAddr::from((address, 80)), path, limit)
}

/// Like [`get`], for another port.
pub fn get_from(netns: &Path, address: SocketAddr, path: &str, limit: Duration) -> Result<Page> {
    let path = path.to_owned();
    enter_path(netns, move || fetch(address, &path, limit))
}

/// Like [`get`], from the namespace of the first network of a host that has the address. The agent makes one for each
/// network of guests.
pub fn get_on_host(init_pid: u32, address: Ipv4Addr, path: &str, limit: Duration) -> Result<Page> {
    let dir = PathBuf::from(format!("/proc/{init_pid}/root/run/netns"));
    let mut networks: Vec<PathBuf> = fs::read_dir(&dir)
        .context("the host has no network of guests yet")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("net-")))
        .collect();
    networks.sort();
    let network = networks.iter().find(|network| is_near(network, address));
    get(network.with_context(|| format!("{address} is in no network of the host"))?, address, path, limit)
}

/// Whether a network namespace has a device in the range of an address.
fn is_near(netns: &Path, address: Ipv4Addr) -> bool {
    let routes = enter_path(netns, || Ok(fs::read_to_string("/proc/thread-self/net/route")?));
    routes.is_ok_and(|table| table.lines().skip(1).any(|line| leads_to(line, address)))
}

/// Whether a line of the kernel's routes is of a network with this address. Its numbers are as in memory.
fn leads_to(line: &str, address: Ipv4Addr) -> bool {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, destination, gateway, _, _, _, _, mask, ..] = fields[..] else { return false };
    let (Some(destination), Some(0), Some(mask)) = (number(destination), number(gateway), number(mask))
    else {
        return false;
    };
    mask != 0 && u32::from(address) & mask == destination
}

fn fetch(address: SocketAddr, path: &str, limit: Duration) -> Result<Page> {
    let end = Instant::now() + limit;
    let left = || end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero());
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("{address} does not accept"))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 8192];
    loop {
        let Some(wait) = left() else { bail!("{address} did not answer whole within {limit:?}") };
        stream.set_read_timeout(Some(wait))?;
        let count = stream.read(&mut chunk).with_context(|| format!("reading from {address}"))?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..count]);
        if bytes.len() > LARGEST_PAGE_BYTES {
            bail!("{address} answered with more than {LARGEST_PAGE_BYTES} bytes");
        }
    }
    parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("{address} gave no HTTP answer"))
}

fn parse(text: &str) -> Option<Page> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/")?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Page { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_route_leads_to_the_addresses_of_its_network() {
        let line = "dhcp7\t0014140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert!(leads_to(line, Ipv4Addr::new(10, 20, 20, 7)));
        assert!(!leads_to(line, Ipv4Addr::new(10, 20, 21, 7)));
        assert!(!leads_to(
            "dhcp7\t00000000\t0114140A\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            Ipv4Addr::LOCALHOST
        ));
    }

    #[test]
    fn a_page_is_split_into_status_and_body() {
        let page = parse("HTTP/1.1 200 OK\r\nContent-type: text/html\r\n\r\nhello from m1\n").unwrap();
        assert_eq!(page, Page { status: 200, body: "hello from m1\n".to_owned() });
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn a_silent_server_does_not_hold_the_caller() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let started = Instant::now();
        assert!(fetch(address, "/", Duration::from_millis(200)).is_err());
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
