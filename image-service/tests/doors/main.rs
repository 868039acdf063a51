//! The clients' door over a real folder: uploads that resume, tokens that work once, hostile bytes.

#![allow(clippy::unwrap_used)]

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use basalt_daemon::{Clock, ManualClock};
use basalt_image_service::{ImageService, config::Import};
use basalt_model::{DateTime, ImageId, ProjectId, TenantId, TransferId, images::ImageFormat};
use basalt_wire::{
    rest::Problem,
    upload_token::{Claims, Keyring, Verb, mint},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{io, path::Path, sync::Arc};
use tower::ServiceExt;

const MIB: usize = 1024 * 1024;

fn keys() -> Keyring {
    Keyring::new([(1, vec![7; 32])]).unwrap()
}

struct Door {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    fn problem(&self) -> Problem {
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert!(problem.reasons.iter().all(|r| !r.remedy.is_empty() && !r.subject.is_empty()), "{problem:?}");
        problem
    }
}

impl Door {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(DateTime::from_timestamp(1_000_000, 0).unwrap(), 1));
        let router = Self::router(dir.path(), clock.clone());
        Self { dir, clock, router }
    }

    fn router(dir: &Path, clock: Arc<ManualClock>) -> Router {
        ImageService::open(dir, keys(), &Import::default(), clock).unwrap().router()
    }

    /// As after a kill: nothing but the folder survives.
    fn restart(&mut self) {
        self.router = Self::router(self.dir.path(), self.clock.clone());
    }

    fn claims(&self, verb: Verb, size: usize, format: ImageFormat, sha256: Option<String>) -> Claims {
        Claims {
            key_id: 1,
            transfer_id: TransferId(self.clock.new_id()),
            verb,
            image_id: ImageId(self.clock.new_id()),
            tenant_id: TenantId(self.clock.new_id()),
            project_id: ProjectId(self.clock.new_id()),
            format,
            size_bytes: size as u64,
            sha256,
            expires_at: self.clock.now() + chrono::TimeDelta::minutes(5),
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        Answer { status: head.status, headers: head.headers, body: to_bytes(body, 64 * MIB).await.unwrap() }
    }

    async fn create(&self, token: &str, length: usize) -> Answer {
        let request = tus("POST", "/files").header("authorization", format!("Bearer {token}"));
        self.send(request.header("upload-length", length).body(Body::empty()).unwrap()).await
    }

    async fn begin(&self, size: usize, format: ImageFormat) -> String {
        let token = mint(&keys(), &self.claims(Verb::Upload, size, format, None)).unwrap();
        let created = self.create(&token, size).await;
        assert_eq!(created.status, StatusCode::CREATED);
        created.header("location").to_owned()
    }

    async fn patch(&self, at: &str, offset: usize, body: impl Into<Body>) -> Answer {
        let request = tus("PATCH", at).header("content-type", "application/offset+octet-stream");
        self.send(request.header("upload-offset", offset).body(body.into()).unwrap()).await
    }

    async fn offset(&self, at: &str) -> usize {
        let head = self.send(tus("HEAD", at).body(Body::empty()).unwrap()).await;
        assert_eq!(head.status, StatusCode::OK);
        head.header("upload-offset").parse().unwrap()
    }

    fn blobs(&self) -> Vec<String> {
        let list = std::fs::read_dir(self.dir.path().join("blobs")).unwrap();
        list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let mut files: Vec<_> =
            std::fs::read_dir(self.dir.path().join("spool")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let files = files.iter().filter(|p| p.is_file());
        files.map(|p| serde_json::from_slice(&std::fs::read(p).unwrap()).unwrap()).collect()
    }
}

fn tus(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("tus-resumable", "1.0.0")
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[5]).collect()
}

#[tokio::test]
async fn an_upload_in_pieces_becomes_a_blob_by_its_digest_and_an_event() {
    let door = Door::open();
    let data = bytes(3 * MIB + 5);
    let at = door.begin(data.len(), ImageFormat::Raw).await;
    for range in [0..MIB, MIB..2 * MIB + 1, 2 * MIB + 1..data.len()] {
        let sent = door.patch(&at, range.start, data[range.clone()].to_vec()).await;
        assert_eq!(
            (sent.status, sent.header("upload-offset")),
            (StatusCode::NO_CONTENT, &*range.end.to_string())
        );
    }
    let digest = hex::encode(Sha256::digest(&data));
    assert_eq!(door.blobs(), std::slice::from_ref(&digest));
    assert_eq!(door.events()[0]["outcome"]["sha256"], digest);
    assert_eq!(door.patch(&at, data.len(), vec![]).await.problem().code, "finished");
}

#[tokio::test]
async fn after_a_kill_at_most_eight_mebibytes_are_sent_again_and_the_digest_is_right() {
    let mut door = Door::open();
    let data = bytes(20 * MIB);
    let at = door.begin(data.len(), ImageFormat::Raw).await;
    // The client sends 19 MiB and its connection breaks; the process is killed before it can say more.
    let chunks: Vec<Result<Bytes, io::Error>> = data[..19 * MIB]
        .chunks(64 * 1024)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .chain([Err(io::Error::other("connection reset"))])
        .collect();
    let broken = door.patch(&at, 0, Body::from_stream(tokio_stream::iter(chunks))).await;
    assert_eq!(broken.problem().code, "interrupted");
    let state = door.dir.path().join("uploads").join(at.rsplit('/').next().unwrap());
    let part = std::fs::OpenOptions::new().append(true).open(state.with_extension("part")).unwrap();
    part.set_len(19 * MIB as u64 + 77).unwrap();
    door.restart();
    let offset = door.offset(&at).await;
    assert!(19 * MIB - offset <= 8 * MIB, "{offset}");
    let sent = door.patch(&at, offset, data[offset..].to_vec()).await;
    assert_eq!(sent.status, StatusCode::NO_CONTENT);
    assert_eq!(door.blobs(), [hex::encode(Sha256::digest(&data))]);
}

