//! Images in the cache and volumes in the pools.

use super::{
    Action, AdoptionDefinition, Draft, Judgement, Look, Note, Resource, Seen, Stamp, VolumeKey, VolumeSeen,
    definition::{image_definition, volume_key},
    foreign::stray,
    incomplete,
};
use basalt_model::{
    CapabilityReason, ImageId, VmId, VolumeId,
    volumes::{VolumeObserved, VolumeState},
};
use basalt_wire::agent::{
    ItemKind, ItemObserved,
    manifest::{ImageBody, Shared, VolumeBody},
};

pub(super) fn image(look: &Look<'_>, id: ImageId, body: &ImageBody) -> Judgement {
    let seen = look.observed.images.get(&id);
    let ready = matches!(seen, Seen::There(i) if i.ready && i.sha256 == body.sha256);
    let judgement = Judgement::new(ItemObserved::Image { ready, blocked: None }).usable(ready);
    let judgement = judgement.on(Resource::Image(id));
    let ensure = Action::EnsureImage(image_definition(id, body));
    match seen {
        Seen::Unknown(why) => judgement.wait(format!("cannot list images: {why}")),
        Seen::Gone => judgement.act([ensure]),
        Seen::There(_) if ready => judgement,
        Seen::There(image) if !image.ready => judgement.act([ensure]),
        // Images never change: other bytes under this id came from somewhere else.
        Seen::There(image) => match image_users(look, id) {
            Ok(None) => judgement.act([Action::RemoveImage(id), ensure]),
            Ok(Some(user)) => judgement.block(
                CapabilityReason::new(
                    "digest_mismatch",
                    format!("image/{id}"),
                    format!("the cached image has other bytes than the manifest says, and {user} uses it"),
                    "redeploy the VMs that use it, then it is fetched anew",
                )
                .with_evidence(format!("cached {}, wanted {}", image.sha256, body.sha256)),
            ),
            Err(why) => judgement.wait(why),
        },
    }
}

pub(super) fn image_absent(look: &Look<'_>, id: ImageId) -> Judgement {
    let there = Judgement::new(ItemObserved::Image { ready: false, blocked: None }).on(Resource::Image(id));
    match look.observed.images.get(&id) {
        Seen::Unknown(why) => there.wait(format!("cannot list images: {why}")),
        Seen::Gone => Judgement::new(ItemObserved::Gone).on(Resource::Image(id)),
        Seen::There(_) => match image_users(look, id) {
            Ok(None) => there.act([Action::RemoveImage(id)]),
            Ok(Some(user)) => there.wait(format!("waiting until {user} is gone")),
            Err(why) => there.wait(why),
        },
    }
}

/// Who needs the bytes of a cached image; `Err` when that cannot be told.
fn image_users(look: &Look<'_>, id: ImageId) -> Result<Option<String>, String> {
    let listings = [look.observed.volumes.problem(), look.observed.vms.problem()];
    if let Some(why) = listings.into_iter().flatten().next() {
        return Err(format!("cannot tell who uses it: {why}"));
    }
    let over = look.observed.volumes.items.iter().find(|(_, v)| v.image_id == Some(id));
    let vm = look.observed.vms.items.values().find(|v| v.isos.contains(&id));
    Ok(over.map(|(key, _)| format!("volume {}", key.id)).or(vm.map(|v| v.name.clone())))
}

