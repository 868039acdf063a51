//! Signs of life of hosts: they are off the feed, so they are read by the clock.

use super::Context;
use basalt_model::{DateTime, HostId};
use basalt_store::{Error, hosts};

/// Reads when each host was last heard of.
pub async fn read(context: &Context) -> Result<Vec<(HostId, DateTime)>, Error> {
    let mut tx = context.store.system_read().await?;
    hosts::heartbeats(&mut tx).await
}
