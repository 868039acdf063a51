//! Drains: VMs are sent on their way, and the end is written with that of the task.

use super::ids;
use crate::lane::{RECHECK, STALE};
use basalt_model::{DateTime, DrainId, tasks::Actor};
use basalt_plan::drains::Next;
use basalt_store::{
    Change, Error, Store,
    drains::{self, Departing, End},
};
use krt::Finish;
use uuid::Uuid;

/// Takes each drain one step on. A step that is stale does nothing: the news of why is on its way.
pub async fn perform(
    store: &Store,
    rows: &[(DrainId, Next)],
    now: DateTime,
) -> Result<Vec<(DrainId, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for (id, next) in rows {
        let done = match next {
            Next::Wait => true,
            Next::Start(vm, way) => {
                let ids = ids::new(Uuid::from_u128(id.0.as_u128() ^ vm.0.as_u128().rotate_left(64)), now);
                let change = Change { actor: Actor::system("reconciler"), request_id: None, now, ids };
                let departing = Departing { drain: *id, vm: *vm, target: way.host.clone(), mode: way.mode };
                drains::start(&mut tx, &change, &departing).await?
            }
            Next::Stuck => drains::stuck(&mut tx, *id, now).await?,
            Next::End(outcome, left) => {
                let end = End { id: *id, outcome: outcome.clone(), left: left.clone() };
                drains::end(&mut tx, &end, now).await?
            }
        };
        out.push((*id, Finish::After(if done { RECHECK } else { STALE })));
    }
    tx.commit().await?;
    Ok(out)
}