#[tokio::test]
async fn a_token_opens_one_session_whoever_races_for_it() {
    let mut door = Door::open();
    let token = mint(&keys(), &door.claims(Verb::Upload, 10, ImageFormat::Raw, None)).unwrap();
    let racers: Vec<_> = (0..50).map(|_| door.create(&token, 10)).collect();
    let answers = futures::future::join_all(racers).await;
    assert_eq!(answers.iter().filter(|a| a.status == StatusCode::CREATED).count(), 1);
    door.restart();
    assert_eq!(door.create(&token, 10).await.problem().code, "token_used");
    // The losers left nothing: one session, its state and its part.
    assert_eq!(std::fs::read_dir(door.dir.path().join("uploads")).unwrap().count(), 2);
}

#[tokio::test]
async fn what_is_refused_says_why_and_leaves_nothing() {
    let door = Door::open();
    let token = mint(&keys(), &door.claims(Verb::Upload, 10, ImageFormat::Raw, None)).unwrap();
    assert_eq!(door.create("nonsense", 10).await.problem().code, "token_refused");
    assert_eq!(door.create(&token, 11).await.problem().code, "length");
    let download = mint(&keys(), &door.claims(Verb::Download, 10, ImageFormat::Raw, None)).unwrap();
    assert_eq!(door.create(&download, 10).await.problem().code, "token_refused");
    let plain = Request::post("/files").body(Body::empty()).unwrap();
    assert_eq!(door.send(plain).await.status, StatusCode::PRECONDITION_FAILED);
    for path in ["/files/..%2f..%2fetc%2fpasswd", "/files/00", "/downloads/%2e%2e"] {
        let answer = door.send(tus("HEAD", path).body(Body::empty()).unwrap()).await;
        assert!(matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED), "{path}");
    }
    let at = door.begin(10, ImageFormat::Raw).await;
    assert_eq!(door.patch(&at, 3, vec![0; 7]).await.problem().code, "offset");
    assert_eq!(door.patch(&at, 0, vec![0; 11]).await.problem().code, "too_long");
    assert_eq!(door.offset(&at).await, 0);
    assert_eq!(
        door.send(tus("DELETE", &at).body(Body::empty()).unwrap()).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(std::fs::read_dir(door.dir.path().join("uploads")).unwrap().count(), 0);
    assert!(door.blobs().is_empty() && door.events().is_empty());
}

#[tokio::test]
async fn v1_a_truncated_or_hostile_upload_is_refused_by_name_and_no_blob_stays() {
    let door = Door::open();
    let mut qcow2 = vec![0; 4096];
    qcow2[..4].copy_from_slice(b"QFI\xfb");
    (qcow2[7], qcow2[23], qcow2[27], qcow2[39], qcow2[45]) = (3, 16, 1, 1, 3);
    for (code, format, data) in [
        ("truncated", ImageFormat::Qcow2, qcow2.clone()),
        ("not_raw", ImageFormat::Raw, qcow2),
        ("not_iso", ImageFormat::Iso, vec![0; 100]),
    ] {
        let at = door.begin(data.len(), format).await;
        let refused = door.patch(&at, 0, data).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.problem().reasons[0].code, code);
        assert_eq!(door.events().last().unwrap()["outcome"]["reason"]["code"], code);
    }
    let wrong = door.claims(Verb::Upload, 4, ImageFormat::Raw, Some("0".repeat(64)));
    let created = door.create(&mint(&keys(), &wrong).unwrap(), 4).await;
    let refused = door.patch(created.header("location"), 0, vec![1; 4]).await;
    assert_eq!(refused.problem().reasons[0].code, "digest_mismatch");
    assert!(door.blobs().is_empty());
}

#[tokio::test]
async fn a_download_token_works_once_and_its_session_resumes() {
    let door = Door::open();
    let data = bytes(MIB);
    let at = door.begin(data.len(), ImageFormat::Raw).await;
    door.patch(&at, 0, data.clone()).await;
    let digest = hex::encode(Sha256::digest(&data));
    let token = mint(&keys(), &door.claims(Verb::Download, MIB, ImageFormat::Raw, Some(digest))).unwrap();
    let get =
        || Request::get("/blobs").header("authorization", format!("Bearer {token}")).body(Body::empty());
    let first = door.send(get().unwrap()).await;
    assert_eq!((first.status, first.body.as_ref()), (StatusCode::OK, data.as_slice()));
    assert_eq!(door.send(get().unwrap()).await.problem().code, "token_used");
    let rest = Request::get(first.header("location")).header("range", format!("bytes={}-", MIB - 9));
    let rest = door.send(rest.body(Body::empty()).unwrap()).await;
    assert_eq!((rest.status, rest.body.as_ref()), (StatusCode::PARTIAL_CONTENT, &data[MIB - 9..]));
}
