//! F11: the database crashes. What was seen of a commit before its flush may be gone, and the numbers of
//! its transactions are given out again; the feed must not take the new ones for seen.

use anyhow::{Result, ensure};
use basalt_store::Feed;
use basalt_tests::{House, api::vm_id, oracles::psql, truth::Truth, wait};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_after_a_crash_of_the_database_the_feed_begins_anew_and_what_runs_goes_on() -> Result<()> {
    let house = House::over(Truth::durable().await?, 1).await?;
    let vm = house.api.running_vm("web").await?;
    let machine = house.machine_of(&vm)?.clone();
    let feed = Feed::new(&house.truth.store);
    let before = feed.bootstrap().await?.cursor;
    // Or the gateway, which prunes up to where it has read itself, prunes past this reader: another reason to reload.
    feed.hold(uuid::Uuid::from_u128(11), &before, chrono::Utc::now()).await?;
    ensure!(!feed.pull(&before).await?.reload, "nothing happened yet");
    let done = machine.sim.mutations();
    house.truth.crash()?;
    // A backend of the killed server may answer once more, by the history that it still is.
    let told = || async { Ok(Some(feed.pull(&before).await?).filter(|batch| batch.reload)) };
    let batch = wait::until("a cursor from before the crash is not believed", told).await?;
    let after = feed.pull(&batch.cursor).await?;
    ensure!(!after.reload, "one crash is told once: {before}, {}, {}", batch.cursor, after.cursor);

    wait::until("the API is back", || async { Ok(Some(house.api.vm("web").await?)) }).await?;
    let second = house.api.running_vm("second").await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ensure!(machine.runs(vm_id(&vm)) && machine.runs(vm_id(&second)));
    let touched =
        machine.sim.mutations().into_iter().filter(|(key, n)| done.get(key).is_some_and(|m| m != n));
    let touched: Vec<_> =
        touched.filter(|((r, _), _)| *r == basalt_plan::host::Resource::Vm(vm_id(&vm))).collect();
    ensure!(touched.is_empty(), "{touched:?}");
    house.sound()
}

/// The log of changes is not in the write-ahead log: when the server restarts itself after the death of one backend,
/// the log is empty, and no reader may take that for "nothing happened".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_the_crash_of_one_backend_empties_the_log_and_every_reader_begins_anew() -> Result<()> {
    let house = House::over(Truth::durable().await?, 1).await?;
    house.api.running_vm("web").await?;
    let feed = Feed::new(&house.truth.store);
    let before = feed.bootstrap().await?.cursor;
    // Or the gateway, which prunes up to where it has read itself, prunes past this reader: another reason to reload.
    feed.hold(uuid::Uuid::from_u128(11), &before, chrono::Utc::now()).await?;
    let backend = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1";
    let pid = psql(house.owner_url(), backend)?.concat();
    ensure!(std::process::Command::new("kill").args(["-9", pid.trim()]).status()?.success());
    let told = || async {
        let batch = feed.pull(&before).await;
        Ok(batch.ok().filter(|batch| batch.reload))
    };
    let batch = wait::until("a cursor from before the crash is not believed", told).await?;
    let after = feed.pull(&batch.cursor).await?;
    ensure!(!after.reload, "one crash is told once: {before}, {}, {}", batch.cursor, after.cursor);
    wait::until("the API is back", || async { Ok(house.api.vm("web").await.ok()) }).await?;
    house.api.running_vm("second").await?;
    house.sound()
}
