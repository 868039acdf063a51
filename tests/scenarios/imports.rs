//! IM6 and R45 over the whole house: the image service's program fetches what the gateway says is wanted.

use anyhow::{Context, Result, ensure};
use axum::{Router, body::Body, extract::State, http::HeaderMap, response::Response};
use basalt_model::{
    images::ImageState,
    tasks::{Task, TaskState},
};
use basalt_tests::{House, images::ImageProgram, oracles};
use basalt_wire::rest::{Accepted, Image};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const PIECE: usize = 128 * 1024;

/// A web server that takes its time: 128 KiB each 3 ms.
#[derive(Clone)]
struct Slow {
    data: Arc<Vec<u8>>,
    asked: Arc<AtomicU64>,
}

async fn answer(State(slow): State<Slow>, headers: HeaderMap) -> Response {
    slow.asked.fetch_add(1, Ordering::Relaxed);
    let range = headers.get("range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let from =
        range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')).map_or(0, |r| r.parse().unwrap());
    let size = slow.data.len();
    let head = match from {
        0 => Response::builder().status(200),
        _ => Response::builder()
            .status(206)
            .header("content-range", format!("bytes {from}-{}/{size}", size - 1)),
    };
    let pieces = futures::stream::unfold(from, move |at| {
        let data = slow.data.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let end = (at + PIECE).min(data.len());
            (at < end).then(|| (Ok::<_, std::io::Error>(data[at..end].to_vec()), end))
        }
    });
    let head = head.header("etag", "\"one\"").header("content-length", size - from);
    head.body(Body::from_stream(pieces)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r45_an_image_service_that_is_killed_again_and_again_has_the_image_once() -> Result<()> {
    let house = House::with_hosts(0).await?;
    let data: Vec<u8> =
        (0..48 << 20).map(|i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[5]).collect();
    let digest = hex::encode(Sha256::digest(&data));
    let slow = Slow { data: Arc::new(data), asked: Arc::default() };
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/disk.raw", door.local_addr()?);
    let router = Router::new().fallback(answer).with_state(slow.clone());
    let serving = tokio::spawn(async move { axum::serve(door, router).await });

    let body =
        json!({"name": "fetched", "spec": {"format": "raw", "sha256": digest, "source": {"url": url}}});
    let made: Accepted<Image> = house.api.post(&house.api.path("images"), &body).await?;
    let made = made.task.context("a task")?;
    let mut images = ImageProgram::start(&house, "127.0.0.1:0")?;
    let mut dice = StdRng::seed_from_u64(45);
    let mut kills = 0;
    while house.api.get::<Task>(&format!("/v1/tasks/{}", made.id)).await?.state != TaskState::Completed {
        ensure!(kills < 200, "it does not come to its end: {}", images.log());
        let pause = if kills < 12 { dice.random_range(50..700) } else { 5000 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        images.kill_and_start()?;
        kills += 1;
    }
    let task = house.api.completed(&made).await?;
    ensure!(task.attempt == 1 && task.progress == 100, "{task:?}");
    let image: Image = house.api.get(&house.api.path("images/fetched")).await?;
    ensure!(image.observed.state == ImageState::Ready && image.observed.sha256 == Some(digest.clone()));
    let blobs: Vec<_> = fs::read_dir(images.state().join("blobs"))?.map(|e| e.unwrap().file_name()).collect();
    ensure!(blobs == [digest.as_str()], "{blobs:?}");
    let id = image.metadata.id;
    let taken = oracles::count(
        house.owner_url(),
        &format!("SELECT count(*) FROM image_events WHERE image_id = '{id}'"),
    )?;
    ensure!(taken == 1, "{taken} events were taken");
    let asked = slow.asked.load(Ordering::Relaxed);
    ensure!(asked > 3, "it was killed {kills} times, and asked for the bytes {asked} times only");
    println!("{kills} kills, {asked} connections");

    // What cannot be fetched says why, and another attempt is refused its bytes no more once the way is open.
    let nowhere = json!({"name": "nowhere", "spec": {"format": "raw", "source": {"url": "https://10.255.255.1/disk.raw"}}});
    let made: Accepted<Image> = house.api.post(&house.api.path("images"), &nowhere).await?;
    let ended = house.api.ended(made.task.context("a task")?.id).await?;
    let reason = ended.error.clone().unwrap();
    ensure!(ended.state == TaskState::Failed && reason.code == "address_not_allowed", "{ended:?}");
    ensure!(reason.remedy.contains("[import] allow"), "{reason}");
    serving.abort();
    Ok(())
}
