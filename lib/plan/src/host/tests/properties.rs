//! From any state of a host, carrying plans out ends in what the manifest says.

use super::fixture::*;
use crate::host::{effect::Mishap, *};
use basalt_model::{
    Generation,
    vms::{ObservedPower, Power},
};
use basalt_wire::agent::{Desired, Item, ItemKind, ItemObserved, Manifest};
use chrono::TimeDelta;
use proptest::prelude::*;

/// What is wanted of one VM.
#[derive(Clone, Debug)]
struct Wish {
    there: bool,
    power: Power,
    incarnation: i64,
    memory: u64,
    user_data: Option<String>,
}

fn wish() -> impl Strategy<Value = Wish> {
    let power = prop_oneof![Just(Power::Running), Just(Power::Stopped), Just(Power::Paused)];
    let data = proptest::option::of("[a-c]");
    (proptest::bool::weighted(0.8), power, 0..3_i64, 1..3_u64, data).prop_map(
        |(there, power, incarnation, memory, user_data)| Wish {
            there,
            power,
            incarnation,
            memory,
            user_data,
        },
    )
}

const VMS: u8 = 3;

fn to_manifest(wishes: &[Wish], step: i64) -> Manifest {
    let mut items: Vec<Item> = vec![network(), image()];
    for (n, wish) in (1..=VMS).zip(wishes) {
        if wish.there {
            items.push(volume(n, wish.incarnation + step));
            items.push(vm(n, |b| {
                b.power = wish.power;
                b.incarnation = wish.incarnation + step;
                b.memory_bytes *= wish.memory;
                b.seed.user_data.clone_from(&wish.user_data);
            }));
        } else {
            items.push(absent(ItemKind::Volume, volume_id(n).0));
            items.push(absent(ItemKind::Vm, vm_id(n).0));
        }
    }
    items.iter_mut().for_each(|i| i.generation = Generation(10 + step));
    manifest(items)
}

fn mishap() -> impl Strategy<Value = Mishap> {
    let n = 1..=VMS;
    prop_oneof![
        n.clone().prop_map(|n| Mishap::Kill(vm_id(n))),
        n.clone().prop_map(|n| Mishap::Erase(vm_id(n))),
        n.clone().prop_map(|n| Mishap::Undefine(vm_id(n))),
        n.clone().prop_map(|n| Mishap::Pause(vm_id(n))),
        n.clone().prop_map(|n| Mishap::Start(vm_id(n))),
        n.prop_map(|n| Mishap::DropPort(port_id(n))),
        Just(Mishap::WipeFlows),
        Just(Mishap::DropSwitch),
        Just(Mishap::KillDhcp),
        Just(Mishap::DropRouters),
        Just(Mishap::DropSeeds),
        Just(Mishap::PowerCut),
    ]
}

fn check(d: &Driver, manifest: &Manifest, plan: &Plan) -> Result<(), TestCaseError> {
    for item in &manifest.items {
        let reported = report(plan, item.kind, item.id);
        prop_assert_eq!(reported.generation, item.generation, "{:?}", reported);
        match &item.desired {
            Desired::Absent => prop_assert_eq!(&reported.observed, &ItemObserved::Gone),
            Desired::Vm(body) => {
                let seen = d.world.observed.vms.items.get(&basalt_model::VmId(item.id));
                let power = seen.map_or(ObservedPower::Absent, |s| s.power);
                match body.power {
                    Power::Running => prop_assert_eq!(power, ObservedPower::Running),
                    Power::Paused => prop_assert_eq!(power, ObservedPower::Paused),
                    Power::Stopped => {
                        prop_assert!(matches!(power, ObservedPower::Stopped | ObservedPower::Crashed));
                    }
                }
                let stamp = seen.and_then(|s| s.defined.clone()).unwrap_or_default();
                prop_assert_eq!(stamp.incarnation, body.incarnation);
            }
            _ => {}
        }
    }
    let volumes = d.world.observed.volumes.items.keys().filter(|k| k.id != volume_id(9)).count();
    let wanted = manifest.items.iter().filter(|i| i.kind == ItemKind::Volume && !i.is_absent()).count();
    prop_assert_eq!(volumes, wanted, "old disks are gone and none is doubled");
    Ok(())
}

