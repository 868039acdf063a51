//! Connection tracking zones: the zone of a guest's port has the port's number on the switch.
//!
//! Numbers are given anew when ports go. Whoever gets one must not inherit what was established under it, so a zone is
//! emptied before flows are set that give it to another port. Which port has which zone is kept beside the flows.

use super::Switch;
use crate::Error;
use basalt_model::PortId;
use std::{collections::BTreeMap, path::PathBuf};

impl Switch {
    /// Empties the zones that other ports had, or that nobody knows about.
    pub(super) async fn hand_over_zones(&self, guests: &BTreeMap<PortId, u32>) -> Result<(), Error> {
        let file = self.zones_file();
        let before: BTreeMap<PortId, u32> = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => BTreeMap::new(),
        };
        if before == *guests {
            return Ok(());
        }
        for zone in guests.iter().filter(|(id, zone)| before.get(*id) != Some(*zone)).map(|(_, zone)| zone) {
            self.ofctl().args(["ct-flush-zone", self.bridge()]).arg(zone.to_string()).run().await?;
        }
        let json = serde_json::to_vec(guests).map_err(|e| Error::host("keeping the ports' zones", e))?;
        std::fs::write(&file, json).map_err(|e| Error::state(&file, e))
    }

    fn zones_file(&self) -> PathBuf {
        self.state_dir().join("zones.json")
    }
}
