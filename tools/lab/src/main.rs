//! `basalt-lab`: brings the lab up, down, and does to it what the control socket allows.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use basalt_lab::control::{self, HostStatus, LabStatus, Request, Response, Verb};
use basalt_lab::layout::Layout;
use basalt_lab::process::{Identity, tail};
use basalt_lab::supervisor::ServiceStatus;
use basalt_lab::{Lab, Ports, default_data_dir, host_count, host_init};
use clap::{Args, Parser, Subcommand, ValueEnum};

const DETACHED_LIMIT: Duration = Duration::from_secs(300);

#[derive(Parser)]
#[command(name = "basalt-lab", version, about = "One machine as a whole Basalt cluster")]
struct Cli {
    /// Where everything lies; by default `.basalt` in the current directory.
    #[arg(long, global = true, value_name = "DIR", env = "BASALT_LAB_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: CliVerb,
}

#[derive(Subcommand)]
enum CliVerb {
    /// Start everything and stay in the foreground.
    Up(UpArgs),
    /// Stop everything; what was stored stays.
    Down {
        /// Also forget everything that was stored, but for the cache.
        #[arg(long)]
        reset: bool,
    },
    /// Show what runs.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Start, stop, restart or kill one service, of the lab or of a host.
    Service {
        verb: ServiceVerb,
        service: String,
        #[arg(long)]
        host: Option<String>,
    },
    /// Cut a host's power: every process of it dies at once.
    PowerCut { host: String },
    /// Power a host on again.
    PowerOn { host: String },
    /// Run a program inside a host.
    Exec {
        host: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
    /// Break what runs in every way, and measure until reality matches intent again.
    Drill {
        /// Only faults whose title contains this.
        #[arg(long)]
        only: Option<String>,
        /// Refuse to begin unless the lab runs with as many hosts.
        #[arg(long, value_parser = host_count::parse)]
        hosts: Option<u8>,
    },
    /// Make the small guest image, unless it is there, and print where it lies.
    GuestImage,
    /// The first process of a namespace host; `up` starts it.
    #[command(hide = true)]
    HostInit {
        #[arg(long)]
        config: PathBuf,
    },
    /// The second process of a namespace host; the first starts it.
    #[command(hide = true)]
    HostServices {
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Args)]
struct UpArgs {
    /// Return as soon as everything is up.
    #[arg(long)]
    detach: bool,
    /// Forget everything that was stored, but for the cache.
    #[arg(long)]
    reset: bool,
    /// Where basalt-gateway, basalt-image-service and basalt-agent lie; by default beside this program.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Users' door on this port of 127.0.0.1, the image service two above it.
    #[arg(long, default_value_t = 9443)]
    port_base: u16,
    /// Start the parts whose programs are there, and no more: no trust among them, no image, no VM.
    #[arg(long)]
    bare: bool,
    /// How many hosts, 1 to 8, about 512 MiB of memory each; by default as many as the lab had, and 1 at first.
    #[arg(long, value_name = "N", value_parser = host_count::parse)]
    hosts: Option<u8>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ServiceVerb {
    Start,
    Stop,
    Restart,
    Kill,
}

impl From<ServiceVerb> for Verb {
    fn from(verb: ServiceVerb) -> Self {
        match verb {
            ServiceVerb::Start => Self::Start,
            ServiceVerb::Stop => Self::Stop,
            ServiceVerb::Restart => Self::Restart,
            ServiceVerb::Kill => Self::Kill,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("basalt-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match &cli.verb {
        CliVerb::HostInit { config } => return host_init::run_host(config).map(|()| ExitCode::FAILURE),
        CliVerb::HostServices { config } => {
            return host_init::run_services(config).map(|()| ExitCode::FAILURE);
        }
        _ => {}
    }
    let data_dir = match cli.data_dir {
        Some(dir) => dir,
        None => default_data_dir()?,
    };
    match cli.verb {
        CliVerb::Up(args) if args.detach => up_detached(&data_dir, &args)?,
        CliVerb::Up(args) => up(&data_dir, &args)?,
        CliVerb::Down { reset } => down(&data_dir, reset)?,
        CliVerb::Status { json } => return status(&data_dir, json),
        CliVerb::Service { verb, service, host } => {
            ask(&data_dir, &Request::Service { verb: verb.into(), service, host })?;
        }
        CliVerb::PowerCut { host } => drop(ask(&data_dir, &Request::PowerCut { host })?),
        CliVerb::PowerOn { host } => drop(ask(&data_dir, &Request::PowerOn { host })?),
        CliVerb::Exec { host, argv } => return exec(&data_dir, &host, &argv),
        CliVerb::GuestImage => guest_image(&data_dir)?,
        CliVerb::Drill { only, hosts } => return drill(&data_dir, only.as_deref(), hosts),
        CliVerb::HostInit { .. } | CliVerb::HostServices { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(data_dir: &Path, request: &Request) -> Result<Response> {
    control::ask(&Layout::open(data_dir)?.control_socket(), request)
}

fn up(data_dir: &Path, args: &UpArgs) -> Result<()> {
    if args.reset && data_dir.exists() {
        Lab::reset(data_dir)?;
    }
    let count = count_hosts(&Layout::create(data_dir)?, args)?;
    let mut builder = Lab::builder(data_dir)
        .ports(Ports::Base(args.port_base))
        .hosts((1..=count).map(host_count::host_name));
    let program = std::env::current_exe()?;
    let bin_dir = match &args.bin_dir {
        Some(dir) => dir.clone(),
        None => program.parent().context("this program lies nowhere")?.to_owned(),
    };
    builder = builder.bin_dir(&bin_dir);
    let lab = Arc::new(builder.lab_program(&program).build()?);
    // From here on a signal must find the lab's own end, not the kernel's.
    let asked_down = lab.serve_control()?;
    let signals = signals()?;
    let outcome_file = outcome_file(lab.layout());
    let bare = args.bare;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (working, work_dir) = (Arc::clone(&lab), bin_dir.clone());
    let mut work = Some(runtime.spawn(async move { basalt_lab::up::up(&working, &work_dir, bare).await }));
    while asked_down.try_recv().is_err() && signals.try_recv().is_err() {
        if work.as_ref().is_some_and(tokio::task::JoinHandle::is_finished)
            && let Some(done) = work.take()
        {
            match runtime.block_on(done)? {
                Ok(text) => {
                    println!("{text}\nup; Ctrl-C or `cargo xtask down` ends it");
                    std::fs::write(&outcome_file, text)?;
                }
                Err(error) => {
                    runtime.shutdown_background();
                    lab.stop()?;
                    return Err(error);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("going down");
    if let Some(work) = work {
        work.abort();
    }
    runtime.shutdown_background();
    lab.stop()
}

/// How many hosts to start, when the machine has the memory for them.
fn count_hosts(layout: &Layout, args: &UpArgs) -> Result<u8> {
    let count = host_count::decide(host_count::kept(layout), args.hosts)?;
    println!("{}", host_count::check_memory(count, host_count::available_mib()?)?);
    Ok(count)
}

/// Written when `up` has done everything it does.
fn outcome_file(layout: &Layout) -> PathBuf {
    layout.run_dir().join("outcome.txt")
}

fn drill(data_dir: &Path, only: Option<&str>, hosts: Option<u8>) -> Result<ExitCode> {
    use basalt_lab::drill::{Drill, table};
    let layout = Layout::open(data_dir)?;
    if hosts.is_some() {
        let Response::Lab { status } = ask(data_dir, &Request::Status).context("run `up` first")? else {
            bail!("not a lab's answer")
        };
        host_count::check_running(status.hosts.len(), hosts)?;
    }
    let text = std::fs::read_to_string(layout.config_dir().join("cli.toml")).context("run `up` first")?;
    let client = basalt_lab::bootstrap::client(&toml::from_str(&text)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let drill = Drill::new(layout, client).await?;
        let mut results = Vec::new();
        for fault in drill.faults().filter(|f| only.is_none_or(|o| f.title().contains(o))) {
            eprint!("{} … ", fault.title());
            let healed = drill.run(fault).await?;
            eprintln!("{}", healed.seconds.map_or("not healed".to_owned(), |s| format!("{s:.1} s")));
            results.push(healed);
        }
        print!("{}", table(&results));
        let well = results.iter().all(basalt_lab::drill::Healed::is_well);
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// SIGINT and SIGTERM as messages.
fn signals() -> Result<std::sync::mpsc::Receiver<()>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                result = tokio::signal::ctrl_c() => result?,
                _ = terminate.recv() => {}
            }
            anyhow::Ok(())
        })?;
        // Nobody listens any more when the lab went down by itself.
        let _ = sender.send(());
        anyhow::Ok(())
    })?;
    Ok(receiver)
}

fn up_detached(data_dir: &Path, args: &UpArgs) -> Result<()> {
    if args.reset && data_dir.exists() {
        Lab::reset(data_dir)?;
    }
    let layout = Layout::create(data_dir)?;
    if let Ok(Response::Lab { status }) = control::ask(&layout.control_socket(), &Request::Status) {
        host_count::check_running(status.hosts.len(), args.hosts)?;
        println!("it is up already");
        return print_status(&status);
    }
    let count = count_hosts(&layout, args)?;
    let log_path = layout.log_file("supervisor");
    let log = std::fs::File::create(&log_path)?;
    let outcome = outcome_file(&layout);
    let _ = std::fs::remove_file(&outcome);
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe()?).arg("--data-dir").arg(layout.data_dir()).arg("up");
    command.args(["--port-base", &args.port_base.to_string(), "--hosts", &count.to_string()]);
    if let Some(dir) = &args.bin_dir {
        command.arg("--bin-dir").arg(dir);
    }
    if args.bare {
        command.arg("--bare");
    }
    let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let end = Instant::now() + DETACHED_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the lab did not come up ({status}):\n{}", tail(&log_path, 20));
        }
        if let Ok(text) = std::fs::read_to_string(&outcome) {
            print!("{text}");
            return if args.bare { status(data_dir, false).map(drop) } else { Ok(()) };
        }
        if Instant::now() > end {
            bail!("the lab is not up after {DETACHED_LIMIT:?}:\n{}", tail(&log_path, 20));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_up(status: &LabStatus) -> bool {
    let ready = |services: &[ServiceStatus]| services.iter().all(|s| s.ready);
    ready(&status.services)
        && status.hosts.iter().all(|h| h.powered && !h.services.is_empty() && ready(&h.services))
}

fn down(data_dir: &Path, reset: bool) -> Result<()> {
    if !data_dir.exists() {
        println!("nothing there");
        return Ok(());
    }
    if ask(data_dir, &Request::Down).is_ok() {
        wait_until_unlocked(data_dir)?;
    }
    for name in Lab::clean(data_dir)? {
        println!("ended {name}, left running by a killed supervisor");
    }
    if reset {
        Lab::reset(data_dir)?;
    }
    println!("down");
    Ok(())
}

/// The supervisor holds the lock until all is gone.
fn wait_until_unlocked(data_dir: &Path) -> Result<()> {
    let end = Instant::now() + DETACHED_LIMIT;
    while let Err(error) = Lab::clean(data_dir) {
        if Instant::now() > end {
            return Err(error).context("the supervisor does not end");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Success if everything is up, failure otherwise.
fn status(data_dir: &Path, json: bool) -> Result<ExitCode> {
    let Response::Lab { status } = ask(data_dir, &Request::Status)? else { bail!("not a lab's answer") };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print_status(&status)?;
    }
    Ok(if is_up(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_status(status: &LabStatus) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "data   {}", status.data_dir.display())?;
    writeln!(out, "users  https://{}", status.users_address)?;
    writeln!(out, "images https://{}", status.image_address)?;
    writeln!(out, "{:<24} {:<9} {:>8} {:>8}  LAST EXIT", "SERVICE", "STATE", "PID", "RESTARTS")?;
    for service in &status.services {
        print_service(&mut out, "", service)?;
    }
    for HostStatus { name, address, tunnel_address, powered, enrolled, services } in &status.hosts {
        let power = if *powered { "on" } else { "off" };
        let trust = if *enrolled { "enrolled" } else { "not enrolled" };
        writeln!(out, "{name:<24} {power:<9} {trust}, management {address}, tunnels {tunnel_address}")?;
        for service in services {
            print_service(&mut out, "  ", service)?;
        }
    }
    Ok(())
}

fn print_service(out: &mut impl Write, indent: &str, service: &ServiceStatus) -> Result<()> {
    let state =
        if service.ready { "ready".to_owned() } else { format!("{:?}", service.phase).to_lowercase() };
    let pid = service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let name = format!("{indent}{}", service.name);
    let exit = service.last_exit.as_deref().unwrap_or("-");
    writeln!(out, "{name:<24} {state:<9} {pid:>8} {:>8}  {exit}", service.restarts)?;
    Ok(())
}

fn guest_image(data_dir: &Path) -> Result<()> {
    let cache = Layout::create(data_dir)?.cache_dir();
    let image = basalt_lab::guest_image::ensure(&cache, &mut |step| {
        eprintln!("[{}/{}] {}", step.done, step.total, step.now);
    })?;
    println!("{}", image.path.display());
    Ok(())
}

fn exec(data_dir: &Path, host: &str, argv: &[String]) -> Result<ExitCode> {
    let file = Layout::open(data_dir)?.pid_file(&format!("{}{host}", basalt_lab::leftovers::HOST_PREFIX));
    let bytes = std::fs::read(&file).with_context(|| format!("{host} is powered off or unknown"))?;
    let init: Identity = serde_json::from_slice(&bytes)?;
    if !init.is_alive() {
        bail!("{host} is powered off");
    }
    let status = Command::new("nsenter")
        .args(["-t", &init.pid.to_string(), "-m", "-n", "-u", "-p", "--"])
        .args(argv)
        .status()
        .context("nsenter")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
