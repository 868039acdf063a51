//! People, tokens, hosts and images through the command line: what is secret is printed once and alone.

use anyhow::{Context, Result, ensure};
use basalt_tests::{House, cli::Cli};
use std::{fs, os::unix::fs::PermissionsExt};

const VM: &str = "--image tiny --network lan --memory 256MiB";
const PASSWORD: &str = "correct horse battery";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_lets_the_first_administrator_in_and_they_let_in_others() -> Result<()> {
    let house = House::with_hosts(0).await?;
    let (url, token) =
        (&house.gateway.users, house.gateway.first_boot_token().context("nobody is known yet")?);
    let admin = Cli::fresh()?;
    fs::write(admin.ca_file(), &house.place.ca_pem)?;
    let login = format!("login --url {url} --ca-file {}", admin.ca_file().display());
    admin.fails(&format!("{login} --first-boot-token {token}"), 2, &["no password was given"]).await?;
    let short = admin.with_input(&format!("{login} --first-boot-token {token}"), "short").await?;
    short.failed(1, &["password", "12"])?;
    ensure!(!admin.config_file().exists(), "something was remembered of a login that failed");
    let said = admin.with_input(&format!("{login} --first-boot-token {token}"), PASSWORD).await?;
    ensure!(said.code == 0 && said.out.starts_with("logged in as admin (user)"), "{said:?}");
    let mode = fs::metadata(admin.config_file())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    ensure!(admin.ok("whoami").await?.contains("admin at system"));
    ensure!(admin.ok("whoami -o name").await? == "user/admin\n");
    let again = admin.with_input(&format!("{login} --first-boot-token {token}"), PASSWORD).await?;
    again.failed(5, &["not valid"])?;

    // A user, who may do nothing until a role is given.
    let said = admin.with_input("create user alice", PASSWORD).await?;
    ensure!(said.out == "user/alice created\n" && said.err.contains("create role-binding"), "{said:?}");
    admin.with_input("create user alice", PASSWORD).await?.failed(4, &["alice already"])?;
    let alice = Cli::fresh()?;
    fs::write(alice.ca_file(), &house.place.ca_pem)?;
    let login = format!("login --url {url} --ca-file {} --user alice", alice.ca_file().display());
    alice.with_input(&login, "wrong horse battery").await?.failed(5, &["Login refused"])?;
    let said = alice.with_input(&login, PASSWORD).await?;
    ensure!(said.code == 0, "{said:?}");
    alice.fails("get vms -p demo", 3, &["demo"]).await?;
    let bound = admin.ok("create role-binding --user alice --role viewer --at project/demo").await?;
    let binding = bound.trim().strip_suffix(" created").context("the binding")?;
    admin
        .fails("create role-binding --user alice --role viewer --at demo", 2, &["--at demo", "project/NAME"])
        .await?;
    admin.fails("create role-binding --user nosuch --role viewer --at system", 3, &["nosuch"]).await?;
    admin.fails("create role-binding --role viewer --at system", 2, &["--user"]).await?;
    ensure!(alice.ok("get networks -p demo -o name").await? == "network/lan\n");
    ensure!(admin.ok("get users").await?.contains("viewer at project/"));
    alice.fails(&format!("create vm web {VM} -p demo"), 5, &["role operator", "administrator"]).await?;
    alice.fails("get users", 5, &["role admin"]).await?;
    ensure!(admin.ok(&format!("delete {binding}")).await? == format!("{binding} deleted\n"));
    alice.fails("get networks -p demo", 3, &["demo"]).await?;

    // Out, twice; and gone.
    let out = alice.ok("logout").await?;
    ensure!(out.contains("no token is left"), "{out}");
    alice.fails("whoami", 5, &["basalt login"]).await?;
    alice.ok("logout").await?;
    // The gateway is still known.
    ensure!(alice.with_input("login --user alice", PASSWORD).await?.code == 0);
    ensure!(admin.ok("delete user alice").await? == "user/alice deleted\n");
    alice.fails("whoami", 5, &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_at_a_terminal_hides_passwords_and_leaves_consoles_by_a_key() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let typed = format!("{PASSWORD}\n");
    let said = cli
        .at_terminal("create user bob", &[("password: ", &typed), ("password again: ", "another\n")])
        .await?;
    ensure!(said.code == 2 && said.out.contains("the two passwords differ"), "{said:?}");
    let said =
        cli.at_terminal("create user bob", &[("password: ", &typed), ("password again: ", &typed)]).await?;
    ensure!(said.code == 0 && said.out.contains("user/bob created"), "{said:?}");
    ensure!(!said.out.contains(PASSWORD), "it was shown: {said:?}");
    let said = cli.at_terminal("login --user bob", &[("password: ", &typed)]).await?;
    ensure!(
        said.code == 0 && said.out.contains("logged in as bob") && !said.out.contains(PASSWORD),
        "{said:?}"
    );

    cli.know(&house, house.api.token())?;
    let said = cli.at_terminal(&format!("create vm web {VM}"), &[]).await?;
    ensure!(said.code == 0 && said.out.contains("vm/web created"), "{said:?}");
    let keys = [("Ctrl-] leaves", "hello\r"), ("hello\r", "\u{1d}")];
    let said = cli.at_terminal("console web", &keys).await?;
    ensure!(said.code == 0 && said.out.contains("the console is closed"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_gives_tokens_to_programs_and_takes_them_back() -> Result<()> {
    let house = House::with_hosts(0).await?;
    let cli = Cli::of(&house)?;
    let said = cli.run("create service-token robot --role operator --at project/demo --days 2").await?;
    ensure!(said.code == 0 && said.out.lines().count() == 1 && said.err.contains("shown once"), "{said:?}");
    let robot = Cli::fresh()?;
    fs::write(robot.ca_file(), &house.place.ca_pem)?;
    let login =
        format!("login --url {} --ca-file {} --token-stdin", house.gateway.users, robot.ca_file().display());
    robot.with_input(&login, "wrong").await?.failed(5, &[])?;
    let logged = robot.with_input(&login, &said.out).await?;
    ensure!(logged.out.starts_with("logged in as robot (service token)"), "{logged:?}");
    robot.ok("create network blue --cidr 10.20.0.0/24 -p demo").await?;
    robot.fails("create tenant acme", 5, &["role admin"]).await?;
    ensure!(cli.ok("get service-token robot").await?.contains("operator at project/"));

    // Logging out leaves the token to the programs that hold it.
    let out = robot.run("logout").await?;
    ensure!(out.code == 0 && out.err.contains("basalt delete service-token robot"), "{out:?}");
    ensure!(robot.with_input(&login, &said.out).await?.code == 0);
    ensure!(cli.ok("delete service-token robot").await? == "service-token/robot deleted\n");
    robot.fails("whoami", 5, &[]).await?;
    // Its name is free again, and means the new one.
    let issued = cli.json("create service-token robot --role viewer --at tenant/default").await?;
    ensure!(cli.json("get service-token robot").await?["id"] == issued["id"]);
    cli.ok("create role-binding --service-token robot --role viewer --at system").await?;
    cli.fails("create service-token x --role owner --at system", 2, &["viewer, operator, admin"]).await?;
    cli.fails("create service-token x --role viewer --at system --days 400", 2, &["366"]).await?;
    let audit = cli.ok("get audit").await?;
    ensure!(audit.contains("service_token.revoke") && audit.contains("robot"), "{audit}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_declares_hosts_projects_and_what_belongs_in_them() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let host = cli.run("create host h9").await?;
    ensure!(
        host.code == 0 && host.out.lines().count() == 1 && host.err.contains("join-token file"),
        "{host:?}"
    );
    let again = cli.ok("create join-token host/h9").await?;
    ensure!(again != host.out && again.lines().count() == 1, "{again}");
    ensure!(cli.json("create join-token h9").await?["token"].is_string());
    ensure!(cli.ok("revoke h1").await? == "host/h1 revoked\n");
    ensure!(cli.ok("delete host h9").await? == "host/h9 deleted\n");

    ensure!(cli.ok("create tenant acme").await? == "tenant/acme created\n");
    ensure!(cli.ok("create project shop --tenant acme").await? == "project/shop created\n");
    ensure!(cli.ok("create network lan --cidr 10.60.0.0/24 -p shop").await? == "network/lan created\n");
    ensure!(cli.ok("create volume data --size 1GiB -p shop").await? == "volume/data created\n");
    ensure!(cli.json("get volume data -p shop").await?["spec"]["size_bytes"] == 1 << 30);
    ensure!(
        cli.ok("delete volume/data network/lan -p shop").await?
            == "volume/data deleted\nnetwork/lan deleted\n"
    );
    ensure!(cli.ok("delete project shop").await? == "project/shop deleted\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_uploads_images_and_says_why_bytes_are_refused() -> Result<()> {
    let (house, images) = House::with_images(1).await?;
    let cli = Cli::of(&house)?;
    let raw = cli.file("disk.raw", vec![7; 3 << 20])?;
    ensure!(cli.ok(&format!("create image mine --file {raw}")).await? == "image/mine created\n");
    let mine = cli.json("get image mine").await?;
    ensure!(mine["phase"] == "ready" && mine["spec"]["format"] == "raw", "{mine}");
    ensure!(cli.ok("create vm web --image mine --network lan --memory 256MiB").await? == "vm/web created\n");

    // Bytes that are not what they are declared as.
    cli.fails(
        &format!("create image odd --file {raw} --format qcow2"),
        1,
        &["error: image/odd: ", "not begin as a qcow2", "basalt upload odd"],
    )
    .await?;
    cli.fails(&format!("upload odd --file {raw}"), 1, &["error: image/odd: ", "upload a qcow2 file"]).await?;

    // Declared by a file, uploaded by hand.
    let declared = cli
        .with_input("apply -f -", "kind: image\nname: late\nspec: {format: raw, size_bytes: 3145728}\n")
        .await?;
    ensure!(declared.code == 0 && declared.err.contains("basalt upload late"), "{declared:?}");
    let other = cli.file("other.raw", vec![7; 512])?;
    cli.fails(&format!("upload late --file {other}"), 2, &["512 bytes", "3145728"]).await?;
    ensure!(cli.ok(&format!("upload image/late --file {raw}")).await? == "image/late uploaded\n");
    cli.fails(&format!("upload late --file {raw}"), 1, &["late is ready", "declare another image"]).await?;

    // An image service that is away: the image waits, and the command says how to go on.
    drop(images);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let away = cli.run(&format!("create image orphan --file {raw}")).await?;
    away.failed(6, &["basalt upload orphan --file"])?;
    ensure!(cli.ok("delete image orphan").await? == "image/orphan deleted\n");
    Ok(())
}
