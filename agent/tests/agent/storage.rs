//! Pools, volumes and the image cache, with the real qemu-img.

use crate::seed::pools;
use basalt_agent::{
    Error,
    host::{
        Download, Downloads, With, images,
        program::Program,
        storage::{Pools, qcow2, volumes},
    },
    ledger::MemoryLedger,
};
use basalt_daemon::SystemClock;
use basalt_model::{GIB, ImageId, MIB, VolumeId, images::ImageFormat, pools::PoolKind};
use basalt_plan::host::{AdoptionDefinition, ImageDefinition, VolumeDefinition, VolumeKey};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::{Arc, Mutex},
};
use uuid::Uuid;

fn volume(size_bytes: u64, image: Option<ImageDefinition>) -> VolumeDefinition {
    let key =
        VolumeKey { id: VolumeId(Uuid::from_u128(5)), incarnation: 1, pool: "default".parse().unwrap() };
    VolumeDefinition { key, size_bytes, image }
}

fn list(pools: &Pools) -> volumes::Listing {
    volumes::list(pools, &BTreeMap::new())
}

/// A service that hands out the same bytes, and breaks the first streams off after some of them.
struct Service {
    bytes: Vec<u8>,
    breaks: Mutex<Vec<usize>>,
    offsets: Mutex<Vec<u64>>,
}

impl Downloads for Service {
    fn open(&self, _: ImageId, offset: u64) -> BoxFuture<'_, Result<Download, Error>> {
        self.offsets.lock().unwrap().push(offset);
        let rest = self.bytes[offset as usize..].to_vec();
        let mut chunks: Vec<_> = rest.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        if let Some(after) = self.breaks.lock().unwrap().pop() {
            chunks.truncate(after);
            chunks.push(Err(Error::link("downloading an image", "the line broke")));
        }
        let size_bytes = self.bytes.len() as u64;
        async move { Ok(Download { size_bytes, bytes: stream::iter(chunks).boxed() }) }.boxed()
    }
}

fn with(bytes: Vec<u8>, breaks: Vec<usize>) -> (With, Arc<Service>) {
    let service = Arc::new(Service { bytes, breaks: Mutex::new(breaks), offsets: Mutex::default() });
    let with = With {
        progress: Arc::new(|_| {}),
        downloads: service.clone(),
        moved: Arc::new(|_, _| {}),
        last: Arc::new(|_| None),
        journal: Arc::new(MemoryLedger::default()),
        life: std::sync::Weak::new(),
    };
    (with, service)
}

fn image(bytes: &[u8], format: ImageFormat) -> ImageDefinition {
    let sha256 = hex::encode(Sha256::digest(bytes));
    ImageDefinition { id: ImageId(Uuid::from_u128(9)), format, sha256, size_bytes: bytes.len() as u64 }
}

async fn qcow2_bytes(dir: &Path, options: &[&str]) -> Vec<u8> {
    let file = dir.join("made.qcow2");
    let program = Program::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(options);
    program.arg(&file).arg("16M").run().await.unwrap();
    std::fs::read(&file).unwrap()
}

fn code(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Refused(reason)) => reason.code.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped_and_ends_verified_and_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let bytes = qcow2_bytes(dir.path(), &[]).await;
    let image = image(&bytes, ImageFormat::Qcow2);
    let (with, service) = with(bytes.clone(), vec![3, 5]);
    for _ in 0..2 {
        assert!(matches!(images::ensure(&pools, &image, &with, &SystemClock).await, Err(Error::Link { .. })));
        assert!(!images::list(&pools).unwrap()[&image.id].ready);
    }
    images::ensure(&pools, &image, &with, &SystemClock).await.unwrap();
    images::ensure(&pools, &image, &with, &SystemClock).await.unwrap();
    assert_eq!(*service.offsets.lock().unwrap(), [0, 5000, 8000]);
    let path = images::find(pools.first().unwrap(), image.id).unwrap().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    assert!(images::list(&pools).unwrap()[&image.id].ready);
    images::remove(&pools, image.id).unwrap();
    assert!(images::list(&pools).unwrap().is_empty());
}

#[tokio::test]
async fn other_bytes_than_declared_are_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let bytes = qcow2_bytes(dir.path(), &[]).await;
    let image = image(&bytes, ImageFormat::Qcow2);
    let mut other = bytes.clone();
    other[4000] ^= 1;
    let refused = images::ensure(&pools, &image, &with(other, vec![]).0, &SystemClock).await;
    assert_eq!(code(refused), "digest_mismatch");
    assert!(images::list(&pools).unwrap().is_empty());
    let longer = [bytes.clone(), vec![0; 10]].concat();
    assert_eq!(
        code(images::ensure(&pools, &image, &with(longer, vec![]).0, &SystemClock).await),
        "size_mismatch"
    );
}

