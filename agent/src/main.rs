//! The program of component 2: reads its configuration, enrols once, runs until told to stop.

use anyhow::Context;
use basalt_agent::{
    Agent, Config, Error, Options, Pace,
    cycle::Tuning,
    fencer::{Fencer, Processes},
    host::machine::Machine,
    identity::Identity,
    lease::Lease,
    ledger::FileLedger,
    link::Link,
};
use basalt_daemon::{Clock, Drain, SystemClock};
use clap::{Parser, Subcommand};
use std::{os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc, time::Duration};

/// Runs virtual machines on this host as the gateway says.
#[derive(Parser)]
#[command(name = "basalt-agent", version)]
struct Args {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/basalt/agent.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs this host's fencer instead: it stops VMs that need the host's lease when that has run out.
    Fence,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    basalt_daemon::boot::begin();
    let config = Config::load(&args.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let drain = Drain::on_signals().context("listening for signals")?;
    let dir = &config.state.dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| dir.display().to_string())?;
    if let Some(Command::Fence) = args.command {
        let fencer = Fencer::new(dir, Processes, clock, config.fencer.watchdog.as_ref())?;
        basalt_daemon::boot::ready();
        fencer.run(drain).await;
        return Ok(());
    }

    let mut ledger = FileLedger::new(dir);
    let identity = match Identity::load(dir)? {
        Some(identity) => identity,
        None => {
            let Some(enrolled) = drain.or(enrol(&config, &*clock)).await else { return Ok(()) };
            let enrolled = enrolled?;
            ledger.begin()?;
            enrolled
        }
    };
    tracing::info!(host_id = %identity.host_id, name = %config.host.name, "enrolled");
    let Some(host) = drain.or(open(&config, &clock)).await else { return Ok(()) };
    let host_id = identity.host_id;
    let boot = ledger.start(clock.new_id())?;
    let link = Arc::new(Link::new(&config, identity, clock.clone(), boot)?);
    let (agent, _) = Agent::new(Options {
        host,
        ledger,
        lease: Lease::in_dir(dir),
        gateway: link.clone(),
        downloads: link,
        clock,
        host_id,
        boot,
        tuning: Tuning::default(),
        pace: Pace::default(),
    })?;
    basalt_daemon::boot::ready();
    agent.run(drain).await?;
    Ok(())
}

/// Tries until the gateway answers. A token that it does not take ends the program: waiting does not help.
async fn enrol(config: &Config, clock: &dyn Clock) -> Result<Identity, Error> {
    let mut failures = 0;
    loop {
        match Link::enrol(config, clock).await {
            Err(e @ (Error::Link { .. } | Error::Busy(_))) => {
                tracing::warn!(error = %e, "not enrolled yet, trying again");
                let seconds = 0.5 * f64::from(2_u32.pow(failures)) * (0.75 + clock.jitter() / 4.0);
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                failures = (failures + 1).min(4);
            }
            ended => return ended,
        }
    }
}

/// Opens the host, as soon as what it needs is there: libvirtd may start after the agent.
async fn open(config: &Config, clock: &Arc<dyn Clock>) -> Arc<Machine> {
    loop {
        match Machine::open(config, clock.clone()).await {
            Ok(machine) => return Arc::new(machine),
            Err(e) => {
                tracing::error!(error = %e, "the host cannot be used yet, trying again");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }
}
