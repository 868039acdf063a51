//! How a workload becomes a VM: its size, and the script that its guest runs at its first boot.
//!
//! What a VM was made from is written in the script's second line, so that drift is seen without knowing the workload. No
//! value of a secret is in there, nor a hash of one: the script's own hash stays in the guest's data and is not passed on.

use super::{reasons::error, vm::Vm};
use crate::{Result, check::Check, labels};
use basalt_model::{
    MIB,
    artifacts::{ArtifactKind, Source, Transport},
    deployments::{ErrorClass, Workload},
    providers::BasaltProvider,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// What the script's second line begins with.
const MARK: &str = "# basalt: ";
/// Most bytes of user-data.
const MAX_BYTES: usize = 64 * 1024;
/// What follows the variables.
const RUN: &str = include_str!("run.sh");

/// What a VM was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// The artifact's image.
    pub(super) runs: String,
    pub(super) endpoint: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) check: Option<Check>,
    /// Of the VM.
    image: String,
    pub(super) network: String,
    pool: Option<String>,
    cpus: u32,
    memory_bytes: u64,
    disk_bytes: Option<u64>,
    /// Hash of the rest of the script.
    script: String,
}

/// A VM as it is to be.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) user_data: String,
    pub(super) recipe: Recipe,
    labels: BTreeMap<String, String>,
}

/// Reads the workload. What cannot run here is refused, whatever is there.
pub(super) fn wanted(workload: &Workload, place: &BasaltProvider) -> Result<Wanted> {
    let image = image(workload)?;
    let (port, path) = match &workload.program.transport {
        Transport::StreamableHttp { port, path } => (*port, path.clone()),
        Transport::Stdio {} => {
            return Err(unable(workload, "no_bridge", "it speaks by standard input and output"));
        }
    };
    if !workload.secret_env.is_empty() && !place.secrets_in_user_data {
        return Err(error(
            ErrorClass::Permanent,
            "secrets_refused",
            workload.target.to_string(),
            "it has secret variables, and a VM is told them in its user-data, which everybody may read who may read the VM",
            "say secrets_in_user_data: true in the provider if those who may read VMs of its project may know them, or run \
             it on another platform",
        ));
    }
    let rest = script(workload, image, port)?;
    let recipe = Recipe {
        runs: image.to_owned(),
        endpoint: match workload.target.kind {
            ArtifactKind::Agent => "http".to_owned(),
            ArtifactKind::Server => "mcp".to_owned(),
        },
        port,
        path,
        check: Check::of(workload).filter(|_| place.probe),
        image: place.image.to_string(),
        network: place.network.to_string(),
        pool: place.pool.as_ref().map(ToString::to_string),
        cpus: workload.resources.cpu_millis.map_or(place.cpus, |millis| millis.div_ceil(1000).max(1)),
        memory_bytes: memory(workload, place),
        disk_bytes: place.disk_bytes,
        script: hash(&rest),
    };
    let user_data = format!("#!/bin/sh\n{MARK}{}\n{rest}", json!(recipe));
    if user_data.len() > MAX_BYTES {
        return Err(error(
            ErrorClass::Permanent,
            "too_long",
            workload.target.to_string(),
            format!(
                "its variables and words are {} bytes of user-data; a VM has at most {MAX_BYTES}",
                user_data.len()
            ),
            "let the program fetch what is long",
        ));
    }
    Ok(Wanted { name: workload.owner.workload_name(), user_data, recipe, labels: labels(workload) })
}

fn image(workload: &Workload) -> Result<&str> {
    match &workload.program.source {
        Source::Image { image } => Ok(image),
        Source::Npm { .. } => Err(unable(workload, "no_runner", "it is a package of npm")),
        Source::Pypi { .. } => {
            Err(unable(workload, "no_runner", "it is a package of the Python Package Index"))
        }
        Source::Remote { .. } => Err(unable(workload, "remote", "it runs elsewhere")),
    }
}

fn unable(workload: &Workload, code: &'static str, what: &str) -> crate::Error {
    error(
        ErrorClass::Permanent,
        code,
        workload.target.to_string(),
        format!("{what}, and VMs run OCI images that speak HTTP"),
        "put it into an image that listens at PORT, or run it on another platform",
    )
}

/// A VM has its memory in MiB, and at least 64 of them.
fn memory(workload: &Workload, place: &BasaltProvider) -> u64 {
    let asked = workload.resources.memory_bytes;
    asked.map_or(place.memory_bytes, |bytes| bytes.div_ceil(MIB).max(64) * MIB)
}

fn hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..8])
}

fn labels(workload: &Workload) -> BTreeMap<String, String> {
    let owner = &workload.owner;
    let mut all = BTreeMap::from([
        (labels::DEPLOYMENT.to_owned(), owner.id.0.to_string()),
        (labels::PROJECT.to_owned(), owner.project.to_string()),
        (labels::NAME.to_owned(), owner.name.to_string()),
        (labels::GENERATION.to_owned(), workload.generation.0.to_string()),
        (labels::EPOCH.to_owned(), workload.epoch.0.to_string()),
        (labels::KIND.to_owned(), workload.target.kind.as_str().to_owned()),
    ]);
    let fingerprint = super::vm::fingerprint_labels(&workload.fingerprint);
    all.extend(fingerprint.into_iter().map(|(key, value)| (key.to_owned(), value)));
    all
}