#[tokio::test]
async fn an_image_that_refers_to_another_file_never_lies_under_a_guest() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let data_file = format!("data_file={}", dir.path().join("other.raw").display());
    for options in [&["-u", "-F", "raw", "-b", "/etc/shadow"][..], &["-o", &data_file]] {
        let bytes = qcow2_bytes(dir.path(), options).await;
        let image = image(&bytes, ImageFormat::Qcow2);
        let refused = images::ensure(&pools, &image, &with(bytes, vec![]).0, &SystemClock).await;
        assert_eq!(code(refused), "hostile_image", "{options:?}");
    }
    assert!(images::list(&pools).unwrap().is_empty());
}

#[tokio::test]
async fn an_overlay_is_made_whole_over_its_image_grown_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let bytes = qcow2_bytes(dir.path(), &[]).await;
    let image = image(&bytes, ImageFormat::Qcow2);
    images::ensure(&pools, &image, &with(bytes, vec![]).0, &SystemClock).await.unwrap();
    let wanted = volume(32 * MIB, Some(image.clone()));
    volumes::ensure(&pools, &wanted).await.unwrap();
    let path = volumes::path(pools.first().unwrap(), &wanted.key);
    let inode = std::fs::metadata(&path).unwrap().ino();
    volumes::ensure(&pools, &volume(64 * MIB, Some(image.clone()))).await.unwrap();
    // A smaller wish never cuts.
    volumes::ensure(&pools, &wanted).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    let users = BTreeMap::from([(path.clone(), BTreeSet::from(["basalt-x".to_owned()]))]);
    let seen = volumes::list(&pools, &users);
    let volume = &seen.volumes[&wanted.key];
    assert_eq!((volume.size_bytes, volume.image_id, volume.users.len()), (64 * MIB, Some(image.id), 1));
    let info = Program::new("qemu-img")
        .args(["info", "-f", "qcow2", "--output=json"])
        .arg(&path)
        .run()
        .await
        .unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["backing-filename-format"], "qcow2");
    volumes::remove(&pools, &wanted.key).unwrap();
    volumes::remove(&pools, &wanted.key).unwrap();
    assert!(list(&pools).volumes.is_empty());
}

#[tokio::test]
async fn a_volume_that_cannot_be_is_refused_with_figures_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    assert_eq!(code(volumes::ensure(&pools, &volume(60_000 * GIB, None)).await), "insufficient_storage");
    let bytes = qcow2_bytes(dir.path(), &[]).await;
    let image = image(&bytes, ImageFormat::Qcow2);
    images::ensure(&pools, &image, &with(bytes, vec![]).0, &SystemClock).await.unwrap();
    assert_eq!(code(volumes::ensure(&pools, &volume(8 * MIB, Some(image))).await), "smaller_than_image");
    let mut elsewhere = volume(8 * MIB, None);
    elsewhere.key.pool = "other".parse().unwrap();
    assert_eq!(code(volumes::ensure(&pools, &elsewhere).await), "pool_missing");
    assert_eq!(std::fs::read_dir(pools.first().unwrap().volumes()).unwrap().count(), 0);
}

#[tokio::test]
async fn h5_what_carries_none_of_our_names_is_a_stray_and_a_half_made_volume_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    volumes::ensure(&pools, &volume(MIB, None)).await.unwrap();
    let dir = pools.first().unwrap().volumes();
    std::fs::write(dir.join("precious.raw"), "data").unwrap();
    std::fs::write(dir.join(format!(".{}.0.qcow2.new", Uuid::from_u128(6))), "half").unwrap();
    let listing = list(&pools);
    assert_eq!(listing.volumes.len(), 1);
    assert_eq!(listing.strays.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["default/precious.raw"]);
    assert!(listing.problems.is_empty());
    assert_eq!(qcow2::read(&dir.join("precious.raw")).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn h5_a_file_of_the_pool_becomes_a_volume_by_a_second_name_and_whoever_has_it_open_notices_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let volumes_dir = pools.first().unwrap().volumes();
    let file = volumes_dir.join("handmade.qcow2");
    std::fs::write(&file, qcow2_bytes(dir.path(), &[]).await).unwrap();
    let inode = std::fs::metadata(&file).unwrap().ino();
    let users = BTreeMap::from([(file.clone(), BTreeSet::from(["handmade".to_owned()]))]);
    let stray = volumes::list(&pools, &users).strays.remove(0);
    let seen = stray.volume.unwrap();
    assert_eq!((seen.format.as_str(), seen.size_bytes, seen.refers_to), ("qcow2", 16 * MIB, None));
    assert_eq!((stray.name.as_str(), seen.users.len()), ("default/handmade.qcow2", 1));

    let key = volume(MIB, None).key;
    let adoption = AdoptionDefinition { key: key.clone(), file: "handmade.qcow2".into() };
    for _ in 0..2 {
        volumes::adopt(&pools, &adoption).unwrap();
        let listing = volumes::list(&pools, &users);
        let seen = &listing.volumes[&key];
        assert_eq!((seen.size_bytes, &seen.aliases), (16 * MIB, &["handmade.qcow2".to_owned()].into()));
        assert!(seen.users.contains("handmade") && listing.strays.is_empty());
        assert!(file.exists(), "whoever finds it by its old name still does");
    }
    for _ in 0..2 {
        volumes::drop_name(&pools, &adoption).unwrap();
        assert!(!file.exists());
    }
    let own = volumes::path(pools.first().unwrap(), &key);
    assert_eq!(std::fs::metadata(&own).unwrap().ino(), inode, "the same file");
    volumes::adopt(&pools, &adoption).unwrap();

    // Another file of the old name is nobody's business, and no name leads out of the directory.
    std::fs::write(&file, "another").unwrap();
    volumes::drop_name(&pools, &adoption).unwrap();
    assert!(file.exists() && list(&pools).volumes[&key].aliases.is_empty());
    for name in ["../images/x", ".hidden", "", "a/b"] {
        let adoption = AdoptionDefinition { file: name.into(), ..adoption.clone() };
        assert_eq!(code(volumes::adopt(&pools, &adoption)), "bad_file_name", "{name}");
        assert_eq!(code(volumes::drop_name(&pools, &adoption)), "bad_file_name", "{name}");
    }
    let gone = AdoptionDefinition { key: VolumeKey { incarnation: 9, ..key }, file: "gone.qcow2".into() };
    assert!(matches!(volumes::adopt(&pools, &gone), Err(Error::Host { .. })));
}

