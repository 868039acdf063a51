//! Group and reduce with add and remove: one accumulator per index value, so that one changed member costs one step, not
//! a walk over its group.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::logic::{Driver, Env, IndexDriver, Logic, Trace};
use crate::state::{AnyDelta, AnyState, Delta, Errors, Extract, State, guarded, state_mut, state_of};
use crate::verify::Recheck;
use crate::{Change, Counters, Failure, Key, KeyError, Revision, Value};

/// How an accumulator begins, takes a member in, lets one go, and becomes a row.
pub(crate) struct Reduce<K, V, I, A, O> {
    pub(crate) start: Arc<dyn Fn(&I) -> A + Send + Sync>,
    pub(crate) add: Step<K, V, A>,
    pub(crate) remove: Step<K, V, A>,
    pub(crate) finish: Finish<I, A, O>,
}

type Step<K, V, A> = Arc<dyn Fn(&mut A, &K, &V) + Send + Sync>;
type Finish<I, A, O> = Arc<dyn Fn(&I, &A) -> Result<Option<O>, Failure> + Send + Sync>;

impl<K, V, I, A, O> Clone for Reduce<K, V, I, A, O> {
    fn clone(&self) -> Self {
        Self {
            start: Arc::clone(&self.start),
            add: Arc::clone(&self.add),
            remove: Arc::clone(&self.remove),
            finish: Arc::clone(&self.finish),
        }
    }
}

struct Group<A, O> {
    /// `None` after a step that panicked: what it left is not to be trusted, and is made anew from the members.
    accumulator: Option<A>,
    /// The last good row.
    row: Option<Arc<O>>,
    error: Option<Arc<KeyError>>,
    ran_at: Revision,
}

pub(crate) struct Reduced<K, V, I, A, O> {
    node: u32,
    index: u32,
    extract: Extract<K, V, I>,
    reduce: Reduce<K, V, I, A, O>,
    groups: BTreeMap<I, Group<A, O>>,
    runs: u64,
    suppressed: u64,
    dirty: u64,
}

/// What the groups of one commit have changed.
struct Outcome<I, O> {
    changes: Vec<Change<I, O>>,
    errors: Vec<(I, Option<Arc<KeyError>>)>,
}

