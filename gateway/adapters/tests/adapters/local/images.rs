//! Images come from a registry: pulled when they are missing and never again, and each "no" of a registry is told apart.

use super::bench::{IMAGE, LocalBench};
use crate::contract::{Bench, changed, ready, workload};
use basalt_adapters::Applied;
use basalt_model::{artifacts::Source, deployments::ErrorClass};
use basalt_test_programs::Registry;

#[tokio::test]
async fn an_image_is_pulled_when_it_is_missing_and_what_a_registry_refuses_is_told_apart() {
    let bench = LocalBench::start();
    let dir = bench.engine.lock().unwrap().dir().to_owned();
    let registry = Registry::start(&dir).unwrap();
    let at = registry.address().to_owned();
    bench.engine.lock().unwrap().trust(&at).unwrap();
    let pushed = format!("{at}/team/agent:1");
    bench.podman(&["push", "--quiet", IMAGE, &pushed]);
    let adapter = bench.adapter();
    let mut wanted = workload(&bench, 40);
    let of = |image: &str| Source::Image { image: image.into() };

    wanted.program.source = of(&pushed);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    ready(&bench, &wanted.owner).await;
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Unchanged);

    let digest = bench.podman(&["image", "inspect", "--format", "{{.Digest}}", &pushed]);
    let mut by_digest = changed(&wanted);
    by_digest.program.source = of(&format!("{at}/team/agent:1@{digest}"));
    assert_eq!(adapter.deploy(&by_digest).await.unwrap(), Applied::Changed);
    ready(&bench, &wanted.owner).await;

    let mut nowhere = changed(&by_digest);
    for (image, code, class) in [
        (format!("{at}/team/agent:2"), "image_missing", ErrorClass::Missing),
        (format!("{at}/team/nobody:1"), "image_missing", ErrorClass::Missing),
        (format!("{at}/team/nobody"), "image_missing", ErrorClass::Missing),
    ] {
        nowhere.program.source = of(&image);
        let error = adapter.deploy(&nowhere).await.unwrap_err();
        assert_eq!((error.class, &*error.reason.code), (class, code), "{image}: {error:?}");
        assert!(error.reason.subject.contains(&image) && !error.reason.evidence.is_empty(), "{error:?}");
    }
    let still = ready(&bench, &wanted.owner).await;
    assert_eq!(still.fingerprint, Some(by_digest.fingerprint.clone()), "the old one goes on meanwhile");

    drop(registry);
    let error = adapter.deploy(&nowhere).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Transient, "pull_failed"), "{error:?}");
    // What is there needs no registry.
    let mut back = changed(&nowhere);
    back.program.source = of(&pushed);
    assert_eq!(adapter.deploy(&back).await.unwrap(), Applied::Changed);
}

#[tokio::test]
async fn a_registry_that_wants_a_login_says_auth() {
    let bench = LocalBench::start();
    let dir = bench.engine.lock().unwrap().dir().to_owned();
    let registry = Registry::start_closed(&dir).unwrap();
    bench.engine.lock().unwrap().trust(registry.address()).unwrap();
    let mut wanted = workload(&bench, 41);
    wanted.program.source = Source::Image { image: format!("{}/team/agent:1", registry.address()) };
    let error = bench.adapter().deploy(&wanted).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Auth, "pull_denied"), "{error:?}");
    assert!(error.reason.remedy.contains("podman login"), "{error:?}");
}
