//! The serial console of the real guest: what it wrote when it booted, and a shell that answers.

use crate::cluster::Cluster;
use basalt_lab::journey;
use bytes::Bytes;
use futures::stream::poll_fn;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Opens the console of the journey's VM, types as soon as the boot text is there, and reads the answer.
pub async fn shows_the_boot_and_answers(cluster: &Cluster) {
    let path = format!("/v1/projects/{}/vms/{}/console", journey::PROJECT, journey::VM);
    let (typed, mut keys) = mpsc::channel::<Bytes>(4);
    let pieces = poll_fn(move |context| keys.poll_recv(context).map(|k| k.map(Ok)));
    let mut screen = cluster.client.duplex(&path, pieces).await.unwrap_or_else(|e| panic!("{}", e.text()));
    let end = Instant::now() + Duration::from_secs(60);
    let (mut seen, mut asked) = (Vec::new(), false);
    loop {
        let piece = tokio::time::timeout_at(end.into(), screen.chunk()).await;
        let text = || String::from_utf8_lossy(&seen).into_owned();
        let piece = piece.unwrap_or_else(|_| panic!("no answer; seen:\n{}\n{}", text(), cluster.logs()));
        seen.extend_from_slice(&piece.unwrap().unwrap_or_else(|| panic!("it ended:\n{}", text())));
        let text = String::from_utf8_lossy(&seen);
        if !asked && text.contains("GUEST-READY web-1") {
            // Two halves, so that the echo of what is typed is not taken for the answer.
            typed.send(Bytes::from_static(b"\necho says-$(hostname)\n")).await.unwrap();
            asked = true;
        }
        if text.contains("says-web-1") {
            return;
        }
    }
}
