//! The running agent with its loops, against a gateway in memory and a simulated host.

use crate::rig::*;
use basalt_agent::{
    Agent, Error, Handle, Options, Pace,
    cycle::Tuning,
    host::{Host, With, console::Console, sim::SimHost},
    ledger::MemoryLedger,
    link::{Fetched, Gateway, Listed},
};
use basalt_daemon::{Clock, Drain, SystemClock};
use basalt_model::{
    DateTime, NetworkId, PortId, VmId,
    hosts::HostFacts,
    networks::Counters,
    vms::{ObservedPower, Power},
};
use basalt_plan::host::{Action, Observed, Resource, SwitchSeen, effect::Mishap};
use basalt_wire::agent::{
    ItemKind, ItemObserved, Manifest, Report, ReportAnswer,
    console::Mode,
    directory::{Directory, DirectoryNetwork, Peer, PeerPort},
    task_logs::{LogAnswer, LogBatch},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Mutex as Held, watch},
    task::JoinHandle,
};
use uuid::Uuid;

/// A gateway in memory.
struct Memory {
    manifest: watch::Sender<(i64, Vec<u8>)>,
    away: watch::Sender<bool>,
    directory: watch::Sender<Directory>,
    reports: Mutex<Vec<Report>>,
    /// Answer the next report so.
    send_full: Mutex<bool>,
    /// Batches of lines in the order in which they came, each with the reports that came before it.
    logs: Mutex<Vec<(usize, LogBatch)>>,
    /// So many batches are taken and their answers lost.
    deaf: Mutex<u32>,
}

impl Memory {
    fn new(manifest: &Manifest) -> Self {
        let (first, away) = (Self::bytes(manifest), watch::Sender::new(false));
        let send_full = Mutex::new(false);
        let (manifest, directory) = (watch::Sender::new(first), watch::Sender::default());
        let (reports, logs, deaf) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { manifest, away, directory, reports, send_full, logs, deaf }
    }
    fn bytes(manifest: &Manifest) -> (i64, Vec<u8>) {
        (manifest.revision, serde_json::to_vec(manifest).unwrap())
    }
    fn put(&self, manifest: &Manifest) {
        self.manifest.send_replace(Self::bytes(manifest));
    }
    fn check(&self) -> Result<(), Error> {
        if *self.away.borrow() { Err(Error::link("asking", "the gateway is away")) } else { Ok(()) }
    }
    /// What was last said of every VM's power.
    fn powers(&self) -> BTreeMap<Uuid, ObservedPower> {
        let reports = self.reports.lock().unwrap();
        let items = reports.iter().flat_map(|r| &r.items).filter(|i| i.kind == ItemKind::Vm);
        items
            .filter_map(|i| match &i.observed {
                ItemObserved::Vm(vm) => Some((i.id, vm.power)),
                _ => None,
            })
            .collect()
    }
}

impl Gateway for Memory {
    async fn manifest(&self, have: Option<i64>) -> Result<Option<Fetched>, Error> {
        self.check()?;
        let (mut away, mut manifest) = (self.away.subscribe(), self.manifest.subscribe());
        tokio::select! {
            _ = away.wait_for(|away| *away) => Err(Error::link("asking", "the gateway went away")),
            newest = manifest.wait_for(|(revision, _)| Some(*revision) != have) => {
                let (revision, bytes) = newest.unwrap().clone();
                Ok(Some(Fetched { revision, bytes }))
            }
        }
    }
    async fn directory(&self, have: Option<&str>) -> Result<Option<Listed>, Error> {
        self.check()?;
        let (mut away, mut directory) = (self.away.subscribe(), self.directory.subscribe());
        let tag = |directory: &Directory| serde_json::to_string(directory).unwrap();
        tokio::select! {
            _ = away.wait_for(|away| *away) => Err(Error::link("asking", "the gateway went away")),
            newest = directory.wait_for(|d| Some(&*tag(d)) != have) => {
                let directory = newest.unwrap().clone();
                Ok(Some(Listed { tag: tag(&directory), directory }))
            }
        }
    }
    async fn report(&self, report: &Report) -> Result<ReportAnswer, Error> {
        self.check()?;
        self.reports.lock().unwrap().push(report.clone());
        Ok(ReportAnswer { send_full: std::mem::take(&mut *self.send_full.lock().unwrap()) })
    }
    async fn log(&self, batch: &LogBatch) -> Result<LogAnswer, Error> {
        self.check()?;
        // Slower than a report: what goes first does so because it is made to.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let before = self.reports.lock().unwrap().len();
        self.logs.lock().unwrap().push((before, batch.clone()));
        let mut deaf = self.deaf.lock().unwrap();
        if *deaf > 0 {
            *deaf -= 1;
            return Err(Error::link("sending lines", "the answer was lost"));
        }
        Ok(LogAnswer::default())
    }
    async fn renew(&self) -> Result<Option<DateTime>, Error> {
        Ok(None)
    }
}

