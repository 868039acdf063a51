//! The command line's grammar.

mod deployments;

pub use deployments::*;

use crate::{cells::parse_size, failure::EXIT_CODES, kinds::KINDS, output::Format};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// What `wait --for` may wait for: phases, states of hosts, tasks, images and volumes, and the end.
pub const AWAITED: [&str; 28] = [
    "deleted",
    // Phases.
    "pending",
    "ready",
    "running",
    "stopped",
    "paused",
    "blocked",
    "failed",
    "deleting",
    "unknown",
    // Deployments.
    "deploying",
    "deployed",
    "undeploying",
    "undeployed",
    // Tasks.
    "executing",
    "completed",
    "timed_out",
    "cancelled",
    // Hosts.
    "enrolling",
    "degraded",
    "unreachable",
    "maintenance",
    "removed",
    // Images and volumes.
    "uploading",
    "verifying",
    "unbound",
    "creating",
    "unavailable",
];

/// Operates a Basalt cloud.
#[derive(Parser)]
#[command(
    name = "basalt",
    version,
    after_help = exit_codes()
)]
pub struct Arguments {
    /// Project; default: from the configuration, else `default`.
    #[arg(long, short, global = true)]
    pub project: Option<String>,
    /// How to print objects.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Do not wait for the tasks of a change.
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// Seconds that the command waits at most for tasks or a state; what was asked for goes on.
    #[arg(long, global = true, default_value_t = 600, value_name = "SECONDS")]
    pub timeout: u64,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Logs in and remembers the gateway.
    Login(Login),
    /// Ends the session and forgets its token.
    Logout,
    /// Shows who you are and what you may do.
    Whoami,
    /// Lists objects, or shows those that are named.
    Get(Get),
    /// Shows everything about objects, conditions and recent tasks included.
    Describe(Targets),
    /// Declares an object.
    Create {
        /// What.
        #[command(subcommand)]
        what: Box<Create>,
    },
    /// Uploads the bytes of an image that is declared and has none yet.
    Upload {
        /// The image's name or id; `image/` before it is allowed.
        image: String,
        /// The file.
        #[arg(long, short)]
        file: PathBuf,
    },
    /// Declares or changes everything in a YAML or JSON file; what the file leaves out stays as it is.
    Apply {
        /// The file, `-` for standard input; several documents are separated by `---`.
        #[arg(long, short)]
        file: PathBuf,
        /// Say what would happen, change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Deletes objects.
    Delete {
        /// Kind and names.
        #[command(flatten)]
        targets: Targets,
        /// After which tasks.
        #[command(flatten)]
        after: After,
        /// What becomes of what depends on it.
        #[command(flatten)]
        leaving: Leaving,
    },
    /// Takes over what stands on a host, or runs at a provider, and is nobody's.
    Adopt {
        /// What.
        #[command(subcommand)]
        what: Adopt,
    },
    /// Wants VMs running.
    Start(Vms),
    /// Wants VMs stopped: ACPI, then force after their grace.
    Stop(Vms),
    /// Wants VMs paused.
    Pause(Vms),
    /// Wants paused VMs running.
    Resume(Vms),
    /// Asks guests to restart.
    Reboot(Vms),
    /// Pulls the reset line.
    Reset(Vms),
    /// Destroys VMs and makes them anew from their images, with the same addresses.
    Redeploy(Vms),
    /// Moves VMs to another host, while they run.
    Migrate(Migrate),
    /// Empties a host: shows the plan, and after its approval moves the host's VMs elsewhere, so many at a time.
    Drain(Drain),
    /// Lists the drains of a host, or shows the VMs of one of them.
    Drains {
        /// The host's name or id.
        host: String,
        /// One of its drains.
        drain: Option<String>,
    },
    /// Puts hosts into maintenance, where nothing new is placed, or ends it.
    Maintenance {
        /// Which of the two.
        #[command(subcommand)]
        what: Maintenance,
    },
    /// Waits until objects are in a phase or state, or gone.
    Wait {
        /// Kind and names.
        #[command(flatten)]
        targets: Targets,
        /// A phase (`running`, `ready` …), a task's or host's state, or `deleted`.
        #[arg(long = "for", value_name = "STATE", value_parser = clap::builder::PossibleValuesParser::new(AWAITED))]
        until: String,
    },
    /// Prints changes as they happen.
    Watch {
        /// Kinds; default: all of the project.
        kinds: Vec<String>,
    },
    /// Says where a VM was placed and why not elsewhere; or why a deployment is where it is; or whether a port admits a flow.
    Explain(Explain),
    /// Shows what ports, or all ports of VMs, carried and what was dropped, from the guests' point of view.
    Counters(Targets),
    /// Shows how full hosts are: what their VMs were promised, of what they may promise.
    Top(Targets),
    /// Looks into the gateway's reconciler; for administrators, in a form for people.
    Debug {
        /// At what.
        #[command(subcommand)]
        what: Debug,
    },
    /// Says what an object waits for, what is known about it and which ways out are safe now; takes one.
    Unstick {
        /// The object: `vm/web-1`, or `vm web-1`.
        #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
        target: Vec<String>,
        /// The way out to take: one that is safe now.
        #[arg(long, value_name = "WAY", value_parser = ["cancel", "source", "target", "forget", "confirm_power_off", "redeploy", "delete"])]
        take: Option<String>,
    },
    /// Says what would happen if hosts were lost, cut off or drained: here, or in an inventory. Changes nothing.
    Sim(Sim),
    /// Opens a VM's serial console; Ctrl-] leaves it.
    Console(Console),
    /// Lists tasks, newest last; `--project` narrows it.
    Tasks {
        /// Only those in this state.
        #[arg(long)]
        state: Option<String>,
    },
    /// Shows a task's log, while the task runs as it grows; or the log of what runs of a deployment.
    Logs(Logs),
    /// Shows what was tried for a deployment, why, and what came of it; newest first.
    Events(Targets),
    /// Cancels a task that has not ended, and turns its intent back where that is possible; or undeploys a deployment.
    Cancel(TaskOrDeployment),
    /// Wants deployments deployed again that were cancelled.
    Deploy(Targets),
    /// Makes another attempt of a task that failed, timed out or was cancelled; or of a deployment, now.
    Retry(TaskOrDeployment),
    /// Lets a task that has not started wait for other tasks than before; for none, it starts.
    Depend {
        /// The task's id.
        task: String,
        /// The tasks that it waits for from now on.
        #[arg(long, value_name = "TASK")]
        on: Vec<String>,
    },
    /// Revokes a host's certificates: its agent must enrol anew, its VMs run on.
    Revoke {
        /// The host's name or id.
        host: String,
    },
    /// Says that you saw that a host's power is off: its VMs with an HA policy are started elsewhere.
    ConfirmPowerOff {
        /// The host's name or id.
        host: String,
    },
    /// Prints the completion script of a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Looks into the gateway's reconciler.
#[derive(Subcommand)]
pub enum Debug {
    /// The graph of collections.
    Graph {
        /// Work and rows per collection, a picture in DOT or Mermaid, or every row as JSON.
        #[arg(long = "as", value_enum, default_value_t)]
        form: GraphForm,
    },
    /// What was derived of an object, from which reads, and which change caused it.
    Explain {
        /// `vm web-1` or `vm/web-1`; a VM, host, volume, network, image or task.
        #[arg(required = true, value_name = "TARGET")]
        target: Vec<String>,
    },
}

/// Forms of the graph.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum GraphForm {
    /// A line for each collection.
    #[default]
    Counters,
    /// For Graphviz.
    Dot,
    /// For Markdown.
    Mermaid,
    /// Everything.
    Json,
}

/// Takes over what is nobody's: `describe host h1` lists what stands there as foreign, `get deployments` what was found.
#[derive(Subcommand)]
pub enum Adopt {
    /// A virtual machine with its disks; what runs is not touched.
    Vm {
        /// Host, and the VM's name or id there: `h1/handmade`.
        what: String,
        /// Its name from now on.
        #[arg(long)]
        name: String,
        /// The network that its interfaces are to be on; default: those that Basalt had it on before.
        #[arg(long)]
        network: Option<String>,
        /// Say whether it could be, change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// A file in a pool.
    Volume {
        /// Host, and the file's name there: `h1/default/data.qcow2`.
        what: String,
        /// Its name from now on.
        #[arg(long)]
        name: String,
        /// Say whether it could be, change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Something that was found at a provider; it runs on.
    Deployment(AdoptDeployment),
}

/// Opens a VM's serial console.
#[derive(Args)]
pub struct Console {
    /// The VM's name or id.
    pub vm: String,
    /// Print the end of the kept log instead; the VM need not run.
    #[arg(long)]
    pub log: bool,
}

/// Logs in.
#[derive(Args)]
pub struct Login {
    /// The gateway, `https://…:9443`; default: the one of before.
    #[arg(long)]
    pub url: Option<String>,
    /// The gateway's certificate authority, PEM; default: the system's authorities.
    #[arg(long)]
    pub ca_file: Option<PathBuf>,
    /// User name.
    #[arg(long, default_value = "admin")]
    pub user: String,
    /// The token printed at the first start: makes the user an administrator with a new password.
    #[arg(long)]
    pub first_boot_token: Option<String>,
    /// Read a service token from standard input instead of a password.
    #[arg(long, conflicts_with = "first_boot_token")]
    pub token_stdin: bool,
}

/// Lists objects, or shows those that are named.
#[derive(Args)]
#[command(after_help = kinds())]
pub struct Get {
    /// Kind, and names to show only those: `vms`, `vm web-1 web-2` or `vm/web-1 network/lan`.
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Labels: `app=web,tier!=db`.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
}

/// Kind and names.
#[derive(Args)]
#[command(after_help = kinds())]
pub struct Targets {
    /// `vm web-1 web-2`, or `vm/web-1 network/lan`.
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
}

/// What to explain.
#[derive(Args)]
pub struct Explain {
    /// A VM: `web-1`, `vm web-1` or `vm/web-1`. Or a deployment: `deployment web`. Or a port, by its id or address: `port
    /// 10.10.0.5`.
    #[arg(required = true, num_args = 1..=2, value_name = "TARGET")]
    pub target: Vec<String>,
    /// Of a port: the other end's address.
    #[arg(long)]
    pub remote: Option<String>,
    /// Of a port: the protocol; default: any.
    #[arg(long, value_parser = ["any", "tcp", "udp", "icmp", "icmpv6"], requires = "remote")]
    pub protocol: Option<String>,
    /// Of a port: the flow's destination port.
    #[arg(long, requires = "remote")]
    pub port: Option<u16>,
    /// Of a port: what goes out instead of what comes in.
    #[arg(long, requires = "remote")]
    pub egress: bool,
}

/// VMs.
#[derive(Args)]
pub struct Vms {
    /// Names or ids; `vm/` before them is allowed.
    #[arg(required = true, value_name = "VM")]
    pub vms: Vec<String>,
    /// After which tasks.
    #[command(flatten)]
    pub after: After,
}

/// What a change waits for.
#[derive(Args, Clone, Default)]
pub struct After {
    /// Change nothing before this task has completed, and fail with it if it ends otherwise; may be given several times.
    #[arg(long, value_name = "TASK")]
    pub after: Vec<String>,
}

/// How the memory of a guest is sent to another host.
#[derive(Args)]
pub struct Sending {
    /// The longest pause at the switch that is aimed at, in milliseconds; 100 when nothing is said.
    #[arg(long, value_name = "MILLISECONDS")]
    pub max_pause: Option<u32>,
    /// What to do with a guest that writes memory faster than it can be sent.
    #[arg(long, value_name = "POLICY")]
    pub on_stall: Option<OnStall>,
    /// Most bytes that one migration sends in a second (`100MiB`).
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_rate: Option<u64>,
}

/// Where and how VMs go.
#[derive(Args)]
pub struct Migrate {
    /// Names or ids; `vm/` before them is allowed.
    #[arg(required = true, value_name = "VM")]
    pub vms: Vec<String>,
    /// The host to go to; without it the best that fits is chosen.
    #[arg(long)]
    pub host: Option<String>,
    /// The guest goes on meanwhile (what is done anyway when it is meant to run).
    #[arg(long, conflicts_with = "cold")]
    pub live: bool,
    /// The guest is shut down, moved, and started again.
    #[arg(long)]
    pub cold: bool,
    #[command(flatten)]
    pub sending: Sending,
    /// Seconds after which the migration is given up; 3600 when nothing is said.
    #[arg(long, value_name = "SECONDS")]
    pub give_up_after: Option<u32>,
    /// Says whether they could go, and moves nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// What would happen. Hosts are named (`h1,h2`) or chosen by label (`rack=a`); links are cut first, then hosts isolated,
/// lost, drained.
#[derive(Args)]
pub struct Sim {
    /// Hosts that are off for good, at the same moment; may be given several times.
    #[arg(long, value_name = "HOSTS")]
    pub lose: Vec<String>,
    /// Hosts that nobody reaches any more, and that run on.
    #[arg(long, value_name = "HOSTS")]
    pub isolate: Vec<String>,
    /// The link between two hosts: `h1,h2`.
    #[arg(long, value_name = "HOSTS")]
    pub cut: Vec<String>,
    /// Hosts that are drained.
    #[arg(long, value_name = "HOSTS")]
    pub drain: Vec<String>,
    /// A file that describes the cluster to ask about (YAML or JSON); without it, this one as it is.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
}

/// How a host is emptied.
#[derive(Args)]
pub struct Drain {
    /// The host's name or id.
    pub host: String,
    /// Shows the plan, and changes nothing.
    #[arg(long, conflicts_with_all = ["yes", "cancel"])]
    pub plan: bool,
    /// Approves whatever the plan is.
    #[arg(long, conflicts_with = "cancel")]
    pub yes: bool,
    /// Takes the drain back that is going on; the host stays in maintenance.
    #[arg(long)]
    pub cancel: bool,
    /// VMs that leave at the same time; 2 when nothing is said.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Running VMs that cannot go live may be shut down, moved, and started again.
    #[arg(long)]
    pub may_shut_down: bool,
    #[command(flatten)]
    pub sending: Sending,
    /// Seconds that VMs which no host takes are waited for; 60 when nothing is said.
    #[arg(long, value_name = "SECONDS")]
    pub patience: Option<u32>,
    /// Seconds after which the drain is given up; 28800 when nothing is said.
    #[arg(long, value_name = "SECONDS")]
    pub give_up_after: Option<u32>,
}

/// Into maintenance, or out of it.
#[derive(Subcommand)]
pub enum Maintenance {
    /// Nothing new is placed on them; what runs there runs on.
    Enter {
        /// Names or ids.
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// They take VMs again. Refused while one is being drained.
    Exit {
        /// Names or ids.
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
}

/// What to do with a guest that does not come to an end.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnStall {
    /// It stays where it is, unharmed.
    Cancel,
    /// Its virtual CPUs are slowed down.
    Throttle,
    /// It goes on at the target while its memory is fetched; if the network fails then, its memory is lost.
    PostCopy,
}

impl OnStall {
    /// The word in HTTP.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Throttle => "throttle",
            Self::PostCopy => "post_copy",
        }
    }
}

/// Declares an object.
#[derive(Subcommand)]
pub enum Create {
    /// A virtual machine.
    Vm(CreateVm),
    /// A network.
    Network {
        /// Its name.
        name: String,
        /// Address range, for example 10.10.0.0/24.
        #[arg(long)]
        cidr: String,
        /// Security groups that hold for all of its ports.
        #[arg(long, value_name = "NAME")]
        security_group: Vec<String>,
    },
    /// A security group: what its rules admit comes in.
    SecurityGroup(CreateSecurityGroup),
    /// An image, uploaded from a file or fetched from an address.
    Image {
        /// Its name.
        name: String,
        /// The file.
        #[arg(long, short, required_unless_present = "url")]
        file: Option<PathBuf>,
        /// Address from which the image service fetches it.
        #[arg(long, conflicts_with = "file")]
        url: Option<String>,
        /// SHA-256 that its bytes must have; needed where the address is plain HTTP.
        #[arg(long)]
        sha256: Option<String>,
        /// Default: what the file begins like, or what the address ends like.
        #[arg(long, value_parser = ["qcow2", "raw", "iso"])]
        format: Option<String>,
    },
    /// A value that is kept encrypted, for agents, servers and providers to name.
    Secret {
        /// Its name.
        name: String,
        /// File with the value; `-` is standard input. A line break at its end is no part of it.
        #[arg(long, short)]
        file: PathBuf,
    },
    /// A blank volume, or one from an image.
    Volume {
        /// Its name.
        name: String,
        /// Size, for example 10GiB.
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// Image to begin with.
        #[arg(long)]
        image: Option<String>,
        /// Pool to keep it in.
        #[arg(long)]
        pool: Option<String>,
    },
    /// An agent or a server that runs at a provider; waits until it does.
    Deployment(CreateDeployment),
    /// A project.
    Project {
        /// Its name.
        name: String,
        /// Its tenant; default: `default`.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// A tenant.
    Tenant {
        /// Its name.
        name: String,
    },
    /// A host; prints the join token that enrols its agent.
    Host {
        /// The machine's host name.
        name: String,
    },
    /// A new join token of a host; one that was given before is void.
    JoinToken {
        /// The host's name or id.
        host: String,
    },
    /// A user; reads the password from the terminal, or from standard input.
    User {
        /// User name.
        name: String,
    },
    /// A token for a program; prints it, once.
    ServiceToken {
        /// What people call it.
        name: String,
        /// What it may do.
        #[command(flatten)]
        grant: GrantArgs,
        /// Days until it ends.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=366))]
        days: u32,
    },
    /// A role for a user or a service token.
    RoleBinding {
        /// The user's name or id.
        #[arg(long, required_unless_present = "service_token", conflicts_with = "service_token")]
        user: Option<String>,
        /// The service token's name or id.
        #[arg(long)]
        service_token: Option<String>,
        /// What they may do.
        #[command(flatten)]
        grant: GrantArgs,
    },
}

/// A role and where it holds.
#[derive(Args)]
pub struct GrantArgs {
    /// Each role includes the ones before it.
    #[arg(long, value_parser = ["viewer", "operator", "admin"])]
    pub role: String,
    /// `system`, `tenant/NAME` or `project/NAME`.
    #[arg(long, value_name = "SCOPE")]
    pub at: String,
}

/// A virtual machine.
#[derive(Args)]
pub struct CreateVm {
    /// Its name.
    pub name: String,
    /// Image of the first disk.
    #[arg(long)]
    pub image: Option<String>,
    /// An existing volume as first disk.
    #[arg(long, conflicts_with = "image")]
    pub volume: Option<String>,
    /// ISO image to boot from, with a blank first disk of `--disk`.
    #[arg(long, conflicts_with_all = ["image", "volume"], requires = "disk")]
    pub iso: Option<String>,
    /// Size of the first disk; default: the image's.
    #[arg(long, value_parser = parse_size)]
    pub disk: Option<u64>,
    /// Networks, in order.
    #[arg(long)]
    pub network: Vec<String>,
    /// Security groups that hold for all of its interfaces.
    #[arg(long, value_name = "NAME")]
    pub security_group: Vec<String>,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// Memory, for example 512MiB.
    #[arg(long, value_parser = parse_size, default_value = "512MiB")]
    pub memory: u64,
    /// File with cloud-init user-data.
    #[arg(long)]
    pub user_data: Option<PathBuf>,
    /// File with public SSH keys.
    #[arg(long)]
    pub ssh_key: Option<PathBuf>,
    /// Only this host.
    #[arg(long)]
    pub host: Option<String>,
    /// Labels, `key=value`.
    #[arg(long, short = 'l')]
    pub label: Vec<String>,
    /// Declare it stopped.
    #[arg(long)]
    pub stopped: bool,
    /// After which tasks.
    #[command(flatten)]
    pub after: After,
}

/// A security group.
#[derive(Args)]
pub struct CreateSecurityGroup {
    /// Its name.
    pub name: String,
    /// What comes in: `tcp:80`, `tcp:8000-8010@10.0.0.0/8`, `icmp`, `any@group/web`.
    #[arg(long, value_name = "RULE")]
    pub ingress: Vec<String>,
    /// What goes out, in the same form; without any of these everything does.
    #[arg(long, value_name = "RULE")]
    pub egress: Vec<String>,
}

fn kinds() -> String {
    format!("Kinds: {}", KINDS.iter().map(|k| k.plural).collect::<Vec<_>>().join(", "))
}

fn exit_codes() -> String {
    let codes: Vec<_> = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code}  {meaning}")).collect();
    format!("Exit codes:\n{}", codes.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::{
        attempts::DeploymentPhase as D, hosts::HostState, images::ImageState, tasks::TaskState,
        volumes::VolumeState,
    };
    use basalt_wire::rest::Phase;
    use clap::CommandFactory;
    use serde_json::json;

    #[test]
    fn the_grammar_is_sound_and_the_manual_knows_all_of_it() {
        Arguments::command().debug_assert();
        let manual = include_str!("../../../docs/cli.md");
        for verb in Arguments::command().get_subcommands() {
            let name = verb.get_name();
            assert!(manual.contains(&format!("basalt {name}")), "docs/cli.md does not know `basalt {name}`");
            for what in verb.get_subcommands() {
                let call = format!("basalt {name} {}", what.get_name());
                assert!(manual.contains(&call), "docs/cli.md does not know `{call}`");
            }
        }
        for (code, meaning) in EXIT_CODES {
            let row = format!("| {code} | {meaning} |");
            assert!(manual.contains(&row), "docs/cli.md lacks {row}");
        }
        for kind in KINDS {
            assert!(manual.contains(&format!("`{}`", kind.name)), "docs/cli.md does not know {}", kind.name);
        }
    }

    #[test]
    fn every_state_can_be_waited_for() {
        let states = json!([
            [Phase::Pending, Phase::Ready, Phase::Running, Phase::Stopped, Phase::Paused, Phase::Blocked],
            [Phase::Failed, Phase::Deleting, Phase::Unknown],
            [D::Deleting, D::Unknown, D::Pending, D::Blocked, D::Undeploying, D::Undeployed],
            [D::Failed, D::Degraded, D::Deployed, D::Deploying],
            [TaskState::Pending, TaskState::Executing, TaskState::Completed, TaskState::Failed],
            [TaskState::TimedOut, TaskState::Cancelled],
            [HostState::Enrolling, HostState::Ready, HostState::Degraded, HostState::Unreachable],
            [HostState::Maintenance, HostState::Removed],
            [ImageState::Uploading, ImageState::Verifying, ImageState::Ready, ImageState::Failed],
            [VolumeState::Unbound, VolumeState::Creating, VolumeState::Ready, VolumeState::Unavailable],
        ]);
        for word in states.as_array().unwrap().iter().flat_map(|l| l.as_array().unwrap()) {
            assert!(AWAITED.contains(&word.as_str().unwrap()), "{word}");
        }
    }
}
