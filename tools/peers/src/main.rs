//! B1 to B3 of the list of figures on krt and on what one would take instead, in one run and in turns, so that a busy
//! machine is as busy for each: differential-dataflow, and a kube-rs reflector with maps written by hand.
//!
//! `cargo run --release --manifest-path tools/peers/Cargo.toml`

mod dataflow;
mod engine;
mod reflector;
mod rows;

use std::time::{Duration, Instant};

use dataflow::Dataflow;
use engine::Engine;
use reflector::Reflector;
use rows::{Peer, Service, app, pod};

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// 1,000 pods, each with a new address.
fn updates<P: Peer>(round: u32) -> Vec<P::Pod> {
    (0..1_000).map(|number| P::pod(number, pod(number, 25, round))).collect()
}

fn one_by_one<P: Peer>(peer: &mut P, round: u32) -> Duration {
    let pods = updates::<P>(round);
    timed(|| pods.into_iter().for_each(|pod| peer.commit([pod], [])))
}

fn at_once<P: Peer>(peer: &mut P, round: u32) -> Duration {
    let pods = updates::<P>(round);
    timed(|| peer.commit(pods, []))
}

/// Service 0 leaves its pods, or comes back to them.
fn one_service<P: Peer>(peer: &mut P, round: u32) -> Duration {
    let selector = if round % 2 == 1 { app(1_000_000) } else { app(0) };
    let service = P::service(0, Service { namespace: 0, selector });
    timed(|| peer.commit([], [service]))
}

struct Peers {
    engine: Engine,
    dataflow: Dataflow,
    reflector: Reflector,
}

impl Peers {
    fn filled(pods: u32, services: u32, apps: u32, keep: bool) -> Self {
        let mut peers =
            Self { engine: Engine::new(), dataflow: Dataflow::new(keep), reflector: Reflector::new() };
        peers.engine.fill(pods, services, apps);
        peers.dataflow.fill(pods, services, apps);
        peers.reflector.fill(pods, services, apps);
        peers
    }

    /// The shortest of many rounds, each made by all in turn.
    fn best(&mut self, rounds: u32, round: impl Rounds) -> [Duration; 3] {
        let mut best = [Duration::MAX; 3];
        for number in 1..=rounds {
            let times = [
                round.of(&mut self.engine, number),
                round.of(&mut self.dataflow, number),
                round.of(&mut self.reflector, number),
            ];
            best = std::array::from_fn(|peer| best[peer].min(times[peer]));
        }
        best
    }

    /// All give the same answer: else their times say nothing.
    fn agree(&self, after: &str) {
        let expected = self.engine.workloads();
        assert!(!expected.is_empty());
        assert!(self.dataflow.workloads() == expected, "differential-dataflow differs after {after}");
        assert!(self.reflector.workloads() == expected, "the reflector differs after {after}");
    }
}

/// A round that any peer can make.
trait Rounds {
    fn of<P: Peer>(&self, peer: &mut P, number: u32) -> Duration;
}

struct OneByOne;
struct AtOnce;
struct OneService;

impl Rounds for OneByOne {
    fn of<P: Peer>(&self, peer: &mut P, number: u32) -> Duration {
        one_by_one(peer, number)
    }
}

impl Rounds for AtOnce {
    fn of<P: Peer>(&self, peer: &mut P, number: u32) -> Duration {
        at_once(peer, number)
    }
}

impl Rounds for OneService {
    fn of<P: Peer>(&self, peer: &mut P, number: u32) -> Duration {
        one_service(peer, number)
    }
}

fn print(line: &str, what: &str, [engine, dataflow, reflector]: [Duration; 3]) {
    let ratio = |peer: Duration| format!("{:.2}", peer.as_secs_f64() / engine.as_secs_f64().max(1e-9));
    println!(
        "| {line} | {what:<52} | {engine:>9.1?} | {dataflow:>9.1?} | {:>5} | {reflector:>9.1?} | {:>5} |",
        ratio(dataflow),
        ratio(reflector)
    );
}

fn main() {
    let mut small = Peers::filled(1_000, 50, 25, true);
    small.agree("the first sync");
    small.best(1, OneByOne);
    small.agree("updates one by one");
    small.best(1, AtOnce);
    small.agree("updates at once");
    small.best(1, OneService);
    small.agree("the change of a service");
    println!("Best of the rounds; ratios are the peer's time to krt's, so above 1 krt is the faster one.");
    println!(
        "| {:<2} | {:<52} | {:>9} | {:>9} | {:>5} | {:>9} | {:>5} |",
        "", "", "krt", "dataflow", "ratio", "reflector", "ratio"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut peers = Peers::filled(1_000, 50, 25, false);
    print("B1", "1,000 pod updates in as many commits, 50 services", peers.best(20, OneByOne));
    print("B2", "the same in one (the reflector has none)", peers.best(20, AtOnce));
    let mut peers = Peers::filled(100_000, 1_000, 500, false);
    print("B3", "one service changed over 100,000 pods, 100 concerned", peers.best(50, OneService));
}
