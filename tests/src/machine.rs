//! A simulated host of a test house: a real agent over real mutual TLS, a host in memory behind it.

use crate::wait;
use anyhow::{Context, Result, bail};
use basalt_agent::{
    Agent, Config, Error, Options, Pace,
    cycle::Tuning,
    fencer::{Fencer, Killer},
    host::sim::SimHost,
    identity::Identity,
    lease::Lease,
    ledger::FileLedger,
    link::Link,
};
use basalt_daemon::{Clock, Drain, SystemClock};
use basalt_model::{HostId, VmId, vms::ObservedPower};
use basalt_plan::host::{Resource, VmSeen, effect::Mishap};
use futures::FutureExt;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long an action of a simulated host may take before the agent gives it up: real hosts are given minutes.
pub const ACT_LIMIT: Duration = Duration::from_millis(300);

/// Quick looks and retries: what takes a real host seconds must not take a scenario seconds.
pub const QUICK: Pace = Pace {
    look: Duration::from_secs(1),
    heartbeat: Duration::from_secs(10),
    facts: Duration::from_secs(60),
    retry: Duration::from_millis(50),
};

/// One simulated host.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: HostId,
    /// The host in memory: faults, counts, hands.
    pub sim: Arc<SimHost>,
    config: Config,
    dir: PathBuf,
    pace: Pace,
    running: Mutex<Option<JoinHandle<()>>>,
    fencer: Mutex<Option<JoinHandle<()>>>,
}

/// Stops guests of a host in memory, as a signal would stop QEMU.
struct SimKiller(Arc<SimHost>);

impl Killer for SimKiller {
    fn kill(&mut self, id: VmId) -> usize {
        let power = self.0.look(|w| w.observed.vms.items.get(&id).map(|vm| vm.power));
        let in_memory = matches!(power, Some(ObservedPower::Running | ObservedPower::Paused));
        if in_memory {
            self.0.suffer(&Mishap::Kill(id));
        }
        usize::from(in_memory)
    }
}

impl Machine {
    /// A host that was declared, with its join token. The agent does not run yet.
    pub fn new(
        name: &str,
        id: HostId,
        dir: &Path,
        gateway: &str,
        ca_pem: &str,
        join_token: &str,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (ca, token) = (dir.join("ca.pem"), dir.join("join-token"));
        fs::write(&ca, ca_pem)?;
        fs::write(&token, join_token)?;
        let text = format!(
            "[gateway]\nurl = \"{gateway}\"\nca = \"{}\"\n[state]\ndir = \"{}\"\n[host]\nname = \"{name}\"\njoin_token_file = \"{}\"\n",
            ca.display(),
            dir.join("state").display(),
            token.display(),
        );
        fs::write(dir.join("agent.toml"), &text)?;
        let config = Config::parse(&text).map_err(|why| anyhow::anyhow!(why))?;
        let sim = Arc::new(SimHost::new(name, Arc::new(SystemClock)));
        Ok(Self {
            name: name.into(),
            id,
            sim,
            config,
            dir: dir.into(),
            pace: QUICK,
            running: Mutex::new(None),
            fencer: Mutex::new(None),
        })
    }

    /// Starts the host's fencer: the real one, over the files of the agent.
    pub fn fence(&self) -> Result<()> {
        let state = self.state_dir();
        fs::create_dir_all(&state)?;
        let fencer = Fencer::new(&state, SimKiller(self.sim.clone()), Arc::new(SystemClock), None)?;
        let task = tokio::spawn(fencer.run(Drain::new()));
        if let Some(before) = self.fencer.lock().unwrap_or_else(PoisonError::into_inner).replace(task) {
            before.abort();
        }
        Ok(())
    }

