//! The port at which a deployment is reached: asked for, found, kept, taken.

use super::bench::LocalBench;
use crate::contract::{Bench, changed, gone, ready, workload};
use basalt_adapters::Applied;
use basalt_model::deployments::{ErrorClass, Workload};
use std::net::TcpListener;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn at(bench: &LocalBench, number: u128, port: u16) -> Workload {
    let mut wanted = workload(bench, number);
    wanted.local.port = Some(port);
    wanted
}

#[tokio::test]
async fn a_port_that_was_asked_for_is_had_or_its_holder_is_named() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let port = free_port();
    let first = at(&bench, 50, port);
    adapter.deploy(&first).await.unwrap();
    let endpoint = ready(&bench, &first.owner).await.endpoints.remove(0);
    assert_eq!((&*endpoint.name, endpoint.url), ("http", format!("http://127.0.0.1:{port}/")));

    let second = at(&bench, 51, port);
    let error = adapter.deploy(&second).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Conflict, "port_taken"), "{error}");
    assert!(error.reason.message.contains("the deployment web of the project contract"), "{error}");

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = held.local_addr().unwrap().port();
    let error = adapter.deploy(&at(&bench, 51, theirs)).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Conflict, "port_taken"), "{error}");
    assert!(error.reason.message.contains(&format!("(process {})", std::process::id())), "{error}");
    drop(held);
    assert_eq!(adapter.deploy(&at(&bench, 51, theirs)).await.unwrap(), Applied::Changed);
    // The same workload keeps its own port through a change.
    assert_eq!(adapter.deploy(&changed(&first)).await.unwrap(), Applied::Changed);
    ready(&bench, &first.owner).await;
}

#[tokio::test]
async fn a_found_port_is_kept_until_somebody_else_took_it() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let wanted = workload(&bench, 52);
    adapter.deploy(&wanted).await.unwrap();
    let had = ready(&bench, &wanted.owner).await.endpoints.remove(0).url;
    gone(&*adapter, &wanted.owner, wanted.epoch).await;
    adapter.deploy(&wanted).await.unwrap();
    assert_eq!(
        ready(&bench, &wanted.owner).await.endpoints[0].url,
        had,
        "it is found where it was found before"
    );

    bench.podman(&["stop", "--time", "5", &wanted.owner.workload_name()]);
    let port = had.trim_end_matches('/').rsplit(':').next().unwrap();
    let _held = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    assert_ne!(ready(&bench, &wanted.owner).await.endpoints[0].url, had);
}
