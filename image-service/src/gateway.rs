//! Delivers events to the gateway over mutual TLS.

use crate::{
    Error,
    spool::{Answer, Gateway},
};
use basalt_wire::image::ImageEvent;
use reqwest::{Certificate, Client, Identity, StatusCode};
use std::{fs, path::Path, time::Duration};

/// The gateway's agents' door.
pub struct HttpsGateway {
    client: Client,
    url: String,
}

impl HttpsGateway {
    /// A client with our certificate, trusting our authority alone.
    pub fn new(url: &str, tls_dir: &Path) -> Result<Self, Error> {
        let read = |name: &str| fs::read_to_string(tls_dir.join(name));
        let wrong = |e: reqwest::Error| Error::Config(format!("{}: {e}", tls_dir.display()));
        let identity =
            Identity::from_pem((read("cert.pem")? + &read("key.pem")?).as_bytes()).map_err(wrong)?;
        let ca = Certificate::from_pem(read("ca.pem")?.as_bytes()).map_err(wrong)?;
        let client = Client::builder()
            .tls_certs_only([ca])
            .identity(identity)
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30))
            .build()
            .map_err(wrong)?;
        Ok(Self { client, url: format!("{}/image/v1/events", url.trim_end_matches('/')) })
    }
}

impl Gateway for HttpsGateway {
    async fn deliver(&self, event: &ImageEvent) -> Answer {
        let response = match self.client.post(&self.url).json(event).send().await {
            Ok(response) => response,
            Err(e) => return Answer::Later(e.to_string()),
        };
        match response.status() {
            s if s.is_success() => Answer::Taken,
            // The image is gone or the event makes no sense: trying again cannot help.
            s @ (StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNPROCESSABLE_ENTITY) => {
                Answer::Refused(format!("{s}: {}", response.text().await.unwrap_or_default()))
            }
            s => Answer::Later(s.to_string()),
        }
    }
}
