//! The user of a world: one who does one thing after the other, tries again until an answer comes, and remembers what
//! was accepted.
//!
//! To add an operation, write one function from the seed's choices and what is there to a [`Wanted`], and give it a row
//! in [`OPERATIONS`].

use super::{
    base::{Call, Reply},
    calls::Kind,
    dice::Dice,
    queue::{Event, MILLI, SECOND},
    world::World,
};
use crate::{api::vm, house::PROJECT};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the user was promised: the specs of what was accepted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// VMs by name.
    pub vms: BTreeMap<String, Value>,
    /// How often each was redeployed.
    pub redeployed: BTreeMap<String, i64>,
    /// Networks besides `lan`.
    pub networks: BTreeSet<String>,
    /// Volumes of their own.
    pub volumes: BTreeSet<String>,
    /// Security groups.
    pub groups: BTreeMap<String, Value>,
    /// Routers.
    pub routers: BTreeMap<String, Value>,
    /// Names given so far.
    pub named: u64,
}

/// Something to ask for.
pub struct Wanted {
    /// How.
    pub call: Call,
    /// What it means once it is accepted.
    pub then: Box<dyn FnOnce(&mut Model) + Send>,
}

/// An operation: its name, how often it is chosen, and what it asks for.
pub type Operation = (&'static str, u64, fn(&mut Dice, &Model) -> Option<Wanted>);

/// Everything that users do.
pub const OPERATIONS: &[Operation] = &[
    ("create vm", 10, create_vm),
    ("start vm", 4, |dice, model| power(dice, model, "start", "running")),
    ("stop vm", 4, |dice, model| power(dice, model, "stop", "stopped")),
    ("pause vm", 2, |dice, model| power(dice, model, "pause", "paused")),
    ("resume vm", 2, |dice, model| power(dice, model, "resume", "running")),
    ("reboot vm", 1, reboot_vm),
    ("redeploy vm", 3, redeploy_vm),
    ("migrate vm", 4, migrate_vm),
    ("update vm", 3, update_vm),
    ("delete vm", 5, delete_vm),
    ("create volume", 1, create_volume),
    ("delete volume", 1, delete_volume),
    ("create network", 2, create_network),
    ("delete network", 1, delete_network),
    ("create security group", 1, create_group),
    ("update security group", 2, update_group),
    ("delete security group", 1, delete_group),
    ("create router", 1, create_router),
    ("update router", 1, update_router),
    ("delete router", 1, delete_router),
];

/// What makes an operation out of what is there.
type Make = Box<dyn FnOnce(&mut Dice, &Model) -> Option<Wanted> + Send>;

/// The user.
pub struct User {
    /// What it does by chance; chance elsewhere does not change it.
    dice: Dice,
    /// What was promised.
    pub model: Model,
    /// Operations that are still to be done.
    pub left: u32,
    /// Operations to do in this order, before those that the seed chooses.
    script: VecDeque<(String, Make)>,
    /// Operations that were accepted, in order.
    pub accepted: Vec<Call>,
    /// Operations that were refused.
    pub refused: u32,
    /// The gateway that it speaks with; else any that is up.
    pub home: Option<usize>,
    /// How long to wait between two of them at most.
    pub pace: u64,
    current: Option<Current>,
    keys: u64,
}

struct Current {
    /// The call without its key.
    plain: Call,
    name: String,
    wanted: Wanted,
    sent: u64,
}

impl User {
    /// One that has done nothing yet.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed ^ 0x0be5),
            model: Model::default(),
            left: 0,
            script: VecDeque::new(),
            accepted: Vec::new(),
            refused: 0,
            home: None,
            pace: MILLI,
            current: None,
            keys: 0,
        }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.current.is_none() && self.script.is_empty()
    }
}

