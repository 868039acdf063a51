//! H5: what stood on the host before it was declared is taken over, and what runs is not touched by it.

use super::fixture::*;
use crate::host::{effect::Mishap, *};
use basalt_model::{
    Generation,
    adoption::ForeignVolume,
    hosts::Foreign,
    vms::{ObservedPower, Power},
    volumes::VolumeState,
};
use basalt_wire::agent::{Desired, ItemKind, ItemObserved, Manifest};
use std::sync::Arc;

const FILE: &str = "handmade.qcow2";

fn stray() -> Foreign {
    let volume = ForeignVolume {
        pool: name("default"),
        file: FILE.into(),
        format: "qcow2".into(),
        size_bytes: 1 << 30,
        volume_id: None,
        incarnation: 0,
        image_id: None,
        refers_to: None,
        users: ["handmade".to_owned()].into(),
    };
    Foreign {
        kind: "volume".into(),
        name: format!("default/{FILE}"),
        volume: Some(volume),
        ..Foreign::default()
    }
}

/// A host on which somebody runs a VM that was made by hand.
fn handmade() -> Driver {
    let mut d = Driver::new();
    let disk = DiskShape {
        name: None,
        path: format!("/pools/default/volumes/{FILE}"),
        format: "qcow2".into(),
        boot_order: None,
        place: DiskPlace::File(name("default"), FILE.into()),
    };
    let shape = VmShape { cpus: 1, memory_bytes: 256 << 20, disks: vec![disk], ..VmShape::default() };
    let seen = VmSeen {
        name: "handmade".into(),
        power: ObservedPower::Running,
        defined: Some(Stamp::default()),
        running: Some(Stamp::default()),
        started_at: Some(at(-1000)),
        shape: Some(Arc::new(shape)),
        ..VmSeen::default()
    };
    d.world.observed.vms.items.insert(vm_id(1), seen);
    d.world.observed.strays.push(stray());
    d
}

fn adopted(change: impl FnOnce(&mut basalt_wire::agent::manifest::VmBody)) -> Manifest {
    let mut disk = volume(1, 0);
    if let Desired::Volume(body) = &mut disk.desired {
        body.image_id = None;
        body.adopted_from = Some(FILE.into());
    }
    manifest([network(), disk, vm(1, change)])
}

fn key() -> VolumeKey {
    VolumeKey { id: volume_id(1), incarnation: 0, pool: name("default") }
}

#[test]
fn h5_a_foreign_vm_is_described_as_far_as_adopting_it_needs() {
    let d = handmade();
    let plan = d.plan(&manifest([]));
    let vm = plan.foreign.iter().find_map(|f| f.vm.as_ref()).unwrap();
    assert_eq!((vm.power, vm.cpus, vm.memory_bytes), (ObservedPower::Running, 1, 256 << 20));
    assert_eq!(vm.disks[0].volume, stray().volume);
    assert_eq!(vm.marks, None);
    assert!(plan.foreign.contains(&stray()));
}

#[test]
fn h5_a_running_vm_is_taken_over_and_not_touched_and_the_next_start_takes_the_rest_up() {
    let (mut d, m) = (handmade(), adopted(|_| {}));
    let plan = d.settle(&m);
    let seen = d.vm(1).unwrap().clone();
    assert_eq!((seen.power, seen.started_at), (ObservedPower::Running, Some(at(-1000))));
    assert_eq!(seen.running, Some(Stamp::default()), "what runs was not started by us");
    assert_ne!(seen.defined, Some(Stamp::default()));
    let volume = &d.world.observed.volumes.items[&key()];
    assert_eq!((volume.aliases.len(), volume.users.contains("handmade")), (0, true));
    assert!(d.world.observed.strays.is_empty() && plan.foreign.is_empty(), "{:?}", plan.foreign);
    for stage in ["taking over the file", "dropping the file's old name", "defining", "writing the seed"] {
        assert_eq!(d.count(stage), 1, "{stage}");
    }
    for stage in ["starting", "forcing off", "shutting down", "making the volume", "removing the volume"] {
        assert_eq!(d.count(stage), 0, "{stage}");
    }
    let (observed, generation, _) = vm_report(&plan, 1);
    assert_eq!((observed.power, generation), (ObservedPower::Running, Generation(1)));
    let pending = observed.pending_reboot.unwrap();
    assert_eq!(pending.code, "adopted_running");
    assert!(pending.message.contains("interfaces"), "{pending}");
    // Its next start is ours.
    d.world.suffer(&Mishap::Kill(vm_id(1)), d.now);
    let plan = d.settle(&m);
    assert_eq!((d.count("starting"), vm_report(&plan, 1).0.pending_reboot), (1, None));
    assert!(d.world.observed.ports.items.contains_key(&port_id(1)));
}

