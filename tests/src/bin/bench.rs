//! `cargo xtask bench`: measures the figures of docs/performance.md and prints them as a table.
//!
//! `--quick` measures less of everything; `--only <name>` measures one group: feed, manifest, overhead,
//! agent, fleet, creates, reads, restart, memory, watchers, flows, cluster, tasks, deployments.

use anyhow::{Context, Result, bail};
use basalt_tests::{
    House,
    figures::{
        Figure, Size, Table, cluster, creates, deployments, feed, fleet, flows, http::Target, manifest,
        memory, reads, restart, surroundings, tasks, watchers,
    },
    truth::Truth,
};

const GROUPS: [&str; 14] = [
    "feed",
    "manifest",
    "overhead",
    "agent",
    "fleet",
    "creates",
    "reads",
    "restart",
    "memory",
    "watchers",
    "flows",
    "cluster",
    "tasks",
    "deployments",
];

struct Args {
    size: Size,
    only: Option<String>,
}

fn args() -> Result<Args> {
    let (mut size, mut only, mut given) = (Size::FULL, None, std::env::args().skip(1));
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--quick" => size = Size::QUICK,
            "--only" => {
                let name = given.next().context("--only needs the name of a group")?;
                if !GROUPS.contains(&name.as_str()) {
                    bail!("there is no group {name:?}; give one of {}", GROUPS.join(", "));
                }
                only = Some(name);
            }
            other => bail!("unknown argument {other:?}; --quick and --only <group> are understood"),
        }
    }
    Ok(Args { size, only })
}

#[tokio::main]
async fn main() -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("this build is not optimised: its figures say nothing; use `cargo xtask bench`");
    }
    let given: Vec<_> = std::env::args_os().skip(1).collect();
    if let [first, config] = given.as_slice()
        && first == "--agent"
    {
        // The bench starts itself so, to weigh an agent in a process of its own.
        return basalt_tests::machine::run_alone(config.as_ref()).await;
    }
    let Args { size, only } = args()?;
    let wanted = |group: &str| only.as_deref().is_none_or(|o| o == group);
    let mut figures = Vec::new();
    let mut house = House::over(Truth::durable().await?, 0).await?;
    figures.extend(surroundings::describe(house.truth.data_dir().as_deref())?);
    let target = target(&house)?;
    figures.push(reads::round_trip(&target).await?);
    for group in GROUPS.into_iter().filter(|g| wanted(g)) {
        eprintln!("measuring {group} …");
        let measured = match group {
            "feed" => match feed::measure(house.owner_url(), &size) {
                Ok(writes) => latencies(&house, &size).await.map(|l| [writes, l].concat()),
                Err(e) => Err(e),
            },
            "tasks" => tasks::measure(&house, &size).await,
            "watchers" => watchers::measure(&house, &target, &size).await,
            // Those that bring hosts have houses of their own: their VMs would go to the others' hosts.
            "flows" => flows::measure(&size).await,
            "deployments" => deployments::measure(&size).await,
            "manifest" | "overhead" | "agent" | "fleet" | "cluster" => hosted(group, &size).await,
            "creates" => creates::measure(&house, &target, &size).await,
            "reads" => reads::measure(&house, &target, &size).await,
            "restart" => {
                reads::fill(&house, &target, &size).await?;
                restart::measure(&mut house, &size).await
            }
            _ => memories(&house).await,
        };
        let measured = measured
            .with_context(|| format!("{group}; the gateway's log ends with\n{}", house.gateway.log()))?;
        eprint!("{}", Table(&measured));
        figures.extend(measured);
    }
    figures.push(Figure::new("load average after", surroundings::load_average()?));
    println!("{}", Table(&figures));
    Ok(())
}

async fn latencies(house: &House, size: &Size) -> Result<Vec<Figure>> {
    Ok([feed::latency(house, size).await?, feed::backlog(house, size).await?].concat())
}

async fn memories(house: &House) -> Result<Vec<Figure>> {
    Ok(vec![memory::gateway(house)?, memory::image_service(house).await?])
}

/// A group in a house of its own.
async fn hosted(group: &str, size: &Size) -> Result<Vec<Figure>> {
    let mut house = House::over(Truth::durable().await?, 0).await?;
    let target = target(&house)?;
    let figures = match group {
        "manifest" => manifest::measure(&mut house, size).await,
        "overhead" => fleet::overhead(&mut house, size).await,
        "agent" => memory::agent(&mut house).await,
        "cluster" => cluster::measure(&mut house, &target, size).await,
        _ => fleet::converge(&mut house, &target, size).await,
    };
    figures.with_context(|| house.gateway.log())
}

fn target(house: &House) -> Result<Target> {
    let address = house.gateway.users.strip_prefix("https://").context("the door speaks TLS")?.to_owned();
    Ok(Target { address, ca_pem: house.place.ca_pem.clone(), token: house.api.token().to_owned() })
}