impl World {
    /// Lets the user do operations by their names in [`OPERATIONS`], one after the other.
    pub fn script(&mut self, names: &[&'static str]) {
        for name in names {
            if let Some((name, _, make)) = OPERATIONS.iter().find(|(n, _, _)| n == name) {
                self.user.script.push_back(((*name).to_owned(), Box::new(make)));
            }
        }
        self.queue.once(self.now, Event::User);
    }

    /// Lets the user ask for something.
    pub fn want(&mut self, name: &str, wanted: Option<Wanted>) {
        self.user.script.push_back((name.to_owned(), Box::new(move |_, _| wanted)));
        self.queue.once(self.now, Event::User);
    }
}

impl World {
    /// The user does the next thing, or the last one again.
    pub fn use_it(&mut self) {
        if self.user.current.is_none() {
            let Some((name, mut wanted)) = self.choose() else { return };
            self.user.keys += 1;
            let plain = wanted.call.clone();
            wanted.call = wanted
                .call
                .token(&self.base.token)
                .header("idempotency-key", format!("operation-{}", self.user.keys));
            self.say(format!("USER {name}: {} {}", wanted.call.method, wanted.call.path));
            self.user.current = Some(Current { plain, name, wanted, sent: 0 });
        }
        let Some(current) = &self.user.current else { return };
        let call = current.wanted.call.clone();
        let up: Vec<usize> = (0..self.gateways.len()).filter(|g| self.gateways[*g].is_up()).collect();
        let any = if up.is_empty() { 0 } else { self.dice.pick(&up) };
        let gateway = self.user.home.unwrap_or(any);
        let number = self.send(gateway, Kind::User, call);
        if let Some(current) = &mut self.user.current {
            current.sent = number;
        }
    }

    fn choose(&mut self) -> Option<(String, Wanted)> {
        while let Some((name, make)) = self.user.script.pop_front() {
            if let Some(wanted) = make(&mut self.user.dice, &self.user.model) {
                return Some((name, wanted));
            }
            self.say(format!("USER {name}: there is nothing to do it with"));
        }
        if self.user.left == 0 {
            return None;
        }
        self.user.left -= 1;
        let total = OPERATIONS.iter().map(|o| o.1).sum();
        for _ in 0..100 {
            let mut chosen = self.user.dice.below(total);
            for (name, weight, make) in OPERATIONS {
                if chosen < *weight {
                    if let Some(wanted) = make(&mut self.user.dice, &self.user.model) {
                        return Some(((*name).to_owned(), wanted));
                    }
                    break;
                }
                chosen -= weight;
            }
        }
        None
    }

