//! The same with kube-rs: two reflector stores, fed with watch events in memory, and beside them the maps one writes by
//! hand. There is no transaction: each event is taken in on its own.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

use kube_runtime::reflector::store::Writer;
use kube_runtime::reflector::{Lookup, ObjectRef, Store};
use kube_runtime::watcher::Event;

use crate::rows::{Pair, Peer, Pod, Service, Workloads, pairs, selects};

/// A row as an object of the reflector's: with a name inside a namespace.
#[derive(Debug, Clone)]
pub struct Object<T> {
    key: u32,
    name: String,
    namespace: String,
    row: T,
}

impl<T> Object<T> {
    fn new(kind: &str, key: u32, namespace: u8, row: T) -> Self {
        Self { key, name: format!("{kind}-{key}"), namespace: format!("namespace-{namespace}"), row }
    }
}

impl<T> Lookup for Object<T> {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        "Object".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "peers".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "objects".into()
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(self.name.as_str().into())
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        Some(self.namespace.as_str().into())
    }

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}

type PodRef = ObjectRef<Object<Pod>>;
type ServiceRef = ObjectRef<Object<Service>>;

pub struct Reflector {
    pods: (Writer<Object<Pod>>, Store<Object<Pod>>),
    services: (Writer<Object<Service>>, Store<Object<Service>>),
    pods_by_label: HashMap<Pair, HashSet<PodRef>>,
    services_by_pair: HashMap<Pair, HashSet<ServiceRef>>,
    workloads: Workloads,
}

impl Reflector {
    pub fn new() -> Self {
        let (pods, services) = (Writer::default(), Writer::default());
        let stores = (pods.as_reader(), services.as_reader());
        Self {
            pods: (pods, stores.0),
            services: (services, stores.1),
            pods_by_label: HashMap::new(),
            services_by_pair: HashMap::new(),
            workloads: Workloads::new(),
        }
    }

    fn recompute(&mut self, pod: &PodRef) {
        let Some(pod) = self.pods.1.get(pod) else { return };
        let found: BTreeSet<u32> = pairs(pod.row.namespace, &pod.row.labels)
            .flat_map(|pair| self.services_by_pair.get(&pair).into_iter().flatten())
            .filter_map(|service| self.services.1.get(service))
            .filter(|service| selects(&service.row.selector, &pod.row.labels))
            .map(|service| service.key)
            .collect();
        self.workloads.insert(pod.key, (pod.row.address, found.into_iter().collect()));
    }

    fn take_pod(&mut self, event: &Event<Object<Pod>>) {
        let Event::Apply(object) = event else { return };
        let key = object.to_object_ref(());
        let old = self.pods.1.get(&key);
        self.pods.0.apply_watcher_event(event);
        if old.as_ref().is_some_and(|old| old.row == object.row) {
            return;
        }
        for pair in old.iter().flat_map(|old| pairs(old.row.namespace, &old.row.labels)) {
            if let Some(members) = self.pods_by_label.get_mut(&pair) {
                members.remove(&key);
            }
        }
        for pair in pairs(object.row.namespace, &object.row.labels) {
            self.pods_by_label.entry(pair).or_default().insert(key.clone());
        }
        self.recompute(&key);
    }

    fn take_service(&mut self, event: &Event<Object<Service>>) {
        let Event::Apply(object) = event else { return };
        let key = object.to_object_ref(());
        let old = self.services.1.get(&key);
        self.services.0.apply_watcher_event(event);
        let mut concerned: HashSet<PodRef> = HashSet::new();
        for pair in old.iter().flat_map(|old| pairs(old.row.namespace, &old.row.selector).take(1)) {
            concerned.extend(self.pods_by_label.get(&pair).into_iter().flatten().cloned());
            if let Some(members) = self.services_by_pair.get_mut(&pair) {
                members.remove(&key);
            }
        }
        for pair in pairs(object.row.namespace, &object.row.selector).take(1) {
            concerned.extend(self.pods_by_label.get(&pair).into_iter().flatten().cloned());
            self.services_by_pair.entry(pair).or_default().insert(key.clone());
        }
        concerned.iter().for_each(|pod| self.recompute(pod));
    }
}

impl Peer for Reflector {
    type Pod = Event<Object<Pod>>;
    type Service = Event<Object<Service>>;

    fn pod(key: u32, row: Pod) -> Self::Pod {
        Event::Apply(Object::new("pod", key, row.namespace, row))
    }

    fn service(key: u32, row: Service) -> Self::Service {
        Event::Apply(Object::new("service", key, row.namespace, row))
    }

    fn commit(
        &mut self,
        pods: impl IntoIterator<Item = Self::Pod>,
        services: impl IntoIterator<Item = Self::Service>,
    ) {
        services.into_iter().for_each(|event| self.take_service(&event));
        pods.into_iter().for_each(|event| self.take_pod(&event));
    }

    fn workloads(&self) -> Workloads {
        self.workloads.clone()
    }
}
