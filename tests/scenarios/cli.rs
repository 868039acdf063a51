//! The command line as its user meets it: the built program against a whole house, every kind and every verb.

use anyhow::{Context, Result, ensure};
use basalt_cli::kinds::{Can, KINDS, Kind};
use basalt_model::vms::ObservedPower;
use basalt_tests::{House, api::vm_id, cli::Cli, wait};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::{process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt, BufReader};

const VM: &str = "--image tiny --network lan --memory 256MiB";
const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

/// One kind, of which there is at least one object.
async fn in_every_format(cli: &Cli, kind: &Kind) -> Result<()> {
    let table = cli.ok(&format!("get {}", kind.plural)).await?;
    let head: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    let titles: Vec<_> = kind.columns.iter().map(|(title, _)| *title).collect();
    ensure!(head == titles && table.lines().count() > 1, "{}: {table}", kind.plural);

    let json = cli.json(&format!("get {}", kind.name)).await?;
    let all = json.as_array().context("a list")?;
    let names = cli.ok(&format!("get {} -o name", kind.plural)).await?;
    let labels: Vec<_> = names.lines().collect();
    ensure!(labels.len() == all.len() && !labels.is_empty(), "{names}");
    let yaml = cli.ok(&format!("get {} -o yaml", kind.plural)).await?;
    ensure!(yaml.lines().count() > all.len(), "{yaml}");

    // What is printed as a name is good as one.
    let label = *labels.first().context("one")?;
    ensure!(cli.ok(&format!("get {label} -o name")).await?.trim() == label);
    let one = cli.json(&format!("get {}", label.replacen('/', " ", 1))).await?;
    let id = |v: &Value| Some(v.pointer("/id").or(v.pointer("/port_id"))?.as_str()?.to_owned());
    let first = all.first().and_then(id).context("an id")?;
    ensure!(one.is_object() && id(&one).as_ref() == Some(&first), "{label}: {one}");
    ensure!(cli.ok(&format!("describe {label}")).await?.contains(&first), "{label}");

    cli.fails(&format!("get {} nosuch", kind.name), 3, &["nosuch"]).await?;
    cli.fails(&format!("describe {}/{NOBODY}", kind.name), 3, &[NOBODY]).await?;
    match kind.can.contains(&Can::Delete) {
        true => cli.fails(&format!("delete {} nosuch", kind.name), 3, &["nosuch"]).await?,
        false => cli.fails(&format!("delete {label}"), 2, &["cannot be deleted", "vm"]).await?,
    };
    Ok(())
}

/// One of each kind that deployments are made of.
const REGISTRY: &str = r#"
kind: server
name: weather
tag: "1.4"
spec: { source: { type: npm, package: "@weather/server", version: 1.4.0 } }
---
kind: agent
name: planner
spec:
  source: { type: image, image: "registry.example/planner:1" }
  servers: [{ name: weather, tag: "1.4" }]
