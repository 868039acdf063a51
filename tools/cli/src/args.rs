//! The command line's grammar.

use crate::{kinds::parse_size, output::Format};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// Operates a Basalt cloud.
#[derive(Parser)]
#[command(
    name = "basalt",
    version,
    after_help = "Exit codes: 0 done, 1 refused, 2 usage, 3 not found, 4 conflict, 5 not allowed, 6 unreachable, 7 task failed, 8 timed out."
)]
pub struct Arguments {
    /// Project; default: from the configuration, else `default`.
    #[arg(long, short, global = true)]
    pub project: Option<String>,
    /// How to print objects.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Do not wait for the task of a change.
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// Seconds to wait for a task or condition.
    #[arg(long, global = true, default_value_t = 600)]
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
    /// Shows who you are and what you may do.
    Whoami,
    /// Lists objects, or shows one.
    Get(Get),
    /// Shows everything about one object, conditions and recent tasks included.
    Describe(Target),
    /// Declares an object.
    Create {
        /// What.
        #[command(subcommand)]
        what: Box<Create>,
    },
    /// Declares or changes everything in a YAML or JSON file (`-` for standard input).
    Apply {
        /// The file; several documents are separated by `---`.
        #[arg(long, short)]
        file: PathBuf,
        /// Say what would happen, change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Deletes an object.
    Delete(Target),
    /// Wants a VM running.
    Start(Vm),
    /// Wants a VM stopped: ACPI, then force after its grace.
    Stop(Vm),
    /// Wants a VM paused.
    Pause(Vm),
    /// Wants a paused VM running.
    Resume(Vm),
    /// Asks the guest to restart.
    Reboot(Vm),
    /// Pulls the reset line.
    Reset(Vm),
    /// Destroys a VM and makes it anew from its image, with the same addresses.
    Redeploy(Vm),
    /// Waits until an object is in a phase, or gone.
    Wait {
        /// Kind and name.
        target: Vec<String>,
        /// A phase (`running`, `ready` …), `deleted`, or a task state.
        #[arg(long = "for")]
        until: String,
    },
    /// Prints changes as they happen.
    Watch {
        /// Kinds; default: all of the project.
        kinds: Vec<String>,
    },
    /// Says where a VM was placed (or would be) and why not elsewhere.
    Explain(Vm),
    /// Opens a VM's serial console; Ctrl-] leaves it.
    Console(Console),
    /// Lists tasks, newest last.
    Tasks,
    /// Shows a task's log.
    Logs {
        /// The task's id.
        task: String,
    },
    /// Prints the completion script of a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
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
    /// The gateway, `https://…:9443`.
    #[arg(long)]
    pub url: String,
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

/// Lists objects, or shows one.
#[derive(Args)]
pub struct Get {
    /// Kind, and a name to show one: `vms`, `vm web-1` or `vm/web-1`.
    #[arg(required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    /// Labels: `app=web,tier!=db`.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
}

/// Kind and name.
#[derive(Args)]
pub struct Target {
    /// `vm web-1` or `vm/web-1`.
    #[arg(required = true, num_args = 1..=2)]
    pub target: Vec<String>,
}

/// A VM.
#[derive(Args)]
pub struct Vm {
    /// Name or id; `vm/` before it is allowed.
    pub vm: String,
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
    },
    /// An image, uploaded from a file.
    Image {
        /// Its name.
        name: String,
        /// The file.
        #[arg(long, short)]
        file: PathBuf,
        /// `qcow2`, `raw` or `iso`.
        #[arg(long, default_value = "qcow2")]
        format: String,
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
}