#[test]
fn h5_the_old_name_goes_only_when_no_definition_says_it_any_more() {
    let (mut d, m) = (handmade(), adopted(|_| {}));
    d.broken = vec![Resource::Vm(vm_id(1))];
    let plan = d.settle(&m);
    assert_eq!((d.count("taking over the file"), d.count("dropping the file's old name")), (1, 0));
    assert_eq!(d.world.observed.volumes.items[&key()].aliases, [FILE.to_owned()].into());
    assert_eq!(vm_report(&plan, 1).0.blocked.unwrap().code, "failed");
    // A second VM that has the file keeps the name alive, too.
    d.broken.clear();
    let other = VmSeen { name: "other".into(), defined: Some(Stamp::default()), ..VmSeen::default() };
    d.world.observed.vms.items.insert(vm_id(2), VmSeen { power: ObservedPower::Stopped, ..other });
    d.world.observed.volumes.items.get_mut(&key()).unwrap().users.insert("other".into());
    d.now += chrono::TimeDelta::hours(1);
    d.settle(&m);
    assert_eq!((d.count("defining"), d.count("dropping the file's old name")), (1, 0));
    d.world.observed.vms.items.remove(&vm_id(2));
    d.world.observed.volumes.items.get_mut(&key()).unwrap().users.remove("other");
    let mut blind = d.world.observed.clone();
    blind.vms = Section::failed("libvirtd is away");
    assert_eq!(diff(&m, &blind, &d.memory, d.now).work, []);
    d.settle(&m);
    assert_eq!(d.count("dropping the file's old name"), 1);
}

#[test]
fn h5_an_adopted_volume_is_never_made_of_nothing() {
    let m = adopted(|b| b.power = Power::Stopped);
    type Change = fn(&mut Driver);
    let cases: [(&str, Change); 4] = [
        ("adopted_file_missing", |d| d.world.observed.strays.clear()),
        ("adopted_file_changed", |d| {
            d.world.observed.strays[0].volume.as_mut().unwrap().size_bytes = 2 << 30;
        }),
        ("adopted_file_changed", |d| {
            d.world.observed.strays[0].volume.as_mut().unwrap().format = "unknown".into();
        }),
        ("volume_lost", |d| d.memory.made = [(volume_id(1), 0)].into()),
    ];
    for (code, change) in cases {
        let mut d = handmade();
        d.memory.accept(&m);
        change(&mut d);
        let plan = d.settle(&m);
        let ItemObserved::Volume(observed) = &report(&plan, ItemKind::Volume, volume_id(1)).observed else {
            panic!("{:?}", plan.items)
        };
        assert_eq!(observed.blocked.as_ref().unwrap().code, code);
        assert_eq!(observed.state, VolumeState::Creating);
        assert!(d.world.observed.volumes.items.is_empty() && d.count("defining") == 0, "{code}");
    }
}

#[test]
fn h5_redeploy_of_an_adopted_vm_that_still_runs_as_before_starts_it_anew_with_its_disks() {
    let (mut d, m) = (handmade(), adopted(|_| {}));
    d.settle(&m);
    let mut again = adopted(|b| b.incarnation = 1);
    again.items.iter_mut().for_each(|i| i.generation = Generation(2));
    let plan = d.settle(&again);
    assert_eq!((d.count("forcing off"), d.count("starting")), (1, 1));
    assert_eq!(vm_report(&plan, 1).0.incarnation, 1);
    assert_eq!(d.world.observed.volumes.items.keys().collect::<Vec<_>>(), [&key()], "the same disk");
}

#[test]
fn h5_what_was_ours_and_is_in_no_manifest_is_described_whole_and_taken_over_without_a_deed() {
    let (mut d, m) = (Driver::new(), one_vm(|b| b.incarnation = 3));
    d.settle(&m);
    d.memory = Memory::default();
    let plan = d.plan(&manifest([]));
    let vm = plan.foreign.iter().find_map(|f| f.vm.as_ref()).unwrap();
    let disk = vm.disks[0].volume.as_ref().unwrap();
    assert_eq!((vm.marks.unwrap().epoch.0, vm.marks.unwrap().incarnation), (1, 3));
    assert_eq!((disk.volume_id, disk.incarnation), (Some(volume_id(1)), 3));
    assert_eq!(vm.disks[0].name, Some(name("root")));
    assert_eq!((vm.nics[0].port_id, vm.nics[0].mac.as_str()), (Some(port_id(1)), "02:00:00:00:00:01"));
    // The same things come back in a manifest; the volume says which file it is, under its own name.
    let mut back = m.clone();
    for item in &mut back.items {
        if let Desired::Volume(body) = &mut item.desired {
            body.adopted_from = Some(disk.file.clone());
        }
    }
    d.mutations.clear();
    let plan = d.settle(&back);
    assert_eq!(d.mutations, Default::default());
    assert_eq!(vm_report(&plan, 1).0.pending_reboot, None);
    assert_eq!(vm_report(&plan, 1).1, Generation(1));
}
