//! R52: a guest that writes its memory faster than it is sent. By default it stays, unharmed, and says why; with `post_copy` it
//! goes on at the target all the same, where the hosts' QEMU can do that (Debian 12's cannot).

use crate::{
    cluster::{Cluster, until},
    guests::{Guest, network},
    migration::{migrate, states, unpinned},
};
use basalt_model::migrations::MotionProgress;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Far below what the guest writes, even on a machine that does much else.
const RATE: u64 = 6 << 20;
/// From when no less was left to when that is noticed.
const NOTICED: Duration = Duration::from_secs(15);

/// Follows the running migration: how long the least that was left had not fallen when it ended.
async fn watched(cluster: &Cluster, project: &str, id: &str) -> (Duration, Value) {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        let seen: Value = cluster.client.get(&format!("{project}/migrations/{id}")).await.unwrap();
        if seen["outcome"].is_object() {
            return (since.elapsed(), seen["outcome"].clone());
        }
        if let Ok(figures) = serde_json::from_value::<MotionProgress>(seen["progress"].clone())
            && figures.remaining_bytes < least
        {
            (least, since) = (figures.remaining_bytes, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// With `post_copy` it goes on at the target before all of its memory is there.
async fn goes_by_post_copy<'a>(
    cluster: &'a Cluster,
    project: &str,
    (id, boot): (&str, &str),
    a: &mut Guest<'a>,
    body: Value,
) {
    let there = body["host"].as_str().unwrap().to_owned();
    let migration = migrate(cluster, project, "a", body).await;
    eprintln!("post-copy: {}", migration["outcome"]);
    assert_eq!(migration["outcome"]["result"], "completed", "{migration}\n{}", cluster.logs());
    until("it runs at the target alone", Duration::from_secs(60), async || {
        states(cluster, id)
            .iter()
            .all(|(h, s)| if *h == there { s.starts_with("running") } else { s == "gone" })
    })
    .await;
    a.host = cluster.lab.host(&there).unwrap();
    until("it answers where it is now", Duration::from_secs(60), async || {
        a.run("cat /proc/sys/kernel/random/boot_id").is_ok_and(|now| now == boot)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r52_a_guest_that_outruns_its_migration_stays_unharmed_and_post_copy_is_refused_where_qemu_cannot() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let project = cluster.project("demo").await;
    network(&cluster, &project, "blue", json!({"cidr": "10.20.0.0/24"})).await;
    let (mut a, id) = unpinned(&cluster, &project, "a", "10.20.0.51").await;
    until("a has booted", Duration::from_secs(90), async || {
        a.host.http_get(a.address, "/seeded").is_ok_and(|page| page.body.trim() == "yes")
    })
    .await;
    let boot = a.run("cat /proc/sys/kernel/random/boot_id").unwrap();
    a.host.http_get(a.address, "/cgi-bin/burn").unwrap();
    let (here, there) = if a.host.name() == "h1" { ("h1", "h2") } else { ("h2", "h1") };

    let body = json!({"host": there, "max_bytes_per_second": RATE});
    let asked = cluster.post(&format!("{project}/vms/a/migrate"), &body).await;
    let (noticed, outcome) = watched(&cluster, &project, asked["object"]["id"].as_str().unwrap()).await;
    eprintln!("no less was left for {noticed:?}: {outcome}");
    assert_eq!(outcome["result"], "failed", "{outcome}\n{}", cluster.logs());
    assert_eq!(outcome["reason"]["code"], "migration_stalled", "{outcome}");
    assert!(noticed <= NOTICED + Duration::from_secs(3), "{noticed:?} (with the time that news of it take)");
    let still = |at: &str| {
        states(&cluster, &id)
            .iter()
            .all(|(h, s)| if h == at { s.starts_with("running") } else { s == "gone" })
    };
    until("it runs where it was, alone", Duration::from_secs(30), async || still(here)).await;
    assert_eq!(a.run("cat /proc/sys/kernel/random/boot_id").unwrap(), boot, "it noticed nothing");

    let body = json!({"host": there, "max_bytes_per_second": 4 * RATE, "on_stall": "post_copy"});
    let facts: Value = cluster.client.get("/v1/hosts/h1").await.unwrap_or_else(|e| panic!("{}", e.text()));
    if facts["facts"]["post_copy"] == true {
        goes_by_post_copy(&cluster, &project, (&id, &boot), &mut a, body).await;
    } else {
        // Debian 12's QEMU opens no /dev/userfaultfd, and a test does not change what the whole machine allows.
        let path = format!("{project}/vms/a/migrate");
        let refused = cluster.client.post::<_, Value>(&path, &body).await.unwrap_err().text();
        assert!(refused.contains("userfaultfd") && refused.contains("on_stall"), "{refused}");
        assert!(still(here), "nothing moved");
    }
    a.run("touch /tmp/enough").unwrap();
}