pub(super) fn volume(look: &Look<'_>, draft: &Draft, id: VolumeId, body: &VolumeBody) -> Judgement {
    let resource = Resource::Volume(id);
    let key = volume_key(id, body);
    let subject = format!("volume/{}", body.name);
    let seen = look.observed.volumes.get(&key);
    let state = match seen {
        Seen::There(_) => VolumeState::Ready,
        Seen::Gone => VolumeState::Creating,
        Seen::Unknown(_) => VolumeState::Unavailable,
    };
    let there = match seen {
        Seen::There(volume) => Some(volume),
        _ => None,
    };
    let observed = VolumeObserved {
        state,
        pool: Some(body.pool.clone()),
        size_bytes: there.map_or(0, |v| v.size_bytes),
        incarnation: if there.is_some() { body.incarnation } else { 0 },
        blocked: None,
    };
    let image = body.image_id.map_or(Ok(()), |image| draft.need(ItemKind::Image, image.0));
    let judgement = Judgement::new(ItemObserved::Volume(observed)).usable(there.is_some() && image.is_ok());
    let mut judgement = judgement.on(resource);
    if there.is_some() && look.memory.made.get(&id).is_none_or(|made| *made < body.incarnation) {
        judgement.notes.push(Note::Made(id, body.incarnation));
    }
    if let Some(newer) =
        look.observed.volumes.items.keys().find(|k| k.id == id && k.incarnation > body.incarnation)
    {
        return judgement.block(newer_volume(subject, newer, body));
    }
    if !look.observed.capabilities.pools.contains(&body.pool) {
        return judgement.block(pool_missing(look, subject, body));
    }
    let definition = match look.index.volume_definition(id, body) {
        Ok(definition) => definition,
        Err(missing) => return judgement.block(incomplete(subject, &missing)),
    };
    match (seen, image) {
        (Seen::Unknown(why), _) => judgement.wait(format!("cannot list volumes: {why}")),
        (Seen::There(volume), _) => {
            sized(look, judgement, subject, volume, body, Action::EnsureVolume(definition))
                .act(old_name(look, &key, volume, body))
                .act(outdated(look, &key))
        }
        (Seen::Gone, _) if look.memory.made.get(&id).is_some_and(|made| *made >= body.incarnation) => {
            judgement.block(volume_lost(subject, body))
        }
        (Seen::Gone, _) if body.shared == Shared::Made => judgement.block(share_lacks(subject, body)),
        (Seen::Gone, _) if body.adopted_from.is_some() => adopt(look, judgement, subject, key, body),
        (Seen::Gone, Ok(())) => judgement.act([Action::EnsureVolume(definition)]),
        (Seen::Gone, Err(lack)) => lack.reason.into_iter().fold(judgement.wait(lack.stage), Judgement::block),
    }
}

/// Deleting the VM that has it would remove the VM as well.
const REMEDY: &str =
    "put the file back as it was; a volume that no VM has can be deleted instead, which leaves all files";

/// A file that is to become this volume is given its name; nothing is ever made in its place.
fn adopt(
    look: &Look<'_>,
    judgement: Judgement,
    subject: String,
    key: VolumeKey,
    body: &VolumeBody,
) -> Judgement {
    let Some(file) = body.adopted_from.clone() else { return judgement };
    let Some(seen) = stray(look, &body.pool, &file) else {
        return judgement.block(CapabilityReason::new(
            "adopted_file_missing",
            subject,
            format!("pool {} has no file {file}, which it is to become", body.pool),
            REMEDY,
        ));
    };
    if seen.format != "qcow2" || seen.refers_to.is_some() || seen.size_bytes != body.size_bytes {
        let reason = CapabilityReason::new(
            "adopted_file_changed",
            subject,
            format!("the file {file} is not what it was when it was adopted"),
            REMEDY,
        );
        let evidence =
            format!("{} of {} bytes, adopted were {}", seen.format, seen.size_bytes, body.size_bytes);
        return judgement.block(reason.with_evidence(evidence));
    }
    judgement.act([Action::AdoptVolume(AdoptionDefinition { key, file })])
}

/// The name that an adopted file had goes once no stored definition says it any more: until then whoever has the
/// file under that name must find it there, whatever else fails. What runs has it open and needs no name.
fn old_name(look: &Look<'_>, key: &VolumeKey, volume: &VolumeSeen, body: &VolumeBody) -> Option<Action> {
    let file = body.adopted_from.as_ref().filter(|file| volume.aliases.contains(*file))?;
    let vms = &look.observed.vms;
    let ours = |user: &String| {
        let vm = vms.items.values().find(|vm| vm.name == *user);
        vm.and_then(|vm| vm.defined.as_ref()).is_some_and(|stamp| *stamp != Stamp::default())
    };
    let done = vms.problem().is_none() && volume.users.iter().all(ours);
    done.then(|| Action::DropName(AdoptionDefinition { key: key.clone(), file: file.clone() }))
}

fn sized(
    look: &Look<'_>,
    judgement: Judgement,
    subject: String,
    volume: &VolumeSeen,
    body: &VolumeBody,
    ensure: Action,
) -> Judgement {
    let evidence = format!("it has {} bytes, wanted are {}", volume.size_bytes, body.size_bytes);
    if volume.size_bytes == body.size_bytes {
        judgement
    } else if volume.size_bytes > body.size_bytes {
        let reason = CapabilityReason::new(
            "cannot_shrink",
            subject,
            "a volume cannot become smaller",
            "give the size it has, or make a new volume",
        );
        judgement.block(reason.with_evidence(evidence))
    } else if volume.users.is_empty() && look.observed.vms.problem().is_none() {
        judgement.act([ensure])
    } else {
        let reason = CapabilityReason::new(
            "volume_in_use",
            subject,
            "a volume grows only while nothing has it",
            "stop and delete the VM that has it, or leave its size",
        );
        judgement.block(reason.with_evidence(evidence))
    }
}

