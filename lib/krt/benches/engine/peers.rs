//! The peer of B1 to B3: what one would write by hand for exactly this query, over stores as a watch cache keeps them. It
//! has no snapshots, no streams, no errors by key, no explanation and no oracle; it is what the engine costs more than.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use krt::Labels;

use crate::{Pod, Service, app, best, pod, updates};

type Pair = (u8, String, String);

#[derive(Default)]
pub struct Hand {
    pods: RwLock<HashMap<u32, Arc<Pod>>>,
    services: RwLock<HashMap<u32, Arc<Service>>>,
    pods_by_label: HashMap<Pair, BTreeSet<u32>>,
    services_by_pair: HashMap<Pair, BTreeSet<u32>>,
    workloads: BTreeMap<u32, (u32, Vec<u32>)>,
}

fn pairs(namespace: u8, labels: &Labels) -> impl Iterator<Item = Pair> {
    labels.iter().map(move |(name, value)| (namespace, name.clone(), value.clone()))
}

impl Hand {
    fn recompute(&mut self, key: u32) {
        let pods = self.pods.read().unwrap();
        let Some(pod) = pods.get(&key) else { return };
        let services = self.services.read().unwrap();
        let mut selecting: Vec<u32> = pairs(pod.namespace, &pod.labels)
            .flat_map(|pair| self.services_by_pair.get(&pair).into_iter().flatten().copied())
            .filter(|key| {
                let wanted = services.get(key).map(|service| &service.selector);
                wanted.is_some_and(|wanted| wanted.iter().all(|(n, v)| pod.labels.get(n) == Some(v)))
            })
            .collect();
        selecting.sort_unstable();
        self.workloads.insert(key, (pod.address, selecting));
    }

    fn put_pod(&mut self, key: u32, row: Pod) {
        let row = Arc::new(row);
        let old = self.pods.write().unwrap().insert(key, Arc::clone(&row));
        if old.as_ref() == Some(&row) {
            return;
        }
        for pair in old.iter().flat_map(|old| pairs(old.namespace, &old.labels)) {
            if let Some(members) = self.pods_by_label.get_mut(&pair) {
                members.remove(&key);
            }
        }
        for pair in pairs(row.namespace, &row.labels) {
            self.pods_by_label.entry(pair).or_default().insert(key);
        }
        self.recompute(key);
    }

    /// Gives how many pods were looked at again.
    fn put_service(&mut self, key: u32, row: Service) -> usize {
        let row = Arc::new(row);
        let old = self.services.write().unwrap().insert(key, Arc::clone(&row));
        let mut concerned = BTreeSet::new();
        for pair in old.iter().flat_map(|old| pairs(old.namespace, &old.selector).take(1)) {
            concerned.extend(self.pods_by_label.get(&pair).into_iter().flatten());
            if let Some(members) = self.services_by_pair.get_mut(&pair) {
                members.remove(&key);
            }
        }
        for pair in pairs(row.namespace, &row.selector).take(1) {
            concerned.extend(self.pods_by_label.get(&pair).into_iter().flatten());
            self.services_by_pair.entry(pair).or_default().insert(key);
        }
        concerned.iter().for_each(|pod| self.recompute(*pod));
        concerned.len()
    }
}

fn hand(pods: u32, services: u32, apps: u32) -> Hand {
    let mut hand = Hand::default();
    for number in 0..services {
        let namespace = u8::try_from(number % 2).unwrap();
        hand.put_service(number, Service { namespace, selector: app((number / 2) % apps) });
    }
    for number in 0..pods {
        let mut row = pod(number, 0);
        row.labels = app((number / 2) % apps);
        hand.put_pod(number, row);
    }
    hand
}

fn print(line: &str, what: &str, hand: Duration, engine: Duration) {
    let ratio = engine.as_secs_f64() / hand.as_secs_f64().max(1e-9);
    println!("{line:<4} {what:<64} {hand:>12.2?}  the engine takes {ratio:.1} times as long");
}

/// Time by hand for the work of B1 (and B2: by hand there is no transaction to gain from) and of B3.
pub fn peers(b1: Duration, b2: Duration, b3: Duration) {
    let mut small = hand(1_000, 50, 25);
    let mut round = 0;
    let took = best(20, || {
        round += 1;
        let rows = updates(round);
        let start = Instant::now();
        rows.into_iter().for_each(|(key, row)| small.put_pod(key, row));
        start.elapsed()
    });
    print("B1", "peer: the same by hand", took, b1);
    print("B2", "peer: the same by hand", took, b2);
    assert_eq!(small.workloads[&0], (round + 1, vec![0]), "pod 0 is selected by service 0");
    let mut big = hand(100_000, 1_000, 500);
    let mut turn = 0;
    let mut matches = 0;
    let took = best(50, || {
        turn += 1;
        let selector = if turn % 2 == 1 { app(1_000_000) } else { app(0) };
        let start = Instant::now();
        matches = big.put_service(0, Service { namespace: 0, selector });
        start.elapsed()
    });
    print("B3", &format!("peer: the same by hand, {matches} pods"), took, b3);
}
