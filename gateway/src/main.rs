//! The gateway's program: `serve`, `migrate`, `pki issue`, `token create`.

use anyhow::Context;
use basalt_daemon::{Clock, Drain, SystemClock, boot, config};
use basalt_gateway::{Config, Gateway, local};
use basalt_model::{Name, roles::Role};
use clap::{Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, sync::Arc};

/// Many small rows and strings from two threads: a tenth of the gateway's time went into the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The gateway of Basalt: the doors for users, agents and image service, and the reconciler.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/basalt/gateway.toml")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve until SIGTERM.
    Serve,
    /// Bring the database's schema to this version.
    Migrate,
    /// Certificates of the platform's own services.
    #[command(subcommand)]
    Pki(Pki),
    /// Service tokens, for who rules this machine.
    #[command(subcommand)]
    Token(Token),
}

#[derive(Subcommand)]
enum Pki {
    /// Make a key and a certificate (key.pem, cert.pem, ca.pem).
    Issue {
        /// Which service it identifies.
        #[arg(long, value_enum)]
        service: Service,
        /// Folder to write to.
        #[arg(long)]
        out: PathBuf,
        /// Names and addresses that it serves.
        #[arg(long = "host", default_values = ["localhost", "127.0.0.1"])]
        hosts: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Service {
    /// The image service.
    ImageService,
}

#[derive(Subcommand)]
enum Token {
    /// Make a token with a role in the whole system, and print it.
    Create {
        /// What people call it.
        #[arg(long)]
        name: Name,
        /// What it may do.
        #[arg(long, value_enum)]
        role: RoleWord,
        /// Days until it ends.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=366))]
        days: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleWord {
    Viewer,
    Operator,
    Admin,
}

impl From<RoleWord> for Role {
    fn from(word: RoleWord) -> Role {
        match word {
            RoleWord::Viewer => Role::Viewer,
            RoleWord::Operator => Role::Operator,
            RoleWord::Admin => Role::Admin,
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    boot::begin();
    let arguments = Arguments::parse();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config: Config = config::read(&arguments.config)?;
    match arguments.verb {
        Verb::Serve => serve(config, clock).await,
        Verb::Migrate => local::migrate(&config).await,
        Verb::Pki(Pki::Issue { service: Service::ImageService, out, hosts }) => {
            local::issue(&config, clock.as_ref(), "image-service", &hosts, &out)
        }
        Verb::Token(Token::Create { name, role, days }) => {
            println!("{}", local::create_token(&config, &clock, name, role.into(), days).await?);
            Ok(())
        }
    }
}

async fn serve(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
    let drain = Drain::on_signals().context("listening for signals")?;
    let ca = config.pki.dir.join("ca.pem");
    let running = Gateway::start_until(config, clock, drain).await?;
    if let Some(token) = &running.first_boot_token {
        println!("First-boot token, shown once, good for {} hours: {token}", basalt_api::FIRST_BOOT_HOURS);
        println!(
            "Make the first administrator with it: basalt login --url https://{} --ca-file {} --user admin --first-boot-token {token}",
            running.users,
            ca.display()
        );
    }
    boot::ready();
    running.wait().await
}
