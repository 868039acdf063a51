//! The simulator's own tests, and the seeds that each run of CI takes. See docs/testing.md.

use basalt_tests::sim::{Base, Plan, run::run, sweep};
use std::sync::Arc;

/// A test runs in one thread: one operation at a time.
#[tokio::test]
async fn simulated_create_comes_to_rest_and_the_same_seed_tells_the_same_story() {
    let base = Arc::new(Base::new().await.unwrap());
    let plan = Plan::script(7, &["create vm"]);
    let first = run(&base, &plan).await.unwrap();
    let second = run(&base, &plan).await.unwrap();
    assert_eq!(first.story.join("\n"), second.story.join("\n"));
    assert!(first.story.iter().any(|line| line.contains("USER create vm: accepted")));
    println!("{}", first.story.join("\n"));
}

/// A number from the environment: another seed to begin with, or how many.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs one share of the seeds. All of them have the same base, which is printed, so that CI says the same each time.
async fn share(of: u64, which: u64) {
    let (first, count) = (number("BASALT_SIM_SEED", 1), number("BASALT_SIM_SEEDS", 12));
    let base = Arc::new(Base::new().await.unwrap());
    let (mut faults, mut seeds, mut kinds) = (0, 0, std::collections::BTreeMap::new());
    let begun = std::time::Instant::now();
    for seed in (first..first + count).filter(|seed| seed % of == which) {
        let outcome = run(&base, &Plan::of(seed)).await.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(outcome.faults >= 50, "{} faults", outcome.faults);
        faults += outcome.faults;
        seeds += 1;
        outcome.by_kind.into_iter().for_each(|(kind, n)| *kinds.entry(kind).or_insert(0) += n);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {first}, {faults} faults in {seconds:.1} s: {:.2} seeds/s",
        seeds as f64 / seconds
    );
    println!("{kinds:?}");
}

#[tokio::test]
async fn simulated_seeds_1_of_4_end_as_promised_under_fifty_faults_each() {
    share(4, 0).await;
}

#[tokio::test]
async fn simulated_seeds_2_of_4_end_as_promised_under_fifty_faults_each() {
    share(4, 1).await;
}

#[tokio::test]
async fn simulated_seeds_3_of_4_end_as_promised_under_fifty_faults_each() {
    share(4, 2).await;
}

#[tokio::test]
async fn simulated_seeds_4_of_4_end_as_promised_under_fifty_faults_each() {
    share(4, 3).await;
}

/// CI takes some injections; `cargo xtask soak --sweep 1` takes all.
async fn swept(workflows: &[sweep::Workflow]) {
    let base = Arc::new(Base::new().await.unwrap());
    let begun = std::time::Instant::now();
    let every = usize::try_from(number("BASALT_SIM_EVERY", 37)).unwrap();
    let swept = sweep::sweep(&base, 1, workflows, every).await.unwrap_or_else(|failure| panic!("{failure}"));
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} injections in {seconds:.1} s: {:?}", swept.total(), swept.injections);
}

#[tokio::test]
async fn crash_sweep_of_vms_that_come_and_go() {
    swept(sweep::LIVES).await;
}

#[tokio::test]
async fn crash_sweep_of_vms_on_their_way() {
    swept(sweep::WAYS).await;
}