struct Running {
    gateway: Arc<Memory>,
    host: Arc<SimHost>,
    ledger: MemoryLedger,
    handle: Handle,
    drain: Drain,
    task: JoinHandle<Result<(), Error>>,
}

fn start(gateway: Arc<Memory>, host: Arc<SimHost>, ledger: MemoryLedger) -> Running {
    start_on(host.clone(), gateway, host, ledger)
}

/// Starts an agent on a host that has `sim` behind it.
fn start_on<H: Host>(host: Arc<H>, gateway: Arc<Memory>, sim: Arc<SimHost>, ledger: MemoryLedger) -> Running {
    let drain = Drain::new();
    let pace = Pace {
        look: Duration::from_millis(200),
        heartbeat: Duration::from_millis(200),
        retry: Duration::from_millis(10),
        ..Pace::default()
    };
    let (agent, handle) = Agent::new(Options {
        host,
        lease: basalt_agent::lease::Lease::none(),
        ledger: ledger.clone(),
        gateway: gateway.clone(),
        downloads: Arc::new(NoDownloads),
        clock: Arc::new(SystemClock),
        host_id: HOST,
        boot: SystemClock.new_id(),
        tuning: Tuning::default(),
        pace,
    })
    .unwrap();
    let stop = drain.clone();
    let task = tokio::spawn(async move { agent.run(stop).await });
    Running { gateway, host: sim, ledger, handle, drain, task }
}

fn begin(manifest: &Manifest) -> Running {
    let host = Arc::new(SimHost::new("h1", Arc::new(SystemClock)));
    start(Arc::new(Memory::new(manifest)), host, MemoryLedger::default())
}

impl Running {
    async fn settled(&mut self, revision: i64) {
        let settled = self.handle.until(|s| s.settled && s.revision == Some(revision));
        assert!(tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap());
    }
    async fn reported(&mut self, power: ObservedPower) {
        for _ in 0..500 {
            if self.gateway.powers().get(&vm_id(1).0) == Some(&power) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{power:?} was not reported: {:?}", self.gateway.powers());
    }
    async fn stop(self) -> (Arc<Memory>, Arc<SimHost>, MemoryLedger) {
        self.drain.begin();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
        (self.gateway, self.host, self.ledger)
    }
}

/// One peer of the network of all tests, with so many ports.
fn directory(ports: u8) -> Directory {
    let port = |n: u8| PeerPort {
        address: [10, 10, 0, 100 + n].into(),
        mac: format!("02:00:00:00:01:{n:02x}"),
        name: None,
    };
    let peer = Peer { tunnel_address: [10, 78, 0, 2].into(), ports: (0..ports).map(port).collect() };
    Directory {
        networks: vec![DirectoryNetwork { id: NetworkId(NETWORK), peers: vec![peer], ports: vec![] }],
        groups: vec![],
    }
}

/// The hash of the flows that stand on the host.
fn standing(host: &SimHost) -> Option<String> {
    host.look(|world| match &world.observed.switch {
        SwitchSeen::Ready { flows } => flows.clone(),
        _ => None,
    })
}

#[tokio::test]
async fn n3_a_directory_becomes_flows_and_outlives_the_agent_and_the_gateway() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    let alone = standing(&agent.host);
    assert!(alone.is_some());
    let changes = |agent: &Running, from: Option<String>| {
        let host = agent.host.clone();
        async move {
            for _ in 0..500 {
                if standing(&host).is_some_and(|now| Some(&now) != from.as_ref()) {
                    return standing(&host);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("the flows stay as they were");
        }
    };
    agent.gateway.directory.send_replace(directory(1));
    let with_one = changes(&agent, alone.clone()).await;
    agent.gateway.directory.send_replace(directory(2));
    let with_two = changes(&agent, with_one.clone()).await;
    // The gateway goes, then the agent; the flows are wiped while nobody looks.
    agent.gateway.away.send_replace(true);
    let (gateway, host, ledger) = agent.stop().await;
    host.suffer(&Mishap::WipeFlows);
    let mut agent = start(gateway, host, ledger);
    assert_eq!(changes(&agent, None).await, with_two, "what the ledger knows goes on");
    agent.settled(1).await;
    // It comes back and says that the network is here alone.
    agent.gateway.directory.send_replace(Directory::default());
    agent.gateway.away.send_replace(false);
    assert_eq!(changes(&agent, with_two).await, alone);
    agent.stop().await;
}

#[tokio::test]
async fn v2_manifests_come_by_poll_and_facts_go_by_report() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    agent.reported(ObservedPower::Running).await;
    agent.gateway.put(&one(2, |w| w.power = Power::Stopped));
    agent.settled(2).await;
    agent.reported(ObservedPower::Stopped).await;
    let first = agent.gateway.reports.lock().unwrap()[0].clone();
    let (gateway, ..) = agent.stop().await;
    let reports = gateway.reports.lock().unwrap();
    assert!(reports.windows(2).all(|r| r[0].sequence < r[1].sequence && r[1].agent_boot == first.agent_boot));
    assert!(reports.iter().any(|r| r.facts.as_ref().is_some_and(|f| f.accelerator().is_some())));
}

#[tokio::test]
async fn everything_is_sent_again_when_the_gateway_asks() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    agent.reported(ObservedPower::Running).await;
    *agent.gateway.send_full.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let reports = agent.gateway.reports.lock().unwrap().clone();
    let last_full = reports.iter().rfind(|r| r.facts.is_some()).unwrap();
    assert_eq!(last_full.items.len(), 4);
    assert!(last_full.sequence > 2 && reports.last().unwrap().items.is_empty(), "then only signs of life");
    agent.stop().await;
}

