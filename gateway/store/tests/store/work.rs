//! Work that executors claim: one at a time, under a lease, and only the newest claim counts.

// Figures are printed; nothing is decided by them.
#![expect(clippy::disallowed_methods)]

use crate::{
    fixture::House,
    task_dependencies::{end, get},
    task_history::{count_anew, history, p99, reads},
};
use basalt_model::{
    DateTime, ImageId, Labels, TaskId, TransferId,
    images::{ImageFormat, ImageSource, ImageSpec, ImageState, Visibility},
    tasks::{Task, TaskKind, TaskState},
};
use basalt_store::{
    Error, New,
    image_transfers::{self, Event, Outcome},
    images, tasks,
    testkit::{name, now},
    work::{self, Claim, ClaimRef, Executor, LEASE_SECONDS},
};
use chrono::TimeDelta;
use sqlx::Executor as _;
use std::{collections::BTreeSet, time::Instant};
use uuid::Uuid;

fn after(seconds: i64) -> DateTime {
    now() + TimeDelta::seconds(seconds)
}

async fn import(h: &House, image: &str) -> Task {
    let spec = ImageSpec {
        format: ImageFormat::Raw,
        size_bytes: None,
        sha256: None,
        source: Some(ImageSource { url: "https://images.example/disk.raw".into() }),
        visibility: Visibility::Project,
    };
    let new = New { name: name(image), labels: Labels::default(), spec };
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let made = images::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
    tx.commit().await.unwrap();
    made.task
}

fn executor(id: u128, start: u128) -> Executor {
    Executor { id: Uuid::from_u128(id), start: Uuid::from_u128(start) }
}

async fn claim(h: &House, executor: Executor, limit: u32, at: DateTime) -> Vec<Claim> {
    let mut tx = h.db.store.system().await.unwrap();
    let ids = h.change().ids;
    let claims = work::claim(&mut tx, TaskKind::ImageImport, executor, limit, &ids, at).await.unwrap();
    tx.commit().await.unwrap();
    claims
}

async fn renew(h: &House, claim: &Claim, progress: i32, at: DateTime) -> bool {
    let mut tx = h.db.store.system().await.unwrap();
    let held = work::renew(&mut tx, reference(claim), progress, "fetching", at).await.unwrap();
    tx.commit().await.unwrap();
    held
}

fn reference(claim: &Claim) -> ClaimRef {
    ClaimRef { task_id: claim.task.id, claim_id: claim.id }
}

async fn ready(h: &House, claim: &Claim, event: u128) -> bool {
    let event = Event {
        id: Uuid::from_u128(event),
        at: now(),
        image_id: ImageId(claim.task.subject.id),
        transfer_id: TransferId(claim.id),
        outcome: Outcome::Ready { sha256: "0".repeat(64), size_bytes: 9, virtual_size_bytes: 9 },
    };
    let mut tx = h.db.store.system().await.unwrap();
    let applied = image_transfers::apply_event(&mut tx, &event, now()).await.unwrap();
    tx.commit().await.unwrap();
    applied
}

async fn state(h: &House, task: &Task) -> (ImageState, bool) {
    let mut tx = h.db.store.system_read().await.unwrap();
    let view = images::get_by_id(&mut tx, ImageId(task.subject.id)).await.unwrap();
    (view.facts.observed.state, view.image.metadata.deletion_requested_at.is_some())
}

#[tokio::test]
async fn r45_only_the_newest_claim_says_what_became_of_the_work_and_it_counts_once() {
    let h = House::new().await;
    let task = import(&h, "disk").await;
    let [first] = &claim(&h, executor(1, 1), 5, after(0)).await[..] else { panic!("one") };
    assert_eq!((first.task.id, first.fence), (task.id, 1));
    assert!(claim(&h, executor(2, 1), 5, after(1)).await.is_empty(), "it is held");
    assert!(renew(&h, first, 40, after(LEASE_SECONDS - 1)).await);
    let seen = get(&h, task.id).await;
    assert_eq!((seen.state, seen.progress, seen.stage.as_str()), (TaskState::Executing, 40, "fetching"));
    assert!(claim(&h, executor(2, 1), 5, after(LEASE_SECONDS + 1)).await.is_empty(), "it was held on");
    // The first one sleeps; another takes it over, and the first wakes up with all of its answers.
    let [second] = &claim(&h, executor(2, 1), 5, after(2 * LEASE_SECONDS)).await[..] else { panic!("one") };
    assert_eq!((second.task.id, second.fence), (task.id, 2));
    assert!(!renew(&h, first, 90, after(2 * LEASE_SECONDS)).await);
    assert_eq!(get(&h, task.id).await.progress, 40, "what was refused changed nothing");
    assert!(!ready(&h, first, 1).await);
    assert_eq!(state(&h, &task).await.0, ImageState::Uploading);
    assert!(ready(&h, second, 2).await);
    for (claim, event) in [(second, 2), (second, 3), (first, 1), (first, 4)] {
        assert!(!ready(&h, claim, event).await, "said again, late, or out of order: nothing");
    }
    assert_eq!(
        (get(&h, task.id).await.state, state(&h, &task).await.0),
        (TaskState::Completed, ImageState::Ready)
    );
    assert!(claim(&h, executor(3, 1), 5, after(3600)).await.is_empty());
    assert!(!renew(&h, second, 99, after(3600)).await);
}

