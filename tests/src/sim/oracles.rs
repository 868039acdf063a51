//! What must be so, during a run and after it: the numbers are those of the list of oracles in `docs/testing.md`.

use super::{
    base::{AUDIT, Call},
    world::World,
};
use crate::{house::PROJECT, oracles::QUERIES};
use anyhow::{Context, Result, bail, ensure};
use basalt_model::{VmId, vms::ObservedPower};
use basalt_plan::host::{Resource, Transit, VmSeen};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// O4, during the run: no VM executes on two hosts, nor is a whole one that stands still on two. What only waits for the rest of
/// itself on its way does not execute, nor does what came in whole and was never told to go on: where that word is lost, the
/// source goes on, and the other copy stands still until it is removed.
///
/// # Errors
/// The one that does.
pub fn runs_once(world: &World) -> Result<()> {
    let mut seen: BTreeMap<Uuid, &str> = BTreeMap::new();
    for (h, agent) in world.agents.iter().enumerate() {
        let running = agent.sim.look(|w| {
            let came = |id: VmId| world.sent.contains(&(id, h));
            let stays = |vm: &VmSeen| vm.running.is_some() && vm.transit == Transit::Still;
            let executes =
                |id: VmId, vm: &VmSeen| vm.power == ObservedPower::Running || stays(vm) && !came(id);
            let running = w.observed.vms.items.iter().filter(|(id, vm)| executes(**id, vm));
            running.map(|(id, _)| id.0).collect::<Vec<_>>()
        });
        for id in running {
            if let Some(other) = seen.insert(id, &agent.enrolled.name) {
                bail!("O4: VM {id} executes on {other} and on {}", agent.enrolled.name);
            }
        }
    }
    Ok(())
}

/// What no run may leave in the database, besides what every scenario checks.
const ROWS: &[(&str, &str)] = &[
    (
        "O6: a task did not end",
        "SELECT kind, state, stage, subject_name FROM tasks WHERE finished_at IS NULL",
    ),
    (
        "O6: a task that ended badly",
        "SELECT kind, state, error FROM tasks WHERE state = 'failed' AND kind NOT IN ('vm_reboot', 'vm_migrate')",
    ),
    (
        "O4: two hosts are told to have a volume",
        "SELECT id FROM manifest_items WHERE kind = 'volume' AND present GROUP BY id HAVING count(*) > 1",
    ),
];

/// Everything that must be so when nothing moves any more.
///
/// # Errors
/// What is not so.
pub async fn at_rest(world: &World) -> Result<()> {
    world.verify_graphs()?;
    let queries: Vec<&str> = QUERIES.iter().chain(ROWS).map(|(_, sql)| *sql).collect();
    let answers = world.place.database.ask(&queries).await;
    for ((what, _), rows) in QUERIES.iter().chain(ROWS).zip(answers) {
        ensure!(rows.is_empty(), "{what}: {}", rows.join("; "));
    }
    audited(world).await?;
    promises(world, &Shown::of(world).await?)
}

/// O10: as many audit rows of the user as accepted operations.
async fn audited(world: &World) -> Result<()> {
    let rows = &world.place.database.ask(&[AUDIT]).await[0];
    let (found, accepted) = (rows.len() - world.base.audited, world.user.accepted.len());
    ensure!(found == accepted, "O10: {found} audit rows of {accepted} operations: {rows:?}");
    Ok(())
}

/// What the API shows, by kind and name.
pub struct Shown(BTreeMap<&'static str, BTreeMap<String, Value>>);

/// Kinds of objects that users declare here.
const KINDS: [&str; 5] = ["vms", "networks", "security-groups", "routers", "volumes"];

impl Shown {
    /// Asks for everything.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn of(world: &World) -> Result<Self> {
        let live = world.gateways.iter().find_map(|g| g.live.as_ref()).context("a gateway runs")?;
        let mut all = BTreeMap::new();
        for kind in KINDS {
            let path = format!("/v1/projects/{PROJECT}/{kind}?limit=500");
            let page = live.doors.users(Call::new("GET", &path).token(&world.base.token)).await.ok()?;
            let items = page["items"].as_array().context("a page has items")?.clone();
            let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
            all.insert(kind, items.into_iter().map(|item| (name(&item), item)).collect());
        }
        Ok(Self(all))
    }

    fn all(&self, kind: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get(kind).into_iter().flatten()
    }

    fn names(&self, kind: &str, counts: impl Fn(&str) -> bool, wanted: Vec<&String>) -> Result<()> {
        let found: Vec<&String> = self.all(kind).map(|(name, _)| name).filter(|n| counts(n)).collect();
        ensure!(found == wanted, "O5: {kind} are {found:?}, promised were {wanted:?}");
        Ok(())
    }
}

/// O2, O3, O5: what the user was promised is there, in rows and on hosts, and nothing else.
///
/// # Errors
/// What is not so.
pub fn promises(world: &World, shown: &Shown) -> Result<()> {
    let model = &world.user.model;
    shown.names("vms", |_| true, model.vms.keys().collect())?;
    shown.names("networks", |name| name != "lan", model.networks.iter().collect())?;
    shown.names("security-groups", |_| true, model.groups.keys().collect())?;
    shown.names("routers", |_| true, model.routers.keys().collect())?;
    // A VM's own volumes are listed too.
    shown.names("volumes", |name| name.starts_with("volume"), model.volumes.iter().collect())?;
    for (name, vm) in shown.all("vms") {
        let wanted = &model.vms[name];
        for field in ["power", "cpus", "memory_bytes", "stop_grace_seconds"] {
            ensure!(
                vm["spec"][field] == wanted[field],
                "O5: {name} has {field} {}, promised was {}",
                vm["spec"][field],
                wanted[field]
            );
        }
        realised(world, name, vm).with_context(|| format!("{:#}", vm["conditions"]))?;
    }
    nothing_else(world, shown)
}

