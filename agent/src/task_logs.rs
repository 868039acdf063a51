//! Lines for the logs of tasks, on their way to the gateway.
//!
//! They are kept until the gateway has them, however long it is away, up to [`CAPACITY`]; what comes then is left out, and a
//! line says how much. Each has a number, by which the gateway knows what it has: sending again says nothing twice. They
//! live in memory only: what an agent did not send before it died is lost, and no task waits for it.

use crate::{Error, link::Gateway};
use basalt_daemon::Clock;
use basalt_model::{DateTime, Generation, VmId};
use basalt_wire::agent::{
    ItemKey, Manifest,
    task_logs::{LogBatch, LogLine, LogSubject, MAX_ABOUT, MAX_BATCH_ABOUT, MAX_LINES, MAX_TEXT_BYTES},
};
use chrono::TimeDelta;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// Lines that wait at most.
pub const CAPACITY: usize = 2000;
/// Lines that are sent in a second, and at once after a silence.
const LINES_A_SECOND: i64 = 100;
const LINES_AT_ONCE: i64 = 400;
/// Items of which it is known how many lines were left out; of more it is not counted.
const MAX_LEFT_OUT: usize = 4096;
/// What is said once of an item at one generation; nothing more of that kind is said.
const MAX_ONCE: usize = 64;
/// Seconds between two lines with a migration's figures.
const FIGURES_SECONDS: i64 = 10;

/// Lines that the gateway does not have yet. Clones share them.
#[derive(Clone)]
pub struct TaskLog(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    news: Notify,
    /// Held while a batch is on its way: two that send would only send the same.
    sending: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    boot: Uuid,
    sequence: i64,
    waiting: VecDeque<LogLine>,
    left_out: BTreeMap<LogSubject, u32>,
    once: BTreeMap<ItemKey, (Generation, BTreeSet<String>)>,
    figures: BTreeMap<VmId, DateTime>,
    /// Lines that were sent, less those that time has paid for, and when that was reckoned.
    owed: i64,
    owed_at: DateTime,
}

