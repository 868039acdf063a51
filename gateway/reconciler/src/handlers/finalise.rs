//! The end of a deletion: rows of which nothing is on a host any more go, with what they claimed.

use crate::{
    graph::Removal,
    lane::{RECHECK, STALE},
};
use basalt_model::DateTime;
use basalt_store::{
    Error, Finalized, Store, deployments, hosts, images, networks, providers, routers, vms, volumes,
};
use krt::Finish;

/// Removes the rows of several objects in one transaction. The store looks again whether nothing is left.
pub async fn perform(
    store: &Store,
    removals: &[Removal],
    now: DateTime,
) -> Result<Vec<(Removal, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for removal in removals {
        let done = match removal {
            Removal::Vm(id) => vms::finalize(&mut tx, *id, now).await?,
            Removal::Volume(id) => volumes::finalize(&mut tx, *id, now).await?,
            Removal::Image(id) => images::finalize(&mut tx, *id, now).await?,
            Removal::Network(id) => networks::finalize(&mut tx, *id, now).await?,
            Removal::Router(id) => routers::finalize(&mut tx, *id, now).await?,
            Removal::Host(id) => hosts::finalize(&mut tx, *id).await?,
            Removal::Deployment(id) => deployments::finalize(&mut tx, *id).await?,
            Removal::Provider(id) => providers::finalize(&mut tx, *id).await?,
        };
        let wait = match done {
            Finalized::Done => RECHECK,
            Finalized::Waiting => STALE,
        };
        out.push((*removal, Finish::After(wait)));
    }
    tx.commit().await?;
    Ok(out)
}
