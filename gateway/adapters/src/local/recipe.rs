//! How a workload becomes a container, and how one sees later whether it still is what it was made to be.
//!
//! What a container was made from is written on it in one label, so that drift is seen without knowing the workload.
//! Of secret variables only the names are in there: a hash of a short secret, salted beside itself, is the secret.
//! Their values are compared where both are at hand, which is in a deploy.

use super::{
    bridge,
    container::{Container, Image},
    reasons::error,
};
use crate::{
    EngineOptions, Result,
    check::{self, Check},
    labels,
};
use basalt_model::{
    artifacts::{ArtifactKind, Source, Transport},
    deployments::{ErrorClass, Workload},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The label that a [`Recipe`] is written in.
pub(super) const LABEL: &str = "basalt/local";

/// Seconds that a program has between SIGTERM and SIGKILL.
pub(super) const STOP_SECONDS: i64 = 10;

/// How often the engine itself starts a failed program again. It does so without a pause, so it must have an end: what
/// fails more often is the reconciler's, which backs off and says so. A program that was stopped by hand, or ended
/// without an error, is not started by the engine at all, so that it is seen and `on_drift` decides.
const RESTARTS: u32 = 5;

/// What a container was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// Of everything that was asked and that the engine's options say, but for the port that was found.
    pub(super) asked: String,
    pub(super) image: String,
    pub(super) image_id: String,
    /// Hash of the program's words.
    words: String,
    /// Hash of each variable that is no secret.
    env: BTreeMap<String, String>,
    /// Names of those that are.
    secrets: Vec<String>,
    memory_bytes: Option<u64>,
    nano_cpus: Option<u64>,
    pub(super) host_network: bool,
    pub(super) address: String,
    /// The port of the machine.
    pub(super) port: u16,
    /// The port in the container.
    inner_port: u16,
    pub(super) endpoint: String,
    pub(super) path: String,
    pub(super) check: Option<Check>,
}

/// What is to run, as far as it can be said without the image and the port.
pub(super) struct Asked {
    pub(super) image: String,
    pub(super) hash: String,
    bridged: bool,
    /// In place of the image's entry point.
    command: Option<Vec<String>>,
    check: Option<Check>,
    endpoint: &'static str,
    path: String,
    inner_port: u16,
}

pub(super) fn hash(text: impl AsRef<[u8]>) -> String {
    hex::encode(&Sha256::digest(text)[..8])
}

/// Reads the workload. The engine's options may lack what it needs.
pub(super) fn asked(workload: &Workload, options: &EngineOptions) -> Result<Asked> {
    let program = &workload.program;
    let (image, command) = program_of(workload, options)?;
    let bridged = matches!(program.transport, Transport::Stdio {});
    if bridged && options.bridge.is_none() {
        return Err(error(
            ErrorClass::Permanent,
            "no_bridge",
            workload.target.to_string(),
            "it speaks by standard input and output, and this engine has no bridge for that",
            "set `bridge` of the engine in gateway.toml to the path of basalt-mcp-bridge",
        ));
    }
    if options.network.as_deref() == Some("none") {
        return Err(error(
            ErrorClass::Permanent,
            "no_network",
            workload.target.to_string(),
            "this engine gives containers no network, so nothing that runs there could be reached",
            "set `network` of the engine in gateway.toml to host, or leave it out",
        ));
    }
    let (inner_port, path) = match &program.transport {
        Transport::StreamableHttp { port, path } => (*port, path.clone()),
        Transport::Stdio {} => (bridge::PORT, bridge::PATH.to_owned()),
    };
    let check = match bridged {
        true => {
            let start_seconds = check::start_seconds(program);
            Some(Check { path: Some(bridge::HEALTH.to_owned()), start_seconds })
        }
        false => Check::of(workload),
    };
    let endpoint = match workload.target.kind {
        ArtifactKind::Agent => "http",
        ArtifactKind::Server => "mcp",
    };
    let everything = json!({
        "image": image, "command": command, "args": program.args, "bridge": bridged.then_some(&options.bridge),
        "env": workload.env, "secrets": workload.secret_env.keys().collect::<Vec<_>>(),
        "resources": workload.resources, "local": workload.local, "inner_port": inner_port, "path": path,
        "check": check, "network": options.network, "address": options.address, "runtime": options.runtime,
        "max_open_files": options.max_open_files, "max_processes": options.max_processes,
    });
    let hash = hash(everything.to_string());
    Ok(Asked { image, hash, bridged, command, check, endpoint, path, inner_port })
}

