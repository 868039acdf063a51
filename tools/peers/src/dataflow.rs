//! The same in differential-dataflow, on one worker: services joined with pods by label, gathered by pod. A commit is a
//! time of its own; it is done when no more can come of that time.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Instant;

use differential_dataflow::input::{Input, InputSession};
use timely::WorkerConfig;
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::dataflow::ProbeHandle;
use timely::worker::Worker;

use crate::rows::{Peer, Pod, Service, Workloads, pairs, selects};

/// What is gathered for one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
enum Part {
    Address(u32),
    SelectedBy(u32),
}

pub struct Dataflow {
    worker: Worker,
    pods: InputSession<u32, (u32, Pod), isize>,
    services: InputSession<u32, (u32, Service), isize>,
    probe: ProbeHandle<u32>,
    /// A changed row is the old one taken back and the new one put in, so somebody must know the old one.
    held: (HashMap<u32, Pod>, HashMap<u32, Service>),
    kept: Rc<RefCell<Workloads>>,
}

impl Dataflow {
    /// `keep` copies the answer to where it can be read at once, which costs a little.
    pub fn new(keep: bool) -> Self {
        let thread = Allocator::Thread(Thread::default());
        let mut worker = Worker::new(WorkerConfig::default(), thread, Some(Instant::now()));
        let kept = Rc::new(RefCell::new(BTreeMap::new()));
        let (copy, mut probe) = (Rc::clone(&kept), ProbeHandle::new());
        let (pods, services) = worker.dataflow::<u32, _, _>(|scope| {
            let (pods, pod_rows) = scope.new_collection::<(u32, Pod), isize>();
            let (services, service_rows) = scope.new_collection::<(u32, Service), isize>();
            let by_label = pod_rows.clone().flat_map(|(key, pod)| {
                let pairs: Vec<_> = pairs(pod.namespace, &pod.labels).collect();
                pairs.into_iter().map(move |pair| (pair, (key, pod.labels.clone())))
            });
            // One label of a selector is enough to be found by; the rest of it is looked at in the join.
            let by_selector = service_rows.flat_map(|(key, service)| {
                let first = pairs(service.namespace, &service.selector).next();
                first.map(|pair| (pair, (key, service.selector)))
            });
            let selected = by_label
                .join_map(by_selector, |_, (pod, labels), (service, selector)| {
                    selects(selector, labels).then_some((*pod, Part::SelectedBy(*service)))
                })
                .flat_map(|found| found);
            let rows = pod_rows.map(|(key, pod)| (key, Part::Address(pod.address))).concat(selected).reduce(
                |_, parts, out| {
                    let mut row = (0, Vec::new());
                    for (part, _) in parts {
                        match part {
                            Part::Address(address) => row.0 = *address,
                            Part::SelectedBy(service) => row.1.push(*service),
                        }
                    }
                    out.push((row, 1isize));
                },
            );
            let rows = if keep {
                rows.inspect(move |((key, row), _, more)| {
                    let mut copy = copy.borrow_mut();
                    if *more > 0 {
                        copy.insert(*key, row.clone());
                    } else if copy.get(key) == Some(row) {
                        copy.remove(key);
                    }
                })
            } else {
                rows
            };
            rows.probe_with(&mut probe);
            (pods, services)
        });
        Self { worker, pods, services, probe, held: (HashMap::new(), HashMap::new()), kept }
    }
}

impl Peer for Dataflow {
    type Pod = (u32, Pod);
    type Service = (u32, Service);

    fn pod(key: u32, row: Pod) -> Self::Pod {
        (key, row)
    }

    fn service(key: u32, row: Service) -> Self::Service {
        (key, row)
    }

    fn commit(
        &mut self,
        pods: impl IntoIterator<Item = Self::Pod>,
        services: impl IntoIterator<Item = Self::Service>,
    ) {
        for (key, row) in services {
            if let Some(old) = self.held.1.insert(key, row.clone()) {
                self.services.remove((key, old));
            }
            self.services.insert((key, row));
        }
        for (key, row) in pods {
            if let Some(old) = self.held.0.insert(key, row.clone()) {
                self.pods.remove((key, old));
            }
            self.pods.insert((key, row));
        }
        let next = self.pods.time() + 1;
        self.pods.advance_to(next);
        self.services.advance_to(next);
        self.pods.flush();
        self.services.flush();
        while self.probe.less_than(&next) {
            self.worker.step();
        }
    }

    fn workloads(&self) -> Workloads {
        self.kept.borrow().clone()
    }
}
