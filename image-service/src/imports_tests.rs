//! Imports from a web server on this machine that breaks off, is away, forgets, and leads astray; and lives that end anywhere.

use super::*;
use crate::{blobs::Blobs, config::Import};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use basalt_daemon::ManualClock;
use basalt_model::{DateTime, ProjectId, TenantId, TransferId, images::ImageFormat};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    path::Path,
    pin::pin,
    task::{Context, Poll},
};

/// What the web server does instead of answering.
#[derive(Clone, Debug)]
enum Fault {
    /// So many bytes, then the connection breaks.
    Cut(usize),
    /// This status.
    Status(u16),
    /// This address.
    Redirect(String),
    /// The whole, whatever was asked for.
    Whole,
    /// No length.
    Endless,
}

#[derive(Clone)]
struct Origin {
    data: Bytes,
    url: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    asked: Arc<Mutex<Vec<String>>>,
    tag: Arc<Mutex<String>>,
}

impl Origin {
    /// Serves from a thread of its own, which outlives the runtimes of the lives that fetch.
    fn serve(data: Vec<u8>) -> Self {
        let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        door.set_nonblocking(true).unwrap();
        let origin = Self {
            data: data.into(),
            url: format!("http://{}/disk.raw", door.local_addr().unwrap()),
            faults: Arc::default(),
            asked: Arc::default(),
            tag: Arc::new(Mutex::new("\"one\"".into())),
        };
        let router = Router::new().fallback(answer).with_state(origin.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let door = tokio::net::TcpListener::from_std(door).unwrap();
                axum::serve(door, router).await.unwrap();
            });
        });
        origin
    }

    fn fault(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.data))
    }
}

async fn answer(State(origin): State<Origin>, headers: HeaderMap) -> Response {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    origin.asked.lock().unwrap().push(text("range"));
    let fault = origin.faults.lock().unwrap().pop_front();
    let tag = origin.tag.lock().unwrap().clone();
    let same = text("if-range") == tag && !matches!(fault, Some(Fault::Whole));
    let range = text("range");
    let from: usize = match range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')) {
        Some(from) if same => from.parse().unwrap(),
        _ => 0,
    };
    let rest = origin.data.slice(from..);
    let size = origin.data.len();
    let head = match from {
        0 => Response::builder().status(200),
        _ => Response::builder()
            .status(206)
            .header("content-range", format!("bytes {from}-{}/{size}", size - 1)),
    };
    let head = head.header("etag", tag);
    match fault {
        Some(Fault::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Redirect(to)) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Some(Fault::Cut(after)) => {
            let cut = [Ok(rest.slice(..after.min(rest.len()))), Err(std::io::Error::other("cut"))];
            let body = Body::from_stream(futures::stream::iter(cut));
            head.header("content-length", rest.len()).body(body).unwrap()
        }
        Some(Fault::Endless) => {
            head.body(Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(rest)]))).unwrap()
        }
        Some(Fault::Whole) | None => {
            head.header("content-length", rest.len()).body(Body::from(rest)).unwrap()
        }
    }
}

/// A start of the service: what is on disk, and nothing else.
struct Life {
    dir: PathBuf,
    imports: Arc<Imports>,
    _blobs: Arc<Blobs>,
}

impl Life {
    fn begin(dir: &Path, clock: &Arc<ManualClock>, allow: &[&str]) -> Self {
        let blobs = Arc::new(Blobs::open(dir).unwrap());
        let spool = Arc::new(Spool::open(dir.join("spool")).unwrap());
        let uploads = Arc::new(Uploads::open(dir.join("uploads"), blobs.clone(), spool.clone()).unwrap());
        uploads.recover(clock.now()).unwrap();
        let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
        let fetcher = Fetcher::new(&Import { allow, ca_file: None }).unwrap();
        let clock: Arc<dyn Clock> = clock.clone();
        let pause = Duration::from_millis(1);
        let imports = Imports::open(dir.join("imports"), (uploads, spool), clock, fetcher, pause).unwrap();
        Self { dir: dir.to_owned(), imports: Arc::new(imports), _blobs: blobs }
    }

    async fn carry_out(&self, work: &ImportWork) -> End {
        let running = self.imports.begin(work.image_id);
        self.imports.carry_out(work, &running, &Progress::default()).await.unwrap()
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(DateTime::from_timestamp(1_000_000, 0).unwrap(), 1))
}

