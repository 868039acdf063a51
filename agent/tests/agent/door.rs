//! S48: the channel between hosts on which VMs go from one to the other, over real TLS on loopback.

use crate::libvirt::vm;
use basalt_agent::{
    Error,
    host::motion::{Arrivals, Call, Gate, Stream, length, serve},
    identity::Identity,
};
use basalt_daemon::pki::{Authority, Subject};
use basalt_model::{DateTime, HostId, MigrationId, VmId, VolumeId, migrations::MigrationMode};
use basalt_plan::host::DoorDefinition;
use chrono::TimeDelta;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};
use uuid::Uuid;

const SOURCE: HostId = HostId(Uuid::from_u128(0x11));
const TARGET: HostId = HostId(Uuid::from_u128(0x22));
const STRANGER: HostId = HostId(Uuid::from_u128(0x33));
const MIGRATION: MigrationId = MigrationId(Uuid::from_u128(0x77));
const SECRET: &[u8] = b"a page of the guest's memory, which nobody on the way may read";

/// Certificates are checked against the real time.
#[allow(clippy::disallowed_methods)]
fn today() -> DateTime {
    chrono::Utc::now()
}

/// Counts the guests that were let go on.
struct Goers(AtomicU32, tempfile::TempDir);

impl Arrivals for Goers {
    async fn go(&self, _: &DoorDefinition) -> Result<Option<u64>, Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Some(9))
    }

    async fn file(&self, _: &DoorDefinition, volume: VolumeId) -> Result<PathBuf, Error> {
        Ok(self.1.path().join(volume.to_string()))
    }
}

fn enrol(dir: &Path, authority: &Authority, trusted: &Authority, host: HostId) {
    let now = today();
    let (uri, not_after) = (format!("basalt:host:{host}"), now + TimeDelta::hours(1));
    let subject = Subject { name: "host", hosts: &[], uri: Some(&uri), now, not_after, serial: [3; 16] };
    let (issued, key_pem) = authority.issue(&subject).unwrap();
    let identity = Identity {
        host_id: host,
        key_pem,
        certificate_pem: issued.cert_pem,
        ca_pem: trusted.cert_pem().to_owned(),
        obtained_at: now,
        not_after,
    };
    identity.save(dir).unwrap();
}

/// A host's gate, with its identity in a directory of its own.
struct Side {
    gate: Arc<Gate>,
    dir: tempfile::TempDir,
}

impl Side {
    fn new(listen: Option<SocketAddr>, of: &Authority, trusts: &Authority, host: HostId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        enrol(dir.path(), of, trusts, host);
        let gate = Gate::new(listen, dir.path(), &dir.path().join("run"), dir.path().join("libvirt-sock"));
        Self { gate: Arc::new(gate), dir }
    }
}

/// Nobody listens at it yet.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn door(vm_id: VmId) -> DoorDefinition {
    let vm = vm();
    let (migration_id, source) = (MIGRATION, SOURCE);
    DoorDefinition {
        id: vm_id,
        migration_id,
        source,
        mode: MigrationMode::Live,
        copy_storage: true,
        resume: true,
        vm,
    }
}

/// Carries connections to an address, and keeps all bytes that it saw.
async fn tapped(to: SocketAddr, seen: Arc<Mutex<Vec<u8>>>, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (from, _) = listener.accept().await.unwrap();
            let Ok(to) = TcpStream::connect(to).await else { continue };
            let ((a, b), (c, d)) = (from.into_split(), to.into_split());
            for (mut from, mut to) in [(a, d), (c, b)] {
                let seen = Arc::clone(&seen);
                open.spawn(async move {
                    let mut piece = vec![0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut piece).await {
                        seen.lock().unwrap().extend_from_slice(&piece[..n]);
                        if to.write_all(&piece[..n]).await.is_err() {
                            return;
                        }
                    }
                    let _ = to.shutdown().await;
                });
            }
        }
    });
    address
}

fn call(vm: VmId, address: SocketAddr) -> Call {
    Call { vm, migration: MIGRATION, target: TARGET, address }
}

