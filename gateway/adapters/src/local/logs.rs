//! A container's log: its two streams taken apart from the engine's frames and put together to lines.

use super::{
    Local,
    engine::Failure,
    reasons::{error, failed},
};
use crate::{LogOptions, Result};
use basalt_model::{
    DateTime,
    deployments::{ErrorClass, LogLine, Owner},
};
use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use hyper::{Method, body::Bytes};
use std::collections::VecDeque;

/// Longest line that is passed on; the rest of a longer one is left out.
const MAX_LINE_BYTES: usize = 16 * 1024;

impl Local {
    pub(super) async fn logs_within(
        &self,
        owner: &Owner,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let mine = self.rounds(|| self.owned(owner.id).boxed()).await?;
        let Some(container) = mine.iter().max_by_key(|c| (c.epoch(), c.is_running())) else {
            return Err(missing(owner));
        };
        let query = query(&options);
        let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let path = format!("/containers/{}/logs", container.id);
        let raw = self.engine.stream(Method::GET, &path, &query).await;
        let raw = raw.map_err(|failure| match failure.status() {
            Some(404) => missing(owner),
            _ => failed(&self.name, "reading the log", &failure),
        })?;
        let name = self.name.clone();
        let lines = lines(raw, options.since);
        Ok(lines.map(move |line| line.map_err(|f| failed(&name, "reading the log", &f))).boxed())
    }
}

fn missing(owner: &Owner) -> crate::Error {
    error(
        ErrorClass::Missing,
        "container_missing",
        format!("deployment/{}", owner.name),
        "there is no container of it, so there is no log",
        "deploy it",
    )
}

fn query(options: &LogOptions) -> Vec<(&'static str, String)> {
    let mut query: Vec<_> = ["stdout", "stderr", "timestamps"].map(|key| (key, "true".to_owned())).into();
    if options.follow {
        query.push(("follow", "true".to_owned()));
    }
    if let Some(lines) = options.tail {
        query.push(("tail", lines.to_string()));
    }
    if let Some(since) = options.since {
        query.push(("since", since.timestamp().to_string()));
    }
    query
}

/// Puts frames together to lines.
#[derive(Default)]
struct Assembler {
    raw: Vec<u8>,
    /// Of the frame that is being read: its stream, and how much of it is still to come.
    frame: Option<(u8, usize)>,
    /// The unfinished line of each stream.
    partial: [Option<Partial>; 3],
}

struct Partial {
    /// The text that the frame began with is its time until the first blank.
    text: Vec<u8>,
    cut: bool,
}

