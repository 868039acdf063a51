//! The running agent: eight loops around one cycle. Polling brings manifests and the directory, the cycle acts, reporting
//! tells, lines go to the logs of tasks, renewal keeps the identity alive, a lease is held for VMs that need one, consoles are opened for users. The gateway may be away for as long as it likes: what is in
//! the ledger goes on.

use crate::{
    Error, consoles,
    cycle::{Cycle, Parts, Stepped, Tuning},
    holder::Holder,
    host::{Downloads, Host},
    lease::Lease,
    ledger::Ledger,
    link::{Fetched, Gateway, Listed},
    outbox::Outbox,
    task_logs::TaskLog,
};
use basalt_daemon::{Clock, Drain};
use basalt_model::{DateTime, HostId, hosts::HostFacts};
use basalt_wire::agent::directory::Directory;
use chrono::TimeDelta;
use futures::{FutureExt, future::BoxFuture};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How long a report waits for the lines that go before it.
const LINES_FIRST: Duration = Duration::from_secs(1);

/// How often things are done that no news brings.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest time between two looks at the host.
    pub look: Duration,
    /// Longest time between two reports: the sign of life.
    pub heartbeat: Duration,
    /// Time between two looks at the host's facts.
    pub facts: Duration,
    /// First wait after the gateway failed; doubles up to twenty times that.
    pub retry: Duration,
}

impl Pace {
    /// Facts of a host on which nothing can be placed yet are soon others: the agent itself mends them.
    fn after(&self, facts: &HostFacts) -> Duration {
        let complete = facts.bridges.iter().any(|b| b.integration) && facts.accelerator().is_some();
        if complete { self.facts } else { self.facts.min(Duration::from_secs(1)) }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            facts: Duration::from_secs(60),
            retry: Duration::from_millis(250),
        }
    }
}

/// What an agent is made of.
pub struct Options<H, L, G> {
    /// The host.
    pub host: Arc<H>,
    /// The ledger.
    pub ledger: L,
    /// The gateway.
    pub gateway: Arc<G>,
    /// The lease that some VMs need.
    pub lease: Lease,
    /// Where images come from.
    pub downloads: Arc<dyn Downloads>,
    /// Time, ids, jitter.
    pub clock: Arc<dyn Clock>,
    /// Who this is.
    pub host_id: HostId,
    /// Names this start of the agent; sorts by time, as [`Clock::new_id`] does.
    pub boot: Uuid,
    /// Bounds of concurrency.
    pub tuning: Tuning,
    /// How often things are done.
    pub pace: Pace,
}

/// An agent that is ready to run.
pub struct Agent<H, L, G> {
    cycle: Cycle<H, L>,
    host: Arc<H>,
    gateway: Arc<G>,
    clock: Arc<dyn Clock>,
    outbox: Outbox,
    pace: Pace,
    holder: Holder,
    status: watch::Sender<Status>,
}

/// How an agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The revision that is acted on.
    pub revision: Option<i64>,
    /// Nothing is to be done and nothing is being done.
    pub settled: bool,
    /// Reports that arrived.
    pub reports: u64,
}

/// Looks at a running agent.
#[derive(Clone)]
pub struct Handle {
    status: watch::Receiver<Status>,
}

impl Handle {
    /// How it does now.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// Waits until the status is as wanted; `false` when the agent ended first.
    pub async fn until(&mut self, wanted: impl FnMut(&Status) -> bool) -> bool {
        self.status.wait_for(wanted).await.is_ok()
    }
}

/// What a gateway told, and where to say whether the ledger kept it.
type Offer = (Told, oneshot::Sender<Result<(), Error>>);

enum Told {
    /// A manifest as it came.
    Manifest(Vec<u8>),
    /// Where other hosts have ports.
    Directory(Directory),
}

impl<H: Host, L: Ledger, G: Gateway> Agent<H, L, G> {
    /// Begins from the ledger.
    ///
    /// # Errors
    /// [`Error::State`] when the ledger's place cannot be used.
    pub fn new(options: Options<H, L, G>) -> Result<(Self, Handle), Error> {
        let Options { host, ledger, gateway, lease, downloads, clock, host_id, boot, tuning, pace } = options;
        let outbox = Outbox::new(boot);
        let parts = Parts {
            host: host.clone(),
            ledger,
            lease: lease.clone(),
            clock: clock.clone(),
            downloads,
            outbox: outbox.clone(),
            host_id,
            tuning,
        };
        let cycle = Cycle::new(parts)?;
        let (status, handle) = watch::channel(Status { revision: cycle.revision(), ..Status::default() });
        let holder = Holder { lease, boot };
        let agent = Self { cycle, host, gateway, clock, outbox, pace, holder, status };
        Ok((agent, Handle { status: handle }))
    }

