//! M3, R51: somebody dies or is cut off at some point of a real migration: QEMU, libvirt, the agents, the gateway, PostgreSQL.
//! At no moment do two hosts execute the guest, both sides agree soon about who owns it, and it survives where a side has it
//! whole.
//!
//! CI takes a sample, `cargo xtask soak --migrations <points>` so many points for each who may fail, or for the
//! one that `BASALT_MIGRATION_VICTIM` names (`TargetLibvirt`).

use crate::{
    cluster::{Cluster, until},
    guests::{USER_DATA, network, wires},
    watchman::Watchman,
};
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 51);
/// Slow enough that there are points to fail at.
const RATE: u64 = 32 << 20;
/// What share of the time a guest's processor executes at least while it is let.
const EXECUTES: f64 = 0.05;
/// How long power and links are away. A migration that stands still is stopped before.
const AWAY: Duration = Duration::from_secs(17);
/// What is promised once everybody can be asked again.
const DECIDED: Duration = Duration::from_secs(30);
const AGREED: Duration = Duration::from_secs(60);

/// Who fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    SourceAgent,
    TargetAgent,
    SourceLibvirt,
    TargetLibvirt,
    SourceHost,
    TargetHost,
    Gateway,
    Postgres,
    /// Between the two hosts nothing arrives any more; both reach the gateway.
    Link,
}

impl Victim {
    const ALL: [Self; 9] = [
        Self::SourceAgent,
        Self::TargetAgent,
        Self::SourceLibvirt,
        Self::TargetLibvirt,
        Self::SourceHost,
        Self::TargetHost,
        Self::Gateway,
        Self::Postgres,
        Self::Link,
    ];
}

/// When somebody fails, in tenths of the time that a migration takes.
#[derive(Clone, Copy, Debug)]
struct Point(u32);

/// What came of one fault.
struct Outcome {
    victim: Victim,
    point: Point,
    result: String,
    decided: Duration,
    agreed: Duration,
    survived: bool,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let life = if self.survived { "goes on" } else { "started from its disk" };
        let (victim, point) = (format!("{:?}", self.victim), self.point.0);
        let (decided, agreed) = (self.decided.as_secs_f64(), self.agreed.as_secs_f64());
        write!(
            f,
            "{victim:14} at {point:2}/10: {:10} decided {decided:5.1} s, agreed {agreed:5.1} s, the guest {life}",
            self.result
        )
    }
}

