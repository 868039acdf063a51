//! The lease: of several gateways, one carries out effects. It is short, so that another soon takes
//! over, and a gateway that restarts with the same identity has it again at once.

use super::Context;
use basalt_model::DateTime;
use basalt_store::{
    Error,
    leases::{self, Lease},
};
use chrono::TimeDelta;

/// The lease's name in the database.
pub const NAME: &str = "reconciler";
/// How long it lasts without renewal, in seconds.
pub const TTL_SECONDS: i64 = 3;

/// What came of asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This gateway acts.
    Ours(Lease),
    /// Another one does; its lease as it stands, unless that went meanwhile.
    Theirs(Option<Lease>),
}

/// What a gateway saw of another's lease, and since when it stands so.
///
/// The clocks of gateways differ, and a lease that was written by one that goes before would last for as long as that
/// differs. So one that does not move for as long as a lease lasts, by the clock of who waits for it, is over.
#[derive(Clone, Debug, Default)]
pub struct Rival(Option<(Lease, DateTime)>);

impl Rival {
    /// Takes in what came of asking at some time, and answers with the lease that is held now.
    pub fn take_in(&mut self, claim: Claim, at: DateTime) -> Option<Lease> {
        match claim {
            Claim::Ours(lease) => {
                self.0 = None;
                Some(lease)
            }
            Claim::Theirs(seen) => {
                let stands = |lease: &Lease| self.0.as_ref().is_some_and(|(known, _)| known == lease);
                if !seen.as_ref().is_some_and(stands) {
                    self.0 = seen.map(|lease| (lease, at));
                }
                None
            }
        }
    }

    /// The other's lease, if it stood still for as long as one lasts.
    pub fn silent(&self, now: DateTime) -> Option<Lease> {
        let silent = |since: DateTime| now - since >= TimeDelta::seconds(TTL_SECONDS);
        self.0.as_ref().filter(|(_, since)| silent(*since)).map(|(lease, _)| lease.clone())
    }
}

/// Takes or renews it.
pub async fn renew(context: &Context) -> Result<Claim, Error> {
    let mut tx = context.store.system().await?;
    let silent = context.silent.as_ref();
    let lease = leases::acquire(&mut tx, NAME, context.holder, context.now, TTL_SECONDS, silent).await?;
    let claim = match lease {
        Some(lease) => Claim::Ours(lease),
        None => Claim::Theirs(leases::held(&mut tx, NAME).await?),
    };
    tx.commit().await?;
    Ok(claim)
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

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_lease_is_silent_when_it_did_not_move_for_as_long_as_one_lasts() {
        let start = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        let lease = |end| Lease { name: NAME.into(), holder: Uuid::nil(), epoch: 7, expires_at: at(end) };
        let mut rival = Rival::default();
        for (second, end) in [(0, 3600), (1, 3601), (2, 3601), (3, 3601)] {
            assert_eq!(rival.take_in(Claim::Theirs(Some(lease(end))), at(second)), None);
        }
        assert_eq!(rival.silent(at(3)), None);
        assert_eq!(rival.silent(at(4)), Some(lease(3601)));
        assert_eq!(rival.take_in(Claim::Ours(lease(9)), at(5)), Some(lease(9)));
        assert_eq!(rival.silent(at(60)), None);
    }
}
