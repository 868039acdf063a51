//! A volume's file on its way between hosts, while nobody has it open.
//!
//! After the hello, pieces: where in the file (8 bytes, big endian), how long (4 bytes), and that many bytes. What is between
//! them is a hole. A piece of no length, at the file's end, is the last; the target answers with a line when all of it is
//! durable under the volume's name, and until then that name is another file's or nobody's.

use super::{Answer, PIECE_BYTES, instant, read_line, write_line};
use crate::host::storage::files;
use rustix::fs::{SeekFrom, seek};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::spawn_blocking,
    time::{sleep_until, timeout},
};

/// Longest that one piece may take: a link that carries nothing is noticed as soon as one of a running guest is.
const PIECE_LIMIT: Duration = Duration::from_secs(15);
/// Longest that the target may take to make all of it durable.
const DURABLE_LIMIT: Duration = Duration::from_secs(300);

/// The bytes of a file that are no holes.
pub fn length(path: &Path) -> io::Result<u64> {
    let (file, mut at, mut sum) = (File::open(path)?, 0, 0);
    while let Some((from, to)) = extent(&file, at)? {
        (sum, at) = (sum + (to - from), to);
    }
    Ok(sum)
}

/// The next bytes at or after an offset that are no hole.
fn extent(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(from) => Ok(Some((from, seek(file, SeekFrom::Hole(from))?))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn piece(file: &File, at: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let Some((from, to)) = extent(file, at)? else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX).min(PIECE_BYTES)];
    file.read_exact_at(&mut bytes, from)?;
    Ok(Some((from, bytes)))
}

async fn in_time<T>(what: &str, done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(PIECE_LIMIT, done).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::other(format!("{what} for {} s", PIECE_LIMIT.as_secs()))),
    }
}

/// Sends a file. `sent` hears of the bytes of each piece.
pub(super) async fn send(
    path: &Path,
    remote: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes_per_second: Option<u64>,
    mut sent: impl FnMut(u64),
) -> io::Result<()> {
    let file = Arc::new(File::open(path)?);
    let (begun, mut at, mut all) = (instant(), 0, 0_u64);
    loop {
        let here = Arc::clone(&file);
        let Some((from, bytes)) =
            spawn_blocking(move || piece(&here, at)).await.map_err(io::Error::other)??
        else {
            break;
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        in_time("the link carried nothing", async {
            remote.write_u64(from).await?;
            remote.write_u32(length).await?;
            remote.write_all(&bytes).await
        })
        .await?;
        at = from + u64::from(length);
        all += u64::from(length);
        sent(u64::from(length));
        if let Some(rate) = bytes_per_second.filter(|rate| *rate > 0) {
            sleep_until(begun + Duration::from_secs_f64(all as f64 / rate as f64)).await;
        }
    }
    in_time("the link carried nothing", async {
        remote.write_u64(file.metadata()?.len()).await?;
        remote.write_u32(0).await?;
        remote.flush().await
    })
    .await?;
    match timeout(DURABLE_LIMIT, read_line::<Answer>(remote)).await {
        Ok(Ok(Answer { ok: true, .. })) => Ok(()),
        Ok(Ok(Answer { why, .. })) => Err(io::Error::other(why)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the target did not say that it kept it")),
    }
}

/// Takes a file in, and gives it its name when all of it is there.
pub(super) async fn receive(
    path: &Path,
    remote: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let half = files::half_made(path);
    let failed = |error: crate::Error| io::Error::other(error.to_string());
    files::remove(&half).map_err(failed)?;
    let file = Arc::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?);
    loop {
        let (at, bytes) = in_time("nothing came", async {
            let at = remote.read_u64().await?;
            let length = remote.read_u32().await? as usize;
            if length > PIECE_BYTES {
                return Err(io::Error::other("a piece is too long"));
            }
            let mut bytes = vec![0; length];
            remote.read_exact(&mut bytes).await?;
            Ok((at, bytes))
        })
        .await?;
        let (here, last) = (Arc::clone(&file), bytes.is_empty());
        let put = move || if last { here.set_len(at) } else { here.write_all_at(&bytes, at) };
        spawn_blocking(put).await.map_err(io::Error::other)??;
        if last {
            break;
        }
    }
    let path = path.to_owned();
    spawn_blocking(move || files::publish(&half, &path)).await.map_err(io::Error::other)?.map_err(failed)?;
    write_line(remote, &Answer { ok: true, ..Answer::default() }).await
}
