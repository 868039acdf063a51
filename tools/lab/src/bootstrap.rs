//! From a built lab to a cluster that trusts itself: authority, image service's identity, hosts enrolled.
//!
//! Every step looks at what is there first, so that a second `up` only starts what stands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use basalt_cli::client::Client;
use basalt_cli::config::Config as Access;
use basalt_wire::rest::JoinToken;
use serde_json::{Value, json};

use crate::lab::{GATEWAY, Lab};
use crate::process;

/// How long the gateway may take from its start to ready: a first start migrates the database.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Starts database, gateway, image service and hosts, in the order in which they trust each other.
/// Gives the way in that the lab itself uses; people get the first-boot token.
pub async fn bootstrap(lab: &Lab, bin_dir: &Path) -> Result<Access> {
    lab.postgres().start()?;
    let tool = GatewayTool {
        program: bin_dir.join(GATEWAY),
        config: lab.layout().config_dir().join("gateway.toml"),
    };
    let state = lab.state_dirs();
    if !state.image_tls.join("cert.pem").exists() {
        let address = lab.endpoints().image_agents.ip().to_string();
        let public = lab.endpoints().image_users.ip().to_string();
        let out = state.image_tls.display().to_string();
        let names = ["--host", &address, "--host", &public, "--host", "localhost"];
        tool.run(&[&["pki", "issue", "--service", "image-service", "--out", &out], &names[..]].concat())?;
    }
    lab.gateway().context("the gateway's program is missing: build it first")?.start();
    let access = access(lab, &tool).await?;
    lab.image_service().context("the image service's program is missing: build it first")?.start();
    let client = client(&access)?;
    for host in lab.hosts() {
        let token = match host.is_enrolled() {
            true => None,
            false => Some(join_token(&client, host.name()).await?),
        };
        host.configure_agent(lab.endpoints(), &fs::read_to_string(state.ca_file())?, token.as_deref())?;
    }
    lab.power_on_hosts()?;
    Ok(access)
}

/// A client for an access, with the whole of a failure's text as error.
pub fn client(access: &Access) -> Result<Client> {
    Client::new(access).map_err(|e| anyhow::anyhow!(e.text()))
}

/// The file that `BASALT_CONFIG` may name to work with the lab as its administrator.
pub fn access_file(lab: &Lab) -> PathBuf {
    lab.layout().config_dir().join("cli.toml")
}

async fn access(lab: &Lab, tool: &GatewayTool) -> Result<Access> {
    let url = format!("https://{}", lab.endpoints().users);
    wait_ready(lab, &url).await?;
    let file = access_file(lab);
    let saved = fs::read_to_string(&file).ok().and_then(|text| toml::from_str::<Access>(&text).ok());
    let token = match saved {
        Some(saved) if !saved.token.is_empty() && still_good(lab, &url, &saved.token).await => saved.token,
        _ => tool.run(&["token", "create", "--name", "lab", "--role", "admin"])?.trim().to_owned(),
    };
    let access =
        Access { url, token, ca_file: Some(lab.state_dirs().ca_file()), project: Some("demo".into()) };
    fs::write(&file, toml::to_string(&access)?)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(access)
}

async fn still_good(lab: &Lab, url: &str, token: &str) -> bool {
    let access = Access {
        url: url.to_owned(),
        token: token.to_owned(),
        ca_file: Some(lab.state_dirs().ca_file()),
        project: None,
    };
    match Client::new(&access) {
        Ok(client) => client.get::<Value>("/v1/whoami").await.is_ok(),
        Err(_) => false,
    }
}

/// Waits until the gateway says that it is ready.
pub async fn wait_ready(lab: &Lab, url: &str) -> Result<()> {
    let end = Instant::now() + READY_LIMIT;
    loop {
        if ready(lab, url).await {
            return Ok(());
        }
        if Instant::now() > end {
            let log = process::tail(&lab.layout().log_file(GATEWAY), 20);
            bail!("the gateway is not ready after {READY_LIMIT:?}:\n{log}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(lab: &Lab, url: &str) -> bool {
    let Ok(ca) = fs::read(lab.state_dirs().ca_file()) else { return false };
    let Ok(http) = basalt_cli::client::https(Some(&ca)) else { return false };
    let asked = http.get(format!("{url}/readyz")).timeout(Duration::from_secs(2)).send().await;
    asked.is_ok_and(|answer| answer.status().is_success())
}

async fn join_token(client: &Client, name: &str) -> Result<String> {
    let known = client.find::<Value>(&format!("/v1/hosts/{name}")).await;
    let token = match known.map_err(|e| anyhow::anyhow!(e.text()))? {
        Some(_) => client.call::<JoinToken>(&format!("/v1/hosts/{name}/join-token")).await,
        None => {
            let declared = client.post::<_, Value>("/v1/hosts", &json!({"name": name, "spec": {}})).await;
            declared.and_then(|answer| Ok(serde_json::from_value(answer["join_token"].clone())?))
        }
    };
    Ok(token.map_err(|e| anyhow::anyhow!("host {name}: {}", e.text()))?.token)
}

/// The gateway's program, for its one-shot verbs.
struct GatewayTool {
    program: PathBuf,
    config: PathBuf,
}

impl GatewayTool {
    fn run(&self, verb: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(verb).arg("--config").arg(&self.config).env("BASALT_LOG", "warn");
        let output = command.output().with_context(|| format!("{}", self.program.display()))?;
        if !output.status.success() {
            bail!(
                "{} {}: {}",
                self.program.display(),
                verb.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