    /// Runs until the drain begins; actions that have begun get 5 s to end.
    ///
    /// # Errors
    /// None today; what fails is tried again and reported.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let Self { cycle, host, gateway, clock, outbox, pace, holder, status } = self;
        let (offers, offered) = mpsc::channel(1);
        let status = Arc::new(status);
        let wait = Wait { clock: clock.clone(), pace };
        let served = host.clone();
        let others = async {
            tokio::join!(
                poll(&*gateway, &wait, offers.clone()),
                look_up(&*gateway, &wait, offers),
                report(&*gateway, &wait, &outbox, &status),
                write_logs(&*gateway, &wait, outbox.lines()),
                renew(&*gateway, &wait),
                holder.hold(&*gateway, &wait, &status),
                consoles::serve(&served, &gateway, &wait)
            )
        };
        let leases = holder.lease.changes();
        let mut drive = Drive { cycle, host, clock, pace, leases, status: status.clone(), offered };
        tokio::select! {
            () = drive.run(&drain) => {}
            _ = others => {}
        }
        drive.drain().await;
        Ok(())
    }
}

/// Waits with jitter, so that hosts that failed together do not come back together.
pub(crate) struct Wait {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pace: Pace,
}

impl Wait {
    pub(crate) fn jittered(&self, full: Duration) -> Duration {
        full.mul_f64(0.75 + self.clock.jitter() / 4.0)
    }

    /// After a poll that brought nothing: a gateway that is about to stop answers at once, and is not to be asked in a
    /// tight loop.
    async fn if_at_once(&self, asked_at: DateTime) {
        if self.clock.now() - asked_at < TimeDelta::seconds(1) {
            tokio::time::sleep(self.jittered(self.pace.retry)).await;
        }
    }

    /// After a failure: what the gateway asked for, or ever longer.
    pub(crate) async fn after(&self, error: &Error, failures: u32) {
        let wait = match error {
            Error::Busy(patience) => *patience,
            Error::Rejected(_) => self.pace.retry * 80,
            _ => self.pace.retry * 2_u32.pow(failures.min(6)).min(20),
        };
        tokio::time::sleep(self.jittered(wait)).await;
    }
}

async fn poll<G: Gateway>(gateway: &G, wait: &Wait, offers: mpsc::Sender<Offer>) {
    let (mut have, mut failures) = (None, 0);
    loop {
        let asked_at = wait.clock.now();
        let Fetched { revision, bytes } = match gateway.manifest(have).await {
            Ok(fetched) => {
                failures = 0;
                match fetched {
                    Some(fetched) => fetched,
                    None => {
                        wait.if_at_once(asked_at).await;
                        continue;
                    }
                }
            }
            Err(e) => {
                if failures == 0 {
                    tracing::warn!(error = %e, "no manifest from the gateway; acting on the ledger");
                }
                wait.after(&e, failures).await;
                failures = failures.saturating_add(1);
                continue;
            }
        };
        let (reply, replied) = oneshot::channel();
        if offers.send((Told::Manifest(bytes), reply)).await.is_err() {
            return;
        }
        have = match replied.await {
            Ok(Ok(())) => Some(revision),
            Ok(Err(e @ Error::Refused(_))) => {
                tracing::error!(error = %e, revision, "the manifest was refused");
                Some(revision)
            }
            Ok(Err(e)) => {
                tracing::error!(error = %e, revision, "the manifest could not be kept, asking again");
                wait.after(&e, 4).await;
                None
            }
            Err(_) => return,
        };
    }
}