#[tokio::test]
async fn v3_the_gateway_goes_away_the_guest_dies_and_runs_again_and_is_reported_afterwards() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    agent.reported(ObservedPower::Running).await;
    agent.gateway.away.send_replace(true);
    agent.host.suffer(&Mishap::Kill(vm_id(1)));
    for _ in 0..500 {
        if agent.host.count("starting") == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(agent.host.count("starting"), 2);
    let told = agent.gateway.reports.lock().unwrap().len();
    agent.gateway.put(&one(2, |w| w.power = Power::Paused));
    agent.gateway.away.send_replace(false);
    agent.settled(2).await;
    agent.reported(ObservedPower::Paused).await;
    assert!(agent.gateway.reports.lock().unwrap().len() > told);
    agent.stop().await;
}

#[tokio::test]
async fn t1_lines_outlive_a_gateway_that_is_away_and_go_before_the_report_of_what_they_led_to() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    agent.reported(ObservedPower::Running).await;
    *agent.gateway.deaf.lock().unwrap() = 2;
    agent.gateway.put(&one(2, |w| w.power = Power::Stopped));
    agent.settled(2).await;
    agent.gateway.away.send_replace(true);
    // The agent has the manifest in its ledger only when it was fetched, so the gateway goes after that.
    agent.host.suffer(&Mishap::Kill(vm_id(1)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    agent.gateway.away.send_replace(false);
    agent.gateway.put(&one(3, |_| {}));
    agent.settled(3).await;
    agent.reported(ObservedPower::Running).await;
    // What the lost answers were about is sent again sooner or later, and so is what was done since.
    let all_said = |gateway: &Memory| {
        let logs = gateway.logs.lock().unwrap();
        let lines: Vec<_> = logs.iter().flat_map(|(_, batch)| &batch.lines).collect();
        let once: BTreeMap<i64, &str> = lines.iter().map(|l| (l.sequence, l.text.as_str())).collect();
        let asked = once.iter().find(|(_, text)| text.contains("asked to shut down"));
        let again = asked.is_some_and(|(n, _)| once.range(n..).any(|(_, text)| *text == "started"));
        again && once.len() < lines.len()
    };
    for _ in 0..400 {
        if all_said(&agent.gateway) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let (gateway, ..) = agent.stop().await;
    let logs = gateway.logs.lock().unwrap();
    // Taken by number, as a gateway takes them: none twice, none missing.
    let mut lines = BTreeMap::new();
    for (reports, line) in logs.iter().flat_map(|(n, batch)| batch.lines.iter().map(move |l| (n, l))) {
        assert_eq!(lines.entry(line.sequence).or_insert((*reports, line.clone())).1, *line);
    }
    let numbers: Vec<i64> = lines.keys().copied().collect();
    assert_eq!(numbers, (1..=i64::try_from(lines.len()).unwrap()).collect::<Vec<_>>());
    assert!(logs.iter().map(|(_, batch)| batch.lines.len()).sum::<usize>() > lines.len(), "some came twice");
    let texts: Vec<_> = lines.values().map(|(_, line)| line.text.as_str()).collect();
    let asked = texts.iter().position(|text| *text == "the guest was asked to shut down").unwrap();
    assert_eq!(texts[asked..].iter().filter(|text| **text == "started").count(), 1, "{texts:?}");
    // The line that it was started was there before the report that the first generation is so.
    let started = lines.values().find(|(_, line)| line.text == "started").unwrap().0;
    let reports = gateway.reports.lock().unwrap();
    let done = |r: &Report| r.items.iter().any(|i| i.kind == ItemKind::Vm && i.generation.0 == 1);
    assert!(started <= reports.iter().position(done).unwrap());
}

#[tokio::test]
async fn r32_an_agent_that_is_started_again_does_nothing_again() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    let (gateway, host, ledger) = agent.stop().await;
    let actions = host.actions();
    gateway.away.send_replace(true);
    let mut agent = start(gateway, host, ledger);
    agent.settled(1).await;
    agent.gateway.away.send_replace(false);
    agent.reported(ObservedPower::Running).await;
    let (_, host, _) = agent.stop().await;
    assert_eq!(host.actions(), actions);
}

#[tokio::test]
async fn n2_a_deleted_port_and_wiped_flows_come_back_without_touching_the_guest() {
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    let before = agent.host.with_world(|w| w.observed.clone());
    for mishap in [Mishap::DropPort(port_id(1)), Mishap::WipeFlows, Mishap::DropSwitch, Mishap::KillDhcp] {
        agent.host.suffer(&mishap);
        let mut mended = false;
        for _ in 0..500 {
            mended = agent.host.with_world(|w| w.observed == before);
            if mended {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(mended, "{mishap:?}");
    }
    assert_eq!(agent.host.count("starting"), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_hosts_in_one_process_converge() {
    let m = manifest(1, &[Some(Wish::default()), Some(Wish::default()), Some(Wish::default())]);
    let mut agents: Vec<_> = (0..100).map(|_| begin(&m)).collect();
    for agent in &mut agents {
        agent.settled(1).await;
    }
    for agent in agents {
        assert_eq!(agent.host.count("starting"), 3);
        let doubled: Vec<_> = agent
            .host
            .mutations()
            .into_iter()
            .filter(|((r, s), n)| *n > 1 && !matches!(r, Resource::Flows) && *s != "setting up the network")
            .collect();
        assert_eq!(doubled, []);
        agent.drain.begin();
    }
}

/// A host whose facts take a while and hold what every look waits for; in the middle of it there is news.
struct Probing {
    sim: Arc<SimHost>,
    probe: Held<()>,
}

impl Host for Probing {
    async fn observe(&self) -> Observed {
        let _held = self.probe.lock().await;
        self.sim.observe().await
    }
    async fn facts(&self) -> HostFacts {
        let _held = self.probe.lock().await;
        self.sim.with_world(|_| ());
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.sim.facts().await
    }
    async fn act(&self, action: &Action, with: &With) -> Result<(), Error> {
        self.sim.act(action, with).await
    }
    async fn console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        self.sim.console(id, mode).await
    }
    async fn counters(&self, id: PortId) -> Result<Counters, Error> {
        self.sim.counters(id).await
    }
    fn news(&self) -> watch::Receiver<u64> {
        self.sim.news()
    }
}

/// It hung so once: the loop around the cycle left the gathering of facts aside to take a step, and the step waited for
/// what the gathering held.
#[tokio::test]
async fn a_step_never_waits_for_facts_that_nobody_drives_on() {
    // Everything stands already, so that nothing but facts gives news.
    let mut agent = begin(&one(1, |_| {}));
    agent.settled(1).await;
    let (gateway, sim, ledger) = agent.stop().await;
    let host = Arc::new(Probing { sim: sim.clone(), probe: Held::new(()) });
    let mut agent = start_on(host, gateway, sim, ledger);
    let goes_on = async {
        for revision in 2..6 {
            let power = if revision % 2 == 0 { Power::Paused } else { Power::Running };
            agent.gateway.put(&one(revision, |w| w.power = power));
            agent.settled(revision).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), goes_on).await.expect("the agent goes on");
    agent.stop().await;
}