    /// The user hears of a call: an answer, or that none came.
    pub fn user_hears(&mut self, number: u64, reply: Option<Reply>) {
        if self.user.current.as_ref().is_none_or(|c| c.sent != number) {
            return;
        }
        let Some(reply) = reply.filter(|r| r.status < 500 && r.status != 429) else {
            let wait = self.dice.between(100 * MILLI, SECOND);
            self.queue.once(self.now + wait, Event::User);
            return;
        };
        let Some(current) = self.user.current.take() else { return };
        if (200..300).contains(&reply.status) {
            (current.wanted.then)(&mut self.user.model);
            self.user.accepted.push(current.plain);
            self.say(format!("USER {}: accepted", current.name));
        } else {
            self.user.refused += 1;
            // Only what was accepted is kept under its key: a copy that is still on its way may be accepted later.
            self.calls.retain(|_, sent| !sent.is_of(Kind::User));
            let detail = reply.json()["detail"].to_string();
            self.say(format!("USER {}: {} {} {detail}", current.name, reply.status, reply.code()));
        }
        let pace = self.user.pace;
        let wait = self.dice.between(pace / 20, pace);
        self.queue.once(self.now + wait, Event::User);
    }
}

/// Declares the usual small VM with changes to its spec.
pub fn named_vm(name: &str, changes: Value) -> Option<Wanted> {
    let (name, body) = (name.to_owned(), vm(name, changes));
    let mut spec = body["spec"].clone();
    if spec["power"].is_null() {
        spec["power"] = json!("running");
    }
    wanted(Call::new("POST", &path("vms")).json(body), move |model| {
        model.redeployed.insert(name.clone(), 0);
        model.vms.insert(name, spec);
        model.named += 1;
    })
}

/// A call that was accepted elsewhere, once more.
pub fn once_more(call: &Call) -> Option<Wanted> {
    wanted(call.clone(), |_| {})
}

/// Asks for the deletion of a VM.
pub fn without_vm(name: &str) -> Option<Wanted> {
    let (name, call) = (name.to_owned(), Call::new("DELETE", &path(&format!("vms/{name}"))));
    wanted(call, move |model| {
        model.vms.remove(&name);
        model.redeployed.remove(&name);
    })
}

/// Replaces a VM's spec.
pub fn changed_vm(name: &str, spec: Value) -> Option<Wanted> {
    let call = Call::new("PUT", &path(&format!("vms/{name}"))).json(json!({"spec": spec}));
    let name = name.to_owned();
    wanted(call, move |model| {
        model.vms.insert(name, spec);
    })
}

/// A path in the project.
pub(super) fn path(rest: &str) -> String {
    format!("/v1/projects/{PROJECT}/{rest}")
}

/// Something to ask for, and what it means once it is accepted.
pub(super) fn wanted(call: Call, then: impl FnOnce(&mut Model) + Send + 'static) -> Option<Wanted> {
    Some(Wanted { call, then: Box::new(then) })
}

/// Sets fields.
pub(super) fn merge(into: &mut Value, changes: Value) {
    if let (Some(into), Value::Object(changes)) = (into.as_object_mut(), changes) {
        into.extend(changes);
    }
}

fn one_of<'a, T>(dice: &mut Dice, of: &'a BTreeMap<String, T>) -> Option<(&'a String, &'a T)> {
    if of.is_empty() { None } else { of.iter().nth(dice.index(of.len())) }
}

fn create_vm(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    if model.vms.len() >= 8 {
        return None;
    }
    // Sometimes the name of one that went, or is going.
    let name = format!("vm-{}", dice.below(model.named.min(6) + 1));
    let mut changes = json!({"cpus": dice.between(1, 4)});
    if dice.one_in(3) {
        changes["disks"] = json!([{"name": "root", "source": {"kind": "image", "image": "tiny"}},
            {"name": "data", "source": {"kind": "blank"}, "size_bytes": 1 << 30}]);
    }
    if let (true, Some(network)) = (dice.one_in(3), model.networks.first()) {
        changes["nics"] = json!([{"network": "lan"}, {"network": network}]);
    }
    if let (true, Some((group, _))) = (dice.one_in(3), one_of(dice, &model.groups)) {
        changes["security_groups"] = json!([group]);
    }
    if dice.one_in(5) {
        changes["power"] = json!("stopped");
    }
    named_vm(&name, changes)
}

fn power(dice: &mut Dice, model: &Model, verb: &str, power: &'static str) -> Option<Wanted> {
    let (name, _) = one_of(dice, &model.vms)?;
    let (name, call) = (name.clone(), Call::new("POST", &path(&format!("vms/{name}/{verb}"))));
    wanted(call, move |model| {
        if let Some(spec) = model.vms.get_mut(&name) {
            spec["power"] = json!(power);
        }
    })
}

fn reboot_vm(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let (name, _) = one_of(dice, &model.vms)?;
    wanted(Call::new("POST", &path(&format!("vms/{name}/reboot"))), |_| {})
}

fn redeploy_vm(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let (name, _) = one_of(dice, &model.vms)?;
    let (name, call) = (name.clone(), Call::new("POST", &path(&format!("vms/{name}/redeploy"))));
    wanted(call, move |model| *model.redeployed.entry(name).or_default() += 1)
}

fn migrate_vm(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let (name, _) = one_of(dice, &model.vms)?;
    wanted(Call::new("POST", &path(&format!("vms/{name}/migrate"))).json(json!({})), |_| {})
}

