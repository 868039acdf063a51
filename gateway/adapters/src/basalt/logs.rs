//! The log: the end of the VM's serial console, where the guest writes what its program writes.
//!
//! A console has no times and no beginning: at most its last 64 KiB are kept. Who follows it is told what was added since
//! it was read last, every two seconds; what rolled by in between is lost.

use super::{Basalt, calls::Calls, reasons::error};
use crate::{LogOptions, Result};
use basalt_model::deployments::{ErrorClass, LogLine, Owner};
use futures::{StreamExt, stream::BoxStream};
use std::{collections::VecDeque, time::Duration};
use uuid::Uuid;

/// Longest line that is passed on; the rest of a longer one is left out.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// Between two looks at a console that is followed.
const PAUSE: Duration = Duration::from_secs(2);

impl Basalt {
    pub(super) async fn read_console(
        &self,
        owner: &Owner,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let mine = self.owned(owner.id).await?;
        let Some(vm) = mine.iter().max_by_key(|vm| (!vm.is_going(), vm.epoch())) else {
            return Err(missing(owner));
        };
        let seen = console(&self.calls, vm.id).await?;
        let mut ready: VecDeque<LogLine> = lines(&seen).map(line).collect();
        // While it is followed, a line that has no end yet is still being written.
        let open = unfinished(&seen).len();
        if options.follow && open > 0 {
            ready.pop_back();
        }
        if let Some(tail) = options.tail {
            ready.drain(..ready.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX)));
        }
        if !options.follow {
            return Ok(futures::stream::iter(ready.into_iter().map(Ok)).boxed());
        }
        let partial = seen[seen.len() - open..].to_vec();
        let following =
            Following { calls: self.calls.clone(), vm: vm.id, seen, partial, ready, ended: false };
        Ok(futures::stream::unfold(following, next).boxed())
    }
}

async fn console(calls: &Calls, vm: Uuid) -> Result<Vec<u8>> {
    calls.bytes("reading the console", &calls.path(&format!("/vms/{vm}/console"))).await
}

fn missing(owner: &Owner) -> crate::Error {
    error(
        ErrorClass::Missing,
        "vm_missing",
        format!("deployment/{}", owner.name),
        "there is no VM of it, so there is no log",
        "deploy it",
    )
}

struct Following {
    calls: Calls,
    vm: Uuid,
    /// The console as it was read last.
    seen: Vec<u8>,
    /// The line that has no end yet.
    partial: Vec<u8>,
    ready: VecDeque<LogLine>,
    ended: bool,
}

async fn next(mut of: Following) -> Option<(Result<LogLine>, Following)> {
    loop {
        if let Some(line) = of.ready.pop_front() {
            return Some((Ok(line), of));
        }
        if of.ended {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
        match console(&of.calls, of.vm).await {
            Ok(now) => {
                of.partial.extend_from_slice(&now[overlap(&of.seen, &now)..]);
                let open = unfinished(&of.partial).len();
                let rest = of.partial.split_off(of.partial.len() - open);
                of.ready.extend(lines(&of.partial).map(line));
                // One that never ends is passed on in pieces, so that it does not grow for ever.
                of.partial = rest;
                if of.partial.len() > MAX_LINE_BYTES {
                    of.ready.push_back(line(&std::mem::take(&mut of.partial)));
                }
                of.seen = now;
            }
            Err(error) => {
                of.ended = true;
                return Some((Err(error), of));
            }
        }
    }
}

/// The lines of a text; the last one may have no end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

fn unfinished(text: &[u8]) -> &[u8] {
    lines(text).last().filter(|line| !line.ends_with(b"\n")).unwrap_or_default()
}

fn line(bytes: &[u8]) -> LogLine {
    let text = String::from_utf8_lossy(bytes);
    let mut line = text.trim_end_matches(['\n', '\r']).to_owned();
    let mut end = line.len().min(MAX_LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    LogLine { at: None, instance: String::new(), line }
}

/// How much of `now` was in `before`: the longest end of the one that the other begins with.
fn overlap(before: &[u8], now: &[u8]) -> usize {
    let before = &before[before.len().saturating_sub(now.len())..];
    // For each beginning of `now`, the longest shorter one that it ends with.
    let mut borders = vec![0; now.len()];
    let step = |borders: &[usize], mut length: usize, byte: u8| {
        while length > 0 && (length == now.len() || now[length] != byte) {
            length = borders[length - 1];
        }
        if now[length] == byte { length + 1 } else { length }
    };
    for i in 1..now.len() {
        borders[i] = step(&borders, borders[i - 1], now[i]);
    }
    before.iter().fold(0, |length, byte| step(&borders, length, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_is_not_read_again() {
        for (before, now, new) in [
            ("", "a", "a"),
            ("a\n", "a\nb\n", "b\n"),
            ("a\na\n", "a\na\na\n", "a\n"),
            ("one\ntwo\n", "two\nthree\n", "three\n"),
            ("one\n", "two\n", "two\n"),
            ("aabaa", "aabaab", "b"),
            ("long before\nend", "end", ""),
            ("same", "same", ""),
            ("x", "", ""),
        ] {
            let found = &now[overlap(before.as_bytes(), now.as_bytes())..];
            assert_eq!(found, new, "{before:?} then {now:?}");
        }
    }

    #[test]
    fn lines_lose_their_ends_and_have_a_bound() {
        let text = b"one\r\ntwo\n\nlast";
        let all: Vec<String> = lines(text).map(|l| line(l).line).collect();
        assert_eq!(all, ["one", "two", "", "last"]);
        assert_eq!((unfinished(text), unfinished(b"a\n")), (&b"last"[..], &b""[..]));
        assert!(line("ä".repeat(40_000).as_bytes()).line.len() <= MAX_LINE_BYTES);
    }
}
