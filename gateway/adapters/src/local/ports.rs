//! Ports of the machine: a free one for a workload, and who has the one that was asked for.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::ffi::OsStrExt,
};

/// Where free ports are taken from: below the range from which Linux takes those of outgoing connections (32768 and
/// up), so that a workload's port is not lost to one of those while the workload is made anew.
const FREE: std::ops::Range<u16> = 20_000..30_000;

/// Whether nobody listens there.
pub(super) async fn is_free(address: IpAddr, port: u16) -> io::Result<bool> {
    blocking(move || match TcpListener::bind(SocketAddr::new(address, port)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    })
    .await
}

/// A port at which nobody listens, and that is none of those. The search begins where the seed says, so that the same
/// workload gets the same port where it can.
pub(super) async fn find(address: IpAddr, seed: u128, taken: &[u16]) -> io::Result<Option<u16>> {
    let taken = taken.to_vec();
    blocking(move || {
        let first = (seed % FREE.len() as u128) as u16;
        for i in 0..FREE.len() as u16 {
            let port = FREE.start + (first + i) % FREE.len() as u16;
            if taken.contains(&port) {
                continue;
            }
            match TcpListener::bind(SocketAddr::new(address, port)) {
                Ok(_) => return Ok(Some(port)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    })
    .await
}

/// The process that listens at a port, as far as this process may see: `nginx (process 812)`.
pub(super) async fn holder(port: u16) -> Option<String> {
    blocking(move || {
        // The tables are no snapshots: while sockets come and go, a reading may pass over one.
        let inodes = (0..3).map(|_| listening_at(port)).find(|inodes| !inodes.is_empty()).unwrap_or_default();
        let process = fs::read_dir("/proc").ok().and_then(|all| {
            all.flatten().filter(|p| p.file_name().as_bytes().iter().all(u8::is_ascii_digit)).find(
                |process| {
                    let open = fs::read_dir(process.path().join("fd"));
                    open.is_ok_and(|open| {
                        open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| {
                            inodes.iter().any(|inode| {
                                target.as_os_str().as_bytes() == format!("socket:[{inode}]").as_bytes()
                            })
                        })
                    })
                },
            )
        });
        Ok(process.map(|process| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} (process {})", name.trim(), process.file_name().to_string_lossy())
        }))
    })
    .await
    .ok()
    .flatten()
}

fn listening_at(port: u16) -> Vec<String> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok());
    tables.flat_map(|table| listening(&table, port)).collect()
}

/// The inodes of the sockets that listen at a port, from a table of `/proc/net`.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (_, at) = columns.get(1)?.rsplit_once(':')?;
            let here = u16::from_str_radix(at, 16).ok()? == port && *columns.get(3)? == LISTEN;
            here.then(|| columns.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_passed_over_and_its_holder_named() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let first = find(loopback, 7, &[]).await.unwrap().unwrap();
        assert_ne!(find(loopback, 7, &[first]).await.unwrap(), Some(first));
        let held = TcpListener::bind((loopback, first)).unwrap();
        assert!(!is_free(loopback, first).await.unwrap());
        assert_ne!(find(loopback, 7, &[]).await.unwrap(), Some(first));
        let holder = holder(first).await.unwrap();
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
        drop(held);
        assert!(is_free(loopback, first).await.unwrap());
    }
}
