//! Things to ask for by a word, each the same every time: what crash sweeps and checks are made of.

use super::{
    base::Call,
    users::{self, Wanted, changed_vm, named_vm, path, wanted, without_vm},
    world::World,
};
use serde_json::{Value, json};

/// The VM of these steps.
pub const VM: &str = "swept";

/// What a word stands for; `None`: it is none of these words.
pub fn step(world: &World, word: &str) -> Option<Wanted> {
    if let Some(verb) = ["start", "stop", "pause", "resume"].into_iter().find(|verb| *verb == word) {
        return power(verb);
    }
    machine(world, word).or_else(|| wire(word)).or_else(|| host(word))
}

/// Whether what a word asks for, asked for again, goes on with what is left.
pub fn goes_on(word: &str) -> bool {
    word.starts_with("drain ")
}

/// Hosts that are emptied, and take VMs again.
fn host(word: &str) -> Option<Wanted> {
    let (verb, name) = word.split_once(' ')?;
    match verb {
        // Its patience is over before a world counts as resting.
        "drain" => wanted(
            Call::new("POST", &format!("/v1/hosts/{name}/drain")).json(json!({"patience_seconds": 5})),
            |_| {},
        ),
        "open" => wanted(
            Call::new("PUT", &format!("/v1/hosts/{name}")).json(json!({"spec": {"maintenance": false}})),
            |_| {},
        ),
        _ => None,
    }
}

fn machine(world: &World, word: &str) -> Option<Wanted> {
    let create = |changes: Value| {
        // Longer than anything that a sweep does to a host: within it a guest is only asked.
        let mut all = json!({"stop_grace_seconds": 300});
        users::merge(&mut all, changes);
        named_vm(VM, all)
    };
    let change = |changes: Value| {
        let mut spec = world.user.model.vms.get(VM)?.clone();
        users::merge(&mut spec, changes);
        changed_vm(VM, spec)
    };
    let nics = |names: &[&str]| json!(names.iter().map(|n| json!({"network": n})).collect::<Vec<_>>());
    match word {
        "+vm" => create(json!({})),
        "+vm off" => create(json!({"power": "stopped"})),
        "+vm with all" => create(json!({
            "disks": [{"name": "root", "source": {"kind": "image", "image": "tiny"}},
                {"name": "data", "source": {"kind": "blank"}, "size_bytes": 1 << 30}],
            "nics": nics(&["lan", "wire"]),
            "security_groups": ["guard"],
        })),
        "+vm on wire" => create(json!({"nics": nics(&["lan", "wire"])})),
        "+vm guarded" => create(json!({"security_groups": ["guard"]})),
        "-vm" => without_vm(VM),
        "data" => change(json!({"cloud_init": {"user_data": "#!changed"}})),
        "data back" => change(json!({"cloud_init": {"user_data": "#!first"}})),
        "memory" => change(json!({"memory_bytes": 320 << 20})),
        "memory back" => change(json!({"memory_bytes": 256 << 20})),
        "guard" => change(json!({"security_groups": ["guard"]})),
        "guard back" => change(json!({"security_groups": []})),
        "redeploy" => wanted(Call::new("POST", &path(&format!("vms/{VM}/redeploy"))), |model| {
            *model.redeployed.entry(VM.into()).or_default() += 1;
        }),
        "reboot" => wanted(Call::new("POST", &path(&format!("vms/{VM}/reboot"))), |_| {}),
        "migrate" => wanted(Call::new("POST", &path(&format!("vms/{VM}/migrate"))).json(json!({})), |_| {}),
        _ => None,
    }
}

fn power(verb: &'static str) -> Option<Wanted> {
    let power = match verb {
        "stop" => "stopped",
        "pause" => "paused",
        _ => "running",
    };
    wanted(Call::new("POST", &path(&format!("vms/{VM}/{verb}"))), move |model| {
        if let Some(spec) = model.vms.get_mut(VM) {
            spec["power"] = json!(power);
        }
    })
}

fn port(number: u32) -> Value {
    json!({"rules": [{"direction": "ingress", "protocol": "tcp", "ports": {"from": number, "to": number}}]})
}

fn wire(word: &str) -> Option<Wanted> {
    let create = |kind: &str, name: &str, spec: &Value| {
        Call::new("POST", &path(kind)).json(json!({"name": name, "spec": spec}))
    };
    let change = |what: &str, spec: &Value| Call::new("PUT", &path(what)).json(json!({"spec": spec}));
    let delete = |what: &str| Call::new("DELETE", &path(what));
    let group = |call: Call, spec: Value| {
        wanted(call, |model| {
            model.groups.insert("guard".into(), spec);
        })
    };
    let router = |call: Call, spec: Value| {
        wanted(call, |model| {
            model.routers.insert("way".into(), spec);
        })
    };
    let plain = json!({"networks": ["lan"], "nat": false});
    let routed = json!({"networks": ["lan"], "nat": false,
        "routes": [{"destination": "192.168.0.0/16", "next_hop": "10.10.0.100"}]});
    match word {
        "+wire" => wanted(create("networks", "wire", &json!({"cidr": "10.20.0.0/24"})), |model| {
            model.networks.insert("wire".into());
        }),
        "-wire" => wanted(delete("networks/wire"), |model| {
            model.networks.remove("wire");
        }),
        "+group" => group(create("security-groups", "guard", &port(22)), port(22)),
        "rules" => group(change("security-groups/guard", &port(80)), port(80)),
        "rules back" => group(change("security-groups/guard", &port(22)), port(22)),
        "-group" => wanted(delete("security-groups/guard"), |model| drop(model.groups.remove("guard"))),
        "+router" => router(create("routers", "way", &plain), plain),
        "routes" => router(change("routers/way", &routed), routed),
        "routes back" => router(change("routers/way", &plain), plain),
        "-router" => wanted(delete("routers/way"), |model| drop(model.routers.remove("way"))),
        "+volume" => wanted(create("volumes", "volume", &json!({"size_bytes": 1 << 30})), |model| {
            model.volumes.insert("volume".into());
        }),
        "-volume" => wanted(delete("volumes/volume"), |model| {
            model.volumes.remove("volume");
        }),
        _ => None,
    }
}
