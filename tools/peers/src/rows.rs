//! What every peer is fed: pods, the services that select them by label, and what is asked of them: for each pod its
//! address and the services that select it, in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub type Labels = BTreeMap<String, String>;

/// For each pod its address and the services that select it.
pub type Workloads = BTreeMap<u32, (u32, Vec<u32>)>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: u8,
    pub labels: Labels,
    pub address: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Service {
    pub namespace: u8,
    pub selector: Labels,
}

/// One label inside a namespace.
pub type Pair = (u8, String, String);

pub fn pairs(namespace: u8, labels: &Labels) -> impl Iterator<Item = Pair> {
    labels.iter().map(move |(name, value)| (namespace, name.clone(), value.clone()))
}

pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

pub fn app(number: u32) -> Labels {
    Labels::from([("app".to_owned(), format!("app-{number}"))])
}

/// A pod of one of two namespaces and of one of so many applications.
pub fn pod(number: u32, apps: u32, address: u32) -> Pod {
    Pod { namespace: namespace(number), labels: app((number / 2) % apps), address }
}

pub fn service(number: u32, apps: u32) -> Service {
    Service { namespace: namespace(number), selector: app((number / 2) % apps) }
}

fn namespace(number: u32) -> u8 {
    u8::from(number % 2 == 1)
}

/// One way to keep [`Workloads`] up to date.
pub trait Peer {
    /// A row in the form in which it arrives. Making it is not measured.
    type Pod;
    type Service;

    fn pod(key: u32, row: Pod) -> Self::Pod;
    fn service(key: u32, row: Service) -> Self::Service;

    /// Take in rows that belong together; when it returns, the answer is that of all rows so far.
    fn commit(
        &mut self,
        pods: impl IntoIterator<Item = Self::Pod>,
        services: impl IntoIterator<Item = Self::Service>,
    );

    /// The answer, where the peer was made to keep it readable.
    fn workloads(&self) -> Workloads;

    fn fill(&mut self, pods: u32, services: u32, apps: u32) {
        self.commit(
            (0..pods).map(|number| Self::pod(number, pod(number, apps, 0))).collect::<Vec<_>>(),
            (0..services).map(|number| Self::service(number, service(number, apps))).collect::<Vec<_>>(),
        );
    }
}