/// Follows where other hosts have ports. Without a gateway what the ledger knows goes on.
async fn look_up<G: Gateway>(gateway: &G, wait: &Wait, offers: mpsc::Sender<Offer>) {
    let (mut have, mut failures) = (None::<String>, 0);
    loop {
        let asked_at = wait.clock.now();
        let kept = match gateway.directory(have.as_deref()).await {
            Ok(None) => {
                failures = 0;
                wait.if_at_once(asked_at).await;
                continue;
            }
            Ok(Some(Listed { tag, directory })) => {
                let (reply, replied) = oneshot::channel();
                if offers.send((Told::Directory(directory), reply)).await.is_err() {
                    return;
                }
                let Ok(kept) = replied.await else { return };
                kept.map(|()| tag)
            }
            Err(e) => Err(e),
        };
        match kept {
            Ok(tag) => (have, failures) = (Some(tag), 0),
            Err(e) => {
                if failures == 0 {
                    tracing::warn!(error = %e, "no directory from the gateway; acting on the last one");
                }
                wait.after(&e, failures).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

async fn report<G: Gateway>(gateway: &G, wait: &Wait, outbox: &Outbox, status: &watch::Sender<Status>) {
    let (mut failures, lines) = (0, outbox.lines());
    loop {
        if !lines.is_empty() {
            // A report may end a task: its lines go before. Whatever becomes of them, the other loop sees to it.
            let _ = tokio::time::timeout(LINES_FIRST, lines.flush(gateway, &*wait.clock)).await;
        }
        let draft = outbox.draft();
        match gateway.report(&draft.report).await {
            Ok(answer) => {
                failures = 0;
                outbox.told(draft, answer.send_full);
                status.send_modify(|s| s.reports += 1);
                // What changes in quick succession goes in one report.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let heartbeat = wait.jittered(wait.pace.heartbeat);
                tokio::time::timeout(heartbeat, outbox.news()).await.unwrap_or_default();
            }
            Err(e) => {
                if failures == 0 {
                    tracing::warn!(error = %e, "the report did not arrive");
                }
                wait.after(&e, failures).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// Sends lines for the logs of tasks as they come.
async fn write_logs<G: Gateway>(gateway: &G, wait: &Wait, lines: &TaskLog) {
    let mut failures = 0;
    loop {
        match lines.flush(gateway, &*wait.clock).await {
            Ok(()) if lines.is_empty() => {
                failures = 0;
                lines.news().await;
            }
            // More than may be sent in a second waits for its turn.
            Ok(()) => tokio::time::sleep(wait.jittered(Duration::from_secs(1))).await,
            Err(e) => {
                if failures == 0 {
                    tracing::warn!(error = %e, "lines for logs did not arrive; they are kept");
                }
                wait.after(&e, failures).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

async fn renew<G: Gateway>(gateway: &G, wait: &Wait) {
    let mut failures = 0;
    loop {
        match gateway.renew().await {
            Ok(next) => {
                failures = 0;
                let now = wait.clock.now();
                let until = next.and_then(|at| (at - now).to_std().ok()).unwrap_or(Duration::from_secs(600));
                // Looked at again now and then: a clock that was set changes what is due.
                tokio::time::sleep(until.clamp(Duration::from_millis(200), Duration::from_secs(600))).await;
            }
            Err(e) => {
                tracing::warn!(error = %e, "the certificate was not renewed");
                wait.after(&e, failures).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// The loop around the cycle.
struct Drive<H, L> {
    cycle: Cycle<H, L>,
    host: Arc<H>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    leases: watch::Receiver<u64>,
    status: Arc<watch::Sender<Status>>,
    offered: mpsc::Receiver<Offer>,
}

impl<H: Host, L: Ledger> Drive<H, L> {
    async fn run(&mut self, drain: &Drain) {
        let mut news = self.host.news();
        let stages = self.cycle.stages();
        let mut facts = self.facts(Duration::ZERO);
        loop {
            // A look that hangs does not keep the agent from ending.
            let Some(wake) = drain.or(self.step()).await else { return };
            loop {
                let due = self.until(wake);
                tokio::select! {
                    () = drain.begun() => return,
                    done = self.cycle.finished() => {
                        if let Err(e) = self.cycle.settle(done) {
                            tracing::error!(error = %e, "the ledger cannot be written");
                        }
                        break;
                    }
                    Ok(()) = news.changed() => break,
                    Ok(()) = self.leases.changed() => break,
                    Some((told, reply)) = self.offered.recv() => {
                        let taken = match told {
                            Told::Manifest(bytes) => self.cycle.offer(&bytes),
                            Told::Directory(directory) => self.cycle.take_directory(directory),
                        };
                        // The poller may have gone; then nobody asks.
                        let _ = reply.send(taken);
                        break;
                    }
                    () = stages.changed() => self.cycle.show_stages(),
                    found = &mut facts => {
                        let again = self.pace.after(&found);
                        self.cycle.take_facts(found);
                        facts = self.facts(again);
                    }
                    () = tokio::time::sleep(due) => break,
                }
            }
        }
    }

    /// Never nothing: not even a clock that stands still makes a tight loop.
    fn until(&self, wake: DateTime) -> Duration {
        (wake - self.clock.now()).to_std().unwrap_or_default().max(Duration::from_millis(1))
    }

    /// One step; answers when the next is due even without news.
    async fn step(&mut self) -> DateTime {
        let stepped = match self.cycle.step().await {
            Ok(stepped) => stepped,
            Err(e) => {
                tracing::error!(error = %e, "the ledger cannot be written; nothing is begun");
                let wake_at = Some(self.clock.now() + TimeDelta::seconds(1));
                Stepped { wake_at, settled: false }
            }
        };
        let revision = self.cycle.revision();
        self.status.send_if_modified(|s| {
            let before = *s;
            (s.revision, s.settled) = (revision, stepped.settled);
            *s != before
        });
        let look = self.pace.look.mul_f64(0.75 + self.clock.jitter() / 4.0);
        let look = self.clock.now() + TimeDelta::from_std(look).unwrap_or(TimeDelta::seconds(5));
        stepped.wake_at.map_or(look, |at| at.min(look))
    }

    /// Gathers the facts on a task of its own: they take seconds and hold what a step may wait for, and this loop
    /// does not poll them while it is in a step.
    fn facts(&self, after: Duration) -> BoxFuture<'static, HostFacts> {
        let host = self.host.clone();
        let gathering = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            host.facts().await
        }));
        async move {
            match gathering.await {
                Ok(facts) => facts,
                Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
                // Only a runtime that ends aborts it; nobody waits any more.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    /// Lets what has begun end, within bounds; what does not end is found by the next start.
    async fn drain(&mut self) {
        let ended = async {
            while self.cycle.is_busy() {
                let done = self.cycle.finished().await;
                if let Err(e) = self.cycle.settle(done) {
                    tracing::error!(error = %e, "the ledger cannot be written");
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), ended).await.is_err() {
            tracing::warn!("actions were still going on; the next start looks what became of them");
        }
    }
}
