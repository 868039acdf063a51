//! What the gateway is to be told: changed facts only, everything when it asks.

use crate::task_logs::TaskLog;
use basalt_model::{CapabilityReason, VmId, hosts::HostFacts, migrations::MotionProgress};
use basalt_wire::agent::{ItemKey, ItemKind, ItemObserved, ItemReport, Report};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// What is so now, and what the gateway was told of it. Clones share it.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    news: Notify,
    lines: TaskLog,
}

#[derive(Default)]
struct State {
    boot: Uuid,
    sequence: i64,
    now: Facts,
    told: Facts,
}

/// Everything that can be reported.
#[derive(Clone, Debug, Default, PartialEq)]
struct Facts {
    revision: Option<i64>,
    refused: Option<CapabilityReason>,
    facts: Option<HostFacts>,
    items: BTreeMap<ItemKey, ItemReport>,
}

/// A report on its way; only [`Outbox::told`] makes it count.
pub struct Draft {
    /// What to send.
    pub report: Report,
    facts: Facts,
}

impl Outbox {
    /// An empty one. `boot` is made anew with every start of the agent.
    pub fn new(boot: Uuid) -> Self {
        let state = State { boot, ..State::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), news: Notify::new(), lines: TaskLog::new(boot) }))
    }

    /// Lines for the logs of tasks, which go a way of their own.
    pub fn lines(&self) -> &TaskLog {
        &self.0.lines
    }

    fn change(&self, f: impl FnOnce(&mut Facts)) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.now.clone();
        f(&mut state.now);
        let news = state.now != before;
        drop(state);
        if news {
            self.0.news.notify_one();
        }
    }

    /// The items of the manifest with this revision, as they are now.
    pub fn items(&self, revision: i64, items: impl IntoIterator<Item = ItemReport>) {
        let items = items.into_iter().map(|i| (ItemKey { kind: i.kind, id: i.id }, i)).collect();
        self.change(|now| {
            now.revision = Some(revision);
            now.items = items;
        });
    }

    /// What is going on with one item.
    pub fn stage(&self, key: ItemKey, stage: &str) {
        self.change(|now| {
            if let Some(item) = now.items.get_mut(&key) {
                item.stage = stage.into();
            }
        });
    }

    /// How far the sending of a VM is.
    pub fn moved(&self, id: VmId, seen: MotionProgress) {
        let key = ItemKey { kind: ItemKind::Vm, id: id.0 };
        self.change(|now| {
            if let Some(ItemObserved::Vm(vm)) = now.items.get_mut(&key).map(|item| &mut item.observed)
                && let Some(motion) = &mut vm.motion
            {
                motion.progress = Some(seen);
            }
        });
    }

    /// The host's facts.
    pub fn facts(&self, facts: HostFacts) {
        self.change(|now| now.facts = Some(facts));
    }

    /// Why the newest manifest was refused whole; `None` when it was not.
    pub fn refused(&self, reason: Option<CapabilityReason>) {
        self.change(|now| now.refused = reason);
    }

    /// Whether the gateway knows that a VM needs no lease here, or that it is no VM of this host any more.
    pub fn told_unleased(&self, id: VmId) -> bool {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ItemKey { kind: ItemKind::Vm, id: id.0 };
        match (state.told.items.get(&key).map(|item| &item.observed), state.now.items.get(&key)) {
            (Some(ItemObserved::Vm(vm)), _) => !vm.leased,
            (Some(_), _) => true,
            (None, now) => {
                now.is_none() && state.told.revision.is_some() && state.told.revision == state.now.revision
            }
        }
    }

    /// Waits until there may be something new to tell.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// What the gateway does not know yet. From now on, until the report is known to have arrived, it may know what is in it or
    /// what was told before: should its answer be lost, all of that is told again, even where it is by then as it was.
    pub fn draft(&self) -> Draft {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { sequence, now, told, .. } = &mut *state;
        *sequence += 1;
        let changed: Vec<_> =
            now.items.iter().filter(|(key, item)| told.items.get(key) != Some(item)).collect();
        for (key, _) in &changed {
            told.items.remove(key);
        }
        let facts = if now.facts == told.facts { None } else { now.facts.clone() };
        if facts.is_some() {
            told.facts = None;
        }
        let items = changed.into_iter().map(|(_, item)| item.clone()).collect();
        let now = now.clone();
        let report = Report {
            agent_boot: state.boot,
            sequence: state.sequence,
            manifest_revision: now.revision,
            manifest_refused: now.refused.clone(),
            facts,
            items,
        };
        Draft { report, facts: now }
    }

    /// A report arrived. `send_full`: the gateway knows nothing of what it was told before.
    pub fn told(&self, draft: Draft, send_full: bool) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.told = if send_full { Facts::default() } else { draft.facts };
        drop(state);
        if send_full {
            self.0.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::{Epoch, Generation};

    fn item(n: u128, generation: i64) -> ItemReport {
        ItemReport {
            kind: ItemKind::Image,
            id: Uuid::from_u128(n),
            generation: Generation(generation),
            epoch: Epoch(0),
            observed: ItemObserved::Image { ready: true, blocked: None },
            stage: String::new(),
        }
    }

    #[test]
    fn only_what_changed_since_the_last_report_that_arrived_is_sent() {
        let outbox = Outbox::new(Uuid::from_u128(1));
        outbox.items(1, [item(1, 1), item(2, 1)]);
        let lost = outbox.draft();
        assert_eq!((lost.report.sequence, lost.report.items.len()), (1, 2));
        let first = outbox.draft();
        assert_eq!((first.report.sequence, first.report.items.len()), (2, 2), "the lost one told nothing");
        outbox.items(2, [item(1, 1), item(2, 2)]);
        outbox.told(first, false);
        let second = outbox.draft();
        assert_eq!(second.report.items, [item(2, 2)]);
        outbox.told(second, true);
        assert_eq!(outbox.draft().report.items.len(), 2, "everything was asked for");
    }

    #[test]
    fn r2_what_was_in_a_report_whose_answer_was_lost_is_told_again_though_it_is_as_before() {
        let outbox = Outbox::new(Uuid::from_u128(1));
        let at = |stage: &str| [ItemReport { stage: stage.into(), ..item(1, 1) }, item(2, 1)];
        outbox.items(1, at(""));
        outbox.told(outbox.draft(), false);
        outbox.items(1, at("resuming"));
        let lost = outbox.draft();
        assert_eq!(lost.report.items, at("resuming")[..1]);
        outbox.items(1, at(""));
        let again = outbox.draft();
        assert_eq!(again.report.items, at("")[..1], "the gateway may have taken the lost one in");
        outbox.told(again, false);
        assert!(outbox.draft().report.items.is_empty());
    }
}