/// The image, and the words in place of its entry point.
fn program_of(workload: &Workload, options: &EngineOptions) -> Result<(String, Option<Vec<String>>)> {
    let program = &workload.program;
    let own = (!program.command.is_empty()).then(|| program.command.clone());
    let no_runner = |kind: &str, key: &str, tool: &str| {
        error(
            ErrorClass::Permanent,
            "no_runner",
            workload.target.to_string(),
            format!("it is a package of {kind}, and this engine has no image to run those in"),
            format!("set `{key}` of the engine in gateway.toml to an image that has {tool}"),
        )
    };
    match &program.source {
        Source::Image { image } => Ok((super::images::canonical(image), own)),
        Source::Npm { package, version } => {
            let runner = options.npm_runner.clone();
            let runner = runner.ok_or_else(|| no_runner("npm", "npm_runner", "npx"))?;
            let package = format!("{package}@{version}");
            let words = match own {
                None => vec!["npx".to_owned(), "-y".to_owned(), package],
                Some(own) => {
                    let npx =
                        ["npx".to_owned(), "-y".to_owned(), format!("--package={package}"), "--".to_owned()];
                    npx.into_iter().chain(own).collect()
                }
            };
            Ok((runner, Some(words)))
        }
        Source::Pypi { package, version } => {
            let runner = options.pypi_runner.clone();
            let runner = runner.ok_or_else(|| no_runner("the Python Package Index", "pypi_runner", "uvx"))?;
            let from = ["uvx".to_owned(), "--from".to_owned(), format!("{package}=={version}")];
            let own = own.unwrap_or_else(|| vec![package.clone()]);
            Ok((runner, Some(from.into_iter().chain(own).collect())))
        }
        Source::Remote { .. } => Err(error(
            ErrorClass::Permanent,
            "remote",
            workload.target.to_string(),
            "it runs elsewhere, so no container is made of it",
            "nothing is to be done",
        )),
    }
}

impl Asked {
    /// Every word of the program.
    fn words(&self, workload: &Workload, image: &Image) -> Vec<String> {
        let mut words = Vec::new();
        if self.bridged {
            words.extend([bridge::INSIDE.to_owned(), "--".to_owned()]);
        }
        let args = &workload.program.args;
        match &self.command {
            Some(command) => words.extend(command.iter().chain(args).cloned()),
            None => {
                let last = if args.is_empty() { &image.config.cmd } else { args };
                words.extend(image.config.entrypoint.iter().chain(last).cloned());
            }
        }
        words
    }

    /// What to write on it, and what to ask the engine for.
    pub(super) fn create(
        &self,
        workload: &Workload,
        options: &EngineOptions,
        image: &Image,
        port: u16,
    ) -> Result<Value> {
        let words = self.words(workload, image);
        if words.len() == 2 * usize::from(self.bridged) {
            return Err(error(
                ErrorClass::Permanent,
                "no_program",
                workload.target.to_string(),
                "the image names no program, and neither does the artifact",
                "give the artifact a `command`",
            ));
        }
        let host_network = options.network.as_deref() == Some("host");
        let inner_port = if host_network { port } else { self.inner_port };
        let mut env = workload.env.clone();
        env.insert("PORT".to_owned(), inner_port.to_string());
        env.retain(|name, _| !workload.secret_env.contains_key(name));
        let recipe = Recipe {
            asked: self.hash.clone(),
            image: self.image.clone(),
            image_id: image.id.clone(),
            words: hash(words.join("\0")),
            env: env.iter().map(|(name, value)| (name.clone(), hash(value))).collect(),
            secrets: workload.secret_env.keys().cloned().collect(),
            memory_bytes: workload.resources.memory_bytes,
            nano_cpus: workload.resources.cpu_millis.map(|m| u64::from(m) * 1_000_000),
            host_network,
            address: options.address.to_string(),
            port,
            inner_port,
            endpoint: self.endpoint.to_owned(),
            path: self.path.clone(),
            check: self.check.clone(),
        };
        Ok(body(workload, options, &recipe, &words, &env))
    }
}

