//! What the command line says when something cannot be: exit codes that scripts can trust, and sentences that
//! name the field or object, the reason and the remedy.

use anyhow::{Context, Result, ensure};
use basalt_tests::{House, cli::Cli, wait};
use std::fs;

const VM: &str = "--image tiny --network lan --memory 256MiB";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_refuses_with_an_exit_code_a_reason_and_a_remedy() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    cli.ok(&format!("create vm web {VM}")).await?;
    cli.ok(&format!("create vm off {VM} --stopped")).await?;
    let too_many = "x".repeat(64);
    let cases: &[(String, i32, &[&str])] = &[
        // Wrong words.
        ("get toasters".into(), 2, &["toasters", "choose one of vm, network"]),
        ("get".into(), 2, &["TARGET"]),
        ("delete vm".into(), 2, &["vm NAME"]),
        ("get vm/".into(), 2, &["vm/web-1"]),
        ("delete pool default".into(), 2, &["a pool cannot be deleted", "vm, network"]),
        ("wait vm web --for runing".into(), 2, &["runing", "running"]),
        ("wait pool default --for ready".into(), 2, &["cannot be waited for"]),
        ("get vm web -l a=b".into(), 2, &["--selector"]),
        ("create vm x".into(), 2, &["--image, --volume, or --iso"]),
        ("create vm x --image tiny --memory 1GB".into(), 2, &["\"GB\" is no unit", "GiB"]),
        (format!("create vm x {VM} --label novalue"), 2, &["--label novalue", "key=value"]),
        (format!("create vm x {VM} --user-data /nonexistent"), 2, &["--user-data /nonexistent"]),
        ("create image x --file /nonexistent".into(), 2, &["--file /nonexistent"]),
        ("frobnicate".into(), 2, &["frobnicate"]),
        ("get vms --timeout soon".into(), 2, &["soon"]),
        // Refused by the gateway, by field.
        (format!("create vm Web_1 {VM}"), 1, &["name", "capital letters", "use 1 to 63"]),
        (format!("create vm {too_many} {VM}"), 1, &["name", "64 characters"]),
        (
            "create vm x --image tiny --network lan --memory 1MiB".into(),
            1,
            &["spec.memory_bytes", "give a value between"],
        ),
        ("create vm x --image nosuch".into(), 1, &["spec.disks[0]", "there is no image", "create it first"]),
        ("create network x --cidr 10.10.0.1/24".into(), 1, &["spec.cidr", "host bits", "write 10.10.0.0/24"]),
        (
            "create network x --cidr 10.10.5.0/24".into(),
            1,
            &["spec.cidr", "overlaps", "10.10.0.0/16", "choose a range"],
        ),
        ("get vms -l a+b".into(), 1, &["label_selector", "key=value"]),
        // In the way.
        (format!("create vm web {VM}"), 4, &["web already", "choose another name"]),
        ("delete network lan".into(), 4, &["in use", "web", "delete or detach"]),
        ("delete image tiny".into(), 4, &["in use", "delete or detach"]),
        ("delete host h1".into(), 4, &["in use", "web"]),
        ("delete project demo".into(), 4, &["in use"]),
        ("reboot off".into(), 4, &["vm/off", "start it first"]),
        // Not there.
        ("start nosuch".into(), 3, &["vm/nosuch", "There is no vm"]),
        ("explain nosuch".into(), 3, &["nosuch"]),
        ("debug explain vm nosuch".into(), 3, &["nosuch"]),
        ("debug explain vms".into(), 2, &["name one object"]),
        ("console nosuch".into(), 3, &["nosuch"]),
        ("logs nosuch".into(), 3, &["nosuch"]),
        ("cancel nosuch".into(), 3, &["nosuch"]),
        ("revoke nosuch".into(), 3, &["nosuch"]),
        ("upload nosuch --file /etc/hostname".into(), 3, &["nosuch"]),
        ("wait vm nosuch --for running".into(), 3, &["nosuch"]),
        ("create join-token nosuch".into(), 3, &["nosuch"]),
        ("get vms --project nosuch".into(), 3, &["project", "nosuch"]),
    ];
    for (line, code, words) in cases {
        let err = cli.fails(line, *code, words).await?;
        ensure!(err.starts_with("error: ") && err.lines().count() < 15, "{line}: {err}");
    }
    ensure!(cli.ok("wait vm nosuch --for deleted").await? == "vm/nosuch deleted\n");
    cli.ok("get vms --help").await?;
    cli.ok("--version").await?;
    ensure!(house.api.vm("web").await?.metadata.generation.0 == 1, "nothing was changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_gives_up_in_time_and_says_what_stands_in_the_way() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    // Fits the host by itself, and not beside the first.
    let big = "--image tiny --network lan --memory 700GiB";
    cli.ok(&format!("create vm first {big}")).await?;
    let words = ["vm/second", "did not end in time; it is", "it goes on: basalt logs"];
    cli.fails(&format!("create vm second {big} --timeout 1"), 8, &words).await?;
    wait::until("the VM says why it waits", || async {
        let vm = house.api.vm("second").await?;
        Ok(vm.conditions.iter().any(|c| c.message.contains("memory")).then_some(()))
    })
    .await?;
    cli.fails("wait vm second --for running --timeout 1", 8, &["not running in 1 s; it is", "memory"])
        .await?;
    let began = std::time::Instant::now();
    // The bound is the command's, however many objects it names.
    cli.fails("wait vm/second vm/second vm/second --for running --timeout 1", 8, &["3 of 3 failed"]).await?;
    ensure!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
    let why = cli.ok("explain second").await?;
    ensure!(why.contains("h1: rejected") && why.contains("memory"), "{why}");

    // What was given up goes on.
    cli.ok("delete vm first").await?;
    cli.ok("wait vm second --for running").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_says_what_is_wrong_with_gateway_token_and_configuration() -> Result<()> {
    let house = House::with_hosts(0).await?;
    let cli = Cli::fresh()?;
    cli.fails("get vms", 2, &["no gateway is known", "basalt login --url"]).await?;
    fs::write(cli.config_file(), "urll = \"https://x\"\n")?;
    cli.fails("get vms", 2, &["config.toml", "urll", "log in again"]).await?;

    cli.know(&house, "wrong")?;
    cli.fails("get vms", 5, &["Not signed in", "basalt login"]).await?;
    cli.know(&house, house.api.token())?;
    let url = &house.gateway.users;
    for (variables, code, words) in [
        (
            "BASALT_URL=https://127.0.0.1:1",
            6,
            &["refused", "https://127.0.0.1:1", "is the gateway running"][..],
        ),
        ("BASALT_CA=/nonexistent", 2, &["/nonexistent"]),
        ("BASALT_TOKEN=other", 5, &["Not signed in"]),
        ("BASALT_PROJECT=nosuch", 3, &["nosuch"]),
    ] {
        cli.shell(&format!("{variables} $basalt get vms")).await?.failed(code, words)?;
    }
    let url = url.replace("https://", "http://");
    cli.fails(&format!("login --url {url}"), 2, &["--url", "https://HOST:9443"]).await?;

    // Another authority than the gateway's.
    let other = House::with_hosts(0).await?;
    let ca = cli.file("other.pem", &other.place.ca_pem)?;
    cli.shell(&format!("BASALT_CA={ca} $basalt get vms")).await?.failed(6, &["certificate", "--ca-file"])?;
    let nothing = cli.file("nothing.pem", "")?;
    cli.shell(&format!("BASALT_CA={nothing} $basalt get vms"))
        .await?
        .failed(2, &["CA file"])
        .context("no PEM")?;
    Ok(())
}
