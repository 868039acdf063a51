//! N: keyed work.

use std::time::Duration;

use krt::{Finish, Graph, Input, Job, Subscribe, Subscription, Work, WorkOptions};

use crate::{delete, put};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct World {
    graph: Graph,
    rows: Input<u32, u32>,
    changes: Subscription,
    work: Work<u32, u32>,
    now: Duration,
}

impl World {
    fn new(options: WorkOptions) -> Self {
        Self::with(options, |rows, options| Work::new(rows, options))
    }

    fn with(options: WorkOptions, make: impl Fn(&Input<u32, u32>, WorkOptions) -> Work<u32, u32>) -> Self {
        let mut builder = Graph::builder();
        let rows = builder.input("rows");
        let mut graph = builder.seal().unwrap();
        let changes = graph.subscribe(&Subscribe::only([rows.id()]).with_initial().capacity(4));
        let work = make(&rows, options);
        let mut world = Self { graph, rows, changes, work, now: ms(0) };
        world.take_in();
        world
    }

    fn take_in(&mut self) {
        while let Some(event) = self.changes.try_next() {
            self.work.apply(&event, self.now);
        }
    }

    fn put(&mut self, key: u32, value: u32) {
        put(&mut self.graph, &self.rows, key, value);
        self.take_in();
    }

    fn delete(&mut self, key: u32) {
        delete(&mut self.graph, &self.rows, &key);
        self.take_in();
    }

    fn next(&mut self) -> Option<(u32, u32)> {
        self.job().map(|job| (job.key, *job.value))
    }

    fn job(&mut self) -> Option<Job<u32, u32>> {
        self.work.next(self.now)
    }

    fn done(&mut self, key: u32, finish: Finish) {
        self.work.done(&key, finish, self.now);
    }
}

fn options() -> WorkOptions {
    WorkOptions { backoff_min: ms(100), backoff_max: ms(1_000), ..WorkOptions::default() }
}

#[test]
fn c160_many_changes_while_idle_are_one_run_with_the_latest_row() {
    let mut world = World::new(options());
    for value in 0..20 {
        world.put(1, value);
    }
    assert_eq!(world.next(), Some((1, 19)));
    assert_eq!(world.next(), None);
    world.done(1, Finish::Done);
    assert_eq!((world.next(), world.work.len()), (None, 0));
}

#[test]
fn c161_a_key_never_runs_twice_at_once_and_runs_again_when_changed_meanwhile() {
    let mut world = World::new(options());
    world.put(1, 1);
    assert_eq!(world.next(), Some((1, 1)));
    world.put(1, 2);
    world.put(1, 3);
    assert_eq!(world.next(), None);
    world.done(1, Finish::Done);
    assert_eq!(world.next(), Some((1, 3)));
    world.done(1, Finish::Done);
    assert_eq!(world.next(), None);
}

#[test]
fn c162_the_earliest_request_wins() {
    let mut world = World::new(options());
    world.put(1, 1);
    world.next();
    world.done(1, Finish::After(ms(500)));
    world.work.request(&1, ms(200));
    world.work.request(&1, ms(900));
    assert_eq!(world.work.wake_at(), Some(ms(200)));
    world.now = ms(199);
    assert_eq!(world.next(), None);
    world.now = ms(200);
    assert_eq!(world.next(), Some((1, 1)));
    world.work.request(&77, ms(0));
    assert_eq!(world.next(), None, "a key without a row has no work");
}

#[test]
fn c163_the_debounce_window_collects_changes_and_is_not_postponed() {
    let mut world = World::new(WorkOptions { debounce: ms(50), ..options() });
    for step in 0..10 {
        world.now = ms(step * 5);
        world.put(1, u32::try_from(step).unwrap());
        assert_eq!(world.next(), None);
    }
    assert_eq!(world.work.wake_at(), Some(ms(50)));
    world.now = ms(50);
    assert_eq!(world.next(), Some((1, 9)));
}

