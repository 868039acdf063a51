//! Looking out for news: the switch's database speaks up, libvirt and the flows are asked cheaply.
//!
//! libvirt's events need an event loop in C; asking for states once a second costs less than a millisecond
//! for each fifty domains and cannot be lost with a connection.

use super::{Parts, SERIAL_DIR, serial};
use crate::host::ovs;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

/// How often domains are asked for their states.
const STATES_EVERY: Duration = Duration::from_secs(1);
/// How often ports and flows are compared with what was applied, servers looked for, and serial logs cut.
const SWITCH_EVERY: Duration = Duration::from_secs(3);
/// News within this time are one.
const SETTLE: Duration = Duration::from_millis(50);

pub(super) fn start(parts: Arc<Parts>, watchers: &mut JoinSet<()>) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    let news = Arc::new(Notify::new());
    watchers.spawn(ovs::news::watch(parts.switch.clone(), Arc::clone(&news)));
    watchers.spawn(states(Arc::clone(&parts), Arc::clone(&news)));
    watchers.spawn(gate(Arc::clone(&parts), Arc::clone(&news)));
    watchers.spawn(switch(parts, Arc::clone(&news)));
    watchers.spawn(async move {
        loop {
            news.notified().await;
            tokio::time::sleep(SETTLE).await;
            sender.send_modify(|count| *count += 1);
        }
    });
    receiver
}

/// What comes in is looked at at once: its ports and flows are to stand before it executes.
async fn gate(parts: Arc<Parts>, news: Arc<Notify>) {
    loop {
        parts.gate.news.notified().await;
        news.notify_one();
    }
}

async fn states(parts: Arc<Parts>, news: Arc<Notify>) {
    // libvirt asks QEMU for its abilities once, and takes most of a second: better now than at the first guest.
    if let Err(error) = parts.libvirt.call(|connect| connect.get_capabilities()).await {
        tracing::warn!(%error, "libvirt does not answer yet");
    }
    let mut last = None;
    loop {
        let now = parts.libvirt.states().await.map_err(|error| error.to_string());
        if last.as_ref() != Some(&now) {
            news.notify_one();
            last = Some(now);
        }
        tokio::time::sleep(STATES_EVERY).await;
    }
}

async fn switch(parts: Arc<Parts>, news: Arc<Notify>) {
    let mut last = None;
    loop {
        let now = match parts.switch.look().await {
            Ok(view) => {
                let networks = parts.networks.look(&view).map_err(|error| error.to_string());
                let routers = parts.routers.look(&view).await.map_err(|error| error.to_string());
                Ok((parts.switch.standing(&view).await, networks, routers, view.ready))
            }
            Err(error) => Err(error.to_string()),
        };
        if last.as_ref() != Some(&now) {
            news.notify_one();
            last = Some(now);
        }
        if let Err(error) = serial::cut_all(&parts.state.join(SERIAL_DIR)) {
            tracing::warn!(%error, "serial logs are not bounded");
        }
        tokio::time::sleep(SWITCH_EVERY).await;
    }
}
