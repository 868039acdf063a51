//! That something changed, as it happens: the watch of the project's VMs, for as long as the provider stays.
//!
//! ```text
//! open ─► what there was ─► bookmark ─► changes …
//!   ▲                          └ after a break: anything may have changed
//!   └── pause, longer each time ◄── broke off, silent, refused
//! ```

use super::{Basalt, calls::Calls};
use crate::{Change, labels};
use basalt_model::DeploymentId;
use futures::{StreamExt, stream, stream::BoxStream};
use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::VecDeque, time::Duration};

/// First pause after a watch that broke off; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The gateway there says something each ten seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest event: a VM with all of its user-data.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    object: Option<Value>,
}

struct Watch {
    calls: Calls,
    open: Option<Response>,
    /// What came and is no whole line yet.
    text: Vec<u8>,
    told: VecDeque<Change>,
    pause: Duration,
    /// Whether it broke off and anything may have changed since.
    broke: bool,
}

impl Basalt {
    pub(super) fn watch_for_changes(&self) -> BoxStream<'static, Change> {
        let watch = Watch {
            calls: self.calls.clone(),
            open: None,
            text: Vec::new(),
            told: VecDeque::new(),
            pause: PAUSE,
            broke: false,
        };
        stream::unfold(watch, |mut watch| async move {
            let change = watch.next().await;
            Some((change, watch))
        })
        .boxed()
    }
}

impl Watch {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.told.pop_front() {
                return change;
            }
            let Some(response) = &mut self.open else {
                self.begin().await;
                continue;
            };
            match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(piece))) if self.text.len() + piece.len() <= MAX_EVENT_BYTES => {
                    self.text.extend_from_slice(&piece);
                    self.take();
                }
                _ => {
                    self.open = None;
                    self.broke = true;
                }
            }
        }
    }

    async fn begin(&mut self) {
        if self.broke {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.text.clear();
        match self.calls.watch().await {
            Ok(response) => self.open = Some(response),
            Err(error) => {
                tracing::debug!(%error, "a watch of VMs cannot be opened; it is tried again");
                self.broke = true;
            }
        }
    }

    /// Reads the whole lines of what came.
    fn take(&mut self) {
        let Some(end) = self.text.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.text.split_off(end + 1);
        let lines = std::mem::replace(&mut self.text, rest);
        let events = lines.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
        for event in events.filter_map(|line| serde_json::from_slice::<Event>(line).ok()) {
            self.told.extend(change(&event, &mut self.broke));
            if event.event == "bookmark" {
                self.pause = PAUSE;
            }
        }
        // One look answers all that came at once.
        self.told.truncate(1);
    }
}

/// What an event means here: only VMs that carry an owner are worth a look at once, and those that are gone.
fn change(event: &Event, broke: &mut bool) -> Option<Change> {
    let owner = || {
        let id = event.object.as_ref()?.get("labels")?.get(labels::DEPLOYMENT)?.as_str()?;
        uuid::Uuid::try_parse(id).ok().map(DeploymentId)
    };
    match event.event.as_str() {
        "upsert" => owner().map(|owner| Change { owner: Some(owner) }),
        "delete" | "resync" => Some(Change { owner: None }),
        "bookmark" => std::mem::take(broke).then_some(Change { owner: None }),
        _ => None,
    }
}
