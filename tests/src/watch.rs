//! A client of `/v1/watch`: reads server-sent events one by one.

use crate::api::Api;
use anyhow::{Context, Result, bail, ensure};
use basalt_model::tasks::TaskState;
use basalt_wire::rest::WatchEvent;
use futures::StreamExt;
use serde_json::Value;
use std::{collections::VecDeque, pin::Pin, time::Duration};
use uuid::Uuid;

/// How long to wait for one event.
const PATIENCE: Duration = Duration::from_secs(15);

type Bytes = Pin<Box<dyn futures::Stream<Item = reqwest::Result<Vec<u8>>> + Send>>;

/// One object: its kind and its id.
pub type Of = (String, Uuid);

/// Whether an object may be told so after it was told otherwise: its generation never goes back, nor does a task, and that ends
/// once. What is observed of it may go back: another host has seen less of it.
pub fn goes_on(of: &Of, before: &Value, object: &Value) -> Result<()> {
    let generation = |o: &Value| o["generation"].as_i64();
    ensure!(generation(object) >= generation(before), "{of:?} went back from {before} to {object}");
    if of.0 == "task" {
        let age = |o: &Value| -> Result<(bool, bool, i64)> {
            let state: TaskState = serde_json::from_value(o["state"].clone())?;
            let progress = o["progress"].as_i64().context("a task has progress")?;
            Ok((state.is_terminal(), state != TaskState::Pending, progress))
        };
        let (was, is) = (age(before)?, age(object)?);
        ensure!(is >= was, "{of:?} went back from {before} to {object}");
        ensure!(!was.0 || object["state"] == before["state"], "{of:?} ended twice: {before}, {object}");
    }
    Ok(())
}

/// An open watch.
pub struct Watch {
    bytes: Bytes,
    text: String,
    ready: VecDeque<WatchEvent>,
}

impl Watch {
    /// Opens a watch with these query parameters: `kinds=vm,task&cursor=…`.
    pub async fn open(api: &Api, query: &str) -> Result<Self> {
        let response = api.request(reqwest::Method::GET, &format!("/v1/watch?{query}")).send().await?;
        if !response.status().is_success() {
            bail!("{}: {}", response.status(), response.text().await?);
        }
        let bytes = response.bytes_stream().map(|chunk| chunk.map(|c| c.to_vec()));
        Ok(Self { bytes: Box::pin(bytes), text: String::new(), ready: VecDeque::new() })
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.bytes.next()).await.context("the watch is silent")?;
            self.text.push_str(&String::from_utf8(chunk.context("the watch ended")??)?);
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let data: Vec<_> =
                    block.lines().filter_map(|l| l.strip_prefix("data:")).map(str::trim_start).collect();
                if !data.is_empty() {
                    self.ready.push_back(serde_json::from_str(&data.join("\n"))?);
                }
            }
        }
    }

    /// Reads until an event satisfies `wanted`; gives everything that was read, that one last.
    pub async fn until(&mut self, mut wanted: impl FnMut(&WatchEvent) -> bool) -> Result<Vec<WatchEvent>> {
        let mut read = Vec::new();
        loop {
            let event = self.next().await?;
            let found = wanted(&event);
            read.push(event);
            if found {
                return Ok(read);
            }
        }
    }
}
