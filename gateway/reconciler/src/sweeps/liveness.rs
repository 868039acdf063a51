//! Signs of life of hosts, and their leases: they are off the feed, so they are read by the clock.

use super::Context;
use basalt_model::{DateTime, HostId};
use basalt_store::{
    Error,
    host_loss::{self, HostLease},
    hosts,
};

/// Reads when each host was last heard of, and the last lease that each was given.
pub async fn read(context: &Context) -> Result<(Vec<(HostId, DateTime)>, Vec<HostLease>), Error> {
    let mut tx = context.store.system_read().await?;
    Ok((hosts::heartbeats(&mut tx).await?, host_loss::leases(&mut tx).await?))
}