fn claim(origin: &Origin, image: u128, claim: u128) -> ImportWork {
    ImportWork {
        task_id: TaskId(Uuid::from_u128(image)),
        claim_id: TransferId(Uuid::from_u128(claim)),
        fence: claim as i64,
        lease_seconds: 30,
        image_id: ImageId(Uuid::from_u128(image)),
        tenant_id: TenantId(Uuid::nil()),
        project_id: ProjectId(Uuid::nil()),
        url: origin.url.clone(),
        format: ImageFormat::Raw,
        size_bytes: None,
        sha256: Some(origin.digest()),
    }
}

/// What was said, by the claim that said it.
fn said(dir: &Path) -> Vec<(u128, String)> {
    let mut files: Vec<_> = fs::read_dir(dir.join("spool")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let events = files.iter().filter(|p| p.is_file()).map(|p| {
        let event: ImageEvent = serde_json::from_slice(&fs::read(p).unwrap()).unwrap();
        let word = match event.outcome {
            ImageOutcome::Ready { sha256, .. } => sha256,
            ImageOutcome::Failed { reason } => reason.code.clone().into_owned(),
            ImageOutcome::Verifying => "verifying".into(),
        };
        (event.transfer_id.0.as_u128(), word)
    });
    events.collect()
}

fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = all.collect();
    names.sort();
    names
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[5]).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn r45_im6_an_import_goes_on_where_it_broke_off_and_begins_anew_when_the_bytes_are_others() {
    let origin = Origin::serve(bytes(3 << 20));
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let life = Life::begin(dir.path(), &clock, &["127.0.0.1/32"]);
    origin.fault([Fault::Cut(1 << 20), Fault::Status(503), Fault::Cut(1 << 20)]);
    runtime().block_on(async {
        assert_eq!(life.carry_out(&claim(&origin, 1, 1)).await, End::Said);
        let asked = std::mem::take(&mut *origin.asked.lock().unwrap());
        assert_eq!(asked, ["", "bytes=1048576-", "bytes=1048576-", "bytes=2097152-"]);
        // The server has other bytes under the same name, or cannot begin in the middle: nothing is put together.
        origin.fault([Fault::Cut(1 << 20), Fault::Whole]);
        assert_eq!(life.carry_out(&claim(&origin, 2, 2)).await, End::Said);
        origin.fault([Fault::Cut(1 << 20)]);
        let changed = async {
            while origin.asked.lock().unwrap().len() < 3 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            *origin.tag.lock().unwrap() = "\"two\"".into();
        };
        let work = claim(&origin, 3, 3);
        let (end, ()) = tokio::join!(life.carry_out(&work), changed);
        assert_eq!(end, End::Said);
    });
    let digest = origin.digest();
    assert_eq!(said(dir.path()), [(1, digest.clone()), (2, digest.clone()), (3, digest.clone())]);
    assert_eq!(names(&dir.path().join("blobs")), [digest]);
}

