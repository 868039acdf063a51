//! That something changed, as it happens: watches of metadata over each namespace.
//!
//! By list and watch, not by streaming lists, which fail for good on some pairs of server and etcd. Bookmarks, `410
//! Gone`, time-outs and cuts are kube-runtime's to mend; after each of them anything may have changed.

use super::Kubernetes;
use crate::{Change, labels};
use basalt_model::DeploymentId;
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{
    Api, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, InitialListStrategy, watcher},
    },
};
use std::fmt::Debug;

impl Kubernetes {
    pub(super) fn watch_for_changes(&self) -> BoxStream<'static, Change> {
        let mut all: Vec<BoxStream<'static, Change>> = Vec::new();
        for namespace in &self.namespaces {
            let (client, namespace) = (self.cluster.client(), namespace.as_str());
            all.push(of(Api::<PartialObjectMeta<Deployment>>::namespaced(client.clone(), namespace)).boxed());
            all.push(of(Api::<PartialObjectMeta<Service>>::namespaced(client.clone(), namespace)).boxed());
            all.push(of(Api::<PartialObjectMeta<Pod>>::namespaced(client, namespace)).boxed());
        }
        stream::select_all(all).boxed()
    }
}

fn of<K>(api: Api<PartialObjectMeta<K>>) -> impl Stream<Item = Change> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let config = Config { initial_list_strategy: InitialListStrategy::ListWatch, ..Config::default() };
    watcher(api, config).default_backoff().filter_map(async |event| match event {
        Ok(Event::Apply(object) | Event::Delete(object)) => {
            let owner = object.labels().get(labels::DEPLOYMENT);
            Some(Change { owner: owner.and_then(|id| uuid::Uuid::parse_str(id).ok()).map(DeploymentId) })
        }
        // After a new list it is unknown what happened since the last.
        Ok(Event::InitDone) => Some(Change { owner: None }),
        Ok(Event::Init | Event::InitApply(_)) => None,
        Err(error) => {
            tracing::debug!(%error, "a watch was broken off; it begins again");
            None
        }
    })
}