#[tokio::test]
async fn h5_files_that_are_not_whole_or_not_regular_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let at = pools.first().unwrap().volumes();
    let overlay = qcow2_bytes(dir.path(), &["-u", "-F", "raw", "-b", "/srv/base.raw"]).await;
    std::fs::write(at.join("overlay.qcow2"), overlay).unwrap();
    let data_file = format!("data_file={}", dir.path().join("other.raw").display());
    std::fs::write(at.join("outside.qcow2"), qcow2_bytes(dir.path(), &["-o", &data_file]).await).unwrap();
    std::fs::write(at.join("notes.txt"), "notes").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at.join("link.qcow2")).unwrap();
    let strays = list(&pools).strays;
    let of = |name: &str| strays.iter().find(|s| s.name.ends_with(name)).unwrap().volume.clone();
    assert_eq!(of("overlay.qcow2").unwrap().refers_to.as_deref(), Some("/srv/base.raw"));
    assert!(of("outside.qcow2").unwrap().refers_to.is_some());
    assert_eq!(
        (of("notes.txt").unwrap().format.as_str(), of("notes.txt").unwrap().size_bytes),
        ("unknown", 5)
    );
    assert_eq!(of("link.qcow2"), None);
    let key = volume(MIB, None).key;
    let link = AdoptionDefinition { key, file: "link.qcow2".into() };
    assert!(volumes::adopt(&pools, &link).is_err(), "a link may lead anywhere");
}

#[test]
fn a_pool_that_went_away_is_unknown_and_is_not_filled_anew() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    let (facts, problems) = pools.facts();
    assert_eq!((facts.len(), problems.len()), (1, 0));
    assert_eq!(facts[0].available_bytes % (64 * MIB), 0);
    let close = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    close(0o700);
    assert_eq!(pools.facts().1[0].code, "pool_closed");
    close(0o711);
    std::fs::rename(dir.path().join("pool"), dir.path().join("away")).unwrap();
    std::fs::create_dir(dir.path().join("pool")).unwrap();
    let (facts, problems) = pools.facts();
    assert_eq!((facts.len(), problems[0].code.as_ref()), (0, "pool_away"));
    assert_eq!(list(&pools).problems.len(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("pool")).unwrap().count(), 0);
}

#[test]
fn st1_two_hosts_know_by_its_id_that_a_shared_pool_is_the_same_whoever_came_first() {
    let share = tempfile::tempdir().unwrap();
    let config = |name: &str, kind, path: &std::path::Path| basalt_agent::config::PoolConfig {
        name: name.parse().unwrap(),
        kind,
        path: path.join("pool"),
    };
    let ids: Vec<_> = std::thread::scope(|scope| {
        let host = || {
            let state = tempfile::tempdir().unwrap();
            let shared = config("shared", PoolKind::SharedDirectory, share.path());
            let (facts, problems) = Pools::new(&[shared], state.path()).facts();
            assert!(!problems.iter().any(|p| p.code == "pool_away"), "{problems:?}");
            assert!(!facts[0].lacks.iter().any(|l| l.code == "shared"), "{facts:?}");
            (facts[0].kind, facts[0].shared_id.unwrap())
        };
        let hosts: Vec<_> = (0..8).map(|_| scope.spawn(host)).collect();
        hosts.into_iter().map(|h| h.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let (own, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let local = config("default", PoolKind::Directory, own.path());
    let (facts, _) = Pools::new(&[local], state.path()).facts();
    assert!(facts[0].shared_id.is_none() && facts[0].lacks.iter().any(|l| l.code == "shared"));
    // What was one host's own is not taken for a shared one.
    let shared = config("default", PoolKind::SharedDirectory, own.path());
    let (facts, problems) = Pools::new(&[shared], state.path()).facts();
    assert!(facts.is_empty() && problems[0].evidence.contains("holds no id"), "{problems:?}");
}
