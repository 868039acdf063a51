//! The drill as a test: every fault heals, nothing is lost or doubled.

use crate::cluster::Cluster;
use basalt_lab::drill::{Drill, Fault, table};

/// What N2 allows a host to take to mend its network, in seconds.
const NETWORK_SECONDS: f64 = 10.0;

#[tokio::test(flavor = "multi_thread")]
async fn v3_n2_r34_r37_the_drill_loses_and_doubles_nothing() {
    let (cluster, _) = Cluster::with_vm().await;
    let drill = Drill::new(cluster.lab.layout().clone(), cluster.client.clone()).await.unwrap();
    let mut results = Vec::new();
    for fault in drill.faults() {
        let healed = drill.run(fault).await.unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.logs()));
        println!("{} {:?}", fault.title(), healed.seconds);
        results.push(healed);
    }
    println!("{}", table(&results));
    let unwell: Vec<_> = results.iter().filter(|r| !r.is_well()).collect();
    assert!(unwell.is_empty(), "{}\n{}", table(&results), cluster.logs());
    for healed in results {
        let network = [
            Fault::DeletePort,
            Fault::DeleteBridge,
            Fault::WipeFlows,
            Fault::DeleteTunnel,
            Fault::KillDhcp,
            Fault::KillSwitchDatabase,
            Fault::KillSwitch,
            Fault::KillAgent,
        ];
        if network.contains(&healed.fault) {
            let seconds = healed.seconds.unwrap();
            assert!(seconds <= NETWORK_SECONDS, "{}: {seconds:.1} s", healed.fault.title());
        }
    }
}
