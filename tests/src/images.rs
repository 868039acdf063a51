//! The image service of a test house, in this process: real uploads over TLS, real events to the gateway.

use crate::gateway::Place;
use anyhow::Result;
use basalt_daemon::{Drain, SystemClock};
use basalt_image_service::{Options, config::read_keys, gateway::HttpsGateway};
use std::{fs, net::TcpListener, sync::Arc};
use tempfile::TempDir;

/// An image service that runs.
pub struct Images {
    drain: Drain,
    _dir: TempDir,
}

impl Images {
    /// Where it will listen, told to the gateway by its configuration.
    pub fn door(place: &mut Place) -> Result<TcpListener> {
        let door = TcpListener::bind("127.0.0.1:0")?;
        place.images = door.local_addr()?;
        Ok(door)
    }

    /// Serves at that door, and tells that gateway what became of uploads.
    pub fn open(place: &Place, door: TcpListener, gateway: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let tls = dir.path().join("tls");
        fs::create_dir_all(&tls)?;
        place.write_identity(&tls)?;
        door.set_nonblocking(true)?;
        let options = Options {
            clock: Arc::new(SystemClock),
            keys: read_keys(&place.token_keys()).map_err(|why| anyhow::anyhow!(why))?,
            dir: dir.path().join("state"),
            sockets: vec![door],
            identity: (fs::read_to_string(tls.join("cert.pem"))?, fs::read_to_string(tls.join("key.pem"))?),
            gateway: HttpsGateway::new(gateway, &tls)?,
        };
        let drain = Drain::new();
        let until = drain.clone();
        tokio::spawn(async move {
            if let Err(e) = options.run(until).await {
                tracing::error!(error = %e, "the image service ended");
            }
        });
        Ok(Self { drain, _dir: dir })
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.drain.begin();
    }
}