/// Older incarnations that nobody has any more. Who has them is known only from a whole list of VMs.
fn outdated(look: &Look<'_>, key: &VolumeKey) -> Vec<Action> {
    if look.observed.vms.problem().is_some() {
        return Vec::new();
    }
    let volumes = look.observed.volumes.items.iter();
    let old =
        volumes.filter(|(k, v)| k.id == key.id && k.incarnation < key.incarnation && v.users.is_empty());
    old.map(|(k, _)| Action::RemoveVolume(k.clone())).collect()
}

/// Its bytes were here. Making it anew would give the guest an empty disk without a word, and a pool
/// that is not mounted looks just like this.
fn volume_lost(subject: String, body: &VolumeBody) -> CapabilityReason {
    CapabilityReason::new(
        "volume_lost",
        subject,
        format!("it was in pool {} and is not there any more", body.pool),
        "mount the pool or put the file back; redeploy the VM to begin with an empty one",
    )
}

/// It was made on another host. What is mounted here is not what is mounted there, or not yet.
fn share_lacks(subject: String, body: &VolumeBody) -> CapabilityReason {
    CapabilityReason::new(
        "shared_volume_missing",
        subject,
        format!(
            "it was made in the shared pool {} by another host, and this host does not see it there",
            body.pool
        ),
        "mount the same storage on this host; it is never made a second time",
    )
}

fn newer_volume(subject: String, newer: &VolumeKey, body: &VolumeBody) -> CapabilityReason {
    CapabilityReason::new(
        "stale_item",
        subject,
        "this host already has a newer incarnation of it",
        "let the gateway send the newest; after a restore of its database, redeploy the VM",
    )
    .with_evidence(format!("have incarnation {}, got {}", newer.incarnation, body.incarnation))
}

fn pool_missing(look: &Look<'_>, subject: String, body: &VolumeBody) -> CapabilityReason {
    CapabilityReason::new(
        "pool_missing",
        subject,
        format!("this host has no pool {} now", body.pool),
        "mount it, or add it to agent.toml and restart the agent",
    )
    .with_evidence(format!("pools: {:?}", look.observed.capabilities.pools))
}

pub(super) fn volume_absent(look: &Look<'_>, id: VolumeId) -> Judgement {
    let keys: Vec<_> = look.observed.volumes.items.iter().filter(|(k, _)| k.id == id).collect();
    if keys.is_empty() && look.observed.volumes.problem().is_none() {
        return Judgement::new(ItemObserved::Gone).on(Resource::Volume(id));
    }
    let there = Judgement::new(volume_as_seen(look, id)).on(Resource::Volume(id));
    if let Some(why) = look.observed.vms.problem() {
        return there.wait(format!("cannot tell who uses it: {why}"));
    }
    let going = |name: &String| {
        let vm = look.observed.vms.items.iter().find(|(_, v)| v.name == *name);
        vm.is_some_and(|(vm_id, _): (&VmId, _)| look.index.is_absent(ItemKind::Vm, *vm_id))
    };
    let users: Vec<&String> = keys.iter().flat_map(|(_, v)| &v.users).collect();
    if let Some(user) = users.iter().find(|u| !going(u)) {
        return there.block(
            CapabilityReason::new(
                "volume_in_use",
                format!("volume/{id}"),
                format!("{user} has it; a volume in use is never removed"),
                "delete that VM, or take the disk from it",
            )
            .with_evidence(format!("{users:?}")),
        );
    }
    if let Some(user) = users.first() {
        return there.wait(format!("waiting until {user} is gone"));
    }
    match look.observed.volumes.problem() {
        Some(why) if keys.is_empty() => there.wait(format!("cannot list volumes: {why}")),
        _ => there.act(keys.into_iter().map(|(key, _)| Action::RemoveVolume(key.clone()))),
    }
}

/// A volume as it stands, whatever is wanted of it.
pub(super) fn volume_as_seen(look: &Look<'_>, id: VolumeId) -> ItemObserved {
    let newest = look.observed.volumes.items.iter().rev().find(|(k, _)| k.id == id);
    ItemObserved::Volume(match newest {
        Some((key, volume)) => VolumeObserved {
            state: VolumeState::Ready,
            pool: Some(key.pool.clone()),
            size_bytes: volume.size_bytes,
            incarnation: key.incarnation,
            blocked: None,
        },
        None if look.observed.volumes.problem().is_some() => {
            VolumeObserved { state: VolumeState::Unavailable, ..VolumeObserved::default() }
        }
        None => VolumeObserved { state: VolumeState::Absent, ..VolumeObserved::default() },
    })
}
