//! Lines that hosts write: each once, to the tasks of what the host has, and to no others.

use crate::fixture::House;
use basalt_model::{
    Epoch, GIB, Generation, HostId, TaskId,
    tasks::{Task, TaskMove, TaskState},
};
use basalt_store::{
    Key,
    manifests::{self, Item, Write},
    task_logs::{self, Line, Taken},
    tasks,
    testkit::{facts, now},
    vms::{self, PowerVerb},
};
use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

struct Hosts {
    h: House,
    hosts: [HostId; 2],
    task: Task,
}

/// A VM in the manifest of the first of two hosts.
async fn placed() -> Hosts {
    let h = House::new().await;
    let hosts = h.two_hosts(facts(4, 16 * GIB, 100 * GIB)).await;
    let made = h.vm("web-1").await;
    h.place(&made.object, hosts[0], "default").await;
    let this = Hosts { h, hosts, task: made.task };
    this.give(hosts[0], true).await;
    this
}

impl Hosts {
    async fn give(&self, host: HostId, present: bool) {
        let body = if present { json!({"as": "vm", "name": "web-1"}) } else { json!({"as": "absent"}) };
        let (id, kind, generation, epoch) =
            (self.task.subject.id, "vm".to_owned(), Generation(if present { 1 } else { 2 }), Epoch(1));
        let item = Item { kind, id, generation, epoch, present, body };
        let mut tx = self.h.db.store.system().await.unwrap();
        let write = Write { host_id: host, upserts: vec![item], removes: vec![] };
        manifests::put(&mut tx, &[write], now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    fn line(&self, sequence: i64, generation: i64, text: &str) -> Line {
        let about = vec![("vm".to_owned(), self.task.subject.id, Generation(generation))];
        Line { sequence, at: now() - TimeDelta::seconds(9), about, text: text.into() }
    }

    async fn take(&self, host: usize, boot: u128, lines: &[Line]) -> Taken {
        let mut tx = self.h.db.store.system().await.unwrap();
        let boot = Uuid::from_u128(boot);
        let taken = task_logs::take(&mut tx, self.hosts[host], boot, lines, now()).await.unwrap();
        tx.commit().await.unwrap();
        taken
    }

    async fn log(&self, task: TaskId) -> Vec<String> {
        let mut tx = self.h.db.store.tenant_read(self.h.tenant).await.unwrap();
        let lines = task_logs::list(&mut tx, task, 0, 100).await.unwrap();
        assert!(lines.iter().zip(1..).all(|(line, n)| line.seq == n && line.at <= now()));
        lines.into_iter().map(|l| l.line).collect()
    }

    async fn end(&self, task: TaskId) {
        let step = TaskMove {
            id: task,
            state: TaskState::Completed,
            progress: 100,
            stage: String::new(),
            error: None,
        };
        let mut tx = self.h.db.store.system().await.unwrap();
        assert_eq!(tasks::advance(&mut tx, &[step], now()).await.unwrap(), [task]);
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn t1_lines_of_a_host_are_taken_once_however_often_they_come() {
    let w = placed().await;
    let two = [w.line(1, 1, "a"), w.line(2, 1, "b")];
    assert_eq!(w.take(0, 5, &two).await, Taken { tasks: [w.task.id].into(), refused: 0 });
    assert_eq!(w.take(0, 5, &two).await, Taken::default(), "its answer was lost");
    // A batch that has more than the one before.
    w.take(0, 5, &[w.line(2, 1, "b"), w.line(3, 1, "c")]).await;
    assert_eq!(w.log(w.task.id).await, ["h1: a", "h1: b", "h1: c"]);
    // The next start counts from one; what still comes of the one before is late.
    w.take(0, 6, &[w.line(1, 1, "d")]).await;
    assert_eq!(w.take(0, 5, &[w.line(4, 1, "late")]).await, Taken::default());
    w.take(0, 6, &[w.line(2, 1, "e")]).await;
    assert_eq!(w.log(w.task.id).await[3..], ["h1: d", "h1: e"]);
}

#[tokio::test]
async fn t1_a_host_writes_to_no_task_of_what_it_does_not_have() {
    let w = placed().await;
    assert_eq!(w.take(1, 5, &[w.line(1, 1, "mine, honestly")]).await, Taken { tasks: [].into(), refused: 1 });
    assert!(w.log(w.task.id).await.is_empty());
    // It goes to the second host: both have it now, and both write, each under its name.
    w.give(w.hosts[1], true).await;
    w.take(1, 5, &[w.line(2, 1, "taken in")]).await;
    w.take(0, 5, &[w.line(1, 1, "sent")]).await;
    assert_eq!(w.log(w.task.id).await, ["h2: taken in", "h1: sent"]);
}

#[tokio::test]
async fn t1_a_line_goes_to_the_tasks_that_wait_for_its_generation_or_an_earlier_one() {
    let w = placed().await;
    let mut tx = w.h.db.store.tenant(w.h.tenant).await.unwrap();
    let key = Key::parse("vm", "web-1").unwrap();
    let stop =
        vms::set_power(&mut tx, &w.h.change(), w.h.project, &key, None, PowerVerb::Stop).await.unwrap().task;
    tx.commit().await.unwrap();
    assert_eq!(stop.generation, Generation(2));
    w.take(0, 5, &[w.line(1, 1, "started")]).await;
    assert!(w.log(stop.id).await.is_empty(), "nothing was done for it yet");
    w.take(0, 5, &[w.line(2, 2, "asked to shut down")]).await;
    assert_eq!(w.log(stop.id).await, ["h1: asked to shut down"]);
    // Of what is to go, everything is of interest, whatever the item's own number.
    w.give(w.hosts[0], false).await;
    w.take(0, 5, &[w.line(3, 1, "removed")]).await;
    assert_eq!(w.log(stop.id).await, ["h1: asked to shut down", "h1: removed"]);
}

#[tokio::test]
async fn t1_lines_that_were_on_their_way_when_the_task_ended_stand_in_its_log() {
    let w = placed().await;
    w.take(0, 5, &[w.line(1, 1, "defined")]).await;
    w.end(w.task.id).await;
    assert_eq!(w.take(0, 5, &[w.line(2, 1, "started")]).await.tasks, [w.task.id].into());
    assert_eq!(w.log(w.task.id).await, ["h1: defined", "h1: started"]);
    // What comes long after is not about it any more.
    let mut tx = w.h.db.store.system().await.unwrap();
    let later = now() + TimeDelta::minutes(11);
    let lines = [w.line(3, 1, "started again")];
    let taken = task_logs::take(&mut tx, w.hosts[0], Uuid::from_u128(5), &lines, later).await.unwrap();
    assert_eq!(taken, Taken::default());
}
