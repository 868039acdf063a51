//! `watch`: prints changes as they happen, and goes on after a broken connection.

use super::Session;
use crate::{
    Failure,
    kinds::{Kind, escape},
    output::{Format, sayln},
};
use basalt_wire::rest::{WatchEvent, WatchKind};
use std::time::Duration;

impl Session {
    pub(super) async fn watch(&self, kinds: &[String]) -> Result<(), Failure> {
        let names: Vec<_> = kinds.iter().map(|k| Ok(Kind::find(k)?.name)).collect::<Result<_, Failure>>()?;
        let mut base = format!("/v1/watch?project={}", escape(&self.project));
        if !names.is_empty() {
            base = format!("{base}&kinds={}", escape(&names.join(",")));
        }
        let mut cursor = String::new();
        loop {
            let path = match cursor.is_empty() {
                true => base.clone(),
                false => format!("{base}&cursor={}", escape(&cursor)),
            };
            match self.client.stream(&path).await {
                Ok(response) => self.print_events(response, &mut cursor).await?,
                Err(Failure::Unreachable(_)) => {}
                Err(e) => return Err(e),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn print_events(
        &self,
        mut response: reqwest::Response,
        cursor: &mut String,
    ) -> Result<(), Failure> {
        let mut lines = Lines::default();
        // A broken connection ends the loop; the caller goes on from the cursor.
        while let Ok(Some(chunk)) = response.chunk().await {
            for data in lines.push(&chunk) {
                let event: WatchEvent = serde_json::from_str(&data)?;
                cursor.clone_from(&event.cursor);
                if event.event == WatchKind::Resync {
                    cursor.clear();
                }
                self.print_event(&event)?;
            }
        }
        Ok(())
    }

    fn print_event(&self, event: &WatchEvent) -> Result<(), Failure> {
        if matches!(self.output, Format::Json | Format::Yaml) {
            sayln!("{}", serde_json::to_string(event)?);
            return Ok(());
        }
        let word = serde_json::to_value(event.event)?;
        let at = |p| event.object.as_ref().and_then(|o| o.pointer(p)).and_then(|v| v.as_str());
        let id = event.id.map(|i| i.to_string()).unwrap_or_default();
        let name = at("/name").or(at("/subject/name")).unwrap_or(&id);
        let state = at("/phase").or(at("/state")).unwrap_or_default();
        if event.event != WatchKind::Bookmark {
            sayln!("{:<9} {}/{name} {state}", word.as_str().unwrap_or_default(), event.kind);
        }
        Ok(())
    }
}

/// Cuts a stream of server-sent events into the data of each.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(chunk);
        let mut found = Vec::new();
        while let Some(end) = self.0.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            if let Some(data) = String::from_utf8_lossy(&line).trim_end().strip_prefix("data:") {
                found.push(data.trim_start().to_owned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_chunks_break() {
        let stream = b"id: 1\ndata: {\"a\":1}\n\n: keep-alive\n\ndata:{\"b\":2}\n\n";
        for cut in 0..stream.len() {
            let mut lines = Lines::default();
            let mut found = lines.push(&stream[..cut]);
            found.extend(lines.push(&stream[cut..]));
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}"], "cut at {cut}");
        }
    }
}
