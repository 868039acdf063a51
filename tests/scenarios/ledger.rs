//! R43: a ledger that cannot be read is set aside, and everything is told anew by host and gateway.

use anyhow::{Result, ensure};
use basalt_tests::{House, api::vm_id, wait};
use std::{fs, time::Duration};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r43_a_corrupted_ledger_is_rebuilt_from_reality_and_touches_no_vm() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let vm = house.api.running_vm("web").await?;
    let machine = house.machine_of(&vm)?.clone();
    let before = machine.sim.mutations();
    let files = machine.ledger_files()?;
    ensure!(files.len() == 3, "{files:?}");
    for damage in ["torn", "garbage", "gone"] {
        machine.kill().await;
        for file in &files {
            let bytes = fs::read(file)?;
            match damage {
                "torn" => fs::write(file, &bytes[..bytes.len() / 2])?,
                "garbage" => fs::write(file, b"\0\xff nothing that was ever written \x17")?,
                _ => fs::remove_file(file)?,
            }
        }
        machine.start()?;
        wait::until_true("the ledger is written again", || files.iter().all(|f| f.exists())).await?;
        // It acts again: what dies is started.
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensure!(machine.sim.mutations() == before, "{damage}: {:?}", machine.sim.mutations());
        ensure!(machine.runs(vm_id(&vm)), "{damage}");
    }
    let task = house.api.verb("web", "reboot").await?;
    house.api.completed(&task).await?;
    let restarts = || machine.sim.look(|w| w.restarts.get(&vm_id(&vm)).copied());
    ensure!(restarts() == Some(1));

    // What became of a verb stands in the ledger alone: without it the verb is never repeated.
    machine.kill().await;
    files.iter().try_for_each(fs::remove_file)?;
    machine.start()?;
    wait::until_true("the ledger is written again", || files.iter().all(|f| f.exists())).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(restarts() == Some(1), "a one-shot verb was repeated");
    house.clear().await?;
    house.sound()
}