/// One VM, on its one host, as it is wanted.
fn realised(world: &World, name: &str, shown: &Value) -> Result<()> {
    let id: Uuid = serde_json::from_value(shown["id"].clone())?;
    let wanted = shown["spec"]["power"].as_str().unwrap_or_default();
    ensure!(
        shown["observed"]["power"] == wanted,
        "O1: {name} is to be {wanted} and is seen {}",
        shown["observed"]["power"]
    );
    ensure!(
        shown["generation"] == shown["observed_generation"],
        "O1: {name} has generation {}, seen is {}",
        shown["generation"],
        shown["observed_generation"]
    );
    let mut places = Vec::new();
    for agent in world.living() {
        let seen =
            agent.sim.look(|w| w.observed.vms.items.iter().find(|(k, _)| k.0 == id).map(|v| v.1.clone()));
        if let Some(seen) = seen {
            places.push((agent.enrolled.name.as_str(), seen));
        }
    }
    let [(host, seen)] = places.as_slice() else { bail!("O2: {name} is on {places:?}") };
    ensure!(shown["placement"]["host"] == *host, "O2: {name} is on {host}, placed on {}", shown["placement"]);
    let power = match seen.power {
        ObservedPower::Running => "running",
        ObservedPower::Paused => "paused",
        _ => "stopped",
    };
    ensure!(power == wanted, "O2: {name} is to be {wanted} and is {power} on {host}");
    let stamp = seen.running.as_ref().or(seen.defined.as_ref()).context("it is defined")?;
    ensure!(
        shown["incarnation"] == stamp.incarnation,
        "O2: {name} has incarnation {} on {host}, wanted is {}",
        stamp.incarnation,
        shown["incarnation"]
    );
    Ok(())
}

/// What is there, without ids, times and places: worlds in which the same was asked for are equal (O2).
pub fn picture(world: &World, shown: &Shown) -> Vec<String> {
    let mut lines = Vec::new();
    for kind in ["networks", "security-groups", "routers"] {
        lines.extend(shown.all(kind).map(|(name, shown)| format!("{kind} {name} {}", shown["spec"])));
    }
    for (name, shown) in shown.all("vms") {
        let conditions = shown["conditions"].as_array().cloned().unwrap_or_default();
        let conditions: Vec<String> =
            conditions.iter().map(|c| format!("{}={} {}", c["type"], c["status"], c["reason"])).collect();
        let (spec, power) = (&shown["spec"], &shown["observed"]["power"]);
        lines.push(format!("vm {name} {spec} {} {power} {conditions:?}", shown["incarnation"]));
    }
    let (mut vms, mut volumes) = (Vec::new(), 0);
    for agent in world.living() {
        agent.sim.look(|w| {
            vms.extend(w.observed.vms.items.values().map(|vm| format!("{:?}", vm.power)));
            volumes += w.observed.volumes.items.len();
        });
    }
    vms.sort();
    lines.push(format!("on hosts: {vms:?}, {volumes} volumes"));
    lines
}

/// A picture without what a fault may have settled on the way: a guest that was started anew by chance has taken over what
/// waited for its next start.
pub fn besides_chance(picture: &[String]) -> Vec<String> {
    let waits = r#", "\"RebootPending\"=\"true\" \"pending_reboot\"""#;
    picture.iter().map(|line| line.replace(waits, "")).collect()
}

/// The same, of what the API shows now.
///
/// # Errors
/// The API does not answer.
pub async fn picture_now(world: &World) -> Result<Vec<String>> {
    Ok(picture(world, &Shown::of(world).await?))
}

/// How often hosts really changed VMs and volumes, by what was done.
pub fn changes(world: &World) -> BTreeMap<&'static str, u32> {
    let mut sums = BTreeMap::new();
    for agent in world.living() {
        for ((resource, stage), count) in agent.sim.mutations() {
            if matches!(resource, Resource::Vm(_) | Resource::Volume(_)) {
                *sums.entry(stage).or_default() += count;
            }
        }
    }
    sums
}

/// Nothing is on hosts that nobody wants.
fn nothing_else(world: &World, shown: &Shown) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ids: Vec<String> = shown.all("vms").map(|(_, vm)| text(&vm["id"])).collect();
    let disks: Vec<String> = shown
        .all("vms")
        .flat_map(|(_, vm)| vm["disks"].as_array().cloned().unwrap_or_default())
        .map(|disk| text(&disk["volume_id"]))
        .collect();
    for agent in world.living() {
        let (found, volumes) = agent.sim.look(|w| {
            let vms: Vec<String> = w.observed.vms.items.keys().map(ToString::to_string).collect();
            let volumes: Vec<String> = w.observed.volumes.items.keys().map(|k| k.id.to_string()).collect();
            (vms, volumes)
        });
        let host = &agent.enrolled.name;
        if let Some(left) = found.iter().find(|id| !ids.contains(id)) {
            bail!("O3: VM {left} is left on {host}");
        }
        if let Some(left) = volumes.iter().find(|id| !disks.contains(id)) {
            bail!("O3: volume {left} is left on {host}");
        }
        let mut once = volumes.clone();
        once.dedup();
        ensure!(once.len() == volumes.len(), "O3: a volume is on {host} in two incarnations: {volumes:?}");
    }
    Ok(())
}
