//! The oracles themselves: each kind of harm that they are there for is done by hand once and found.

use anyhow::{Result, ensure};
use basalt_tests::{House, oracles};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o9_o10_the_oracles_find_every_kind_of_harm() -> Result<()> {
    let house = House::with_hosts(1).await?;
    house.api.running_vm("web").await?;
    house.sound()?;
    house.hosts[0].kill().await;
    let harms = [
        ("UPDATE tasks_finished SET kind = 'vm_update' WHERE kind = 'vm_create'", "create task"),
        ("UPDATE audit_events SET action = 'vm.other' WHERE action = 'vm.create'", "audit trail"),
        ("UPDATE quotas SET used_cpus = used_cpus + 1", "quota"),
        ("UPDATE quotas SET used_storage_bytes = used_storage_bytes - 1", "quota"),
        ("UPDATE host_claims SET claimed_memory_bytes = claimed_memory_bytes + 1", "claim"),
        ("UPDATE pools SET claimed_bytes = claimed_bytes + 1", "pool"),
        ("UPDATE address_cursors SET used = used + 1", "address"),
        ("DELETE FROM ports", "ports or volumes"),
    ];
    let url = house.owner_url();
    for (harm, word) in harms {
        let found = oracles::findings_after(url, harm)?;
        ensure!(found.iter().any(|f| f.contains(word)), "{harm}: {found:?}");
    }
    // Every harm was rolled back.
    house.sound()
}
