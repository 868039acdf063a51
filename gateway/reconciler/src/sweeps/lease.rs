//! The lease: of several gateways, one carries out effects. It is short, so that another soon takes
//! over, and a gateway that restarts with the same identity has it again at once.

use super::Context;
use basalt_store::{
    Error,
    leases::{self, Lease},
};

/// The lease's name in the database.
pub const NAME: &str = "reconciler";
/// How long it lasts without renewal, in seconds.
pub const TTL_SECONDS: i64 = 3;

/// Takes or renews it.
pub async fn renew(context: &Context) -> Result<Option<Lease>, Error> {
    let mut tx = context.store.system().await?;
    let lease = leases::acquire(&mut tx, NAME, context.holder, context.now, TTL_SECONDS).await?;
    tx.commit().await?;
    Ok(lease)
}

/// Gives it back, so that another gateway need not wait.
pub async fn release(context: &Context) -> Result<(), Error> {
    if let Some(lease) = &context.lease {
        let mut tx = context.store.system().await?;
        leases::release(&mut tx, lease, context.now).await?;
        tx.commit().await?;
    }
    Ok(())
}
