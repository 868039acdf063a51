//! A row of a manifest that stands, as far as decisions read it: the body itself is in the database, and wanted anew
//! from what it is made of.

use super::names;
use basalt_model::{Epoch, Generation};
use basalt_wire::agent::manifest::{Desired, Item, ItemKey, Shared};
use sha2::{Digest, Sha256};

/// An item that stands in a host's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What it is of.
    pub key: ItemKey,
    /// The object's generation.
    pub generation: Generation,
    /// The placement's epoch.
    pub epoch: Epoch,
    /// Whether it says that the host must not have it.
    pub absent: bool,
    /// Whether it is a volume in storage that other hosts see.
    pub shared: bool,
    /// The items that it names.
    pub names: Box<[ItemKey]>,
    /// Of the body: half of its SHA-256.
    digest: [u8; 16],
}

impl Stored {
    /// What of an item is kept.
    pub fn of(item: &Item) -> Self {
        Self {
            key: item.key(),
            generation: item.generation,
            epoch: item.epoch,
            absent: item.is_absent(),
            shared: matches!(&item.desired, Desired::Volume(body) if body.shared != Shared::No),
            names: names(item).into(),
            digest: digest(&item.desired),
        }
    }

    /// Whether the item that stands is this one.
    pub fn is(&self, item: &Item) -> bool {
        (self.key, self.generation, self.epoch) == (item.key(), item.generation, item.epoch)
            && self.digest == digest(&item.desired)
    }
}

fn digest(body: &Desired) -> [u8; 16] {
    // Plain data can always be written.
    let written = serde_json::to_vec(body).unwrap_or_default();
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(written)[..16]);
    half
}