#[test]
fn im6_what_may_not_be_fetched_is_refused_by_name_and_leaves_nothing() {
    let origin = Origin::serve(bytes(4096));
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let open = Life::begin(dir.path(), &clock, &["127.0.0.1/32"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let closed = Life::begin(elsewhere.path(), &clock, &[]);
    let good = claim(&origin, 1, 1);
    let metadata = "http://169.254.169.254/latest/meta-data".to_owned();
    let again = || Fault::Redirect(origin.url.clone());
    type Change<'a> = Box<dyn Fn(&mut ImportWork) + 'a>;
    let as_is: fn() -> Change<'static> = || Box::new(|_| {});
    let port = origin.url.rsplit(':').next().unwrap().to_owned();
    let cases: Vec<(&str, &Life, Vec<Fault>, Change<'_>)> = vec![
        ("address_not_allowed", &closed, vec![], as_is()),
        ("address_not_allowed", &closed, vec![], Box::new(|w| w.url = format!("http://localhost:{port}"))),
        ("address_not_allowed", &closed, vec![], Box::new(|w| w.url = "http://[::ffff:127.0.0.1]/".into())),
        ("address_not_allowed", &closed, vec![], Box::new(|w| w.url = "http://2130706433/".into())),
        ("address_not_allowed", &open, vec![Fault::Redirect(metadata)], as_is()),
        ("malformed", &open, vec![Fault::Redirect("file:///etc/shadow".into())], as_is()),
        ("redirected", &open, (0..6).map(|_| again()).collect(), as_is()),
        ("unverifiable", &open, vec![], Box::new(|w| w.sha256 = None)),
        ("source_refused", &open, vec![Fault::Status(404)], as_is()),
        ("length_unknown", &open, vec![Fault::Endless], as_is()),
        ("length_mismatch", &open, vec![], Box::new(|w| w.size_bytes = Some(4095))),
        ("digest_mismatch", &open, vec![], Box::new(|w| w.sha256 = Some("0".repeat(64)))),
        ("source_unreachable", &open, (0..8).map(|_| Fault::Status(500)).collect(), as_is()),
        ("not_qcow2", &open, vec![], Box::new(|w| w.format = ImageFormat::Qcow2)),
    ];
    let runtime = runtime();
    for (n, (code, life, faults, change)) in (10..).zip(cases) {
        let mut work = ImportWork { image_id: ImageId(Uuid::from_u128(n)), ..good.clone() };
        change(&mut work);
        origin.faults.lock().unwrap().clear();
        origin.fault(faults);
        assert_eq!(runtime.block_on(life.carry_out(&work)), End::Said, "{code}");
        assert_eq!(said(&life.dir).pop().unwrap(), (1, code.to_owned()), "{} of {n}", work.url);
    }
    assert!(names(&dir.path().join("blobs")).is_empty());
    // Uploads that were refused after their last byte are remembered for a day, so that nothing is said of them twice.
    let left = names(&dir.path().join("uploads"));
    assert!(left.iter().all(|name| name.ends_with(".json")) && left.len() == 2, "{left:?}");
}

/// Polls a future so many times at most, each when it is woken; `None`: its time was over, and it goes as in a crash.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |context: &mut Context<'_>| match (left, future.as_mut().poll(context)) {
        (_, Poll::Ready(output)) => Poll::Ready(Some(output)),
        (0, Poll::Pending) => Poll::Ready(None),
        (_, Poll::Pending) => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// A life ends wherever it waits for something, the next one begins under another claim: the image is there once, and the
/// newest claim says so.
#[test]
fn r45_a_worker_that_dies_at_any_step_leaves_work_that_the_next_one_ends_once() {
    let origin = Origin::serve(bytes(10 << 20));
    let (mut died, mut done) = (0, 0);
    for times in 0..400 {
        let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
        origin.faults.lock().unwrap().clear();
        origin.fault([Fault::Cut(9 << 20)]);
        let first = Life::begin(dir.path(), &clock, &["127.0.0.1/32"]);
        // What ran beside it ends with its runtime.
        let ended = runtime().block_on(polled(first.carry_out(&claim(&origin, 1, 1)), times));
        drop(first);
        died += usize::from(ended.is_none());
        origin.faults.lock().unwrap().clear();
        let second = Life::begin(dir.path(), &clock, &["127.0.0.1/32"]);
        assert_eq!(runtime().block_on(second.carry_out(&claim(&origin, 1, 2))), End::Said, "after {times}");
        let (digest, said) = (origin.digest(), said(dir.path()));
        assert_eq!(said.iter().filter(|(claim, _)| *claim == 2).count(), 1, "after {times}: {said:?}");
        assert!(said.iter().all(|(_, word)| *word == digest), "after {times}: {said:?}");
        assert_eq!(names(&dir.path().join("blobs")), [digest], "after {times}");
        assert_eq!(names(&dir.path().join("uploads")).len(), 1, "after {times}: the state of one session");
        done += usize::from(ended.is_some());
        if done > 2 {
            break;
        }
    }
    assert!(died > 10, "it died {died} times");
    assert!(done > 2, "no life came to its end");
    println!("{died} deaths");
}

/// Two claims of one image in one process, because the gateway was away for longer than the lease: the older stops.
#[test]
fn r45_a_claim_that_was_taken_over_in_the_same_process_stops_and_the_newer_goes_on() {
    let origin = Origin::serve(bytes(2 << 20));
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let life = Life::begin(dir.path(), &clock, &["127.0.0.1/32"]);
    origin.fault((0..6).map(|_| Fault::Status(503)));
    runtime().block_on(async {
        let older = claim(&origin, 1, 1);
        let newer = claim(&origin, 1, 2);
        let later = async {
            while origin.asked.lock().unwrap().len() < 2 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            life.carry_out(&newer).await
        };
        let (older, newer) = tokio::join!(life.carry_out(&older), later);
        assert_eq!((older, newer), (End::Stopped, End::Said));
    });
    assert_eq!(said(dir.path()), [(2, origin.digest())]);
}
