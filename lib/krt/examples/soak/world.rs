//! The graph and the churn of the soak, shared by the example and by the conformance test of C179.

use std::time::Duration;

use krt::{
    Collection, Failure, Filter, Graph, Input, Labels, Memory, Subscribe, Subscription, Work, WorkOptions,
};

/// A host's number, an image's number and a size.
pub type Vm = (u32, u32, u64);

pub struct World {
    pub graph: Graph,
    vms: Input<u32, Vm>,
    images: Input<u32, u32>,
    ports: Input<u32, (u32, u32)>,
    ticks: Input<(), u64>,
    items: Collection<u32, String>,
    /// Come and go. The first reads one event in a while, and so lags most of the time; the second feeds the work.
    readers: Option<[Subscription; 2]>,
    work: Work<u32, String>,
    random: u64,
    commits: u64,
}

fn app(n: u32) -> Labels {
    Labels::from([("app".to_owned(), n.to_string())])
}

const SEED: u64 = 88_172_645_463_325_252;

impl World {
    /// Every kind of operator and of read, over inputs of a dozen rows: what piles up is then no row.
    pub fn new() -> Result<Self, krt::Error> {
        let mut builder = Graph::builder();
        let vms = builder.input::<u32, Vm>("vms");
        let images = builder.input::<u32, u32>("images");
        let ports = builder.input::<u32, (u32, u32)>("ports");
        let ticks = builder.input::<(), u64>("ticks");
        let ports_by_vm = builder.index("ports_by_vm", &ports, |_, port| [port.0]);
        let ports_by_network = builder.index("ports_by_network", &ports, |_, port| [port.1]);
        let vms_by_host = builder.index("vms_by_host", &vms, |_, vm| [vm.0]);
        let vms_by_label = builder.labels("vms_by_label", &vms, |_, vm| ((), app(vm.1)));
        let items = builder.derive("items", &vms, move |ctx, id, vm| {
            let image = ctx.get(&images, &vm.1).ok_or_else(|| Failure::keep("no image"))?;
            let ports = ctx.lookup(&ports_by_vm, id).count();
            let alike = ctx.labelled(&vms_by_label, &(), &app(vm.1)).len();
            assert!(**image != 3, "an image that makes runs panic");
            Ok::<_, Failure>(Some(format!("{image} {ports} {alike}")))
        });
        let add = |sum: &mut u64, _: &u32, vm: &Vm| *sum += vm.2;
        let remove = |sum: &mut u64, _: &u32, vm: &Vm| *sum -= vm.2;
        let used = builder.reduce("used", &vms_by_host, |_| 0, add, remove, |_, sum| Some(*sum));
        let neighbours =
            builder.equi_join("neighbours", &ports_by_network, &ports_by_network, |left, right| {
                (left.0 < right.0).then_some(left.1.1)
            });
        let names = builder
            .derive_many("names", &items, |_, id, text| vec![(text.len(), *id), (*id as usize + 9, 0)]);
        let before = builder.previous::<u32, u64>("before");
        builder.derive("moved", &used, move |ctx, host, sum| {
            let filter = Filter::of(&vms).under(&vms_by_host, *host).matching(|_, vm| vm.2 > 5);
            Some((ctx.get(&before, host).map(|then| **then), *sum, ctx.select(&filter).len()))
        });
        builder.previous_of(&before, &used);
        builder.singleton("sizes", move |ctx| {
            let _ = ctx.project(&ticks, &(), |now| now / 50);
            Some((ctx.scan(&names).count(), ctx.count(&vms_by_host, &1)))
        });
        builder.group("hosts", &vms_by_host, |_, _, members| Some(members.len()));
        let _ = neighbours;
        let graph = builder.seal()?;
        let work = Work::new(&items, WorkOptions::default());
        Ok(Self { graph, vms, images, ports, ticks, items, readers: None, work, random: SEED, commits: 0 })
    }

    /// Readers are there for an eighth of the time; without them commits change what they hold in place.
    fn turn_readers(&mut self) {
        match self.commits % 4_096 {
            0 => {
                let slow = self.graph.subscribe(&Subscribe::all().capacity(8));
                let quick = self.graph.subscribe(&Subscribe::only([self.items.id()]));
                self.work.reset(&self.graph.snapshot(), Duration::from_secs(self.commits));
                self.readers = Some([slow, quick]);
            }
            512 => self.readers = None,
            _ => {}
        }
        let Some([slow, quick]) = &mut self.readers else { return };
        while let Some(event) = quick.try_next() {
            self.work.apply(&event, Duration::from_secs(self.commits));
        }
        if self.commits.is_multiple_of(64) {
            let _ = slow.try_next();
        }
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // Of the top half, which fits.
        ((self.random >> 32) as u32) % limit
    }

    /// One transaction of one change.
    pub fn commit(&mut self) {
        let (kind, key) = (self.below(24), self.below(8));
        let (first, second, size) = (self.below(5), self.below(6), u64::from(self.below(12)));
        let mut tx = self.graph.transaction();
        match kind {
            0 | 1 => tx.put(&self.vms, key, (first, second, size)),
            2 => tx.delete(&self.vms, &key),
            3 | 4 => tx.put(&self.ports, key * 2 + first % 2, (key, second)),
            5 => tx.delete(&self.ports, &(key * 2 + first % 2)),
            6 => tx.delete(&self.images, &second),
            7 => tx.put(&self.images, second, first),
            // Most of the time only time passes, which most of the time is nobody's concern.
            _ => tx.put(&self.ticks, (), self.commits),
        }
        tx.commit();
        self.commits += 1;
        self.turn_readers();
    }

    /// The same state whatever came before, and what is held in it: per collection; slots of work, whether the stream is over its bound, errors.
    pub fn rest(&mut self) -> (Vec<(String, Memory)>, [usize; 3]) {
        let mut tx = self.graph.transaction();
        tx.reset(&self.vms, (0..8).map(|vm| (vm, (vm % 5, vm % 6, u64::from(vm)))));
        tx.reset(&self.images, (0..6).map(|image| (image, image + 10)));
        tx.reset(&self.ports, (0..12).map(|port| (port, (port % 8, port % 6))));
        tx.put(&self.ticks, (), 0);
        tx.commit();
        // What is shown a revision later arrives.
        self.graph.transaction().commit();
        self.work.reset(&self.graph.snapshot(), Duration::from_secs(self.commits));
        let backlog = self.readers.as_ref().map_or(0, |[slow, _]| usize::from(slow.backlog() > 8));
        let errors = self.graph.snapshot().errors(&self.items).len();
        let memory =
            self.graph.memory().into_iter().map(|(name, memory)| (name.to_owned(), memory)).collect();
        (memory, [self.work.slots(), backlog, errors])
    }
}
