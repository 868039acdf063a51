//! Patch ports between the integration bridge and the uplink bridges of flat and VLAN networks.
//!
//! The uplink bridge is the operator's: it is given one port, and nothing else of it is touched.

use super::{
    Switch, SwitchView,
    table::{Row, Table},
};
use crate::Error;
use basalt_model::CapabilityReason;
use std::collections::{BTreeMap, BTreeSet};

/// The end on the integration bridge.
fn inner(uplink: &str) -> String {
    format!("up-{uplink}")
}

/// The end on the uplink bridge.
fn outer(uplink: &str) -> String {
    format!("int-{uplink}")
}

/// A patch port between the integration bridge and an uplink bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// OpenFlow number on the integration bridge, while both ends are as they must be.
    pub number: Option<u32>,
}

/// Whether a port of the integration bridge is the inner end of a patch, and to which bridge.
pub(super) fn uplink_of<'a>(row: Row<'a>) -> Option<&'a str> {
    row.text("name")?.strip_prefix("up-").filter(|_| row.text("type") == Some("patch"))
}

/// The patches whose inner ends are `rows`.
pub(super) fn read<'a>(
    rows: impl Iterator<Item = Row<'a>>,
    bridges: &Table,
    ports: &Table,
    interfaces: &Table,
) -> BTreeMap<String, Patch> {
    let on_bridge = |name: &str, port: &str| {
        let Some(bridge) = bridges.rows().find(|b| b.text("name") == Some(name)) else { return false };
        let members = bridge.uuids("ports");
        ports
            .rows()
            .any(|p| p.text("name") == Some(port) && p.uuid("_uuid").is_some_and(|id| members.contains(&id)))
    };
    let peer = |row: Row<'_>| row.map("options").remove("peer");
    let patches = rows.filter_map(|row| {
        let uplink = uplink_of(row)?;
        let other = interfaces.rows().find(|i| i.text("name") == Some(&outer(uplink)));
        let whole = peer(row) == Some(outer(uplink))
            && on_bridge(uplink, &outer(uplink))
            && other.is_some_and(|o| o.text("type") == Some("patch") && peer(o) == Some(inner(uplink)));
        let number = row.number("ofport").and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0 && whole);
        Some((uplink.to_owned(), Patch { number }))
    });
    patches.collect()
}

impl Switch {
    /// Patches to these bridges are there, and to no other. Whether anything had to be changed for it.
    pub(super) async fn ensure_uplinks(
        &self,
        wanted: &BTreeSet<&str>,
        view: &SwitchView,
    ) -> Result<bool, Error> {
        let mut changed = false;
        for gone in view.patches.keys().filter(|name| !wanted.contains(name.as_str())) {
            changed = true;
            self.vsctl()
                .args([
                    "--if-exists",
                    "del-port",
                    &inner(gone),
                    "--",
                    "--if-exists",
                    "del-port",
                    &outer(gone),
                ])
                .run()
                .await?;
        }
        for uplink in wanted {
            if view.patches.get(*uplink).is_none_or(|patch| patch.number.is_none()) {
                changed = true;
                self.ensure_uplink(uplink, view).await?;
            }
        }
        Ok(changed)
    }

    async fn ensure_uplink(&self, uplink: &str, view: &SwitchView) -> Result<(), Error> {
        let subject = format!("host/openvswitch/{uplink}");
        let ours = view.bridges.get(self.bridge());
        match view.bridges.get(uplink) {
            None => {
                return Err(Error::refused(CapabilityReason::new(
                    "uplink_missing",
                    subject,
                    format!("this host has no bridge {uplink}"),
                    "make the uplink bridge on the host; it is looked for again",
                )));
            }
            theirs if theirs != ours => {
                return Err(Error::refused(
                    CapabilityReason::new(
                        "uplink_datapath",
                        subject,
                        format!(
                            "the bridge {uplink} has another datapath, and no frame passes between the two"
                        ),
                        "give both bridges the same datapath_type",
                    )
                    .with_evidence(format!("{} {ours:?}, {uplink} {theirs:?}", self.bridge())),
                ));
            }
            Some(_) => {}
        }
        let (inner, outer) = (inner(uplink), outer(uplink));
        // Whatever of the two is there is broken.
        self.vsctl()
            .args(["--if-exists", "del-port", &inner, "--", "--if-exists", "del-port", &outer])
            .args(["--", "add-port", self.bridge(), &inner, "--", "set", "interface", &inner, "type=patch"])
            .arg(format!("options:peer={outer}"))
            .args(["--", "add-port", uplink, &outer, "--", "set", "interface", &outer, "type=patch"])
            .arg(format!("options:peer={inner}"))
            .run()
            .await
            .map(drop)
    }
}
