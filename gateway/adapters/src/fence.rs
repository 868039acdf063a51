//! Attempts that come late, and what belongs to others: refused in the same words wherever something runs.

use crate::{Error, Result};
use basalt_model::{
    CapabilityReason, DeploymentId, Epoch,
    deployments::{ErrorClass, Owner},
};

/// Refuses an attempt when a newer one has written on something of the same owner.
pub(crate) fn refuse_newer(written: impl Iterator<Item = Epoch>, owner: &Owner, epoch: Epoch) -> Result<()> {
    let Some(newer) = written.max().filter(|seen| *seen > epoch) else { return Ok(()) };
    let reason = CapabilityReason::new(
        "newer_attempt",
        format!("deployment/{}", owner.name),
        format!("attempt {} was here already, and this is attempt {}", newer.0, epoch.0),
        "nothing is to be done: the newer attempt goes on",
    );
    Err(Error::new(ErrorClass::Conflict, reason))
}

/// It is there already, and another deployment's.
pub(crate) fn other_owner(subject: &str, of: DeploymentId) -> Error {
    let message = format!("it belongs to the deployment {}", of.0);
    let reason = CapabilityReason::new("other_owner", subject, message, "undeploy that one first");
    Error::new(ErrorClass::Conflict, reason)
}
