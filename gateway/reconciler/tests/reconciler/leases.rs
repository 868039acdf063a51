//! Two gateways: one acts, the other takes over; both acting for a moment does no harm.

use crate::world::{World, until};
use basalt_model::GIB;
use basalt_wire::agent::manifest::ItemKind;
use serde_json::json;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_reconcilers_one_acts_and_the_other_takes_over_when_it_dies() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let (a, b) = (world.start_as(Uuid::from_u128(1)), world.start_as(Uuid::from_u128(2)));
    let acting = |r: &crate::world::Running| r.handle.metrics().acting.get() == 1;
    until("one acts", || async { acting(&a) || acting(&b) }).await;
    let first = world.create("first", json!({})).await;
    world.completed(first.task.id).await;
    assert!(acting(&a) != acting(&b));
    let (holder, other) = if acting(&a) { (a, b) } else { (b, a) };
    holder.kill().await;
    let second = world.create("second", json!({})).await;
    world.completed(second.task.id).await;
    assert!(acting(&other));
    assert_eq!(agent.begun().values().copied().collect::<Vec<_>>(), [1, 1]);
    other.stop().await;
}