impl Assembler {
    /// Takes in what came, and gives the lines that ended.
    fn take(&mut self, piece: &[u8], into: &mut VecDeque<LogLine>) -> std::result::Result<(), Failure> {
        let mut rest = piece;
        while !rest.is_empty() {
            match &mut self.frame {
                None => {
                    let wanted = 8 - self.raw.len();
                    let (head, tail) = rest.split_at(wanted.min(rest.len()));
                    self.raw.extend_from_slice(head);
                    rest = tail;
                    if let [stream, 0, 0, 0, a, b, c, d] = self.raw[..] {
                        let length = u32::from_be_bytes([a, b, c, d]) as usize;
                        self.frame = (length > 0).then_some((stream.min(2), length));
                        self.raw.clear();
                    } else if self.raw.len() == 8 {
                        return Err(Failure::Broken("the log is not in frames".to_owned()));
                    }
                }
                Some((stream, left)) => {
                    let (here, tail) = rest.split_at((*left).min(rest.len()));
                    rest = tail;
                    *left -= here.len();
                    let stream = *stream;
                    if *left == 0 {
                        self.frame = None;
                    }
                    self.text(stream, here, into);
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, stream: u8, text: &[u8], into: &mut VecDeque<LogLine>) {
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            let partial = self.partial[usize::from(stream)]
                .get_or_insert_with(|| Partial { text: Vec::new(), cut: false });
            let (words, ended) = match piece.split_last() {
                Some((b'\n', words)) => (words, true),
                _ => (piece, false),
            };
            // Its time, in front, is not part of the line.
            let room = (MAX_LINE_BYTES + 64).saturating_sub(partial.text.len());
            partial.cut |= words.len() > room;
            partial.text.extend_from_slice(&words[..words.len().min(room)]);
            if ended {
                into.extend(self.partial[usize::from(stream)].take().map(line));
            }
        }
    }

    fn end(&mut self, into: &mut VecDeque<LogLine>) {
        into.extend(self.partial.iter_mut().filter_map(Option::take).map(line));
    }
}

fn line(partial: Partial) -> LogLine {
    let text = String::from_utf8_lossy(&partial.text);
    let (at, text) = match text.split_once(' ') {
        Some((at, rest)) => match at.parse::<DateTime>() {
            Ok(at) => (Some(at), rest),
            Err(_) => (None, &*text),
        },
        None => text.parse().map_or((None, &*text), |at| (Some(at), "")),
    };
    let mut line = text.trim_end_matches('\r').to_owned();
    let mut end = line.len().min(MAX_LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    LogLine { at, instance: String::new(), line }
}

struct Reading<S> {
    raw: S,
    assembler: Assembler,
    ready: VecDeque<LogLine>,
    ended: bool,
}

fn lines(
    raw: impl Stream<Item = std::result::Result<Bytes, Failure>> + Send + 'static,
    since: Option<DateTime>,
) -> impl Stream<Item = std::result::Result<LogLine, Failure>> + Send + 'static {
    let reading =
        Reading { raw: Box::pin(raw), assembler: Assembler::default(), ready: VecDeque::new(), ended: false };
    futures::stream::unfold(reading, move |mut reading| async move {
        loop {
            while let Some(line) = reading.ready.pop_front() {
                // Engines know whole seconds only.
                if since.is_none_or(|since| line.at.is_none_or(|at| at > since)) {
                    return Some((Ok(line), reading));
                }
            }
            if reading.ended {
                return None;
            }
            match reading.raw.next().await {
                Some(Ok(piece)) => {
                    if let Err(failure) = reading.assembler.take(&piece, &mut reading.ready) {
                        reading.ended = true;
                        return Some((Err(failure), reading));
                    }
                }
                Some(Err(failure)) => {
                    reading.ended = true;
                    return Some((Err(failure), reading));
                }
                None => {
                    reading.assembler.end(&mut reading.ready);
                    reading.ended = true;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    fn read(bytes: &[u8], step: usize) -> Vec<LogLine> {
        let (mut assembler, mut lines) = (Assembler::default(), VecDeque::new());
        for piece in bytes.chunks(step) {
            assembler.take(piece, &mut lines).unwrap();
        }
        assembler.end(&mut lines);
        lines.into()
    }

    #[test]
    fn lines_are_put_together_from_frames_of_both_streams_however_they_arrive() {
        let mut bytes = frame(1, "2026-11-22T14:51:17Z one\n");
        bytes.extend(frame(1, "2026-11-22T14:51:17Z part "));
        bytes.extend(frame(2, "2026-11-22T14:51:18Z two\r\n"));
        bytes.extend(frame(1, "of it\n2026-11-22T14:51:19Z \n"));
        bytes.extend(frame(2, "without an end"));
        for step in [1, 7, 8, 9, 1000] {
            let texts: Vec<String> = read(&bytes, step).into_iter().map(|l| l.line).collect();
            assert_eq!(texts, ["one", "two", "part of it", "", "without an end"], "in steps of {step}");
        }
        assert_eq!(read(&bytes, 5)[0].at, "2026-11-22T14:51:17Z".parse().ok());
    }

    #[test]
    fn a_line_has_an_end_however_long_it_is() {
        let long = format!("2026-11-22T14:51:17Z {}\n", "ä".repeat(40_000));
        let lines = read(&[frame(1, &long), frame(1, "2026-11-22T14:51:17Z next\n")].concat(), 4096);
        assert!(lines[0].line.len() <= MAX_LINE_BYTES && lines[0].line.len() > MAX_LINE_BYTES - 100);
        assert_eq!(lines[1].line, "next");
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut lines = VecDeque::new();
        assert!(Assembler::default().take(b"plain text of a terminal", &mut lines).is_err());
    }
}
