//! The serial console of a guest: its pseudo-terminal, and the end of its log.

use super::{Parts, serial};
use crate::{
    Error,
    host::console::{Console, Port},
};
use basalt_model::{CapabilityReason, VmId};
use basalt_wire::agent::console::{LOG_BYTES, Mode};
use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};
use tokio::net::unix::pipe::{Receiver, Sender};

impl Parts {
    pub(super) async fn console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        // The port first: what the guest writes while the log is read is then in one of the two.
        let mut port = match mode {
            Mode::Log => None,
            Mode::Attach => Some(self.port(id).await?),
        };
        let path = self.serial_log(id);
        let mut log = serial::tail(&path, LOG_BYTES as u64).map_err(|e| Error::state(path, e))?;
        if let Some(port) = &mut port {
            log.extend_from_slice(&port.output.since(&log));
            let over = log.len().saturating_sub(LOG_BYTES);
            log.drain(..over);
        }
        Ok(Console { log: log.into(), port })
    }

    async fn port(&self, id: VmId) -> Result<Port, Error> {
        // Only a domain with our marks is ours, whatever its UUID says.
        let domain =
            self.libvirt.domain(id).await?.filter(|d| d.live.as_ref().is_some_and(|m| m.vm_id == id));
        let Some(device) = domain.and_then(|d| d.serial) else {
            let vm = format!("vm/{id}");
            return Err(Error::refused(CapabilityReason::new(
                "not_running",
                vm,
                "the VM does not run on its host, so nobody can type",
                "start it; its log can be read all the same",
            )));
        };
        let opened = self.ports.join(id, || open(Path::new(&device)));
        opened.map_err(|e| Error::host(format!("opening {device}"), e))
    }
}

/// Opens a terminal for both directions, without echo or line editing of its own.
fn open(device: &Path) -> io::Result<(Receiver, Sender)> {
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)?;
    let mut settings = rustix::termios::tcgetattr(&terminal)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &settings)?;
    // Any descriptor that can be waited for will do; these two only read and write it.
    Ok((Receiver::from_file_unchecked(terminal.try_clone()?)?, Sender::from_file_unchecked(terminal)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::console::Ports;
    use bytes::Bytes;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::{
        fs::File,
        io::{Read, Write},
    };
    use uuid::Uuid;

    #[tokio::test]
    async fn a_terminal_carries_both_directions_as_they_are_and_ends_with_its_other_side() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let mut master = File::from(master);
        let ports = Ports::default();
        let device = name.to_str().unwrap().to_owned();
        let mut port = ports.join(VmId(Uuid::from_u128(1)), || open(Path::new(&device))).unwrap();
        master.write_all(b"a\r\nb\n\x03").unwrap();
        let mut read = Vec::new();
        while read.len() < 6 {
            read.extend_from_slice(&port.output.read().await.unwrap());
        }
        assert_eq!(read, b"a\r\nb\n\x03");
        port.input.send(Bytes::from_static(b"ls\r\x03")).await.unwrap();
        let typed = tokio::task::spawn_blocking(move || {
            let mut typed = [0; 4];
            master.read_exact(&mut typed).map(|()| (typed, master))
        });
        let (typed, master) = typed.await.unwrap().unwrap();
        assert_eq!(&typed, b"ls\r\x03");
        drop(master);
        assert_eq!(port.output.read().await, None);
    }
}
