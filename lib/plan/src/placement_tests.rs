//! Placement: table of filters, scores and verdicts, and what must hold for any cluster.

use super::*;
use basalt_model::{
    GIB,
    hosts::{Accelerator, BridgeFacts, Versions},
    pools::{PoolFacts, PoolKind},
};
use proptest::prelude::*;
use uuid::Uuid;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn pool(text: &str, size: u64) -> PoolFacts {
    PoolFacts {
        name: name(text),
        kind: PoolKind::Directory,
        shared_id: None,
        path: format!("/pools/{text}"),
        capacity_bytes: size,
        available_bytes: size,
        lacks: vec![],
    }
}

fn facts(threads: u32, memory_bytes: u64) -> HostFacts {
    HostFacts {
        hostname: "h".into(),
        boot_id: "b".into(),
        cpu_model: "m".into(),
        cpu_features: vec![],
        cores: threads,
        threads,
        memory_bytes,
        numa: vec![],
        accelerators: vec![Accelerator { kind: "tcg".into(), usable: true, evidence: "booted".into() }],
        uefi: false,
        pools: vec![pool("default", 100 * GIB)],
        bridges: vec![BridgeFacts {
            name: "br-int".into(),
            datapath: "netdev".into(),
            integration: true,
            mtu: None,
        }],
        tunnel_address: None,
        tunnel_mtu: None,
        migration_address: None,
        post_copy: false,
        routers: false,
        fencer: None,
        versions: Versions::default(),
        foreign: vec![],
        problems: vec![],
    }
}

pub(crate) fn host(n: u128) -> HostView {
    HostView {
        id: HostId(Uuid::from_u128(n)),
        name: name(&format!("h{n}")),
        labels: Labels::default(),
        spec: HostSpec { cpu_overcommit_percent: 100, ..HostSpec::default() },
        state: HostState::Ready,
        facts: Some(Arc::new(facts(8, 9 * GIB))),
        claimed: Demand::default(),
        pool_claims: BTreeMap::new(),
        cached_images: BTreeSet::new(),
    }
}

fn facts_of(host: &mut HostView) -> &mut HostFacts {
    Arc::make_mut(host.facts.as_mut().unwrap())
}

pub(crate) fn request() -> Request {
    Request {
        cpus: 2,
        memory_bytes: GIB,
        volumes: vec![VolumeRequest { name: name("root"), size_bytes: 10 * GIB, pool: None, bound: None }],
        segments: vec![Segment::Vxlan],
        ..Request::default()
    }
}

pub(crate) fn codes(decision: &Decision, of: &HostView) -> Vec<String> {
    let candidate = decision.explanation.candidates.iter().find(|c| c.host_id == of.id).unwrap();
    candidate.rejections.iter().map(|r| r.code.to_string()).collect()
}

/// Chooses where no other VM matters.
fn choose<'a>(request: &Request, hosts: impl IntoIterator<Item = &'a HostView>) -> Decision {
    super::choose(request, &Neighbours::default(), hosts)
}

