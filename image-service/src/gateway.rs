//! The gateway over mutual TLS: events go there, work comes from there.

use crate::{
    Error,
    imports::Works,
    spool::{Answer, Gateway},
};
use basalt_model::TaskId;
use basalt_wire::image::{ImageEvent, WorkAnswer, WorkRenewal, WorkRequest};
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
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(wrong)?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned() })
    }
}

impl Gateway for HttpsGateway {
    async fn deliver(&self, event: &ImageEvent) -> Answer {
        let response =
            match self.client.post(format!("{}/image/v1/events", self.url)).json(event).send().await {
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

impl Works for HttpsGateway {
    async fn claim(&self, request: &WorkRequest) -> Result<WorkAnswer, String> {
        let asked = self.client.post(format!("{}/image/v1/work", self.url)).json(request).send().await;
        let answer = asked.and_then(reqwest::Response::error_for_status).map_err(|e| e.to_string())?;
        answer.json().await.map_err(|e| e.to_string())
    }

    async fn renew(&self, task: TaskId, renewal: &WorkRenewal) -> Result<bool, String> {
        let url = format!("{}/image/v1/work/{task}", self.url);
        let answer = self.client.post(url).json(renewal).send().await.map_err(|e| e.to_string())?;
        match answer.status() {
            s if s.is_success() => Ok(true),
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => Ok(false),
            s => Err(s.to_string()),
        }
    }
}
