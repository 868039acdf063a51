//! What is on a host and in no manifest, described as far as adopting it needs.

use super::{DiskPlace, DiskShape, Look, Stamp, VmSeen, VmShape, VolumeKey, VolumeSeen};
use basalt_model::{
    Name,
    adoption::{ForeignDisk, ForeignMarks, ForeignVm, ForeignVolume},
    hosts::Foreign,
};
use basalt_wire::agent::ItemKind;

pub(super) fn foreign(look: &Look<'_>) -> Vec<Foreign> {
    let mut found = look.observed.strays.clone();
    for (id, seen) in &look.observed.vms.items {
        if !look.index.has(ItemKind::Vm, *id) {
            let detail = format!("{:?}", seen.power).to_lowercase();
            let (name, id) = (seen.name.clone(), id.to_string());
            let vm = seen.shape.as_ref().map(|shape| vm(look, seen, shape));
            found.push(Foreign { kind: "vm".into(), name, id, detail, vm, volume: None });
        }
    }
    for (key, seen) in &look.observed.volumes.items {
        if !look.index.has(ItemKind::Volume, key.id) {
            let name = format!("{}/{}.{}", key.pool, key.id, key.incarnation);
            let (id, detail) = (key.id.to_string(), format!("{} bytes", seen.size_bytes));
            let volume = Some(volume(key, seen));
            found.push(Foreign { kind: "volume".into(), name, id, detail, vm: None, volume });
        }
    }
    for (id, port) in &look.observed.ports.items {
        if !look.index.has(ItemKind::Vm, port.vm_id) {
            let (name, detail) = (id.to_string(), format!("of VM {}", port.vm_id));
            found.push(Foreign { kind: "port".into(), id: name.clone(), name, detail, ..Foreign::default() });
        }
    }
    found.sort();
    found.dedup();
    found
}

fn vm(look: &Look<'_>, seen: &VmSeen, shape: &VmShape) -> ForeignVm {
    let marks = seen.defined.as_ref().filter(|stamp| **stamp != Stamp::default());
    ForeignVm {
        power: seen.power,
        cpus: shape.cpus,
        memory_bytes: shape.memory_bytes,
        firmware: shape.firmware,
        disks: shape.disks.iter().map(|d| disk(look, d)).collect(),
        nics: shape.nics.clone(),
        unsupported: shape.unsupported.clone(),
        marks: marks.map(|stamp| ForeignMarks { epoch: stamp.epoch, incarnation: stamp.incarnation }),
    }
}

fn disk(look: &Look<'_>, disk: &DiskShape) -> ForeignDisk {
    let volumes = &look.observed.volumes.items;
    let (volume, iso_image_id) = match &disk.place {
        DiskPlace::Volume(key) => (volumes.get_key_value(key).map(|(k, v)| volume(k, v)), None),
        DiskPlace::File(pool, file) => (stray(look, pool, file).or_else(|| alias(look, pool, file)), None),
        DiskPlace::Iso(image) => (None, Some(*image)),
        DiskPlace::Outside => (None, None),
    };
    ForeignDisk {
        name: disk.name.clone(),
        path: disk.path.clone(),
        format: disk.format.clone(),
        boot_order: disk.boot_order,
        volume,
        iso_image_id,
    }
}

fn volume(key: &VolumeKey, seen: &VolumeSeen) -> ForeignVolume {
    ForeignVolume {
        pool: key.pool.clone(),
        file: seen.file.clone(),
        format: "qcow2".into(),
        size_bytes: seen.size_bytes,
        volume_id: Some(key.id),
        incarnation: key.incarnation,
        image_id: seen.image_id,
        refers_to: None,
        users: seen.users.clone(),
    }
}

/// A file of a pool that carries none of our names.
pub(super) fn stray(look: &Look<'_>, pool: &Name, file: &str) -> Option<ForeignVolume> {
    let mut volumes = look.observed.strays.iter().filter_map(|s| s.volume.as_ref());
    volumes.find(|v| v.pool == *pool && v.file == file).cloned()
}

/// The volume that another name of its file means.
fn alias(look: &Look<'_>, pool: &Name, file: &str) -> Option<ForeignVolume> {
    let mut volumes = look.observed.volumes.items.iter();
    let found = volumes.find(|(key, seen)| key.pool == *pool && seen.aliases.contains(file));
    found.map(|(key, seen)| volume(key, seen))
}
