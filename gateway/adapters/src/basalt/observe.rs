//! What is there: every VM of the project, ours and others', in words that stand still while nothing happens.

use super::{Basalt, guest::Recipe, vm::Vm};
use crate::{Discovered, Result, check, labels};
use basalt_model::deployments::Owner;
use futures::StreamExt;
use serde_json::{Map, Value, json};

/// How many VMs are asked at once whether they are well.
const AT_ONCE: usize = 8;

impl Basalt {
    pub(super) async fn look_at_all(&self) -> Result<Vec<Discovered>> {
        let all = self.calls.vms("").await?;
        Ok(self.discovered(all).await)
    }

    pub(super) async fn look_at_one(&self, owner: &Owner) -> Result<Vec<Discovered>> {
        let mine = self.owned(owner.id).await?;
        Ok(self.discovered(mine).await)
    }

    async fn discovered(&self, vms: Vec<Vm>) -> Vec<Discovered> {
        let looks = vms.into_iter().map(|vm| async move {
            let checked = self.checked(&vm).await;
            let raw = raw(&vm, checked);
            Discovered { kind: "vm".to_owned(), namespace: None, owner: vm.owner(), name: vm.name, raw }
        });
        let mut all: Vec<Discovered> =
            futures::stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether the program is well, where the VM runs and that is asked.
    async fn checked(&self, vm: &Vm) -> Option<Value> {
        vm.owner()?;
        let recipe = Recipe::of(vm)?;
        let check = recipe.check.as_ref().filter(|_| vm.phase == "running" && !vm.is_going())?;
        let address = vm.address_on(&recipe.network)?.to_string();
        let up = vm.observed.started_at.map_or(i64::MAX, |at| ((self.now)() - at).num_seconds());
        Some(check::look(check, &address, recipe.port, up).await)
    }
}

/// All of a VM that says something, without its user-data, which may hold secrets.
pub(super) fn raw(vm: &Vm, checked: Option<Value>) -> Value {
    let mut raw = Map::new();
    raw.insert("id".into(), json!(vm.id));
    raw.insert("phase".into(), json!(vm.phase));
    raw.insert("power".into(), json!(vm.text("/power")));
    raw.insert("going".into(), json!(vm.is_going()));
    raw.insert("labels".into(), json!(vm.labels));
    raw.insert("image".into(), json!(vm.text("/disks/0/source/image")));
    raw.insert("cpus".into(), json!(vm.number("/cpus")));
    raw.insert("memory_bytes".into(), json!(vm.number("/memory_bytes")));
    raw.insert("host".into(), json!(vm.placement.as_ref().map(|p| &p.host)));
    raw.insert("epoch".into(), json!(vm.epoch()));
    raw.insert("generation".into(), json!(vm.generation_of_deployment()));
    let addresses: Vec<Value> =
        vm.nics.iter().map(|nic| json!({ "network": nic.network, "address": nic.address })).collect();
    raw.insert("addresses".into(), json!(addresses));
    if let Some(why) = why(vm) {
        raw.insert("why".into(), why);
    }
    // Without its owner it is somebody's VM, whatever its user-data says.
    if vm.label(labels::DEPLOYMENT).is_some() {
        ours(vm, &mut raw);
    }
    if let Some(checked) = checked {
        raw.insert("check".into(), checked);
    }
    Value::Object(raw)
}

fn ours(vm: &Vm, raw: &mut Map<String, Value>) {
    let Some(recipe) = Recipe::of(vm) else {
        raw.insert("drift".into(), json!(["cloud_init.user_data: not what a deployment is given"]));
        return;
    };
    let mut drift = recipe.drift(vm);
    if vm.text("/power") != "running" {
        drift.push(format!("power: {} instead of running", vm.text("/power")));
    }
    raw.insert("drift".into(), json!(drift));
    raw.insert("runs".into(), json!(recipe.runs));
    if let Some(address) = vm.address_on(&recipe.network) {
        let url = format!("http://{address}:{}{}", recipe.port, recipe.path);
        raw.insert("endpoint".into(), json!({ "name": recipe.endpoint, "url": url }));
    }
}

/// Why it does not run, in the API's own words; nothing while it is on its way, for that is another word each second.
fn why(vm: &Vm) -> Option<Value> {
    if let Some(blocked) = &vm.observed.blocked {
        return Some(json!(blocked));
    }
    let kinds: &[&str] = match vm.phase.as_str() {
        "blocked" => &["Placed", "Ready"],
        "unknown" | "failed" => &["HostReachable", "Ready"],
        _ => return None,
    };
    let said = kinds.iter().filter_map(|kind| vm.condition(kind)).find(|c| c.status != "true")?;
    Some(json!({ "code": said.reason, "message": said.message }))
}