#[tokio::test]
async fn r45_of_many_who_claim_at_once_each_task_has_one() {
    let h = House::new().await;
    let mut all = BTreeSet::new();
    for n in 0..40 {
        all.insert(import(&h, &format!("disk-{n}")).await.id);
    }
    let claimers = (0..8).map(|n| {
        let h = &h;
        async move {
            let mut mine: Vec<TaskId> = Vec::new();
            loop {
                let claims = claim(h, executor(n, 1), 3, after(0)).await;
                if claims.is_empty() {
                    return mine;
                }
                mine.extend(claims.iter().map(|c| c.task.id));
            }
        }
    });
    let claimed: Vec<TaskId> = futures::future::join_all(claimers).await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 40, "none twice");
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), all);
}

#[tokio::test]
async fn r45_an_executor_that_starts_again_has_its_work_at_once_and_no_clock_keeps_it() {
    let h = House::new().await;
    let task = import(&h, "disk").await;
    let first = claim(&h, executor(1, 1), 1, after(0)).await;
    assert!(claim(&h, executor(1, 1), 1, after(1)).await.is_empty(), "the same start has it already");
    let [again] = &claim(&h, executor(1, 2), 1, after(1)).await[..] else { panic!("one") };
    assert_eq!((again.task.id, again.fence), (task.id, first[0].fence + 1));
    // Given back: after a pause for everybody.
    let mut tx = h.db.store.system().await.unwrap();
    assert!(!work::give_back(&mut tx, reference(&first[0]), TimeDelta::zero(), after(1)).await.unwrap());
    assert!(work::give_back(&mut tx, reference(again), TimeDelta::seconds(10), after(1)).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!renew(&h, again, 1, after(2)).await, "it was given back");
    assert!(claim(&h, executor(1, 3), 1, after(9)).await.is_empty());
    let [third] = &claim(&h, executor(2, 1), 1, after(11)).await[..] else { panic!("one") };
    // A gateway whose clock was an hour ahead held it on; for all others it is free as soon as they look.
    assert!(renew(&h, third, 1, after(3600)).await);
    assert_eq!(claim(&h, executor(3, 1), 1, after(12)).await.len(), 1);
}

#[tokio::test]
async fn r45_r47_work_whose_task_ended_is_lost_to_whoever_has_it() {
    let h = House::new().await;
    let overdue = import(&h, "overdue").await;
    let cancelled = import(&h, "cancelled").await;
    let claims = claim(&h, executor(1, 1), 5, after(0)).await;
    assert_eq!(claims.len(), 2);
    end(&h, overdue.id, TaskState::TimedOut).await;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    tasks::cancel(&mut tx, &h.change(), cancelled.id).await.unwrap();
    tx.commit().await.unwrap();
    for (n, claim) in (10..).zip(&claims) {
        assert!(!renew(&h, claim, 50, after(1)).await);
        assert!(!ready(&h, claim, n).await);
    }
    // The intent was turned back: nobody wants an image any more whose bytes are not there.
    assert_eq!(state(&h, &cancelled).await, (ImageState::Uploading, true));
    assert_eq!(state(&h, &overdue).await, (ImageState::Uploading, false));
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(work::forget_ended(&mut tx, 10).await.unwrap(), 2);
    tx.commit().await.unwrap();
    // Another attempt is work again, where it is still wanted.
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let refused = tasks::retry(&mut tx, &h.change(), cancelled.id).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(reason) if reason.code == "superseded"));
    drop(tx);
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let again = tasks::retry(&mut tx, &h.change(), overdue.id).await.unwrap();
    tx.commit().await.unwrap();
    let [claimed] = &claim(&h, executor(1, 1), 5, after(2)).await[..] else { panic!("one") };
    assert_eq!(claimed.task.id, again.id);
    assert!(ready(&h, claimed, 20).await);
    assert_eq!(get(&h, again.id).await.state, TaskState::Completed);
}

/// A sample of a million: what is over is in no claimer's way.
#[tokio::test]
async fn r50_with_a_long_history_and_many_live_tasks_a_claim_reads_the_same_rows() {
    const BATCHES: usize = 10;
    let mut seen = Vec::new();
    for (finished, live) in [(0, 0), (50_000, 300)] {
        let h = House::new().await;
        let mut admin = h.db.superuser().await;
        if finished > 0 {
            history(&h, &mut admin, finished).await;
            admin.execute("VACUUM (ANALYZE) tasks_finished").await.unwrap();
        }
        for n in 0..live {
            // Live, and nobody's to claim.
            h.vm(&format!("vm-{n}")).await;
        }
        for n in 0..BATCHES * 20 {
            import(&h, &format!("disk-{n}")).await;
        }
        count_anew(&h, &mut admin).await;
        let (mut took, mut event) = (Vec::new(), 0);
        for _ in 0..BATCHES {
            let began = Instant::now();
            let claims = claim(&h, executor(1, 1), 20, after(0)).await;
            took.push(began.elapsed());
            assert_eq!(claims.len(), 20);
            for claim in &claims {
                assert!(renew(&h, claim, 50, after(1)).await);
                event += 1;
                assert!(ready(&h, claim, event).await);
            }
        }
        let (read, by) = reads(h, &mut admin).await;
        let each = read as f64 / (BATCHES * 20) as f64;
        println!(
            "{finished} finished, {live} live: claim of 20 p99 {:?}, {each:.1} rows read each: {by:?}",
            p99(&took)
        );
        assert!(each < 60.0, "{read} rows read: {by:?}");
        // Of tasks: in the small table of work it depends on when the server forgets versions that are dead.
        seen.push(by.iter().filter(|(name, _)| name.starts_with("tasks")).map(|(_, rows)| rows).sum::<i64>());
    }
    let work = i64::try_from(BATCHES * 20).unwrap();
    assert!(seen[1] <= seen[0] + work, "rows of tasks read without and with a history: {seen:?}");
}
