//! The consoles' part of the link. Each console has a connection of its own, so that one whose user does not read
//! never holds up the manifest, a report, or another console; and its windows are small, so that little waits on the way.

use super::{CALL_LIMIT, Link, POLL_LIMIT, answer, body, chain, configured};
use crate::{Error, consoles::Typed};
use basalt_model::CapabilityReason;
use basalt_wire::agent::{
    console::{LOG_BYTES, Refusal, Tickets},
    counters::Reply,
};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Body, header};
use tokio::sync::mpsc;
use uuid::Uuid;

impl Link {
    pub(super) async fn take_tickets(&self) -> Result<Tickets, Error> {
        let what = "asking for consoles to open";
        let call = self.current().0.get(format!("{}/agent/v1/consoles", self.url)).timeout(POLL_LIMIT);
        body(what, answer(what, call.send().await).await?).await
    }

    pub(super) async fn redeem(
        &self,
        ticket: &str,
        mut output: mpsc::Receiver<Bytes>,
    ) -> Result<Typed, Error> {
        let what = "opening a console";
        let (_, identity) = self.current();
        let window = u32::try_from(LOG_BYTES).ok();
        let client = configured(&[&self.ca_pem, &identity.ca_pem], Some((&identity, self.boot)))?
            .http2_initial_stream_window_size(window)
            .http2_initial_connection_window_size(window)
            .build()
            .map_err(|e| Error::Identity(chain(&e)))?;
        let pieces =
            futures::stream::poll_fn(move |context| output.poll_recv(context).map(|p| p.map(Ok::<_, Error>)));
        let call = client
            .post(format!("{}/agent/v1/consoles/{ticket}", self.url))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Body::wrap_stream(pieces));
        // Only the beginning of the answer is bounded in time.
        let sent = tokio::time::timeout(CALL_LIMIT, call.send()).await;
        let sent = sent.map_err(|_| Error::link(what, "no answer in time"))?;
        let typed = answer(what, sent).await?.bytes_stream();
        Ok(typed.map(move |piece| piece.map_err(|e| Error::link(what, chain(&e)))).boxed())
    }

    pub(super) async fn refuse(&self, ticket: &str, reason: CapabilityReason) -> Result<(), Error> {
        let what = "refusing a console";
        let url = format!("{}/agent/v1/consoles/{ticket}/refuse", self.url);
        let call = self.current().0.post(url).timeout(CALL_LIMIT).json(&Refusal { reason });
        answer(what, call.send().await).await.map(drop)
    }

    pub(super) async fn reply(&self, question: Uuid, reply: &Reply) -> Result<(), Error> {
        let what = "answering a question";
        let url = format!("{}/agent/v1/questions/{question}", self.url);
        let call = self.current().0.post(url).timeout(CALL_LIMIT).json(reply);
        answer(what, call.send().await).await.map(drop)
    }
}