impl<K: Key, V: Value, I: Key, A: Send + Sync + 'static, O: Value> Reduced<K, V, I, A, O> {
    pub(crate) fn new(
        node: u32,
        index: u32,
        extract: Extract<K, V, I>,
        reduce: Reduce<K, V, I, A, O>,
    ) -> Self {
        let groups = BTreeMap::new();
        Self { node, index, extract, reduce, groups, runs: 0, suppressed: 0, dirty: 0 }
    }

    fn values(&self, key: &K, row: Option<&Arc<V>>) -> Vec<I> {
        let mut values = Vec::new();
        // A row the extractor panics on is in no group; the index reports it.
        let done = row.map(|row| guarded(|| (self.extract)(key, row, &mut values)));
        if matches!(done, Some(Err(_))) {
            values.clear();
        }
        values.sort();
        values.dedup();
        values
    }

    /// One member's step on the accumulator of a group.
    fn step(&mut self, value: &I, key: &K, row: &V, step: &Step<K, V, A>, revision: Revision) {
        let reduce = &self.reduce;
        let group = self.groups.entry(value.clone()).or_insert_with(|| Group {
            accumulator: guarded(|| (reduce.start)(value)).ok(),
            row: None,
            error: None,
            ran_at: revision,
        });
        if let Some(accumulator) = &mut group.accumulator
            && guarded(|| step(accumulator, key, row)).is_err()
        {
            group.accumulator = None;
        }
    }

    /// Take all changed members out of and into their groups. Gives the groups touched.
    fn take_in(&mut self, changes: &[Change<K, V>], revision: Revision) -> BTreeSet<I> {
        let (add, remove) = (Arc::clone(&self.reduce.add), Arc::clone(&self.reduce.remove));
        let mut touched = BTreeSet::new();
        for change in changes {
            for (row, step) in [(&change.old, &remove), (&change.new, &add)] {
                let Some(row) = row else { continue };
                for value in self.values(&change.key, Some(row)) {
                    self.step(&value, &change.key, row, step, revision);
                    touched.insert(value);
                }
            }
        }
        touched
    }

    /// The accumulator of a group from all its members.
    fn rebuilt(&self, value: &I, source: &State<K, V>) -> Result<A, Failure> {
        let members = source.index::<I>(self.index).and_then(|index| index.groups.get(value));
        guarded(|| {
            let mut accumulator = (self.reduce.start)(value);
            for (key, row) in members.into_iter().flat_map(|members| members.iter()) {
                (self.reduce.add)(&mut accumulator, key, row);
            }
            accumulator
        })
    }

    fn finish(&mut self, value: &I, env: &Env<'_>, outcome: &mut Outcome<I, O>) {
        let source: &State<K, V> = state_of(&env.states[self.node as usize]);
        let has_members =
            source.index::<I>(self.index).is_some_and(|index| index.groups.get(value).is_some());
        if !has_members {
            let Some(group) = self.groups.remove(value) else { return };
            if group.error.is_some() {
                outcome.errors.push((value.clone(), None));
            }
            if let Some(old) = group.row {
                outcome.changes.push(Change { key: value.clone(), old: Some(old), new: None });
            }
            return;
        }
        self.runs += 1;
        let poisoned = self.groups.get(value).is_none_or(|group| group.accumulator.is_none());
        let rebuilt = if poisoned { self.rebuilt(value, source).map(Some) } else { Ok(None) };
        let Some(group) = self.groups.get_mut(value) else { return };
        group.ran_at = env.revision;
        let result = match rebuilt {
            Err(failure) => Err((failure, true)),
            Ok(rebuilt) => {
                group.accumulator = rebuilt.or(group.accumulator.take());
                match &group.accumulator {
                    Some(accumulator) => match guarded(|| (self.reduce.finish)(value, accumulator)) {
                        Ok(result) => result.map_err(|failure| (failure, false)),
                        Err(failure) => Err((failure, true)),
                    },
                    None => return,
                }
            }
        };
        self.settle(value, result, env, outcome);
    }

    /// Turn the result of a group into its row's and its error's change.
    fn settle(
        &mut self,
        value: &I,
        result: Result<Option<O>, (Failure, bool)>,
        env: &Env<'_>,
        outcome: &mut Outcome<I, O>,
    ) {
        let own: &State<I, O> = state_of(env.own_state());
        let Some(group) = self.groups.get_mut(value) else { return };
        let (row, error) = match result {
            Ok(row) => (row.map(Arc::new), None),
            // The last good row stays. For the oracle, which has no past, it is that of the logic it checks.
            Err(error) => {
                let checked = env.checked.and_then(|logic| logic.as_any().downcast_ref::<Self>());
                let held =
                    checked.and_then(|logic| logic.groups.get(value)).filter(|held| held.error.is_some());
                (held.map_or(group.row.clone(), |held| held.row.clone()), Some(error))
            }
        };
        match (&group.row, &row) {
            (None, None) => self.suppressed += 1,
            (Some(old), Some(new)) if own.is_same(old, new) => self.suppressed += 1,
            _ => {
                outcome.changes.push(Change { key: value.clone(), old: group.row.take(), new: row.clone() });
                group.row = row;
            }
        }
        let error = match (group.error.take(), error) {
            (None, None) => return,
            (Some(held), Some((failure, panicked)))
                if held.failure == failure && held.panicked == panicked =>
            {
                group.error = Some(held);
                return;
            }
            (_, error) => error.map(|(failure, panicked)| {
                Arc::new(KeyError { key: format!("{value:?}"), failure, panicked, since: env.revision })
            }),
        };
        group.error.clone_from(&error);
        outcome.errors.push((value.clone(), error));
    }

    fn trace_group(&self, value: &I, group: &Group<A, O>, states: Option<&[Arc<dyn AnyState>]>) -> Trace {
        let driver = IndexDriver { node: [self.node], index: self.index, extract: Arc::clone(&self.extract) };
        let causes = states.map(|states| driver.causes(value, states, group.ran_at));
        Trace {
            ran_at: group.ran_at,
            reads: Vec::new(),
            source_key: format!("{value:?}"),
            causes: causes.unwrap_or_default(),
            hidden: Vec::new(),
            error: group.error.clone(),
        }
    }
}

