//! `basalt console`: a VM's serial console, typed into as if it stood on the desk.

use super::{Session, bare};
use crate::{Failure, args::Console, client::chain, kinds::Kind, output::reader_left};
use bytes::Bytes;
use futures::stream::poll_fn;
use reqwest::Response;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{self, Read, Write};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;
/// Pieces of what was typed that wait on the way.
const PIECES: usize = 4;

impl Session {
    pub(super) async fn console(&self, console: &Console) -> Result<(), Failure> {
        let path = format!("{}/console", Kind::find("vm")?.object(&self.project, bare("vm", &console.vm)));
        if console.log {
            let response = self.client.stream(&path).await?;
            return print(response).await;
        }
        let (sender, mut typed) = mpsc::channel::<Bytes>(PIECES);
        // Held to the end: what is typed may end before what is shown does.
        let keep = sender.clone();
        let pieces = poll_fn(move |context| typed.poll_recv(context).map(|piece| piece.map(Ok)));
        let response = self.client.duplex(&path, pieces).await?;
        let raw = Raw::begin()?;
        if raw.is_some() {
            eprint!("{}: Ctrl-] leaves\r\n", bare("vm", &console.vm));
        }
        let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
        let left = read_keys(sender, raw.is_some());
        let ended = tokio::select! {
            ended = print(response) => ended,
            Ok(()) = left => Ok(()),
            () = reader_left() => Ok(()),
            _ = hangup.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        drop(keep);
        if raw.is_some() {
            eprint!("\r\nthe console is closed\r\n");
        }
        ended
    }
}

/// Writes what comes until it ends.
async fn print(mut response: Response) -> Result<(), Failure> {
    let mut out = io::stdout();
    let broken = |e| Failure::Unreachable(format!("the gateway ended the console: {}", chain(&e)));
    while let Some(piece) = response.chunk().await.map_err(broken)? {
        // Not the writer of the other verbs, which ends the process: the terminal must be put back first.
        match out.write_all(&piece).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

/// Reads keys on a thread of its own, which nobody has to wait for. The answer resolves when the user wants to leave.
fn read_keys(sender: mpsc::Sender<Bytes>, leaves: bool) -> tokio::sync::oneshot::Receiver<()> {
    let (leave, left) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let (mut keys, mut buffer) = (io::stdin(), [0; 4096]);
        while let Ok(length @ 1..) = keys.read(&mut buffer) {
            let (typed, last) = until_leave(&buffer[..length], leaves);
            if !typed.is_empty() && sender.blocking_send(Bytes::copy_from_slice(typed)).is_err() {
                return;
            }
            if last {
                // Whoever waited for it may be gone already.
                let _ = leave.send(());
                return;
            }
        }
    });
    left
}

/// What was typed before the key that leaves, and whether it was there.
fn until_leave(typed: &[u8], leaves: bool) -> (&[u8], bool) {
    match typed.iter().position(|key| leaves && *key == LEAVE) {
        Some(at) => (&typed[..at], true),
        None => (typed, false),
    }
}

/// The terminal with every key passed on as it is; dropped, it is as before.
struct Raw(Termios);

impl Raw {
    /// `None` when standard input is no terminal.
    fn begin() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_leaves_is_not_sent_and_a_pipe_knows_none() {
        assert_eq!(until_leave(b"ls\x1dmore", true), (&b"ls"[..], true));
        assert_eq!(until_leave(b"\x03\x04", true), (&b"\x03\x04"[..], false));
        assert_eq!(until_leave(b"ls\x1dmore", false), (&b"ls\x1dmore"[..], false));
    }
}
