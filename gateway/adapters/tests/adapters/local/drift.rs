//! What others do to our containers is seen, named, and put right.

use super::bench::{LocalBench, http};
use crate::contract::{Bench, SECRET, changed, gone, ready, seen, workload};
use basalt_adapters::Applied;
use basalt_model::{
    artifacts::HealthCheck,
    deployments::{ErrorClass, Readiness, Workload},
};
use std::time::Duration;

fn not_ready(of: &basalt_model::deployments::ObservedWorkload) -> (String, String) {
    let Readiness::NotReady { reason } = &of.readiness else { panic!("{:?}", of.readiness) };
    assert!(!reason.remedy.is_empty());
    (reason.code.to_string(), reason.message.clone())
}

/// What is seen once it is as a predicate says.
async fn until(
    bench: &LocalBench,
    wanted: &Workload,
    code: &str,
) -> basalt_model::deployments::ObservedWorkload {
    for _ in 0..200 {
        let found = seen(bench, &wanted.owner).await.unwrap();
        if matches!(&found.readiness, Readiness::NotReady { reason } if reason.code == code) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {code}: {:?}", seen(bench, &wanted.owner).await);
}

#[tokio::test]
async fn stopped_paused_renamed_and_removed_by_hand_is_seen_and_put_right() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let wanted = workload(&bench, 60);
    let name = wanted.owner.workload_name();
    adapter.deploy(&wanted).await.unwrap();
    let before = ready(&bench, &wanted.owner).await;

    for (by_hand, code, drift) in [
        (vec!["stop", "--time", "5", &*name], "exited", "state: exited instead of running"),
        (vec!["kill", &name], "exited", "state: exited instead of running"),
        (vec!["pause", &name], "paused", "state: paused instead of running"),
    ] {
        bench.podman(&by_hand);
        let found = until(&bench, &wanted, code).await;
        assert_eq!(found.drift, [drift], "{by_hand:?}");
        assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed, "{by_hand:?}");
        assert_eq!(ready(&bench, &wanted.owner).await, before, "{by_hand:?}");
    }
    bench.podman(&["rename", &name, "elsewhere"]);
    let found = seen(&bench, &wanted.owner).await.unwrap();
    assert_eq!(found.drift, [format!("name: elsewhere instead of {name}")]);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    assert_eq!(ready(&bench, &wanted.owner).await, before);

    bench.podman(&["rm", "--force", "--time", "0", &name]);
    assert_eq!(seen(&bench, &wanted.owner).await, None);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    assert_eq!(ready(&bench, &wanted.owner).await, before);

    bench.podman(&["pause", &name]);
    let next = changed(&wanted);
    assert_eq!(adapter.deploy(&next).await.unwrap(), Applied::Changed, "a paused one is replaced too");
    assert_eq!(ready(&bench, &wanted.owner).await.fingerprint, Some(next.fingerprint.clone()));
    bench.podman(&["pause", &name]);
    gone(&*adapter, &wanted.owner, next.epoch).await;
}

#[tokio::test]
async fn a_program_that_fails_is_started_again_by_the_engine_a_few_times_and_then_said() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let wanted = workload(&bench, 61);
    adapter.deploy(&wanted).await.unwrap();
    let found = ready(&bench, &wanted.owner).await;
    // The answer is lost with the program.
    let _ = http(&format!("{}exit/3", found.endpoints[0].url));
    assert_eq!(ready(&bench, &wanted.owner).await, found, "without a deploy");

    let mut failing = workload(&bench, 62);
    failing.program.args = vec!["exit".into(), "4".into()];
    adapter.deploy(&failing).await.unwrap();
    let found = until(&bench, &failing, "exited").await;
    assert_eq!(not_ready(&found).1, "its program ended with code 4");
}

#[tokio::test]
async fn a_program_that_is_not_well_is_starting_at_first_and_then_said_with_what_was_seen() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let mut wanted = workload(&bench, 63);
    wanted.env.insert("UNWELL".into(), "1".into());
    wanted.program.health = Some(HealthCheck { path: "/healthz".into(), start_seconds: 2 });
    adapter.deploy(&wanted).await.unwrap();
    assert_eq!(seen(&bench, &wanted.owner).await.unwrap().readiness, Readiness::Starting);
    let found = until(&bench, &wanted, "unhealthy").await;
    let Readiness::NotReady { reason } = &found.readiness else { unreachable!() };
    assert_eq!(reason.evidence, "GET /healthz: HTTP 503");
    assert_eq!(found.drift, Vec::<String>::new(), "it runs as it was deployed");
}

