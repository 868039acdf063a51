//! The simulator's own tests, and the seeds that each run of CI takes. See docs/testing.md.

use basalt_tests::sim::{
    Base, Plan,
    oracles::besides_chance,
    run::{run, without_faults},
    sweep,
    watcher::Counts,
};
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

/// Seeds that each run of CI takes, and faults of each at least.
const SEEDS: u64 = 500;
const FAULTS: u64 = 50;
/// Each so many-th seed is compared with the same calls in a world without faults.
const COMPARED: u64 = 10;

/// Runs one share of the seeds. All of them have the same base, which is printed, so that CI says the same each time.
async fn share(of: u64, which: u64) {
    let (first, count) = (number("BASALT_SIM_SEED", 1), number("BASALT_SIM_SEEDS", SEEDS));
    let base = Arc::new(Base::new().await.unwrap());
    let (mut faults, mut seeds, mut kinds) = (0, 0, std::collections::BTreeMap::new());
    let (mut compared, mut watched) = (0, Counts::default());
    let begun = std::time::Instant::now();
    for seed in (first..first + count).filter(|seed| seed % of == which) {
        let outcome = run(&base, &Plan::of(seed)).await.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(outcome.faults >= FAULTS, "{} faults", outcome.faults);
        faults += outcome.faults;
        seeds += 1;
        watched += outcome.watched;
        if (seed / of).is_multiple_of(COMPARED) {
            let without = without_faults(&base, seed, &outcome.accepted).await;
            let without = without.unwrap_or_else(|failure| panic!("without faults: {failure}"));
            let (with, without) = (besides_chance(&outcome.picture), besides_chance(&without));
            assert_eq!(with, without, "O2: seed {seed}, with faults and without");
            compared += 1;
        }
        outcome.by_kind.into_iter().for_each(|(kind, n)| *kinds.entry(kind).or_insert(0) += n);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {first}, {faults} faults in {seconds:.1} s: {:.2} seeds/s; {compared} compared; {watched:?}",
        seeds as f64 / seconds
    );
    println!("{kinds:?}");
    assert!(seeds >= count / of && seeds > 0, "{seeds} seeds of {count}");
    assert!(watched.events > 0 && watched.lists >= seeds, "{watched:?}");
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

/// CI takes so many injections of these workflows at least, each `every`-th; `cargo xtask soak --sweep 1` takes all. `every` is
/// odd, so that each of the eight faults has its turn.
async fn swept(rounds: &[sweep::Round], every: u64, least: u64) {
    let base = Arc::new(Base::new().await.unwrap());
    let begun = std::time::Instant::now();
    let every = usize::try_from(number("BASALT_SIM_EVERY", every)).unwrap();
    let swept = sweep::sweep(&base, 1, rounds, every).await.unwrap_or_else(|failure| panic!("{failure}"));
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} injections in {seconds:.1} s: {:?}", swept.total(), swept.injections);
    assert!(swept.total() >= least, "{} injections", swept.total());
}

#[tokio::test]
async fn crash_sweep_of_vms_that_come_and_go() {
    swept(sweep::LIVES, 1, 800).await;
}

#[tokio::test]
async fn crash_sweep_of_vms_with_everything_that_a_vm_can_have() {
    swept(sweep::FULL, 3, 130).await;
}

#[tokio::test]
async fn crash_sweep_of_vms_that_are_changed() {
    swept(sweep::CHANGES, 1, 455).await;
}

#[tokio::test]
async fn crash_sweep_of_networks_and_volumes() {
    swept(sweep::WIRES, 1, 390).await;
}

#[tokio::test]
async fn crash_sweep_of_routers_and_security_groups() {
    swept(sweep::WALLS, 3, 140).await;
}

#[tokio::test]
async fn crash_sweep_of_vms_on_their_way() {
    swept(sweep::WAYS, 3, 235).await;
}

#[tokio::test]
async fn crash_sweep_of_hosts_that_are_drained() {
    swept(sweep::DRAINS, 9, 85).await;
}
