//! `watch`: prints changes as they happen, and goes on after a broken connection.

use super::Session;
use crate::{
    Failure,
    kinds::{Kind, escape},
    output::{Format, note, reader_left, say, sayln, yaml},
};
use basalt_wire::rest::{WatchEvent, WatchKind};
use serde_json::Value;
use std::time::Duration;

impl Session {
    /// Prints until it is interrupted or nobody reads any more.
    pub(super) async fn watch(&self, kinds: &[String]) -> Result<(), Failure> {
        // The gateway spells kinds as JSON does.
        let name = |k: &String| Ok(Kind::find(k)?.name.replace('-', "_"));
        let names: Vec<_> = kinds.iter().map(name).collect::<Result<_, Failure>>()?;
        let mut base = format!("/v1/watch?project={}", escape(&self.project));
        if !names.is_empty() {
            base = format!("{base}&kinds={}", escape(&names.join(",")));
        }
        tokio::select! {
            ended = self.follow_events(&base) => ended,
            () = reader_left() => Ok(()),
        }
    }

    async fn follow_events(&self, base: &str) -> Result<(), Failure> {
        let (mut cursor, mut begun, mut away) = (String::new(), false, false);
        loop {
            let path = match cursor.is_empty() {
                true => base.to_owned(),
                false => format!("{base}&cursor={}", escape(&cursor)),
            };
            match self.client.stream(&path).await {
                Ok(response) => {
                    (begun, away) = (true, false);
                    self.print_events(response, &mut cursor).await?;
                }
                // What was once there is waited for.
                Err(e) if begun && e.may_pass() => {
                    if !std::mem::replace(&mut away, true) {
                        note!("the gateway does not answer; the watch goes on when it does");
                    }
                }
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
        match self.output {
            // One line an event, for programs that read lines.
            Format::Json => {
                sayln!("{}", serde_json::to_string(event)?);
                return Ok(());
            }
            Format::Yaml => {
                say!("---\n{}", yaml(&serde_json::to_value(event)?)?);
                return Ok(());
            }
            Format::Name | Format::Table if event.event == WatchKind::Bookmark => return Ok(()),
            Format::Name | Format::Table => {}
        }
        let word = serde_json::to_value(event.event)?;
        let word = word.as_str().unwrap_or_default();
        let at = |p| event.object.as_ref().and_then(|o| o.pointer(p)).and_then(Value::as_str);
        let id = event.id.map(|i| i.to_string()).unwrap_or_default();
        let name = at("/name").unwrap_or(&id);
        let kind = event.kind.replace('_', "-");
        match (self.output, event.event) {
            (Format::Name, WatchKind::Resync) => {}
            (Format::Name, _) => sayln!("{kind}/{name}"),
            (_, WatchKind::Resync) => sayln!("{word}"),
            (_, WatchKind::Delete) => sayln!("{word:<9} {kind}/{name}"),
            _ => sayln!("{word:<9} {kind}/{name} {}", described(event)),
        }
        Ok(())
    }
}

/// What an event says of its object: its state, for a task also of what and how far, for a deployment also why.
fn described(event: &WatchEvent) -> String {
    let at = |p| event.object.as_ref().and_then(|o| o.pointer(p)).and_then(Value::as_str);
    let state = at("/phase").or(at("/state")).unwrap_or_default();
    match (at("/subject/kind"), at("/subject/name"), event.object.as_ref().and_then(|o| o.get("progress"))) {
        (Some(kind), Some(name), Some(progress)) => {
            let what = at("/kind").unwrap_or_default();
            format!("{state} {progress} % {what} {kind}/{name} {}", at("/stage").unwrap_or_default())
        }
        _ => match at("/message") {
            Some(message) => format!("{state}: {message}"),
            None => state.to_owned(),
        },
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