/// The QEMUs of a VM on a host: which, and how long each one's processors have executed, in nanoseconds.
fn executed(host: &Host, id: &str) -> BTreeMap<u32, u64> {
    let of = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&line).contains(&format!("\0-uuid\0{id}\0")) {
            return None;
        }
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let cpus = threads.filter(|t| {
            std::fs::read_to_string(t.path().join("comm")).is_ok_and(|name| name.starts_with("CPU "))
        });
        let ran = cpus.filter_map(|t| {
            let text = std::fs::read_to_string(t.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Some((pid, ran.sum()))
    };
    host.pids_of("qemu-system-x86").into_iter().filter_map(of).collect()
}

/// Looks at the processors' threads of all QEMUs of a VM, whose guest always has something to do. A QEMU that only takes it in
/// or lets go of it runs them for moments. When two hosts' executed in one interval and in the next one too, both executed
/// the guest at the same time: a hand-over is one interval at most.
///
/// `busy` counts intervals in which some host executed it.
fn watch(cluster: &Cluster, id: &str, busy: Arc<AtomicU32>) -> Watchman {
    let id = id.to_owned();
    let mut before: Vec<BTreeMap<u32, u64>> = vec![BTreeMap::new(); cluster.lab.hosts().len()];
    let (mut both, mut at) = (false, Instant::now());
    Watchman::new(cluster.lab.clone(), Duration::from_millis(100), move |lab| {
        let now: Vec<_> = lab.hosts().iter().map(|host| executed(host, &id)).collect();
        let elapsed = at.elapsed().as_nanos() as f64;
        at = Instant::now();
        let executes = |then: &u64, ran: &u64| ran.saturating_sub(*then) as f64 > EXECUTES * elapsed;
        let moved = before.iter().zip(&now).filter(|(before, now)| {
            now.iter().any(|(pid, ran)| before.get(pid).is_some_and(|then| executes(then, ran)))
        });
        let moved = moved.count();
        busy.fetch_add(u32::from(moved > 0), Ordering::Relaxed);
        before = now;
        // In this interval and in the one before.
        std::mem::replace(&mut both, moved > 1) && both
    })
}

/// Two hosts and a guest that goes from one to the other.
struct Way {
    cluster: Cluster,
    project: String,
    id: String,
    watchman: Watchman,
    /// Intervals in which some host executed it.
    busy: Arc<AtomicU32>,
    /// The start of the guest that was last given something to do.
    paced: Mutex<String>,
    /// How long a migration takes when nobody fails.
    whole: Duration,
}

impl Way {
    async fn new() -> Self {
        let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
        let project = cluster.project("demo").await;
        network(&cluster, &project, "blue", json!({"cidr": "10.20.0.0/24"})).await;
        let body = json!({"name": "a", "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
            "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
            "nics": [{"network": "blue", "address": ADDRESS}], "stop_grace_seconds": 2,
            "cloud_init": {"user_data": USER_DATA}}});
        let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
        cluster.follow(&made).await;
        let id = made["object"]["id"].as_str().unwrap().to_owned();
        let busy = Arc::<AtomicU32>::default();
        let watchman = watch(&cluster, &id, busy.clone());
        let mut way =
            Self { cluster, project, id, watchman, busy, paced: Mutex::default(), whole: Duration::ZERO };
        way.booted().await;
        let begun = Instant::now();
        let (_, target) = way.sides().await;
        let migration = way.ask(target.name()).await;
        until("it goes when nobody fails", Duration::from_secs(120), async || {
            way.ended(&migration).await.is_some_and(|outcome| outcome["result"] == "completed")
        })
        .await;
        way.whole = begun.elapsed();
        way
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let path = format!("{}/{path}", self.project);
        tokio::time::timeout(Duration::from_secs(5), self.cluster.client.get(&path)).await.ok()?.ok()
    }

    /// The host that it is on by the truth, and the other one.
    async fn sides(&self) -> (&Host, &Host) {
        let vm = self.get("vms/a").await.expect("the gateway answers");
        let at = vm["placement"]["host"].as_str().expect("it is placed");
        let [first, second] = ["h1", "h2"].map(|name| self.cluster.lab.host(name).unwrap());
        if first.name() == at { (first, second) } else { (second, first) }
    }

    async fn ask(&self, target: &str) -> String {
        let path = format!("{}/vms/a/migrate", self.project);
        let body = json!({"host": target, "max_bytes_per_second": RATE});
        let asked = self.cluster.post(&path, &body).await;
        asked["object"]["id"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned()
    }

    async fn ended(&self, migration: &str) -> Option<Value> {
        let seen = self.get(&format!("migrations/{migration}")).await?;
        Some(seen["outcome"].clone()).filter(Value::is_object)
    }

    /// The start of the guest that answers, and where.
    fn boot(&self) -> Option<String> {
        let ask = |host: &Host| host.http_get(ADDRESS, "/cgi-bin/run?cat+/proc/sys/kernel/random/boot_id");
        let said = self.cluster.lab.hosts().iter().find_map(|host| ask(host).ok())?.body;
        Some(said.trim().to_owned()).filter(|id| id.len() == 36)
    }

    async fn booted(&self) -> String {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(boot) = self.boot() {
                return boot;
            }
            if Instant::now() > end {
                let hosts = self.cluster.lab.hosts();
                let seen: Vec<_> = hosts.iter().map(|host| (host.name(), executed(host, &self.id))).collect();
                let wires: String = hosts.iter().map(wires).collect();
                let vm = self.get("vms/a").await.unwrap_or_default();
                panic!("the guest does not answer: {seen:?}\n{vm}\n{wires}\n{}", self.cluster.logs());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether one host executes it, the other one has nothing of it, and the truth says the same.
    async fn agreed(&self) -> bool {
        let Some(vm) = self.get("vms/a").await else { return false };
        let placed = vm["placement"]["host"].as_str().unwrap_or_default();
        let right = |host: &Host| {
            let said = host.run(&["virsh", "domstate", &self.id]).unwrap_or_default();
            if host.name() == placed {
                said.trim() == "running"
            } else {
                // No answer of a libvirt that is away says nothing.
                let all = host.run(&["virsh", "list", "--all", "--uuid"]);
                all.is_ok_and(|all| !all.contains(&self.id)) && executed(host, &self.id).is_empty()
            }
        };
        vm["phase"] == "running" && self.cluster.lab.hosts().iter().all(right)
    }

    fn link(&self, hosts: [&Host; 2], cut: bool) {
        let verb = if cut { "add" } else { "del" };
        for (here, there) in [(hosts[0], hosts[1]), (hosts[1], hosts[0])] {
            for to in [there.address(), there.tunnel_address()] {
                let to = format!("{to}/32");
                here.run(&["ip", "route", verb, "blackhole", &to]).unwrap();
            }
        }
    }

    /// Lets the victim fail, and come back.
    async fn fail(&self, victim: Victim, source: &Host, target: &Host) {
        let kill = |host: &Host, service: &str| host.kill_service(service).unwrap();
        let power = async |host: &Host| {
            host.power_cut().unwrap();
            tokio::time::sleep(AWAY).await;
            host.power_on().unwrap();
        };
        match victim {
            Victim::SourceAgent => kill(source, "basalt-agent"),
            Victim::TargetAgent => kill(target, "basalt-agent"),
            Victim::SourceLibvirt => kill(source, "libvirtd"),
            Victim::TargetLibvirt => kill(target, "libvirtd"),
            Victim::SourceHost => power(source).await,
            Victim::TargetHost => power(target).await,
            Victim::Gateway => {
                assert!(self.cluster.lab.gateway().unwrap().kill());
            }
            Victim::Postgres => {
                assert!(self.cluster.lab.postgres().kill());
            }
            Victim::Link => {
                self.link([source, target], true);
                tokio::time::sleep(AWAY).await;
                self.link([source, target], false);
            }
        }
    }

    async fn case(&self, victim: Victim, point: Point) -> Outcome {
        let boot = self.booted().await;
        let (source, target) = self.sides().await;
        if *self.paced.lock().unwrap() != boot {
            source.http_get(ADDRESS, "/cgi-bin/pace").unwrap();
            self.paced.lock().unwrap().clone_from(&boot);
            let busy = self.busy.load(Ordering::Relaxed);
            until("the guest is seen to execute", Duration::from_secs(20), async || {
                self.busy.load(Ordering::Relaxed) > busy + 3
            })
            .await;
        }
        let (from, to) = (source.name().to_owned(), target.name().to_owned());
        let migration = self.ask(&to).await;
        tokio::time::sleep(self.whole * point.0 / 10).await;
        self.fail(victim, source, target).await;
        let back = Instant::now();
        let context = format!("{victim:?} at {}/10, {from} to {to}", point.0);
        let mut outcome = Value::Null;
        until(&format!("it is decided ({context})"), AGREED, async || {
            outcome = self.ended(&migration).await.unwrap_or_default();
            outcome.is_object()
        })
        .await;
        let decided = back.elapsed();
        let mut settled = None;
        let end = Instant::now() + AGREED;
        while settled.is_none() && Instant::now() < end {
            settled = self.agreed().await.then(|| back.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let vm = self.get("vms/a").await.unwrap_or_default();
        let Some(agreed) = settled else {
            panic!("both sides do not agree ({context}): {outcome}\n{vm}\n{}", self.cluster.logs())
        };
        let now = self.booted().await;
        let result = outcome["result"].as_str().unwrap_or_default().to_owned();
        // Whoever lost its power while it had the guest took it along.
        let died = match victim {
            Victim::SourceHost => result != "completed",
            Victim::TargetHost => result == "completed",
            _ => false,
        };
        let survived = now == boot;
        assert!(
            survived || died,
            "the guest was started anew ({context}): {outcome}\n{}",
            self.cluster.logs()
        );
        let doubles = self.watchman.doubles();
        assert_eq!(doubles, 0, "two hosts executed it ({context})\n{}", self.cluster.logs());
        assert!(decided <= DECIDED && agreed <= AGREED, "{context}: {decided:?}, {agreed:?}: {outcome}");
        Outcome { victim, point, result, decided, agreed, survived }
    }

    async fn cases(self, cases: impl IntoIterator<Item = (Victim, Point)>) {
        println!("a migration takes {:?} when nobody fails", self.whole);
        for (victim, point) in cases {
            println!("{}", self.case(victim, point).await);
        }
        println!("{} looks at the processes", self.watchman.looks());
    }
}

/// Each that may fail, at so many points: a sample of the ten of each, or as many as the soak asks for.
fn cases() -> Vec<(Victim, Point)> {
    let Some(points) = std::env::var("BASALT_MIGRATION_POINTS").ok().and_then(|n| n.parse::<u32>().ok())
    else {
        // Those whose end has most ways to go wrong; the others meet the same steps in simulation.
        return vec![
            (Victim::TargetLibvirt, Point(6)),
            (Victim::SourceAgent, Point(9)),
            (Victim::Link, Point(5)),
            (Victim::SourceHost, Point(4)),
        ];
    };
    let each = |victim| (0..points).map(move |n| (victim, Point((2 * n + 1) * 5 / points.max(1))));
    let only = std::env::var("BASALT_MIGRATION_VICTIM").unwrap_or_default();
    let chosen = Victim::ALL.into_iter().filter(|victim| only.is_empty() || format!("{victim:?}") == only);
    chosen.flat_map(each).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r51_m3_whoever_fails_at_whatever_point_of_a_real_migration_one_host_owns_the_guest_and_no_two_execute_it()
 {
    Way::new().await.cases(cases()).await;
}