fn body(
    workload: &Workload,
    options: &EngineOptions,
    recipe: &Recipe,
    words: &[String],
    env: &BTreeMap<String, String>,
) -> Value {
    let owner = &workload.owner;
    let secrets = workload.secret_env.iter().map(|(name, value)| format!("{name}={}", value.expose()));
    let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).chain(secrets).collect();
    let inner = format!("{}/tcp", recipe.inner_port);
    let mut host = json!({
        "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": RESTARTS },
        // What the program writes would otherwise fill the disk.
        "LogConfig": { "Type": "json-file", "Config": { "max-size": "16m" } },
        "Memory": recipe.memory_bytes.unwrap_or(0),
        "NanoCpus": recipe.nano_cpus.unwrap_or(0),
    });
    let mut ulimits = Vec::new();
    if let Some(most) = options.max_open_files {
        ulimits.push(json!({ "Name": "nofile", "Soft": most, "Hard": most }));
    }
    if let Some(most) = options.max_processes {
        ulimits.push(json!({ "Name": "nproc", "Soft": most, "Hard": most }));
        host["PidsLimit"] = json!(most);
    }
    host["Ulimits"] = json!(ulimits);
    if let Some(runtime) = &options.runtime {
        host["Runtime"] = json!(runtime);
    }
    if let Some(network) = &options.network {
        host["NetworkMode"] = json!(network);
    }
    if let Some(bridge) =
        options.bridge.as_ref().filter(|_| words.first().is_some_and(|w| w == bridge::INSIDE))
    {
        host["Binds"] = json!([format!("{}:{}:ro", bridge.display(), bridge::INSIDE)]);
    }
    let mut body = json!({
        "Image": recipe.image,
        // All words in one place: what the image has of its own is in them already, and engines mix in nothing.
        "Entrypoint": words,
        "Cmd": [],
        "Env": env,
        // Health is judged from outside; an image's own check would run a program that small images lack.
        "Healthcheck": { "Test": ["NONE"] },
        "StopTimeout": STOP_SECONDS,
        "Labels": {
            labels::DEPLOYMENT: owner.id.0.to_string(),
            labels::PROJECT: owner.project.as_str(),
            labels::NAME: owner.name.as_str(),
            labels::FINGERPRINT: workload.fingerprint,
            labels::GENERATION: workload.generation.0.to_string(),
            labels::EPOCH: workload.epoch.0.to_string(),
            labels::KIND: workload.target.kind.as_str(),
            LABEL: json!(recipe).to_string(),
        },
    });
    if !recipe.host_network {
        host["PortBindings"] =
            json!({ &inner: [{ "HostIp": recipe.address, "HostPort": recipe.port.to_string() }] });
        body["ExposedPorts"] = json!({ inner: {} });
    }
    body["HostConfig"] = host;
    body
}

impl Recipe {
    /// What is written on a container that we made.
    pub(super) fn of(container: &Container) -> Option<Self> {
        serde_json::from_str(container.label(LABEL)?).ok()
    }

    /// Why the engine could not start it, without the secrets that stand in there.
    pub(super) fn error(&self, container: &Container) -> String {
        let secrets =
            self.secrets.iter().filter_map(|name| container.variable(name)).filter(|v| !v.is_empty());
        secrets.fold(container.state.error.clone(), |text, secret| text.replace(secret, "[secret]"))
    }

    /// What differs from what was made, field by field; whether it runs is not asked here.
    pub(super) fn drift(&self, container: &Container) -> Vec<String> {
        let mut drift = Vec::new();
        let bare = |id: &str| id.trim_start_matches("sha256:").to_owned();
        if bare(&container.image) != bare(&self.image_id) {
            drift.push(format!("image: {} instead of {}", container.config.image, self.image));
        }
        if hash(container.words().join("\0")) != self.words {
            drift.push("command: other words than were given".to_owned());
        }
        for (name, was) in &self.env {
            match container.variable(name) {
                Some(value) if hash(value) == *was => {}
                Some(_) => drift.push(format!("env.{name}: another value")),
                None => drift.push(format!("env.{name}: missing")),
            }
        }
        for name in self.secrets.iter().filter(|name| container.variable(name).is_none()) {
            drift.push(format!("env.{name}: missing"));
        }
        let host = &container.host_config;
        for (field, is, was) in
            [("memory_bytes", host.memory, self.memory_bytes), ("nano_cpus", host.nano_cpus, self.nano_cpus)]
        {
            let was = was.unwrap_or(0);
            if u64::try_from(is).unwrap_or(0) != was {
                drift.push(format!("{field}: {is} instead of {was}"));
            }
        }
        if (host.network_mode == "host") != self.host_network {
            drift.push(format!("network: {}", host.network_mode));
        }
        let bindings = host.port_bindings.get(&format!("{}/tcp", self.inner_port)).cloned().flatten();
        let published = bindings.unwrap_or_default().iter().any(|b| b.host_port == self.port.to_string());
        if !self.host_network && !published {
            drift.push(format!("port: {} is not published", self.port));
        }
        drift
    }
}

/// Whether each secret variable has its value in there.
pub(super) fn has_secrets(container: &Container, workload: &Workload) -> bool {
    workload.secret_env.iter().all(|(name, value)| container.variable(name) == Some(value.expose()))
}