---
kind: provider
name: cluster
spec: { platform: kubernetes, kubeconfig: { secret: kubeconfig } }
---
kind: deployment
name: planner
spec: { target: { kind: agent, name: planner }, provider: cluster }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_lists_shows_and_describes_every_kind_in_every_format() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let cli = Cli::of(&house)?;
    cli.ok(&format!("create vm web {VM} --label app=web")).await?;
    cli.ok("migrate web").await?;
    cli.ok("create security-group web --ingress tcp:80").await?;
    let edge = json!({"name": "edge", "spec": {"networks": ["lan"], "nat": false}});
    house.api.post::<Value>(&house.api.path("routers"), &edge).await?;
    cli.with_input("create user alice", "correct horse battery").await?;
    cli.with_input("create secret kubeconfig --file -", "apiVersion: v1").await?;
    cli.with_input("apply -f - --no-wait", REGISTRY).await?;
    // A few at a time: each command is a process with a connection of its own.
    let kinds = futures::stream::iter(KINDS).map(|kind| in_every_format(&cli, kind)).buffer_unordered(3);
    kinds.try_collect::<Vec<()>>().await?;
    let described = cli.ok("describe vm web").await?;
    ensure!(described.contains("conditions:") && described.contains("vm_create"), "{described}");

    // Several at once, of one kind and of several.
    let two = cli.ok("get vm/web network/lan host/h1").await?;
    ensure!(["PHASE", "CIDR", "STATE"].iter().all(|title| two.contains(title)), "{two}");
    ensure!(cli.json("get vm/web network/lan").await?.as_array().is_some_and(|l| l.len() == 2));
    let some = cli.run("get vm nosuch web").await?;
    ensure!(some.code == 3 && some.out.contains("web") && some.err.contains("1 of 2 failed"), "{some:?}");
    // By label; and nothing is said to be nothing.
    ensure!(cli.ok("get vms -l app=web -o name").await? == "vm/web\n");
    let none = cli.run("get vms -l app!=web").await?;
    ensure!(none.code == 0 && none.out.is_empty() && none.err.contains("no vms in project demo"), "{none:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_carries_out_every_verb_of_a_vm_and_says_so() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    house.hosts[0].kill().await;
    let create = format!("create vm web {VM}");
    let back = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        house.hosts[0].start()
    };
    let (made, back) = tokio::join!(cli.run(&create), back);
    let made = back.and(made)?;
    ensure!(made.code == 0 && made.out == "vm/web created\n", "{made:?}");
    // Who reads a log sees that something happens.
    ensure!(made.err.lines().any(|l| l.starts_with("vm/web: ") && l.ends_with("%)")), "{made:?}");
    let db = cli.json(&format!("create vm db {VM} --stopped")).await?;
    ensure!(db["phase"] == "stopped" && db["nics"][0]["address"].is_string(), "{db}");
    ensure!(cli.ok("start db web -o name").await? == "vm/db\nvm/web\n");

    let id = vm_id(&house.api.vm("web").await?);
    let steps = [
        ("pause", "paused", ObservedPower::Paused),
        ("resume", "resumed", ObservedPower::Running),
        ("stop", "stopped", ObservedPower::Stopped),
        ("start", "started", ObservedPower::Running),
        ("reboot", "rebooted", ObservedPower::Running),
        ("reset", "reset", ObservedPower::Running),
        ("redeploy", "redeployed", ObservedPower::Running),
    ];
    for (verb, done, power) in steps {
        let said = cli.ok(&format!("{verb} vm/web db")).await?;
        ensure!(said == format!("vm/web {done}\nvm/db {done}\n"), "{verb}: {said}");
        ensure!(house.hosts[0].power(id) == power, "{verb}: {:?}", house.hosts[0].power(id));
    }
    ensure!(house.api.vm("web").await?.incarnation == house.api.vm("db").await?.incarnation);
    ensure!(house.hosts[0].sim.look(|w| w.restarts.get(&id).copied()) == Some(2));
    let some = cli.run("reboot nosuch web").await?;
    ensure!(some.code == 3 && some.out == "vm/web rebooted\n", "{some:?}");

    let why = cli.ok("explain web").await?;
    ensure!(why.contains("h1") && why.contains("fits, score"), "{why}");
    ensure!(cli.json("explain vm/web").await?["host"] == "h1");
    debug(&cli).await?;

    let deleted = cli.ok("delete vm web db").await?;
    ensure!(deleted == "vm/web deleted\nvm/db deleted\n", "{deleted}");
    ensure!(cli.ok("get vms").await?.is_empty());
    house.nothing_left().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_says_how_full_hosts_are() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let cli = Cli::of(&house)?;
    cli.ok(&format!("create vm web {VM} --cpus 2 --host h1")).await?;
    cli.ok("create host spare").await?;
    let hosts = cli.json("top hosts").await?;
    let of = |name: &str| hosts.as_array().into_iter().flatten().find(|h| h["name"] == name).cloned();
    let (used, free, never) =
        (of("h1").context("h1")?, of("h2").context("h2")?, of("spare").context("spare")?);
    let shown = cli.json("get host h1").await?;
    ensure!(used["vms"] == 1 && used["claimed_cpus"] == 2 && used["state"] == "ready", "{used}");
    // Four virtual CPUs for each thread, unless the host says otherwise.
    let (threads, max) = (&shown["facts"]["threads"], used["capacity_cpus"].as_u64().context("CPUs")?);
    ensure!(threads.as_u64().map(|n| n * 4) == Some(max), "{used} {threads}");
    ensure!(used["cpu_percent"].as_u64() == Some(200_u64.div_ceil(max)), "{used}");
    ensure!(used["claimed_memory_bytes"] == shown["claimed"]["memory_bytes"], "{used}");
    ensure!(used["memory_percent"].as_u64().is_some_and(|p| p > 0), "{used}");
    ensure!(free["vms"] == 0 && free["cpu_percent"] == 0, "{free}");
    ensure!(never["capacity_cpus"].is_null() && never["memory_percent"].is_null(), "{never}");
    let table = cli.ok("top hosts").await?;
    ensure!(table.lines().count() == 4 && table.contains("MEMORY%") && table.contains(" %"), "{table}");
    ensure!(cli.ok("top host h2 -o name").await? == "host/h2\n");
    cli.fails("top host nosuch", 3, &["nosuch"]).await?;
    cli.fails("top vms", 2, &["nobody measures", "host"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_follows_tasks_and_waits_for_states() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let said = cli.ok(&format!("create vm web {VM} --no-wait")).await?;
    let task = said.trim().strip_prefix("vm/web task/").context("object and task")?.to_owned();
    ensure!(cli.ok("wait vm/web --for running").await? == "vm/web running\n");
    ensure!(cli.ok(&format!("wait task {task} --for completed")).await?.ends_with("completed\n"));
    ensure!(cli.ok("wait host h1 --for ready").await? == "host/h1 ready\n");
    let log = cli.ok(&format!("logs {task}")).await?;
    ensure!(log.lines().last().is_some_and(|l| l == format!("task/{task} completed 100 %")), "{log}");
    ensure!(cli.ok(&format!("logs task/{task} --no-wait")).await? == log);
    let tasks = cli.ok("tasks --state completed").await?;
    ensure!(tasks.contains(&task) && tasks.contains("vm_create") && tasks.contains("web"), "{tasks}");
    ensure!(cli.ok("tasks --state failed").await?.is_empty());
    ensure!(cli.ok("tasks -p demo -o name").await?.contains(&task));
    cli.fails("tasks -p nosuch", 3, &["nosuch"]).await?;
    cli.fails("tasks --state done", 1, &["state", "completed"]).await?;

    // What waits for something that never comes can be taken back, and says so to who waits.
    let big = "--image tiny --network lan --memory 700GiB";
    cli.ok(&format!("create vm full {big}")).await?;
    let stuck = cli.json(&format!("create vm big {big} --no-wait")).await?;
    let stuck = stuck["task"]["id"].as_str().context("a task")?.to_owned();
    let waits =
        cli.fails("wait vm big --for running --timeout 1", 8, &["vm/big", "not running in 1 s", "memory"]);
    waits.await?;
    cli.fails(&format!("logs {stuck} --timeout 1"), 8, &["1 s"]).await?;
    let cancel = format!("cancel {stuck}");
    let (cancelled, waited) = tokio::join!(cli.ok(&cancel), cli.run("wait vm/big --for deleted"));
    ensure!(cancelled? == format!("task/{stuck} cancelled\n"));
    ensure!(waited?.out == "vm/big deleted\n");
    cli.fails(&format!("wait task/{stuck} --for completed"), 7, &["cancelled", "basalt logs"]).await?;
    cli.fails(&format!("cancel {stuck}"), 4, &["cancelled already"]).await?;
    let log = cli.ok(&format!("logs {stuck}")).await?;
    ensure!(log.contains("cancelled"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_waits_through_a_restart_of_the_gateway() -> Result<()> {
    let mut house = House::with_program(1).await?;
    let cli = Cli::of(&house)?;
    house.hosts[0].kill().await;
    let line = format!("create vm web {VM}");
    let watching = cli.command().args(["watch", "vms"]).stdout(Stdio::piped()).spawn()?;
    let waiting = tokio::spawn({
        let mut command = cli.command();
        command.args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        async move { command.output().await }
    });
    wait::until("the VM is declared", || async { house.api.find::<Value>(&house.api.path("vms/web")).await })
        .await?;
    // Long enough for the command to be waiting for an answer.
    tokio::time::sleep(Duration::from_millis(400)).await;
    house.gateway.kill()?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    house.gateway.start()?;
    house.hosts[0].start()?;
    let waited = tokio::time::timeout(wait::PATIENCE, waiting).await.context("it waits on")???;
    let err = String::from_utf8_lossy(&waited.stderr);
    ensure!(waited.status.success() && waited.stdout == b"vm/web created\n", "{err}");

    // The watch goes on too.
    let mut lines = BufReader::new(watching.stdout.context("a pipe")?).lines();
    let seen = tokio::time::timeout(wait::PATIENCE, async {
        while let Some(line) = lines.next_line().await? {
            if line.ends_with(" vm/web running") {
                return Ok(true);
            }
        }
        anyhow::Ok(false)
    });
    ensure!(seen.await.context("the watch is silent")??, "the watch ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_watches_and_opens_consoles_for_as_long_as_somebody_reads() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    cli.ok(&format!("create vm web {VM}")).await?;
    let first = |line: &str| format!("set -o pipefail; $basalt {line} | head -1");
    for (line, says) in [
        ("watch", "snapshot"),
        ("watch vms", "snapshot  vm/web running"),
        ("watch tasks networks -o name", "network/lan"),
        ("watch vm -o json", "\"event\":\"snapshot\""),
        ("watch vm -o yaml", "---"),
    ] {
        // Nothing more happens in this house: only a watch that looks for its reader ends.
        let said = cli.shell(&first(line)).await?;
        ensure!(said.code == 0 && said.out.contains(says) && said.err.is_empty(), "{line}: {said:?}");
    }
    cli.fails("watch users", 1, &["cannot be watched", "vm"]).await?;
    cli.fails("watch -p nosuch", 3, &["nosuch"]).await?;

    let log = cli.ok("console web --log").await?;
    ensure!(log.contains("simulated guest"), "{log}");
    // The simulated guest says again what is typed.
    let script = "set -o pipefail; printf 'hello\\r\\n' | $basalt console vm/web | grep -m1 hello";
    let said = cli.shell(script).await?;
    ensure!(said.code == 0 && said.out.contains("hello"), "{said:?}");
    cli.ok("stop web").await?;
    cli.fails("console web", 4, &["start it"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_ends_quietly_when_its_reader_leaves() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let task = cli.json(&format!("create vm web {VM} --no-wait")).await?["task"]["id"].clone();
    cli.ok("wait vm/web --for running").await?;
    let logs = format!("logs {}", task.as_str().context("a task")?);
    for line in [
        "get vms",
        "get vms -o json",
        "get vm web -o yaml",
        "describe vm web",
        "tasks",
        "whoami",
        "explain web",
        "completion bash",
        "--help",
        "console web --log",
        "apply --help",
        "wait vm web --for running",
        &logs,
    ] {
        // A reader that was never there.
        let said = cli.shell(&format!("set -o pipefail; $basalt {line} | true")).await?;
        ensure!(said.code == 0 && said.err.is_empty(), "{line}: {said:?}");
    }
    let said = cli.shell("$basalt get vm nosuch 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}").await?;
    ensure!(said.code == 3, "{said:?}");
    let full = cli.shell("$basalt get vms > /dev/full").await?;
    ensure!(full.code == 1 && full.err.contains("standard output cannot be written"), "{full:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        ensure!(cli.ok(&format!("completion {shell}")).await?.contains("redeploy"), "{shell}");
    }
    Ok(())
}

/// Looks into the reconciler.
async fn debug(cli: &Cli) -> Result<()> {
    let graph = cli.ok("debug graph").await?;
    ensure!(graph.contains("vm_status: 2 rows") && graph.contains("lane manifests: "), "{graph}");
    for (form, begins) in [("dot", "digraph"), ("mermaid", "flowchart"), ("json", "{")] {
        let picture = cli.ok(&format!("debug graph --as {form}")).await?;
        ensure!(picture.starts_with(begins) && picture.contains("vm_status"), "{form}: {picture}");
    }
    for object in ["vm web", "vm/web", "host h1", "network lan", "image tiny"] {
        let why = cli.ok(&format!("debug explain {object}")).await?;
        ensure!(why.contains("conditions ") && why.contains("  changed at revision "), "{object}: {why}");
    }
    let why = cli.ok("debug explain vm web").await?;
    ensure!(why.contains("reads: ") && why.contains("caused by: "), "{why}");
    let refused = cli.run("debug explain project demo").await?;
    ensure!(refused.code == 1 && refused.err.contains("vm:<id>"), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r48_t3_the_cli_has_changes_wait_for_tasks_and_retries_them() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let big = "--image tiny --network lan --memory 700GiB";
    cli.ok(&format!("create vm full {big}")).await?;
    let stuck = cli.json(&format!("create vm big {big} --no-wait")).await?;
    let stuck = stuck["task"]["id"].as_str().context("a task")?.to_owned();
    let held = cli.json(&format!("create vm web {VM} --after {stuck} --no-wait")).await?;
    let held = held["task"]["id"].as_str().context("a task")?.to_owned();
    cli.fails("get vm web", 3, &["web"]).await?;
    let stop = cli.ok(&format!("stop full --after task/{held} --no-wait -o json")).await?;
    ensure!(stop.contains("waits for vm web"), "{stop}");
    cli.fails(&format!("depend {held} --on {held}"), 1, &["depends_on", "waits for"]).await?;
    cli.fails(&format!("delete network lan --after {stuck}"), 1, &["depends_on", "only VMs"]).await?;
    cli.fails(&format!("retry {stuck}"), 4, &["wait for its end"]).await?;
    // The failure of one is the failure of those that wait; each is retried by itself.
    cli.ok(&format!("cancel {stuck}")).await?;
    cli.fails(&format!("wait task/{held} --for completed"), 7, &["failed"]).await?;
    let log = cli.ok(&format!("logs {held}")).await?;
    ensure!(log.contains("was needed first and ended cancelled") && log.contains("retry"), "{log}");
    cli.fails(&format!("retry {held}"), 1, &["depends_on", "cancelled already"]).await?;
    // What waits for nothing any more starts.
    let waits = cli.json(&format!("create vm late {big} --no-wait")).await?;
    let waits = waits["task"]["id"].as_str().context("a task")?.to_owned();
    let held = cli.json(&format!("create vm web {VM} --after {waits} --no-wait")).await?;
    let held = held["task"]["id"].as_str().context("a task")?.to_owned();
    ensure!(cli.ok(&format!("depend {held}")).await? == format!("task/{held} starts\n"));
    ensure!(cli.ok(&format!("wait task {held} --for completed")).await?.ends_with("completed\n"));
    ensure!(cli.ok("wait vm/web --for running").await? == "vm/web running\n");
    cli.fails(&format!("retry {held}"), 4, &["completed"]).await?;
    Ok(())
}
