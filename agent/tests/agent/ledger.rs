//! The ledger on a disk: what is kept, and what a damaged file costs.

use crate::rig::*;
use basalt_agent::{
    Error,
    host::Journal,
    ledger::{FileLedger, Ledger, Loaded},
};
use basalt_model::{
    NetworkId, TaskId,
    vms::{ObservedPower, Operation, OperationOutcome, OperationVerb},
};
use basalt_plan::host::Memory;
use basalt_wire::agent::{
    Manifest,
    directory::{Directory, DirectoryNetwork},
};
use std::{fs, path::PathBuf};
use uuid::Uuid;

/// A [`FileLedger`] that can be opened again.
#[derive(Clone)]
struct Disk(PathBuf);

impl Ledger for Disk {
    fn load(&mut self) -> Result<Loaded, Error> {
        FileLedger::new(&self.0).load()
    }
    fn save_manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        FileLedger::new(&self.0).save_manifest(manifest)
    }
    fn save_records(&mut self, memory: &Memory) -> Result<(), Error> {
        FileLedger::new(&self.0).save_records(memory)
    }
    fn save_directory(&mut self, directory: &Directory) -> Result<(), Error> {
        FileLedger::new(&self.0).save_directory(directory)
    }
    fn journal(&self) -> std::sync::Arc<dyn Journal> {
        FileLedger::new(&self.0).journal()
    }
}

fn reboot() -> Option<Operation> {
    Some(Operation { id: TaskId(Uuid::from_u128(5)), verb: OperationVerb::Reboot })
}

async fn settle(rig: &mut Rig<Disk>, manifest: Option<&Manifest>) {
    rig.start();
    if let Some(manifest) = manifest {
        rig.cycle.as_mut().unwrap().offer(&serde_json::to_vec(manifest).unwrap()).unwrap();
    }
    for _ in 0..100 {
        let cycle = rig.cycle.as_mut().unwrap();
        if cycle.step().await.unwrap().settled {
            return;
        }
        if cycle.is_busy() {
            let done = cycle.finished().await;
            cycle.settle(done).unwrap();
        }
    }
    panic!("no end");
}

#[tokio::test]
async fn r43_a_damaged_ledger_is_set_aside_and_rebuilt_from_the_host_and_the_gateway() {
    type Damage = fn(&[u8]) -> Option<Vec<u8>>;
    let damages: [(&str, Damage); 5] = [
        ("cut short", |b| Some(b[..b.len() / 2].to_vec())),
        ("emptied", |_| Some(Vec::new())),
        ("a bit flipped", |b| {
            let mut b = b.to_vec();
            let at = b.len() * 2 / 3;
            b[at] ^= 4;
            Some(b)
        }),
        ("zeroed", |b| Some(vec![0; b.len()])),
        ("removed", |_| None),
    ];
    let m = one(1, |w| w.operation = reboot());
    for (name, damage) in damages {
        for files in [&["manifest.ledger"][..], &["records.ledger"], &["manifest.ledger", "records.ledger"]] {
            let dir = tempfile::tempdir().unwrap();
            FileLedger::new(dir.path()).begin().unwrap();
            let mut rig = Rig::with_ledger(Disk(dir.path().into()));
            // The verb comes after the VM runs, so it is carried out.
            settle(&mut rig, Some(&one(0, |_| {}))).await;
            settle(&mut rig, Some(&m)).await;
            assert_eq!(rig.vm(1).0.operation.unwrap().outcome, OperationOutcome::Done);
            rig.cycle = None;
            for file in files {
                let path = dir.path().join(file);
                match damage(&fs::read(&path).unwrap()) {
                    Some(bytes) => fs::write(&path, bytes).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
            }
            let (mutations, state) = (rig.host.mutations(), rig.end_state());
            settle(&mut rig, None).await;
            settle(&mut rig, Some(&m)).await;
            let at = format!("{files:?} {name}");
            assert_eq!(rig.host.mutations(), mutations, "{at}: something was done again");
            assert_eq!(rig.end_state(), state, "{at}");
            let (vm, generation) = rig.vm(1);
            assert_eq!((vm.power, generation), (ObservedPower::Running, 1), "{at}");
            let known = if files.contains(&"records.ledger") {
                OperationOutcome::Unknown
            } else {
                OperationOutcome::Done
            };
            assert_eq!(vm.operation.unwrap().outcome, known, "{at}");
            let aside = files.iter().all(|f| dir.path().join(f).with_extension("broken").exists());
            assert_eq!(aside, name != "removed", "{at}: the damaged file is kept for people");
        }
    }
}

#[test]
fn what_was_saved_is_loaded_and_only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = FileLedger::new(dir.path());
    assert!(ledger.load().unwrap().lost, "a host that has an identity had a ledger");
    ledger.begin().unwrap();
    assert!(!ledger.load().unwrap().lost);
    let m = one(3, |_| {});
    let mut memory = Memory::default();
    memory.accept(&m);
    memory.made.insert(volume_id(1), 4);
    ledger.save_manifest(&m).unwrap();
    ledger.save_records(&memory).unwrap();
    memory.directory = Directory {
        networks: vec![DirectoryNetwork { id: NetworkId(Uuid::nil()), peers: vec![], ports: vec![] }],
        groups: vec![],
    };
    ledger.save_directory(&memory.directory).unwrap();
    let loaded = ledger.load().unwrap();
    assert_eq!((loaded.manifest, &loaded.memory, loaded.lost), (Some(m.clone()), &memory, false));
    // A directory that cannot be read costs nothing but itself: the gateway says it again.
    fs::write(dir.path().join("directory.ledger"), "rubbish").unwrap();
    memory.directory = Directory::default();
    let loaded = ledger.load().unwrap();
    assert_eq!((loaded.manifest, loaded.memory, loaded.lost), (Some(m), memory, false));
    fs::remove_file(dir.path().join("directory.broken")).unwrap();
    for file in fs::read_dir(dir.path()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_manifest_on_the_wire_is_the_golden_one() {
    let mut m = manifest(
        7,
        &[
            Some(Wish { operation: reboot(), user_data: Some("#cloud-config\n".into()), ..Wish::default() }),
            None,
        ],
    );
    m.items.iter_mut().for_each(|i| i.generation.0 = 7);
    let written = format!("{}\n", serde_json::to_string_pretty(&m).unwrap());
    // Gateways and agents of other versions read this form.
    crate::golden::check("manifest.json", &written);
    assert_eq!(Manifest::read(written.as_bytes(), HOST).unwrap(), m);
}

#[test]
fn r40_a_start_is_later_than_every_start_before_it_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = |hours: i64| basalt_daemon::ManualClock::new(at(hours * 3600), 7);
    let started =
        |hours| FileLedger::new(dir.path()).start(basalt_daemon::Clock::new_id(&at(hours))).unwrap();
    let ahead = started(1);
    let (back, again) = (started(0), started(0));
    assert!(back > ahead && again > back, "the clock was set back by an hour");
    let right = started(2);
    assert_eq!(right, basalt_daemon::Clock::new_id(&at(2)), "a clock that is not behind names the start");
    assert!(right > again);
    fs::write(dir.path().join("start.ledger"), "torn").unwrap();
    started(0);
}