/// One word of a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The script but for its first two lines.
fn script(workload: &Workload, image: &str, port: u16) -> Result<String> {
    let program = &workload.program;
    let mut env: BTreeMap<&str, &str> =
        workload.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let port = port.to_string();
    env.insert("PORT", &port);
    env.extend(workload.secret_env.iter().map(|(name, value)| (name.as_str(), value.expose())));
    let mut text = String::from("# Written by Basalt for one deployment.\n\nvariables() {\n");
    for (name, value) in &env {
        if name.contains(['\n', '\r', '\0', '=']) || value.contains(['\n', '\r', '\0']) {
            return Err(error(
                ErrorClass::Permanent,
                "variable_of_lines",
                workload.target.to_string(),
                format!(
                    "the variable {name:?} is of several lines, and a VM is told its variables line by line"
                ),
                "write it in base64, and let the program read it so",
            ));
        }
        text.push_str(&format!("printf '%s\\n' {}\n", quoted(&format!("{name}={value}"))));
    }
    let all: Vec<&String> = program.command.iter().chain(&program.args).collect();
    if all.iter().any(|word| word.contains('\0')) {
        return Err(unable(workload, "bad_word", "one of its words has a NUL"));
    }
    let list = |words: &mut dyn Iterator<Item = &String>| -> String {
        words.map(|word| format!(" {}", quoted(word))).collect()
    };
    // Podman takes an entry point of several words as JSON.
    let (kind, entry) = match program.command.is_empty() {
        true => ("args", String::new()),
        false => ("command", format!(" --entrypoint {}", quoted(&json!(program.command).to_string()))),
    };
    let words = list(&mut all.into_iter());
    text.push_str("}\n\n");
    text.push_str(&format!("image={}\n", quoted(image)));
    text.push_str(&format!("run() {{\n  basalt-run artifact \"$variables\" \"$image\" {kind}{words}\n}}\n"));
    text.push_str(&format!(
        "start() {{\n  podman run --detach --replace --name artifact --network host --restart always --env-file \
         \"$variables\"{entry} \"$image\"{}\n}}\n\n",
        list(&mut program.args.iter())
    ));
    text.push_str(RUN);
    Ok(text)
}

impl Recipe {
    /// What is written on a VM that we made.
    pub(super) fn of(vm: &Vm) -> Option<Self> {
        serde_json::from_str(vm.user_data().lines().nth(1)?.strip_prefix(MARK)?).ok()
    }

    /// What differs from what was made, field by field; whether it runs is not asked here.
    pub(super) fn drift(&self, vm: &Vm) -> Vec<String> {
        let mut drift = Vec::new();
        let rest = vm.user_data().splitn(3, '\n').nth(2).unwrap_or_default();
        if hash(rest) != self.script {
            drift.push("cloud_init.user_data: another text than was given".to_owned());
        }
        let texts = [
            ("disks[0].source.image", vm.text("/disks/0/source/image"), Some(self.image.as_str())),
            ("disks[0].pool", vm.text("/disks/0/pool"), self.pool.as_deref()),
            ("nics[0].network", vm.text("/nics/0/network"), Some(self.network.as_str())),
        ];
        for (field, is, was) in texts {
            if let Some(was) = was.filter(|was| *was != is) {
                drift.push(format!("{field}: {is} instead of {was}"));
            }
        }
        let numbers = [
            ("cpus", vm.number("/cpus"), Some(u64::from(self.cpus))),
            ("memory_bytes", vm.number("/memory_bytes"), Some(self.memory_bytes)),
            ("disks[0].size_bytes", vm.number("/disks/0/size_bytes"), self.disk_bytes),
        ];
        for (field, is, was) in numbers {
            if let Some(was) = was.filter(|was| is != Some(*was)) {
                drift.push(format!("{field}: {} instead of {was}", is.unwrap_or_default()));
            }
        }
        drift
    }
}

impl Wanted {
    /// Whether a VM was made as this one would be, and still is so. It may not run, and may be of an older attempt.
    pub(super) fn is_made_as(&self, vm: &Vm) -> bool {
        vm.name == self.name && vm.user_data() == self.user_data && self.recipe.drift(vm).is_empty()
    }

    /// Whether what is written on it is what would be written; its attempt aside.
    pub(super) fn is_said_by(&self, vm: &Vm) -> bool {
        let ours = self.labels.iter().filter(|(key, _)| *key != labels::EPOCH);
        let rest = super::vm::FINGERPRINT_REST;
        ours.into_iter().all(|(key, value)| vm.label(key) == Some(value))
            && vm.label(rest) == self.labels.get(rest).map(String::as_str)
    }

    /// What to ask for.
    pub(super) fn create(&self, name: &str, address: Option<Ipv4Addr>) -> Value {
        let made = &self.recipe;
        let mut disk = json!({ "name": "root", "source": { "kind": "image", "image": made.image } });
        if let Some(bytes) = made.disk_bytes {
            disk["size_bytes"] = json!(bytes);
        }
        if let Some(pool) = &made.pool {
            disk["pool"] = json!(pool);
        }
        let mut nic = json!({ "network": made.network });
        if let Some(address) = address {
            nic["address"] = json!(address);
        }
        json!({ "name": name, "labels": self.labels, "spec": {
            "power": "running", "cpus": made.cpus, "memory_bytes": made.memory_bytes, "disks": [disk], "nics": [nic],
            "cloud_init": { "user_data": self.user_data },
        } })
    }

    /// What to write over a VM that was made as this one: it runs, and says whose it is. What others set stays.
    pub(super) fn over(&self, vm: &Vm) -> Value {
        let mut spec = vm.spec.clone();
        spec["power"] = json!("running");
        let mut all = vm.labels.clone();
        all.remove(super::vm::FINGERPRINT_REST);
        all.extend(self.labels.clone());
        json!({ "labels": all, "spec": spec })
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