/// The answer of one that must not be let in.
async fn refused(call: &Call, side: &Side) -> String {
    match call.line(&side.gate).await {
        Ok(_) => panic!("it was let in"),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            text
        }
    }
}

/// The source says that the guest may go on, and each of the sockets carries a secret to the target's.
async fn all_streams(call: &Call, source: &Side, target: &Side) {
    let mut tries = 0;
    let line = loop {
        match call.line(&source.gate).await {
            Ok(line) => break line,
            Err(error) => assert!(tries < 50, "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(line.go().await.unwrap(), Some(9));
    let _relay = call.relay(&source.gate).unwrap();
    for (stream, socket) in [
        (Stream::Libvirt, target.dir.path().join("libvirt-sock")),
        (Stream::Memory, target.gate.socket(MIGRATION, Stream::Memory)),
        (Stream::Disks, target.gate.socket(MIGRATION, Stream::Disks)),
    ] {
        let listener = UnixListener::bind(&socket).unwrap();
        let mut local = UnixStream::connect(source.gate.socket(MIGRATION, stream)).await.unwrap();
        local.write_all(SECRET).await.unwrap();
        let (mut there, _) = listener.accept().await.unwrap();
        let mut came = vec![0; SECRET.len()];
        there.read_exact(&mut came).await.unwrap();
        assert_eq!(came, SECRET, "{stream:?}");
    }
}

/// What comes back when the first lines are sent without TLS.
async fn in_plain_tcp(vm_id: VmId, at: SocketAddr) -> Vec<u8> {
    let mut plain = TcpStream::connect(at).await.unwrap();
    let hello =
        format!("{{\"vm\":\"{vm_id}\",\"migration\":\"{MIGRATION}\",\"stream\":\"control\"}}\n\"go\"\n");
    plain.write_all(hello.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), plain.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn s48_a_migration_goes_by_tls_between_hosts_that_verified_each_other_and_by_plain_tcp_not_at_all() {
    let (cluster, _) = Authority::create("cluster", today()).unwrap();
    let (other, _) = Authority::create("another cluster", today()).unwrap();
    let at = free_address().await;
    let target = Side::new(Some(at), &cluster, &cluster, TARGET);
    let goers = Arc::new(Goers(AtomicU32::new(0), tempfile::tempdir().unwrap()));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(Arc::clone(&target.gate), Arc::clone(&goers)));
    let vm_id = vm().id;
    target.gate.open(&door(vm_id)).unwrap();
    let source = Side::new(None, &cluster, &cluster, SOURCE);
    let wire = Arc::new(Mutex::new(Vec::new()));

    // The right source gets through with all streams, and nobody on the way reads any of it.
    let via = tapped(at, Arc::clone(&wire), &mut tasks).await;
    all_streams(&call(vm_id, via), &source, &target).await;
    assert_eq!(goers.0.load(Ordering::Relaxed), 1);
    let seen = wire.lock().unwrap().clone();
    assert!(seen.len() > 4 * SECRET.len(), "{} bytes went by", seen.len());
    for plain in [SECRET, vm_id.to_string().as_bytes(), b"libvirt", b"\"stream\""] {
        let there = seen.windows(plain.len()).any(|w| w == plain);
        assert!(!there, "{:?} went in the clear", plain.escape_ascii().to_string());
    }

    // Nobody else: no certificate of this cluster, another host's, another VM or migration, no door.
    let foreign = Side::new(None, &other, &cluster, SOURCE);
    refused(&call(vm_id, at), &foreign).await;
    let stranger = Side::new(None, &cluster, &cluster, STRANGER);
    let why = refused(&call(vm_id, at), &stranger).await;
    assert!(why.contains("no door"), "{why}");
    let of_another = Call { migration: MigrationId(Uuid::from_u128(0x78)), ..call(vm_id, at) };
    assert!(refused(&of_another, &source).await.contains("no door"));
    assert!(refused(&call(VmId(Uuid::from_u128(0x99)), at), &source).await.contains("no door"));
    // Nor does the source speak with whoever answers in the target's place.
    let elsewhere = Call { target: STRANGER, ..call(vm_id, at) };
    let why = refused(&elsewhere, &source).await;
    assert!(why.contains("certificate"), "{why}");
    let distrusting = Side::new(None, &cluster, &other, SOURCE);
    let why = refused(&call(vm_id, at), &distrusting).await;
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(goers.0.load(Ordering::Relaxed), 1, "nobody else lets a guest go on");

    // Plain TCP gets no word but TLS's own refusal.
    let answer = in_plain_tcp(vm_id, at).await;
    assert!(answer.len() < 16 && !answer.contains(&b'{'), "{:?}", answer.escape_ascii().to_string());
    assert_eq!(goers.0.load(Ordering::Relaxed), 1);

    // When the door is shut, what was open ends, and nothing gets in.
    let line = call(vm_id, at).line(&source.gate).await.unwrap();
    target.gate.shut(vm_id, MIGRATION);
    line.go().await.unwrap_err();
    assert!(refused(&call(vm_id, at), &source).await.contains("no door"));
    assert_eq!(goers.0.load(Ordering::Relaxed), 1);
}

/// Bytes, a hole of megabytes, bytes, and a hole at the end.
fn sparse(path: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    let piece: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
    file.write_all_at(&piece, 0).unwrap();
    file.write_all_at(&piece, 9 << 20).unwrap();
    file.set_len(12 << 20).unwrap();
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn m1_a_volume_of_a_guest_that_is_off_arrives_whole_or_not_at_all() {
    let (cluster, _) = Authority::create("cluster", today()).unwrap();
    let at = free_address().await;
    let target = Side::new(Some(at), &cluster, &cluster, TARGET);
    let goers = Arc::new(Goers(AtomicU32::new(0), tempfile::tempdir().unwrap()));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(Arc::clone(&target.gate), Arc::clone(&goers)));
    let source = Side::new(None, &cluster, &cluster, SOURCE);
    let (volume, from) = (VolumeId(Uuid::from_u128(5)), source.dir.path().join("volume"));
    let (bytes, there) = (sparse(&from), goers.1.path().join(volume.to_string()));
    let vm_id = vm().id;
    let cold = DoorDefinition { mode: MigrationMode::Cold, ..door(vm_id) };
    target.gate.open(&cold).unwrap();
    while TcpStream::connect(at).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut sent = 0;
    call(vm_id, at).volume(&source.gate, volume, &from, None, |n| sent += n).await.unwrap();
    assert!(std::fs::read(&there).unwrap() == bytes, "it is the same file");
    assert_eq!(sent, length(&from).unwrap());
    assert!(sent < 2 << 20 && length(&there).unwrap() == sent, "holes are not sent and stay holes: {sent}");

    // It breaks off in the middle: what was there before stays, and it can come again.
    std::fs::write(&there, b"before").unwrap();
    let to = call(vm_id, at);
    let slow = to.volume(&source.gate, volume, &from, Some(100_000), |_| {});
    assert!(tokio::time::timeout(Duration::from_millis(300), slow).await.is_err());
    assert_eq!(std::fs::read(&there).unwrap(), b"before");
    call(vm_id, at).volume(&source.gate, volume, &from, None, |_| {}).await.unwrap();
    assert!(std::fs::read(&there).unwrap() == bytes);

    // Through the door of a guest that runs, no file comes in; nor through one that is shut meanwhile.
    std::fs::write(&there, b"before").unwrap();
    let slow = async { call(vm_id, at).volume(&source.gate, volume, &from, Some(100_000), |_| {}).await };
    let shut = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        target.gate.shut(vm_id, MIGRATION);
    };
    tokio::join!(slow, shut).0.unwrap_err();
    target.gate.open(&door(vm_id)).unwrap();
    call(vm_id, at).volume(&source.gate, volume, &from, None, |_| {}).await.unwrap_err();
    assert_eq!(std::fs::read(&there).unwrap(), b"before");
}