/// Chooses among hosts on which these VMs are placed.
pub(super) fn choose_beside<'a, 'p>(
    request: &Request,
    placed: impl IntoIterator<Item = (HostId, &'p affinity::Peer)>,
    hosts: impl IntoIterator<Item = &'a HostView>,
) -> Decision {
    super::choose(request, &Neighbours::of(request, placed), hosts)
}

#[test]
fn pl1_every_filter_rejects_with_its_own_code() {
    type Change = fn(&mut Request, &mut HostView);
    let table: &[(&str, bool, Change)] = &[
        ("host_in_maintenance", false, |_, h| h.state = HostState::Maintenance),
        ("host_unreachable", false, |_, h| h.state = HostState::Unreachable),
        ("host_degraded", false, |_, h| h.state = HostState::Degraded),
        ("host_removed", false, |_, h| h.state = HostState::Removed),
        ("host_enrolling", false, |_, h| (h.state, h.facts) = (HostState::Enrolling, None)),
        ("labels_missing", false, |r, _| r.rules.host_labels = [("disk", "ssd")].into_iter().collect()),
        ("accelerator_missing", false, |_, h| facts_of(h).accelerators[0].usable = false),
        ("uefi_missing", true, |r, _| r.firmware = Firmware::Uefi),
        ("host_too_small_cpus", true, |r, _| r.cpus = 9),
        ("insufficient_cpus", false, |_, h| h.claimed.cpus = 7),
        ("host_too_small_memory", true, |r, _| r.memory_bytes = 8 * GIB + 1),
        ("insufficient_memory", false, |_, h| h.claimed.memory_bytes = 8 * GIB - 1),
        ("pool_missing", true, |r, _| r.volumes[0].pool = Some(name("fast"))),
        ("no_pool", true, |_, h| facts_of(h).pools.clear()),
        ("pool_too_small", true, |r, _| r.volumes[0].size_bytes = 101 * GIB),
        ("insufficient_storage", false, |_, h| h.pool_claims = [(name("default"), 91 * GIB)].into()),
        ("insufficient_storage", false, |_, h| facts_of(h).pools[0].available_bytes = GIB),
        ("integration_bridge_missing", false, |_, h| facts_of(h).bridges.clear()),
        ("uplink_missing", true, |r, _| r.segments = vec![Segment::Flat { uplink: "br-ex".into() }]),
    ];
    for (code, never, change) in table {
        let (mut r, mut h) = (request(), host(1));
        assert!(matches!(choose(&r, [&h]).verdict, Verdict::Fits { .. }));
        change(&mut r, &mut h);
        let d = choose(&r, [&h]);
        assert_eq!(codes(&d, &h), [*code], "{code}");
        assert_eq!(matches!(d.verdict, Verdict::Never(_)), *never, "{code}: {:?}", d.verdict);
        assert!(!matches!(d.verdict, Verdict::Fits { .. }), "{code}");
    }
}

#[test]
fn pl2_every_rejected_host_stands_with_figures_and_a_remedy() {
    let (mut full, mut away, fits) = (host(1), host(2), host(3));
    full.claimed = Demand { vms: 4, cpus: 8, memory_bytes: 8 * GIB, storage_bytes: 0 };
    full.pool_claims.insert(name("default"), 95 * GIB);
    away.state = HostState::Unreachable;
    let d = choose(&request(), [&full, &away, &fits]);
    assert_eq!(d.explanation.host_id, Some(fits.id));
    assert_eq!(
        d.explanation.candidates.iter().map(|c| c.host.as_str()).collect::<Vec<_>>(),
        ["h3", "h2", "h1"]
    );
    assert_eq!(codes(&d, &full), ["insufficient_cpus", "insufficient_memory", "insufficient_storage"]);
    let all: Vec<_> = d.explanation.candidates.iter().flat_map(|c| &c.rejections).collect();
    assert!(all.iter().all(|r| !r.message.is_empty() && !r.remedy.is_empty()));
    assert_eq!(all[1].evidence, "asked 2, claimed 8, limit 8 CPUs");
    assert!(d.explanation.summary.contains("h3 takes it: best of 1 that fit, 2 rejected"));
}

#[test]
fn pl1_spread_takes_the_emptiest_pack_the_fullest_and_a_tie_the_lower_id() {
    let (mut a, b, c) = (host(1), host(2), host(3));
    a.claimed = Demand { vms: 2, cpus: 4, memory_bytes: 4 * GIB, storage_bytes: 0 };
    let mut r = request();
    let pick = |r: &Request| choose(r, [&c, &b, &a]).explanation.host_id.unwrap();
    assert_eq!(pick(&r), b.id);
    r.rules.strategy = PlacementStrategy::Pack;
    assert_eq!(pick(&r), a.id);
}

#[test]
fn pl1_a_cached_image_decides_between_like_hosts_but_not_against_a_much_emptier_one() {
    let image = ImageId(Uuid::from_u128(77));
    let (a, mut b) = (host(1), host(2));
    b.cached_images.insert(image);
    let r = Request { images: [image].into(), ..request() };
    assert_eq!(choose(&r, [&a, &b]).explanation.host_id, Some(b.id));
    b.claimed.cpus = 4;
    assert_eq!(choose(&r, [&a, &b]).explanation.host_id, Some(a.id));
}

#[test]
fn pl1_volumes_go_to_the_pool_with_the_most_room_counting_their_siblings() {
    let mut h = host(1);
    facts_of(&mut h).pools = vec![pool("a", 30 * GIB), pool("b", 25 * GIB)];
    let volume = |n: &str| VolumeRequest { name: name(n), size_bytes: 10 * GIB, pool: None, bound: None };
    let r = Request { volumes: vec![volume("x"), volume("y"), volume("z"), volume("w")], ..request() };
    let Verdict::Fits { pools, .. } = choose(&r, [&h]).verdict else { panic!() };
    assert_eq!(pools.iter().map(Name::as_str).collect::<Vec<_>>(), ["a", "b", "a", "b"]);
    let r = Request { volumes: (0..6).map(|i| volume(&format!("v{i}"))).collect(), ..request() };
    assert_eq!(codes(&choose(&r, [&h]), &h), ["insufficient_storage"]);
}

#[test]
fn pl1_a_bound_volume_ties_the_vm_to_its_host_and_claims_nothing_more() {
    let (mut a, b) = (host(1), host(2));
    a.pool_claims.insert(name("default"), 100 * GIB);
    let mut r = request();
    r.volumes[0].bound = Some((a.id, name("default")));
    let d = choose(&r, [&a, &b]);
    assert_eq!(d.verdict, Verdict::Fits { host_id: a.id, pools: vec![name("default")] });
    assert_eq!(codes(&d, &b), ["volume_elsewhere"]);
}

#[test]
fn v1_a_named_pool_is_full_when_no_admitted_host_has_room_beside_what_is_promised() {
    let (mut a, mut b) = (host(1), host(2));
    a.pool_claims.insert(name("default"), 95 * GIB);
    facts_of(&mut b).pools[0].available_bytes = 7 * GIB;
    let volume = |size: u64| VolumeRequest {
        name: name("v"),
        size_bytes: size * GIB,
        pool: Some(name("default")),
        bound: None,
    };
    let of = |volumes: Vec<VolumeRequest>| Request { volumes, ..request() };
    let full = |r: &Request| full_pools(r, [&a, &b]).iter().map(|f| f.volume).collect::<Vec<_>>();
    assert_eq!(full(&of(vec![volume(7)])), [0usize; 0]);
    let found = full_pools(&of(vec![volume(8)]), [&a, &b]);
    assert_eq!((found[0].volume, found[0].reason.code.as_ref()), (0, "pool_full"));
    let evidence = format!("free: {} bytes on h2, {} bytes on h1", 7 * GIB, 5 * GIB);
    assert_eq!(found[0].reason.evidence, evidence);
    assert!(found[0].reason.remedy.contains(&format!("at most {} bytes", 7 * GIB)));
    // Siblings count, and the one is named that fits no more.
    assert_eq!(full(&of(vec![volume(4), volume(4)])), [1]);
    // Whoever names no pool, is somewhere already, or names a pool that nobody has, has another problem.
    let unnamed = VolumeRequest { pool: None, ..volume(8) };
    let bound = VolumeRequest { bound: Some((a.id, name("default"))), ..volume(8) };
    let unknown = VolumeRequest { pool: Some(name("fast")), ..volume(8) };
    assert_eq!(full(&of(vec![unnamed, bound, unknown])), [0usize; 0]);
    // A host that is away has its room; one that the rules leave out or that goes has none to give.
    let (mut away, mut going) = (b.clone(), b.clone());
    (away.state, going.state) = (HostState::Unreachable, HostState::Removed);
    assert!(full_pools(&of(vec![volume(7)]), [&a, &away]).is_empty());
    assert_eq!(full_pools(&of(vec![volume(7)]), [&a, &going]).len(), 1);
    let mut pinned = of(vec![volume(7)]);
    pinned.rules.host = Some(name("h1"));
    assert_eq!(full(&pinned), [0]);
    pinned.rules.host = Some(name("h2"));
    assert_eq!(full(&pinned), [0usize; 0]);
}

#[test]
fn pl2_never_is_said_only_of_what_an_empty_cluster_could_not_take() {
    let h = host(1);
    assert!(matches!(choose(&request(), []).verdict, Verdict::Later(r) if r.code == "no_hosts"));
    let mut r = request();
    r.rules.host = Some(name("elsewhere"));
    assert!(matches!(choose(&r, [&h]).verdict, Verdict::Never(r) if r.code == "pinned_host_unknown"));
    // A host that was never seen may be able to do anything.
    let unseen = HostView { state: HostState::Enrolling, facts: None, ..host(2) };
    let big = Request { cpus: 64, ..request() };
    assert!(
        matches!(choose(&big, [&h]).verdict, Verdict::Never(r) if r.code == "no_host_can" && r.remedy.contains("ask for at most 8"))
    );
    assert!(matches!(choose(&big, [&h, &unseen]).verdict, Verdict::Later(_)));
    // A host that the rules leave out is no excuse.
    let pinned =
        Request { rules: PlacementRules { host: Some(name("h1")), ..PlacementRules::default() }, ..big };
    assert!(matches!(choose(&pinned, [&h, &unseen]).verdict, Verdict::Never(_)));
}

proptest! {
    /// Placing one after another never promises more than a host has, and says why when it stops.
    #[test]
    fn pl4_placing_one_after_another_never_overfills(
        sizes in prop::collection::vec((1u32..6, 1u64..5, 1u64..40), 1..60),
        pack in any::<bool>(),
    ) {
        let mut hosts = [host(1), host(2), host(3)];
        for (cpus, memory, disk) in sizes {
            let mut r = Request { cpus, memory_bytes: memory * GIB, ..request() };
            r.volumes[0].size_bytes = disk * GIB;
            r.rules.strategy = if pack { PlacementStrategy::Pack } else { PlacementStrategy::Spread };
            let d = choose(&r, &hosts);
            prop_assert_eq!(d.explanation.candidates.len(), 3);
            match d.verdict {
                Verdict::Fits { host_id, pools } => {
                    let h = hosts.iter_mut().find(|h| h.id == host_id).unwrap();
                    h.claimed.cpus += cpus;
                    h.claimed.memory_bytes += memory * GIB;
                    *h.pool_claims.entry(pools[0].clone()).or_default() += disk * GIB;
                }
                Verdict::Later(reason) => prop_assert!(!reason.evidence.is_empty() && !reason.remedy.is_empty()),
                Verdict::Never(reason) => prop_assert!(false, "{reason}"),
            }
            for h in &hosts {
                let most = h.spec.capacity(h.facts.as_ref().unwrap());
                prop_assert!(h.claimed.cpus <= most.cpus && h.claimed.memory_bytes <= most.memory_bytes);
                prop_assert!(h.pool_claims.values().all(|c| *c <= 100 * GIB));
            }
        }
    }

    /// The order in which hosts are looked at changes nothing.
    #[test]
    fn pl1_the_decision_does_not_depend_on_the_order_of_hosts(order in Just([1u128, 2, 3, 4, 5]).prop_shuffle(), load in prop::collection::vec(0u32..9, 5)) {
        let make = |n: u128| {
            let mut h = host(n);
            h.claimed.cpus = load[n as usize - 1];
            h
        };
        let sorted: Vec<_> = (1..=5).map(make).collect();
        let shuffled: Vec<_> = order.into_iter().map(make).collect();
        prop_assert_eq!(choose(&request(), &sorted), choose(&request(), &shuffled));
    }
}

#[test]
fn m5_a_vm_with_an_ha_policy_takes_only_storage_that_other_hosts_see() {
    let (local, mut sharing) = (host(1), host(2));
    let shared = PoolFacts { shared_id: Some(Uuid::from_u128(7)), ..pool("nfs", 50 * GIB) };
    facts_of(&mut sharing).pools.push(shared);
    let wanted = Request { shared_storage: true, ..request() };
    let decision = choose(&wanted, [&local, &sharing]);
    // The larger pool is its own, and therefore not taken.
    assert_eq!(decision.verdict, Verdict::Fits { host_id: sharing.id, pools: vec![name("nfs")] });
    assert_eq!(codes(&decision, &local), ["ha_local_storage"]);
    assert!(matches!(choose(&wanted, [&local]).verdict, Verdict::Never(_)), "refused before anything moves");
    let named = |pool: &str, bound: bool| {
        let at = bound.then(|| (sharing.id, name(pool)));
        let volume = VolumeRequest { pool: Some(name(pool)), bound: at, ..request().volumes[0].clone() };
        choose(&Request { volumes: vec![volume], ..wanted.clone() }, [&sharing])
    };
    for bound in [false, true] {
        assert_eq!(codes(&named("default", bound), &sharing), ["ha_local_storage"], "{bound}");
        assert!(matches!(named("nfs", bound).verdict, Verdict::Fits { .. }), "{bound}");
    }
    assert_eq!(codes(&named("lost", false), &sharing), ["pool_missing"]);
}