fn update_vm(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let (name, spec) = one_of(dice, &model.vms)?;
    let (name, mut spec) = (name.clone(), spec.clone());
    match dice.below(3) {
        0 => spec["stop_grace_seconds"] = json!(dice.between(1, 30)),
        1 => spec["cloud_init"] = json!({"user_data": format!("#!{}", dice.below(100))}),
        _ => spec["memory_bytes"] = json!((256 + 64 * dice.below(4)) << 20),
    }
    changed_vm(&name, spec)
}

fn delete_vm(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let (name, _) = one_of(dice, &model.vms)?;
    without_vm(name)
}

fn create_volume(_: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = format!("volume-{}", model.named);
    let body = json!({"name": name, "spec": {"size_bytes": 1 << 30}});
    wanted(Call::new("POST", &path("volumes")).json(body), move |model| {
        model.volumes.insert(name);
        model.named += 1;
    })
}

fn delete_volume(_: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = model.volumes.first()?.clone();
    wanted(Call::new("DELETE", &path(&format!("volumes/{name}"))), move |model| {
        model.volumes.remove(&name);
    })
}

fn create_network(_: &mut Dice, model: &Model) -> Option<Wanted> {
    if model.networks.len() >= 3 {
        return None;
    }
    let name = format!("net-{}", model.named);
    let body = json!({"name": name, "spec": {"cidr": format!("10.{}.0.0/24", 20 + model.named % 200)}});
    wanted(Call::new("POST", &path("networks")).json(body), move |model| {
        model.networks.insert(name);
        model.named += 1;
    })
}

fn delete_network(_: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = model.networks.first()?.clone();
    wanted(Call::new("DELETE", &path(&format!("networks/{name}"))), move |model| {
        model.networks.remove(&name);
    })
}

fn rules(dice: &mut Dice) -> Value {
    let port = dice.between(1, 60_000);
    json!({"rules": [{"direction": "ingress", "protocol": "tcp", "ports": {"from": port, "to": port}}]})
}

fn create_group(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let (name, spec) = (format!("group-{}", model.named), rules(dice));
    let body = json!({"name": name, "spec": spec});
    wanted(Call::new("POST", &path("security-groups")).json(body), move |model| {
        model.groups.insert(name, spec);
        model.named += 1;
    })
}

fn update_group(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = one_of(dice, &model.groups)?.0.clone();
    let spec = rules(dice);
    let call = Call::new("PUT", &path(&format!("security-groups/{name}"))).json(json!({"spec": spec}));
    wanted(call, move |model| {
        model.groups.insert(name, spec);
    })
}

fn delete_group(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = one_of(dice, &model.groups)?.0.clone();
    wanted(Call::new("DELETE", &path(&format!("security-groups/{name}"))), move |model| {
        model.groups.remove(&name);
    })
}

fn create_router(_: &mut Dice, model: &Model) -> Option<Wanted> {
    if model.routers.len() >= 2 {
        return None;
    }
    let mut networks = vec!["lan".to_owned()];
    networks.extend(model.networks.first().cloned());
    let (name, spec) = (format!("router-{}", model.named), json!({"networks": networks, "nat": false}));
    let body = json!({"name": name, "spec": spec});
    wanted(Call::new("POST", &path("routers")).json(body), move |model| {
        model.routers.insert(name, spec);
        model.named += 1;
    })
}

fn update_router(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = one_of(dice, &model.routers)?.0.clone();
    let via = format!("10.10.0.{}", dice.between(100, 200));
    let spec =
        json!({"networks": ["lan"], "nat": false, "routes": [{"destination": "192.168.0.0/16", "via": via}]});
    let call = Call::new("PUT", &path(&format!("routers/{name}"))).json(json!({"spec": spec}));
    wanted(call, move |model| {
        model.routers.insert(name, spec);
    })
}

fn delete_router(dice: &mut Dice, model: &Model) -> Option<Wanted> {
    let name = one_of(dice, &model.routers)?.0.clone();
    wanted(Call::new("DELETE", &path(&format!("routers/{name}"))), move |model| {
        model.routers.remove(&name);
    })
}
