//! The contract of [`Adapter`] as checks that every platform passes: each takes a [`Bench`] and knows nothing of the
//! platform behind it. `contract_tests!` makes a test of each.

use basalt_adapters::{Adapter, Applied, Discovered, Error, LogOptions, Normalise, Removed};
use basalt_model::{
    DeploymentId, Epoch, Generation, Name,
    artifacts::{ArtifactKind, ArtifactRef, Tag},
    deployments::{ErrorClass, ObservedWorkload, Owner, Program, Readiness, Resources, SecretText, Workload},
};
use futures::StreamExt;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A value that must be seen by the program and by nothing and nobody else.
pub const SECRET: &str = "hush-4711-never-shown";

/// A platform with an adapter for it.
pub trait Bench: Send + Sync {
    /// Another instance of the adapter, as another gateway would have it.
    fn adapter(&self) -> Arc<dyn Adapter>;
    /// What the platform's things come to.
    fn normalise(&self) -> Normalise;
    /// A program that becomes ready, says so over HTTP, and writes [`Bench::log_text`] in several lines as it begins.
    fn program(&self) -> Program;
    /// What stands in its log.
    fn log_text(&self) -> &'static str;
    /// Where it runs.
    fn namespace(&self) -> Option<Name>;
}

/// The contract's workload of a number: other numbers are other deployments.
pub fn workload(bench: &dyn Bench, number: u128) -> Workload {
    let name = |text: &str| Name::new(text).unwrap();
    Workload {
        owner: Owner {
            id: DeploymentId(uuid::Uuid::from_u128(number)),
            project: name("contract"),
            name: name("web"),
            namespace: bench.namespace(),
        },
        generation: Generation(1),
        epoch: Epoch(1),
        fingerprint: "f-1".into(),
        target: ArtifactRef { kind: ArtifactKind::Agent, name: name("web"), tag: Tag::default() },
        program: bench.program(),
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        secret_env: BTreeMap::from([("TOKEN".to_owned(), SecretText::new(SECRET))]),
        resources: Resources::default(),
        kubernetes: Default::default(),
        local: Default::default(),
    }
}

/// The next one of the same deployment: other settings, so another fingerprint.
pub fn changed(of: &Workload) -> Workload {
    let mut next = of.clone();
    next.generation = Generation(of.generation.0 + 1);
    next.epoch = Epoch(of.epoch.0 + 1);
    next.fingerprint = format!("f-{}", next.generation.0);
    next.env.insert("GREETING".into(), format!("hello {}", next.generation.0));
    next
}

/// What is seen of one owner, in the words of all platforms.
pub async fn seen(bench: &dyn Bench, owner: &Owner) -> Option<ObservedWorkload> {
    let found = bench.adapter().observe_one(owner).await.unwrap();
    (bench.normalise())(&found)
}