impl TaskLog {
    /// An empty one. `boot` is made anew with every start of the agent.
    pub fn new(boot: Uuid) -> Self {
        let state = Mutex::new(State { boot, ..State::default() });
        Self(Arc::new(Shared { state, news: Notify::new(), sending: tokio::sync::Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something about items.
    pub fn say(&self, at: DateTime, about: &[LogSubject], text: &str) {
        if about.is_empty() {
            return;
        }
        let mut state = self.state();
        for about in about.chunks(MAX_ABOUT) {
            state.push(at, about, text);
        }
        drop(state);
        self.0.news.notify_one();
    }

    /// Says something about those items of which `what` was not said yet at their generation.
    pub fn say_once(&self, at: DateTime, about: &[LogSubject], what: &str, text: impl FnOnce() -> String) {
        let new: Vec<LogSubject> = {
            let mut state = self.state();
            about.iter().filter(|subject| state.first(subject, what)).copied().collect()
        };
        if !new.is_empty() {
            self.say(at, &new, &text());
        }
    }

    /// Whether it is time for another line with the figures of a VM that is being sent.
    pub fn figures_due(&self, id: VmId, now: DateTime) -> bool {
        let mut state = self.state();
        let last = state.figures.get(&id);
        let due = last.is_none_or(|at| now < *at || now - *at >= TimeDelta::seconds(FIGURES_SECONDS));
        if due {
            state.figures.insert(id, now);
        }
        due
    }

    /// Forgets what was said of items that are not to be had any more.
    pub fn forget(&self, manifest: &Manifest) {
        let mut state = self.state();
        let keys: BTreeSet<ItemKey> = manifest.items.iter().map(|item| item.key()).collect();
        state.once.retain(|key, _| keys.contains(key));
        state.figures.retain(|id, _| keys.iter().any(|key| key.id == id.0));
    }

    /// Whether the gateway has everything.
    pub fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Waits until there may be something to send.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// The lines that are to be sent next; none also when enough were sent just now.
    pub fn draft(&self, now: DateTime) -> Option<LogBatch> {
        let state = self.state();
        let room = usize::try_from(LINES_AT_ONCE - state.owed(now)).unwrap_or_default().min(MAX_LINES);
        let mut about = 0;
        let fits = |line: &&LogLine| {
            about += line.about.len();
            about <= MAX_BATCH_ABOUT
        };
        let lines: Vec<LogLine> = state.waiting.iter().take(room).take_while(fits).cloned().collect();
        (!lines.is_empty()).then(|| LogBatch { agent_boot: state.boot, lines })
    }

    /// The gateway has a batch.
    pub fn told(&self, batch: &LogBatch, now: DateTime) {
        let mut state = self.state();
        let last = batch.lines.last().map_or(0, |line| line.sequence);
        while state.waiting.front().is_some_and(|line| line.sequence <= last) {
            state.waiting.pop_front();
        }
        state.owed = state.owed(now) + i64::try_from(batch.lines.len()).unwrap_or(LINES_AT_ONCE);
        state.owed_at = now;
        state.say_left_out(now);
    }

    /// Sends what waits, as much as may be sent now. May be dropped at any time.
    ///
    /// # Errors
    /// As the gateway answered; what it does not have stays.
    pub async fn flush<G: Gateway>(&self, gateway: &G, clock: &dyn Clock) -> Result<(), Error> {
        let _alone = self.0.sending.lock().await;
        while let Some(batch) = self.draft(clock.now()) {
            gateway.log(&batch).await?;
            self.told(&batch, clock.now());
        }
        Ok(())
    }
}

impl State {
    fn owed(&self, now: DateTime) -> i64 {
        let passed = (now - self.owed_at).num_milliseconds().max(0);
        (self.owed - passed.saturating_mul(LINES_A_SECOND) / 1000).max(0)
    }

    fn first(&mut self, subject: &LogSubject, what: &str) -> bool {
        let key = ItemKey { kind: subject.kind, id: subject.id };
        let (generation, said) = self.once.entry(key).or_default();
        if *generation != subject.generation {
            (*generation, *said) = (subject.generation, BTreeSet::new());
        }
        said.len() < MAX_ONCE && said.insert(what.to_owned())
    }

    fn push(&mut self, at: DateTime, about: &[LogSubject], text: &str) {
        self.say_left_out(at);
        if self.waiting.len() >= CAPACITY || !self.left_out.is_empty() {
            for subject in about {
                if self.left_out.len() < MAX_LEFT_OUT || self.left_out.contains_key(subject) {
                    *self.left_out.entry(*subject).or_default() += 1;
                }
            }
            return;
        }
        self.append(at, about.to_vec(), text);
    }

    fn append(&mut self, at: DateTime, about: Vec<LogSubject>, text: &str) {
        self.sequence += 1;
        let text = text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned();
        self.waiting.push_back(LogLine { sequence: self.sequence, at, about, text });
    }

    /// After a jam, when there is room again: how many lines are missing here.
    fn say_left_out(&mut self, at: DateTime) {
        if self.left_out.is_empty() || self.waiting.len() > CAPACITY / 2 {
            return;
        }
        let mut counts: BTreeMap<u32, Vec<LogSubject>> = BTreeMap::new();
        for (subject, count) in std::mem::take(&mut self.left_out) {
            counts.entry(count).or_default().push(subject);
        }
        for (count, about) in counts {
            let text = match count {
                1 => "1 line was left out".to_owned(),
                _ => format!("{count} lines were left out"),
            };
            about.chunks(MAX_ABOUT).for_each(|about| self.append(at, about.to_vec(), &text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_wire::agent::ItemKind;

    fn at(milliseconds: i64) -> DateTime {
        DateTime::from_timestamp_millis(1_800_000_000_000 + milliseconds).unwrap()
    }

    fn vm(n: u128) -> LogSubject {
        LogSubject { kind: ItemKind::Vm, id: Uuid::from_u128(n), generation: Generation(1) }
    }

    fn log() -> TaskLog {
        TaskLog::new(Uuid::from_u128(7))
    }

    /// Takes all that may be sent at a moment.
    fn sent(log: &TaskLog, now: DateTime) -> Vec<LogLine> {
        let mut all = Vec::new();
        while let Some(batch) = log.draft(now) {
            assert!(batch.lines.len() <= MAX_LINES, "{}", batch.lines.len());
            log.told(&batch, now);
            all.extend(batch.lines);
        }
        all
    }

    #[test]
    fn a_batch_that_did_not_arrive_is_sent_again_with_the_same_numbers() {
        let log = log();
        log.say(at(0), &[vm(1)], "a");
        let lost = log.draft(at(0)).unwrap();
        log.say(at(1), &[vm(1)], "b");
        let again = log.draft(at(1)).unwrap();
        assert_eq!(again.lines[0], lost.lines[0]);
        assert_eq!(again.lines.iter().map(|l| l.sequence).collect::<Vec<_>>(), [1, 2]);
        log.told(&again, at(1));
        // The answer to the lost one comes after all: nothing more goes.
        log.say(at(2), &[vm(1)], "c");
        log.told(&lost, at(2));
        assert_eq!(sent(&log, at(2)).iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(log.is_empty());
    }

    #[test]
    fn so_many_lines_a_second_are_sent_and_no_more() {
        let log = log();
        (0..1000).for_each(|n| log.say(at(0), &[vm(1)], &format!("line {n}")));
        assert_eq!(sent(&log, at(0)).len(), 400);
        assert_eq!(sent(&log, at(0)).len(), 0);
        assert_eq!(sent(&log, at(1000)).len(), 100);
        assert_eq!(sent(&log, at(1500)).len(), 50);
        assert_eq!(sent(&log, at(60_000)).len(), 400);
    }

    #[test]
    fn what_is_left_out_is_said_in_one_line_where_it_is_missing() {
        let log = log();
        (0..CAPACITY).for_each(|_| log.say(at(0), &[vm(1)], "kept"));
        (0..12).for_each(|_| log.say(at(0), &[vm(1), vm(2)], "lost"));
        log.say(at(0), &[vm(1)], "lost, too");
        let mut all = Vec::new();
        for second in 0.. {
            all.extend(sent(&log, at(second * 1000)));
            if log.is_empty() {
                break;
            }
            // It comes after the jam, so it stands after the line that speaks of it.
            if all.len() == CAPACITY * 3 / 4 {
                log.say(at(second * 1000), &[vm(1)], "after");
            }
        }
        assert!(all.windows(2).all(|two| two[0].sequence < two[1].sequence));
        assert!(all.iter().all(|line| !line.text.starts_with("lost")));
        let last: Vec<_> = all[CAPACITY..].iter().map(|l| (l.text.as_str(), l.about.as_slice())).collect();
        assert_eq!(
            last,
            [
                ("12 lines were left out", [vm(2)].as_slice()),
                ("13 lines were left out", &[vm(1)]),
                ("after", &[vm(1)])
            ]
        );
    }

    #[test]
    fn what_is_said_once_is_said_again_of_another_generation_and_to_others() {
        let log = log();
        let later = LogSubject { generation: Generation(2), ..vm(1) };
        let say = |about: &[LogSubject]| log.say_once(at(0), about, "full", || "the disk is full".into());
        say(&[vm(1)]);
        say(&[vm(1)]);
        say(&[vm(1), vm(2)]);
        say(&[later]);
        let about: Vec<_> = sent(&log, at(0)).into_iter().map(|l| l.about).collect();
        assert_eq!(about, [vec![vm(1)], vec![vm(2)], vec![later]]);
    }

    #[test]
    fn a_line_is_cut_and_one_about_many_items_is_several() {
        let log = log();
        let many: Vec<LogSubject> = (0..250).map(vm).collect();
        log.say(at(0), &many, &"é".repeat(400));
        let lines = sent(&log, at(0));
        assert_eq!(lines.iter().map(|l| l.about.len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(lines.iter().all(|l| l.text.len() == MAX_TEXT_BYTES));
    }
}
