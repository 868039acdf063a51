//! Serial consoles: what is kept of what a guest wrote, and its port, which any number of readers share.
//!
//! A port is a device that gives each byte to one reader only. So one task owns it while anybody is there: what the
//! guest writes goes to all, what is typed comes from all. The task ends with the last one, or with the guest.

use basalt_model::VmId;
use basalt_wire::agent::console::{PIECE_BYTES, PIECES};
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
};

/// Longest piece of what a guest writes, in bytes; a serial line is slow.
const SHARED_BYTES: usize = 256;
/// Pieces that a reader may lag behind; with the longest of them 64 KiB.
const LAG: usize = 256;
/// Told to a reader that lagged further.
const LOST: &[u8] = b"\r\n[basalt: output was lost here]\r\n";

/// A VM's console.
pub struct Console {
    /// The end of what is kept, at most [`basalt_wire::agent::console::LOG_BYTES`].
    pub log: Bytes,
    /// The port, when it was asked for.
    pub port: Option<Port>,
}

/// One reader's part in a serial port.
pub struct Port {
    /// What the guest writes.
    pub output: Output,
    /// What is typed. Dropped with the last one, the port is closed.
    pub input: mpsc::Sender<Bytes>,
}

/// What the guest writes, from now on.
pub struct Output(broadcast::Receiver<Bytes>);

impl Output {
    /// The next piece; `None` when the port ended.
    pub async fn read(&mut self) -> Option<Bytes> {
        match self.0.recv().await {
            Ok(first) => Some(self.join(first)),
            Err(RecvError::Lagged(_)) => Some(Bytes::from_static(LOST)),
            Err(RecvError::Closed) => None,
        }
    }

    /// A piece and what came since, up to what is handed on at once.
    fn join(&mut self, first: Bytes) -> Bytes {
        let mut all = Vec::from(first);
        while all.len() + SHARED_BYTES <= PIECE_BYTES {
            let Ok(next) = self.0.try_recv() else { break };
            all.extend_from_slice(&next);
        }
        all.into()
    }

    /// Passes over what the log, read a moment ago, holds already. Answers what it does not hold.
    pub fn since(&mut self, log: &[u8]) -> Bytes {
        let mut came = Vec::new();
        while let Ok(next) = self.0.try_recv() {
            came.extend_from_slice(&next);
        }
        let known = (0..=came.len()).rev().find(|n| log.ends_with(&came[..*n])).unwrap_or(0);
        Bytes::from(came.split_off(known))
    }
}

/// The ports that are open, by VM.
#[derive(Default)]
pub struct Ports(Mutex<HashMap<VmId, Shared>>);

struct Shared {
    output: broadcast::WeakSender<Bytes>,
    input: mpsc::WeakSender<Bytes>,
}

impl Shared {
    fn join(&self) -> Option<Port> {
        let (output, input) = (self.output.upgrade()?, self.input.upgrade()?);
        Some(Port { output: Output(output.subscribe()), input })
    }
}

impl Ports {
    /// Joins a VM's port, or opens it when nobody has it.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn join<R, W, E>(&self, vm_id: VmId, open: impl FnOnce() -> Result<(R, W), E>) -> Result<Port, E>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|_, shared| shared.input.strong_count() > 0);
        if let Some(port) = ports.get(&vm_id).and_then(Shared::join) {
            return Ok(port);
        }
        let (reader, writer) = open()?;
        let (output, listening) = broadcast::channel(LAG);
        let (input, typed) = mpsc::channel(PIECES);
        ports.insert(vm_id, Shared { output: output.downgrade(), input: input.downgrade() });
        tokio::spawn(own(reader, writer, output, typed));
        Ok(Port { output: Output(listening), input })
    }
}

/// Owns a port until its device ends or nobody is left who could type.
async fn own(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    output: broadcast::Sender<Bytes>,
    mut typed: mpsc::Receiver<Bytes>,
) {
    let read = async {
        let mut buffer = [0; SHARED_BYTES];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            // Nobody listens between the last reader and the end: then it is in the log only.
            let _ = output.send(Bytes::copy_from_slice(&buffer[..length]));
        }
    };
    let write = async {
        while let Some(piece) = typed.recv().await {
            if writer.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::io::{DuplexStream, duplex, split};
    use uuid::Uuid;

    const VM: VmId = VmId(Uuid::from_u128(1));

    fn open(ports: &Ports) -> (Port, DuplexStream) {
        let (guest, device) = duplex(1024);
        (ports.join(VM, || Ok::<_, Infallible>(split(device))).unwrap(), guest)
    }

    fn join(ports: &Ports) -> Port {
        let never = || -> Result<(tokio::io::Empty, tokio::io::Sink), &str> { Err("opened twice") };
        ports.join(VM, never).unwrap()
    }

    #[tokio::test]
    async fn all_readers_get_every_byte_and_the_port_ends_with_its_device() {
        let ports = Ports::default();
        let (mut a, mut guest) = open(&ports);
        let mut b = join(&ports);
        guest.write_all(b"login: ").await.unwrap();
        assert_eq!(a.output.read().await.unwrap(), &b"login: "[..]);
        assert_eq!(b.output.read().await.unwrap(), &b"login: "[..]);
        a.input.send(Bytes::from_static(b"ro")).await.unwrap();
        b.input.send(Bytes::from_static(b"ot")).await.unwrap();
        let mut typed = [0; 4];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root");
        drop(guest);
        assert_eq!((a.output.read().await, b.output.read().await), (None, None));
    }

    #[tokio::test]
    async fn the_last_reader_closes_the_port_and_the_next_opens_it_anew() {
        let ports = Ports::default();
        let (a, mut guest) = open(&ports);
        drop((join(&ports), a));
        assert_eq!(guest.read(&mut [0; 1]).await.unwrap(), 0, "the device is closed");
        let (mut b, mut guest) = open(&ports);
        guest.write_all(b"x").await.unwrap();
        assert_eq!(b.output.read().await.unwrap(), &b"x"[..]);
    }

    #[tokio::test]
    async fn a_reader_that_lags_is_told_and_what_it_holds_is_bounded() {
        let ports = Ports::default();
        let (mut port, mut guest) = open(&ports);
        for _ in 0..LAG + 50 {
            guest.write_all(&[b'x'; SHARED_BYTES]).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(guest);
        let mut all = Vec::new();
        while let Some(piece) = port.output.read().await {
            all.extend_from_slice(&piece);
        }
        assert!(all.starts_with(LOST) && all.len() <= LOST.len() + LAG * SHARED_BYTES, "{}", all.len());
    }

    #[test]
    fn what_the_log_holds_already_is_not_told_twice() {
        let (sender, receiver) = broadcast::channel(8);
        let mut output = Output(receiver);
        for piece in ["boot", "ed\nlog", "in: "] {
            sender.send(Bytes::from(piece)).unwrap();
        }
        assert_eq!(output.since(b"kernel\nbooted\n"), &b"login: "[..]);
        assert!(output.since(b"kernel\nbooted\n").is_empty());
    }
}