/// Waits until it is ready, and gives what is seen then.
pub async fn ready(bench: &dyn Bench, owner: &Owner) -> ObservedWorkload {
    let mut last = None;
    for _ in 0..300 {
        last = seen(bench, owner).await;
        if let Some(found) = last.take_if(|w| w.readiness == Readiness::Ready) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not ready in time: {last:?}")
}

/// Takes it away, until it is gone.
pub async fn gone(adapter: &dyn Adapter, owner: &Owner, epoch: Epoch) {
    for _ in 0..300 {
        match adapter.undeploy(owner, epoch).await.unwrap() {
            Removed::Absent => return,
            Removed::Gone | Removed::Going => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("{owner:?} does not go away")
}

fn refused(result: Result<impl std::fmt::Debug, Error>) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.class, ErrorClass::Conflict, "{error}");
    assert!(!error.reason.subject.is_empty() && !error.reason.remedy.is_empty(), "{error}");
    error
}

/// Deployed once and again, by one adapter and by another: the same thing, left alone the second time.
pub async fn deploy_is_idempotent(bench: &dyn Bench) {
    let wanted = workload(bench, 1);
    let first = bench.adapter();
    assert_eq!(first.deploy(&wanted).await.unwrap(), Applied::Changed);
    let ready = ready(bench, &wanted.owner).await;
    assert_eq!(ready.owner, Some(wanted.owner.id));
    assert_eq!(ready.project.as_deref(), Some("contract"));
    assert_eq!(ready.fingerprint.as_deref(), Some("f-1"));
    assert_eq!((ready.generation, ready.epoch), (Some(wanted.generation), Some(wanted.epoch)));
    assert_eq!(ready.kind, Some(ArtifactKind::Agent));
    assert_eq!(ready.drift, Vec::<String>::new());
    assert!(!ready.endpoints.is_empty());
    let mut again = wanted.clone();
    again.epoch = Epoch(2);
    assert_eq!(first.deploy(&again).await.unwrap(), Applied::Unchanged);
    assert_eq!(bench.adapter().deploy(&again).await.unwrap(), Applied::Unchanged);
    assert_eq!(
        seen(bench, &wanted.owner).await,
        Some(ready),
        "an unchanged one is left alone, its epoch too"
    );
    gone(&*first, &wanted.owner, again.epoch).await;
}

/// Changed: converges to the new one, with nothing of the old one left and where it was.
pub async fn a_change_is_applied(bench: &dyn Bench) {
    let old = workload(bench, 2);
    let adapter = bench.adapter();
    adapter.deploy(&old).await.unwrap();
    let before = ready(bench, &old.owner).await;
    let new = changed(&old);
    assert_eq!(adapter.deploy(&new).await.unwrap(), Applied::Changed);
    let after = ready(bench, &old.owner).await;
    assert_eq!(after.fingerprint.as_deref(), Some("f-2"));
    assert_eq!((after.generation, after.epoch), (Some(new.generation), Some(new.epoch)));
    assert_eq!(after.endpoints, before.endpoints, "who uses it finds it where it was");
    assert_eq!(adapter.deploy(&new).await.unwrap(), Applied::Unchanged);
    gone(&*adapter, &new.owner, new.epoch).await;
}

/// Taken away once and again; and there again after that.
pub async fn undeploy_is_idempotent(bench: &dyn Bench) {
    let wanted = workload(bench, 3);
    let adapter = bench.adapter();
    assert_eq!(adapter.undeploy(&wanted.owner, wanted.epoch).await.unwrap(), Removed::Absent);
    adapter.deploy(&wanted).await.unwrap();
    assert_ne!(adapter.undeploy(&wanted.owner, wanted.epoch).await.unwrap(), Removed::Absent);
    gone(&*bench.adapter(), &wanted.owner, wanted.epoch).await;
    assert_eq!(seen(bench, &wanted.owner).await, None);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    ready(bench, &wanted.owner).await;
    gone(&*adapter, &wanted.owner, wanted.epoch).await;
}

/// Two deployments of the same name: neither is taken for the other.
pub async fn another_owner_is_left_alone(bench: &dyn Bench) {
    let (ours, theirs) = (workload(bench, 4), workload(bench, 5));
    let adapter = bench.adapter();
    adapter.deploy(&ours).await.unwrap();
    adapter.deploy(&theirs).await.unwrap();
    ready(bench, &ours.owner).await;
    let before = ready(bench, &theirs.owner).await;
    adapter.deploy(&changed(&ours)).await.unwrap();
    gone(&*adapter, &ours.owner, changed(&ours).epoch).await;
    assert_eq!(seen(bench, &ours.owner).await, None);
    assert_eq!(seen(bench, &theirs.owner).await, Some(before));
    gone(&*adapter, &theirs.owner, theirs.epoch).await;
}

/// Something of another owner stands where ours would be: it is not taken over, and it is said whose it is. The ids of
/// both end alike, so that both would have the same name.
pub async fn nothing_of_another_owner_is_taken_over(bench: &dyn Bench) {
    let (theirs, ours) = (workload(bench, 6), workload(bench, (7 << 64) | 6));
    assert_eq!(theirs.owner.workload_name(), ours.owner.workload_name());
    let adapter = bench.adapter();
    adapter.deploy(&theirs).await.unwrap();
    let before = ready(bench, &theirs.owner).await;
    let error = refused(adapter.deploy(&ours).await);
    assert_eq!(error.reason.code.to_string(), "other_owner", "{error}");
    assert_eq!(adapter.undeploy(&ours.owner, ours.epoch).await.unwrap(), Removed::Absent);
    assert_eq!(seen(bench, &ours.owner).await, None);
    assert_eq!(seen(bench, &theirs.owner).await, Some(before));
    gone(&*adapter, &theirs.owner, theirs.epoch).await;
}

/// An older attempt comes late: it neither writes nor takes away.
pub async fn an_older_attempt_is_refused(bench: &dyn Bench) {
    let old = workload(bench, 8);
    let mut new = changed(&old);
    new.epoch = Epoch(9);
    let adapter = bench.adapter();
    adapter.deploy(&new).await.unwrap();
    let before = ready(bench, &new.owner).await;
    assert_eq!(refused(adapter.deploy(&old).await).reason.code.to_string(), "newer_attempt");
    assert_eq!(
        refused(adapter.undeploy(&old.owner, old.epoch).await).reason.code.to_string(),
        "newer_attempt"
    );
    assert_eq!(seen(bench, &new.owner).await, Some(before));
    gone(&*adapter, &new.owner, new.epoch).await;
}

/// Two looks at what stands still are equal, and a look at one shows what the look at all shows.
pub async fn looks_stand_still_and_agree(bench: &dyn Bench) {
    let (one, two) = (workload(bench, 10), workload(bench, 11));
    let adapter = bench.adapter();
    for wanted in [&one, &two] {
        adapter.deploy(wanted).await.unwrap();
        ready(bench, &wanted.owner).await;
    }
    let sorted = |mut found: Vec<Discovered>| {
        found.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
        found
    };
    let all = sorted(adapter.observe().await.unwrap());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(all, sorted(bench.adapter().observe().await.unwrap()), "nothing happened, nothing differs");
    for wanted in [&one, &two] {
        let alone = sorted(adapter.observe_one(&wanted.owner).await.unwrap());
        let among: Vec<_> = all.iter().filter(|d| d.owner == Some(wanted.owner.id)).cloned().collect();
        assert!(!alone.is_empty());
        assert_eq!(alone, among);
        gone(&*adapter, &wanted.owner, wanted.epoch).await;
    }
    let left = adapter.observe().await.unwrap();
    assert!(left.iter().all(|d| d.owner != Some(one.owner.id) && d.owner != Some(two.owner.id)), "{left:?}");
}

/// A secret's value is in nothing that is seen, said or printed.
pub async fn secrets_are_nowhere(bench: &dyn Bench) {
    let wanted = workload(bench, 12);
    let adapter = bench.adapter();
    adapter.deploy(&wanted).await.unwrap();
    ready(bench, &wanted.owner).await;
    let encoded = "aHVzaC00NzExLW5ldmVyLXNob3du"; // as Kubernetes writes it
    let said = [
        serde_json::to_string(&adapter.observe().await.unwrap()).unwrap(),
        serde_json::to_string(&adapter.observe_one(&wanted.owner).await.unwrap()).unwrap(),
        format!("{:?}", seen(bench, &wanted.owner).await),
        format!("{wanted:?}"),
        format!("{:?}", adapter.health().await.unwrap()),
    ];
    for text in said {
        assert!(!text.contains(SECRET) && !text.contains(encoded), "{text}");
    }
    // The same with another secret under the same fingerprint cannot happen; with another fingerprint it is a change.
    let mut rotated = changed(&wanted);
    rotated.secret_env.insert("TOKEN".into(), SecretText::new("another"));
    assert_eq!(adapter.deploy(&rotated).await.unwrap(), Applied::Changed);
    gone(&*adapter, &wanted.owner, rotated.epoch).await;
}

/// The log is read: all of it, its last lines, and as it grows.
pub async fn logs_are_read(bench: &dyn Bench) {
    let wanted = workload(bench, 13);
    let adapter = bench.adapter();
    adapter.deploy(&wanted).await.unwrap();
    ready(bench, &wanted.owner).await;
    let all = lines(&*adapter, &wanted.owner, LogOptions::default()).await;
    assert!(all.len() >= 2 && all.iter().any(|l| l.contains(bench.log_text())), "{all:?}");
    let tail = LogOptions { tail: Some(1), ..Default::default() };
    assert_eq!(lines(&*adapter, &wanted.owner, tail).await, all[all.len() - 1..]);
    let follow = LogOptions { follow: true, ..Default::default() };
    let mut stream = adapter.logs(&wanted.owner, follow).await.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().line, all[0]);
    drop(stream);
    gone(&*adapter, &wanted.owner, wanted.epoch).await;
    let error = adapter.logs(&wanted.owner, LogOptions::default()).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Missing, "{error}");
}

/// The lines of a log that ends.
pub async fn lines(adapter: &dyn Adapter, owner: &Owner, options: LogOptions) -> Vec<String> {
    let stream = adapter.logs(owner, options).await.unwrap();
    let all = tokio::time::timeout(Duration::from_secs(10), stream.collect::<Vec<_>>()).await.unwrap();
    all.into_iter().map(|line| line.unwrap().line).collect()
}

/// Makes a test of each check, with a bench of its own: `contract_tests!(bench().await)`.
macro_rules! contract_tests {
    ($bench:expr) => {
        $crate::contract::contract_tests!(@each $bench,
            deploy_is_idempotent a_change_is_applied undeploy_is_idempotent another_owner_is_left_alone
            nothing_of_another_owner_is_taken_over an_older_attempt_is_refused looks_stand_still_and_agree
            secrets_are_nowhere logs_are_read);
    };
    (@each $bench:expr, $($check:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            let bench = $bench;
            $crate::contract::$check(&bench).await;
        })*
    };
}
pub(crate) use contract_tests;