    /// Kills the fencer.
    pub fn unfence(&self) {
        if let Some(task) = self.fencer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    /// The power fails: nothing executes there any more, neither guests nor agent nor fencer.
    pub async fn cut_power(&self) {
        self.kill().await;
        self.unfence();
        self.sim.suffer(&Mishap::PowerCut);
    }

    /// The same host with an agent that looks and reports at another pace.
    #[must_use]
    pub fn at(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The agent's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// Enrols the host and gives its link to the gateway, for who plays the agent.
    pub async fn enrol(&self, clock: Arc<dyn Clock>, boot: Uuid) -> Result<Link> {
        fs::create_dir_all(&self.config.state.dir)?;
        let identity = enrol(&self.config, &*clock).await?;
        Ok(Link::new(&self.config, identity, clock, boot)?)
    }

    /// A second link under the identity of the host's agent, as a copied disk would have it.
    pub fn twin(&self, boot: Uuid) -> Result<Link> {
        let identity = Identity::load(&self.config.state.dir)?.context("the host is enrolled")?;
        Ok(Link::new(&self.config, identity, Arc::new(SystemClock), boot)?)
    }

    /// Where the agent keeps its ledger and identity.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Starts the agent: enrols the host if it was not, then runs from its ledger.
    pub fn start(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|task| !task.is_finished()) {
            bail!("the agent of {} runs already", self.name);
        }
        let (config, host, name, pace) =
            (self.config.clone(), self.sim.clone(), self.name.clone(), self.pace);
        *running = Some(tokio::spawn(async move {
            if let Err(e) = run(config, host, pace).await {
                tracing::error!(host = name, error = %e, "the agent ended");
            }
        }));
        Ok(())
    }

    /// Kills the agent between two of its steps; what the host was doing for it stops being waited for.
    pub async fn kill(&self) {
        let taken = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = taken {
            task.abort();
            // The abort is what was asked for.
            let _ = task.await;
        }
    }

    /// Kills the agent and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.kill().await;
        self.start()
    }

    /// Whether a fault killed the agent since this was last asked.
    pub fn was_killed(&self) -> bool {
        self.sim.killed().now_or_never().is_some()
    }

    /// A VM as it is on the host.
    pub fn seen(&self, id: VmId) -> Option<VmSeen> {
        self.sim.look(|w| w.observed.vms.items.get(&id).cloned())
    }

    /// Whether a VM executes on the host.
    pub fn runs(&self, id: VmId) -> bool {
        self.power(id) == ObservedPower::Running
    }

    /// The power of a VM as it is on the host.
    pub fn power(&self, id: VmId) -> ObservedPower {
        self.seen(id).map_or(ObservedPower::Absent, |vm| vm.power)
    }

    /// Waits until a VM executes on the host.
    pub async fn until_runs(&self, id: VmId) -> Result<()> {
        wait::until_true(&format!("VM {id} runs on {}", self.name), || self.runs(id)).await
    }

    /// How often something of a resource was really done, by its stage.
    pub fn done(&self, resource: Resource, stage: &str) -> u32 {
        self.sim
            .mutations()
            .into_iter()
            .filter(|((r, s), _)| *r == resource && *s == stage)
            .map(|(_, n)| n)
            .sum()
    }

    /// What is left on the host of VMs, by kind.
    pub fn leftovers(&self) -> Vec<String> {
        self.sim.look(|w| {
            let o = &w.observed;
            let counts = [
                ("VMs", o.vms.items.len()),
                ("volumes", o.volumes.items.len()),
                ("ports", o.ports.items.len()),
                ("seeds", o.seeds.items.len()),
            ];
            counts
                .iter()
                .filter(|(_, n)| *n > 0)
                .map(|(what, n)| format!("{n} {what} on {}", self.name))
                .collect()
        })
    }

    /// The files of the ledger.
    pub fn ledger_files(&self) -> Result<Vec<PathBuf>> {
        let dir = self.state_dir();
        let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
        let paths = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
        Ok(paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "ledger")).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(task) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.unfence();
    }
}

/// An agent with a host in memory as the whole work of a process: runs until it is killed.
pub async fn run_alone(config: &Path) -> Result<()> {
    let config = Config::load(config)?;
    let host = SimHost::new(config.host.name.as_str(), Arc::new(SystemClock));
    run(config, Arc::new(host), QUICK).await
}

/// What the agent's `main` does, with a host in memory.
async fn run(config: Config, host: Arc<SimHost>, pace: Pace) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let dir = config.state.dir.clone();
    fs::create_dir_all(&dir)?;
    let mut ledger = FileLedger::new(&dir);
    let identity = match Identity::load(&dir)? {
        Some(identity) => identity,
        None => {
            let identity = enrol(&config, &*clock).await?;
            ledger.begin()?;
            identity
        }
    };
    let host_id = identity.host_id;
    let boot = ledger.start(clock.new_id())?;
    let link = Arc::new(Link::new(&config, identity, clock.clone(), boot)?);
    let tuning = Tuning { act_limit: Some(ACT_LIMIT), ..Tuning::default() };
    let options = Options {
        host,
        ledger,
        lease: Lease::in_dir(&dir),
        gateway: link.clone(),
        downloads: link,
        clock,
        host_id,
        boot,
        tuning,
        pace,
    };
    Agent::new(options)?.0.run(Drain::new()).await?;
    Ok(())
}

async fn enrol(config: &Config, clock: &dyn Clock) -> Result<Identity, Error> {
    loop {
        match Link::enrol(config, clock).await {
            Err(Error::Link { .. } | Error::Busy(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            ended => return ended,
        }
    }
}
