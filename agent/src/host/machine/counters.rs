//! What the ports of guests count, for users who ask.

use super::Parts;
use crate::{Error, host::not_attached};
use basalt_model::{PortId, networks::Counters};

impl Parts {
    pub(super) async fn counters(&self, id: PortId) -> Result<Counters, Error> {
        self.switch.counters(id).await?.ok_or_else(|| not_attached(id))
    }
}
