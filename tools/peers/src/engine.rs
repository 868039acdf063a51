//! krt itself.

use krt::{Collection, Graph, Input};

use crate::rows::{Peer, Pod, Service, Workloads};

pub struct Engine {
    graph: Graph,
    pods: Input<u32, Pod>,
    services: Input<u32, Service>,
    workloads: Collection<u32, (u32, Vec<u32>)>,
}

impl Engine {
    /// # Panics
    /// When the declarations are wrong.
    pub fn new() -> Self {
        let mut builder = Graph::builder();
        let pods = builder.input::<u32, Pod>("pods");
        let services = builder.input::<u32, Service>("services");
        let selectors = builder.selectors("selectors", &services, |_, service| {
            (service.namespace, Some(service.selector.clone()))
        });
        let workloads = builder.derive("workloads", &pods, move |ctx, _, pod| {
            let selecting = ctx.selecting(&selectors, &pod.namespace, &pod.labels);
            Some((pod.address, selecting.into_iter().map(|(key, _)| *key).collect::<Vec<_>>()))
        });
        Self { graph: builder.seal().expect("the declarations are right"), pods, services, workloads }
    }
}

impl Peer for Engine {
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
        let mut tx = self.graph.transaction();
        services.into_iter().for_each(|(key, row)| tx.put(&self.services, key, row));
        pods.into_iter().for_each(|(key, row)| tx.put(&self.pods, key, row));
        tx.commit();
    }

    fn workloads(&self) -> Workloads {
        let snapshot = self.graph.snapshot();
        snapshot.rows(&self.workloads).map(|(key, row)| (*key, (**row).clone())).collect()
    }
}