/// A world with a past: an earlier manifest, strangers, mishaps.
fn with_past(before: &[Wish], mishaps: &[Mishap], passes: usize) -> Driver {
    let mut d = Driver::new();
    let stranger = manifest([network(), image(), volume(9, 1), vm(9, |_| {})]);
    d.settle(&stranger);
    d.memory = Memory::default();
    let before = to_manifest(before, 0);
    for _ in 0..passes {
        d.pass(&before);
        d.now += TimeDelta::seconds(61);
    }
    for mishap in mishaps {
        d.world.suffer(mishap, d.now);
    }
    d
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn from_any_state_plans_end_in_what_the_manifest_says(
        before in proptest::collection::vec(wish(), 3),
        after in proptest::collection::vec(wish(), 3),
        mishaps in proptest::collection::vec(mishap(), 0..5),
        passes in 0_usize..8,
        forget in any::<bool>(),
    ) {
        let mut d = with_past(&before, &mishaps, passes);
        if forget {
            d.memory = Memory::default();
        }
        let stranger = |d: &Driver| (d.vm(9).map(|v| (v.defined.clone(), v.running.clone())),
            d.world.observed.volumes.items.iter().find(|(k, _)| k.id == volume_id(9)).map(|(_, v)| v.clone()));
        let strange = stranger(&d);
        let wanted = to_manifest(&after, 3);
        let plan = d.settle(&wanted);
        check(&d, &wanted, &plan)?;
        prop_assert_eq!(stranger(&d), strange, "what no item names was touched");
        let again = d.plan(&wanted);
        prop_assert!(again.work.is_empty() && again.notes.is_empty(), "a settled host has work: {:?}", again.work);
    }

    #[test]
    fn one_broken_vm_or_volume_never_stops_another(
        before in proptest::collection::vec(wish(), 3),
        after in proptest::collection::vec(wish(), 3),
        mishaps in proptest::collection::vec(mishap(), 0..3),
        volume_too in any::<bool>(),
    ) {
        let mut d = with_past(&before, &mishaps, 6);
        d.broken = vec![Resource::Vm(vm_id(1))];
        if volume_too {
            d.broken.push(Resource::Volume(volume_id(1)));
        }
        let wanted = to_manifest(&after, 3);
        let mut plan = Plan::default();
        for _ in 0..12 {
            plan = d.pass(&wanted);
            d.now += TimeDelta::seconds(61);
        }
        for item in wanted.items.iter().filter(|i| i.id != vm_id(1).0 && i.id != volume_id(1).0) {
            let reported = report(&plan, item.kind, item.id);
            // The image stays while a disk of the broken VM lies over it; nothing else is held up.
            prop_assert_eq!(reported.generation, item.generation, "{:?}", reported);
        }
    }

    #[test]
    fn a_blind_host_does_nothing(
        before in proptest::collection::vec(wish(), 3),
        after in proptest::collection::vec(wish(), 3),
        blind in proptest::collection::vec(any::<bool>(), 6),
    ) {
        let d = with_past(&before, &[], 6);
        let wanted = to_manifest(&after, 3);
        let mut seen = d.world.observed.clone();
        let why = "away";
        if blind[0] { seen.vms = Section::failed(why); }
        if blind[1] { seen.volumes = Section::failed(why); }
        if blind[2] { seen.images = Section::failed(why); }
        if blind[3] { seen.networks = Section::failed(why); }
        if blind[4] { seen.ports = Section::failed(why); }
        if blind[5] { seen.seeds = Section::failed(why); }
        let plan = diff(&wanted, &seen, &d.memory, d.now);
        for action in plan.work.iter().flat_map(|w| &w.actions) {
            let allowed = match action {
                Action::EnsureSwitch => true,
                Action::EnsureVolume(_) => !blind[1],
                // Who uses a volume, an image or a network is known only from the list of VMs.
                Action::RemoveVolume(_) => !blind[0] && !blind[1],
                Action::EnsureImage(_) => !blind[2],
                Action::RemoveImage(_) => !blind[0] && !blind[1] && !blind[2],
                Action::EnsureNetwork(_) | Action::EnsureNames(_) => !blind[3],
                Action::RemoveNetwork(_) => !blind[0] && !blind[3],
                Action::EnsureFlows(_) | Action::EnsurePort(_) | Action::RemovePort(_) => !blind[4],
                Action::WriteSeed(_) | Action::RemoveSeed(_) => !blind[5] && !blind[0],
                _ => !blind[0],
            };
            prop_assert!(allowed, "{action:?} while blind on {blind:?}");
        }
    }
}