impl<K: Key, V: Value, I: Key, A: Send + Sync + 'static, O: Value> Logic for Reduced<K, V, I, A, O> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn kind(&self) -> &'static str {
        "reduce"
    }

    fn fresh(&self) -> Box<dyn Logic> {
        Box::new(Self::new(self.node, self.index, Arc::clone(&self.extract), self.reduce.clone()))
    }

    fn is_due(&self, deltas: &[Option<Arc<dyn AnyDelta>>]) -> bool {
        deltas[self.node as usize].is_some()
    }

    fn process(&mut self, mut env: Env<'_>) -> Option<Arc<dyn AnyDelta>> {
        let delta = env.deltas[self.node as usize].as_ref()?;
        let delta = delta.as_ref().as_any().downcast_ref::<Delta<K, V>>()?;
        let touched = self.take_in(&delta.changes, env.revision);
        self.dirty += touched.len() as u64;
        let mut outcome = Outcome { changes: Vec::new(), errors: Vec::new() };
        for value in &touched {
            self.finish(value, &env, &mut outcome);
        }
        if !outcome.errors.is_empty() {
            let state = state_mut::<I, O>(&mut env.states[env.node as usize]);
            let errors = state.errors.as_any_mut().downcast_mut::<Errors<I>>();
            let errors = errors.expect("a reduction's errors are by its index value");
            for (value, error) in &outcome.errors {
                match error {
                    Some(error) => errors.0.insert(value.clone(), Arc::clone(error)),
                    None => errors.0.remove(value),
                };
            }
        }
        let errors = outcome.errors.into_iter().map(|(value, error)| (format!("{value:?}"), error)).collect();
        env.apply(Delta { changes: outcome.changes, errors })
    }

    fn counters(&self) -> Counters {
        Counters { runs: self.runs, suppressed: self.suppressed, dirty: self.dirty, ..Counters::default() }
    }

    fn memory(&self, _recount: bool) -> usize {
        self.groups.len() * size_of::<(I, Group<A, O>)>()
    }

    fn recheck(&self, check: &mut Recheck<'_>) {
        let (own, source) =
            (check.states[check.node as usize].clone(), check.states[self.node as usize].clone());
        let state: &State<I, O> = state_of(&own);
        let turns = check.turns(self.groups.len());
        let Some(first) = turns.first().copied() else { return };
        // The groups of one turn stand side by side, but for the end.
        for (value, group) in self.groups.iter().skip(first).take(turns.len()) {
            let result = match self.rebuilt(value, state_of(&source)) {
                Ok(accumulator) => {
                    guarded(|| (self.reduce.finish)(value, &accumulator)).and_then(|result| result)
                }
                Err(failure) => Err(failure),
            };
            let key = format!("{value:?}");
            let held = group.error.as_ref().map(|error| &error.failure);
            match (&result, held) {
                (Err(failure), Some(held)) if failure == held => {}
                (Ok(None), None) if group.row.is_none() => {}
                (Ok(Some(row)), None)
                    if group
                        .row
                        .as_ref()
                        .is_some_and(|held| guarded(|| (state.same)(held, row)) == Ok(true)) => {}
                _ => check.differ(&key, &group.row, &result),
            }
        }
    }

    fn sources(&self) -> Vec<u32> {
        vec![self.node]
    }

    fn read_nodes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn trace(&self, key: &dyn Any, states: &[Arc<dyn AnyState>]) -> Option<Trace> {
        let value = key.downcast_ref::<I>()?;
        self.groups.get(value).map(|group| self.trace_group(value, group, Some(states)))
    }

    fn each_entry(&self, visit: &mut dyn FnMut(Trace)) {
        for (value, group) in &self.groups {
            visit(self.trace_group(value, group, None));
        }
    }
}