#[tokio::test]
async fn limits_hold_and_variables_reach_the_program_and_nobody_else() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let mut wanted = workload(&bench, 64);
    wanted.resources.memory_bytes = Some(64 << 20);
    wanted.resources.cpu_millis = Some(250);
    adapter.deploy(&wanted).await.unwrap();
    let found = ready(&bench, &wanted.owner).await;
    assert_eq!(found.drift, Vec::<String>::new());
    let url = &found.endpoints[0].url;
    assert_eq!(http(&format!("{url}env/GREETING")).unwrap(), "hello");
    assert_eq!(http(&format!("{url}env/TOKEN")).unwrap(), SECRET);

    let pid = bench.podman(&["inspect", "--format", "{{.State.Pid}}", &wanted.owner.workload_name()]);
    let group = |controller: &str, file: &str| {
        let all = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let line = |c: &str| all.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|w| w == c));
        let of = |l: &str| l.rsplit(':').next().unwrap().to_owned();
        let path = match line(controller) {
            Some(one) => format!("/sys/fs/cgroup/{controller}{}", of(one)),
            None => format!("/sys/fs/cgroup{}", of(line("").unwrap())),
        };
        std::fs::read_to_string(format!("{path}/{file}")).ok().map(|text| text.trim().to_owned())
    };
    let memory = group("memory", "memory.limit_in_bytes").or_else(|| group("memory", "memory.max"));
    assert_eq!(memory.as_deref(), Some("67108864"));
    let cpu = group("cpu", "cpu.cfs_quota_us").or_else(|| group("cpu", "cpu.max")).unwrap();
    assert!(cpu.starts_with("25000"), "{cpu}");
}

/// Somebody made the container anew with our labels and other contents.
#[tokio::test]
async fn a_container_that_only_says_that_it_is_ours_is_made_anew() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let wanted = workload(&bench, 65);
    let name = wanted.owner.workload_name();
    adapter.deploy(&wanted).await.unwrap();
    let url = ready(&bench, &wanted.owner).await.endpoints[0].url.clone();
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap();
    let labels = bench.podman(&["inspect", "--format", "{{json .Config.Labels}}", &name]);
    let labels: std::collections::BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
    bench.podman(&["rm", "--force", "--time", "0", &name]);
    let words: Vec<String> =
        labels.iter().flat_map(|(k, v)| ["--label".to_owned(), format!("{k}={v}")]).collect();
    let env = format!("PORT={port}");
    let mut args = vec!["run", "--detach", "--network", "host", "--name", &name];
    args.extend(words.iter().map(String::as_str));
    args.extend(["--env", "GREETING=hello", "--env", "TOKEN=guess", "--env", &env, super::bench::IMAGE]);
    bench.podman(&args);
    let found = seen(&bench, &wanted.owner).await.unwrap();
    assert_eq!(found.drift, Vec::<String>::new(), "of a secret only its name is known to a look");
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    let found = ready(&bench, &wanted.owner).await;
    assert_eq!(found.drift, Vec::<String>::new());
    assert_eq!(http(&format!("{}env/TOKEN", found.endpoints[0].url)).unwrap(), SECRET);
}

#[tokio::test]
async fn a_program_that_is_not_in_the_image_is_permanent_and_its_secrets_stay_out_of_what_is_said() {
    let bench = LocalBench::start();
    let mut wanted = workload(&bench, 66);
    // What the engine repeats in its error is the word that it could not run.
    wanted.program.command = vec![format!("/{SECRET}")];
    let error = bench.adapter().deploy(&wanted).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Permanent, "program_missing"), "{error:?}");
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    let found = bench.adapter().observe_one(&wanted.owner).await.unwrap();
    assert!(!serde_json::to_string(&found).unwrap().contains(SECRET), "{found:?}");
}