#[test]
fn c164_caps_and_fairness_between_groups() {
    let mut world =
        World::with(WorkOptions { concurrency: 3, per_group: 2, ..options() }, |rows, options| {
            Work::grouped(rows, options, |key, _| (key / 100).to_string())
        });
    for key in [1, 2, 3, 4, 101, 102, 201] {
        world.put(key, 0);
    }
    let first: Vec<u32> = std::iter::from_fn(|| world.next()).map(|(key, _)| key).collect();
    assert_eq!(first, [1, 101, 201], "round-robin, three at once");
    assert_eq!(world.work.wake_at(), None);
    world.done(201, Finish::Done);
    assert_eq!(world.next(), Some((2, 0)));
    world.done(101, Finish::Done);
    assert_eq!(world.next(), Some((102, 0)), "group 0 is at its cap");
    world.done(102, Finish::Done);
    assert_eq!(world.next(), None, "only group 0 has work, and it is at its cap");
    assert_eq!(world.work.wake_at(), None);
    world.done(1, Finish::Done);
    assert_eq!(world.next(), Some((3, 0)));
    assert_eq!(world.work.running(), 2);
}

#[test]
fn c166_backoff_per_key_reset_by_a_change() {
    let mut world = World::new(options());
    world.put(1, 1);
    let mut waits = Vec::new();
    for attempt in 0..6 {
        let job = world.job().unwrap();
        assert_eq!(job.attempt, attempt);
        world.done(1, Finish::Retry);
        let at = world.work.wake_at().unwrap();
        waits.push(at - world.now);
        world.now = at;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000].map(ms));
    let job = world.job().unwrap();
    world.put(1, 2);
    world.done(job.key, Finish::Retry);
    let job = world.job().unwrap();
    assert_eq!((job.attempt, *job.value), (0, 2), "a changed row starts afresh, at once");
    world.done(1, Finish::Retry);
    world.put(1, 3);
    assert_eq!(
        world.job().map(|job| (job.attempt, *job.value)),
        Some((0, 3)),
        "and does not wait out the back-off"
    );
}

#[test]
fn c167_one_slot_per_key() {
    let mut world = World::new(options());
    for step in 0..1_000 {
        world.put(step % 10, step);
    }
    assert_eq!((world.work.slots(), world.work.len()), (10, 10));
    for key in 0..10 {
        world.delete(key);
    }
    assert_eq!((world.work.slots(), world.work.len()), (0, 0));
}

#[test]
fn c168_stop_gives_out_no_more_and_reports_what_runs() {
    let mut world = World::new(options());
    world.put(1, 1);
    world.put(2, 1);
    world.next();
    assert_eq!(world.work.stop(), [1]);
    assert_eq!((world.next(), world.work.wake_at()), (None, None));
    world.done(1, Finish::Done);
    assert!(world.work.stop().is_empty());
}

#[test]
fn c169_work_goes_with_its_row() {
    let mut world = World::new(options());
    world.put(1, 1);
    world.put(2, 1);
    world.delete(1);
    assert_eq!(world.next(), Some((2, 1)));
    world.delete(2);
    assert_eq!(world.work.running(), 1);
    world.done(2, Finish::Retry);
    assert_eq!((world.next(), world.work.slots(), world.work.len(), world.work.running()), (None, 0, 0, 0));
    world.put(2, 5);
    assert_eq!(world.next(), Some((2, 5)));
    world.delete(2);
    world.put(2, 6);
    assert_eq!(world.next(), None, "gone and back while it runs");
    world.done(2, Finish::Done);
    assert_eq!(world.next(), Some((2, 6)));
}

#[test]
fn c170_a_job_knows_its_revision_and_whether_it_is_stale() {
    let mut world = World::new(options());
    world.put(1, 1);
    let job = world.job().unwrap();
    assert_eq!((job.revision, world.work.is_stale(&job)), (1, false));
    world.put(2, 2);
    assert!(!world.work.is_stale(&job));
    world.put(1, 2);
    assert!(world.work.is_stale(&job));
    world.done(1, Finish::Done);
    let job = loop {
        let job = world.job().unwrap();
        if job.key == 1 {
            break job;
        }
    };
    assert_eq!(job.revision, 3);
    world.delete(1);
    assert!(world.work.is_stale(&job));
}

#[test]
fn a_lagged_stream_leaves_the_same_work() {
    let mut world = World::new(options());
    world.put(1, 1);
    world.put(9, 9);
    while let Some((key, _)) = world.next() {
        world.done(key, Finish::Done);
    }
    for key in 1..8 {
        put(&mut world.graph, &world.rows, key, key);
    }
    delete(&mut world.graph, &world.rows, &9);
    world.take_in();
    let mut due = Vec::new();
    while let Some(row) = world.next() {
        due.push(row);
    }
    assert_eq!(
        due,
        (2..8).map(|key| (key, key)).collect::<Vec<_>>(),
        "the unchanged row 1 is not due, the gone row 9 is forgotten"
    );
    assert_eq!(world.work.slots(), 7);
}
