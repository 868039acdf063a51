//! Affinity: hard rules leave hosts out both ways, soft ones prefer, and every host left out names the VM in the way.

use super::super::tests::{choose_beside, codes, host, name, request};
use super::*;
use crate::placement::Verdict;
use proptest::prelude::*;

fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).collect()
}

fn rule(text: &str, required: bool) -> AffinityRule {
    AffinityRule { vm_labels: labels(text), required }
}

fn peer(text: &str, own: &str, keeps_away: &[&str]) -> Peer {
    Peer { name: name(text), labels: labels(own), keeps_away: keeps_away.iter().map(|l| labels(l)).collect() }
}

fn asks(own: &str, affinity: Vec<AffinityRule>, anti_affinity: Vec<AffinityRule>) -> Request {
    let mut r = request();
    r.labels = labels(own);
    (r.rules.affinity, r.rules.anti_affinity) = (affinity, anti_affinity);
    r
}

#[test]
fn pl3_hard_anti_affinity_leaves_out_hosts_with_such_a_vm_and_names_it() {
    let (taken, free) = (host(1), host(2));
    let there =
        [(taken.id, &peer("web-2", "app=web", &[])), (taken.id, &peer("web-1", "app=web,tier=1", &[]))];
    let r = asks("app=web", vec![], vec![rule("app=web", true)]);
    let d = choose_beside(&r, there, [&taken, &free]);
    assert_eq!((d.explanation.host_id, codes(&d, &taken)), (Some(free.id), vec!["anti_affinity".to_owned()]));
    let d = choose_beside(&r, there, [&taken]);
    let Verdict::Later(reason) = &d.verdict else { panic!("{:?}", d.verdict) };
    assert_eq!(reason.code, "no_host_fits");
    let why = &d.explanation.candidates[0].rejections[0];
    assert_eq!(why.evidence, "vm/web-1 is placed there, and 1 more");
    assert!(why.message.contains("app=web") && !why.remedy.is_empty(), "{why}");
    let other = asks("", vec![], vec![rule("app=web,tier=2", true)]);
    assert_eq!(
        codes(&choose_beside(&other, there, [&taken]), &taken),
        [""; 0],
        "all labels of a rule are meant"
    );
}

#[test]
fn pl3_a_placed_vm_keeps_away_what_its_hard_rule_means() {
    let taken = host(1);
    let there = [(taken.id, &peer("quiet", "", &["noise=loud"]))];
    let d = choose_beside(&asks("noise=loud", vec![], vec![]), there, [&taken]);
    assert_eq!(codes(&d, &taken), ["anti_affinity"]);
    assert_eq!(d.explanation.candidates[0].rejections[0].evidence, "vm/quiet is placed there");
    assert!(matches!(d.verdict, Verdict::Later(_)));
    let d = choose_beside(&asks("noise=low", vec![], vec![]), there, [&taken]);
    assert!(matches!(d.verdict, Verdict::Fits { .. }));
    let soft = PlacementRules { anti_affinity: vec![rule("a=b", false)], ..Default::default() };
    assert_eq!(Peer::of(&name("p"), &Labels::default(), &soft), None, "a soft rule keeps nobody away");
}

#[test]
fn pl3_hard_affinity_follows_such_a_vm_waits_for_one_or_begins_the_group() {
    let (near, far) = (host(1), host(2));
    let there = [(far.id, &peer("db-1", "app=db", &[]))];
    let follower = asks("app=web", vec![rule("app=db", true)], vec![]);
    let d = choose_beside(&follower, there, [&near, &far]);
    assert_eq!((d.explanation.host_id, codes(&d, &near)), (Some(far.id), vec!["affinity_unmet".to_owned()]));
    let d = choose_beside(&follower, [], [&near, &far]);
    assert!(matches!(&d.verdict, Verdict::Later(r) if r.code == "no_host_fits"), "{:?}", d.verdict);
    assert_eq!(d.explanation.candidates[0].rejections[0].evidence, "no such VM is placed on any host");
    let member = asks("app=db", vec![rule("app=db", true)], vec![]);
    assert!(
        matches!(choose_beside(&member, [], [&near]).verdict, Verdict::Fits { .. }),
        "the first of its group"
    );
    assert_eq!(codes(&choose_beside(&member, there, [&near]), &near), ["affinity_unmet"], "not the second");
}

#[test]
fn pl3_soft_rules_prefer_and_never_leave_a_host_out() {
    let (mut busy, free) = (host(1), host(2));
    busy.claimed.cpus = 4;
    let there = [(busy.id, &peer("db-1", "app=db", &[]))];
    let drawn = asks("", vec![rule("app=db", false)], vec![]);
    assert_eq!(choose_beside(&drawn, there, [&busy, &free]).explanation.host_id, Some(busy.id));
    assert_eq!(choose_beside(&drawn, there, [&free]).explanation.host_id, Some(free.id));
    busy.claimed.cpus = 0;
    let kept = asks("", vec![], vec![rule("app=db", false)]);
    assert_eq!(choose_beside(&kept, there, [&busy, &free]).explanation.host_id, Some(free.id));
    assert_eq!(choose_beside(&kept, there, [&busy]).explanation.host_id, Some(busy.id));
    let two = [(busy.id, there[0].1), (free.id, there[0].1), (free.id, there[0].1)];
    let d = choose_beside(&kept, two, [&busy, &free]);
    assert_eq!(d.explanation.host_id, Some(busy.id), "where fewer such VMs are");
}

#[test]
fn pl3_a_pinned_vm_waits_for_its_host_rather_than_breaking_a_rule() {
    let (pinned, other) = (host(1), host(2));
    let there = [(pinned.id, &peer("web-1", "app=web", &[]))];
    let mut r = asks("", vec![], vec![rule("app=web", true)]);
    r.rules.host = Some(pinned.name.clone());
    let d = choose_beside(&r, there, [&pinned, &other]);
    assert!(matches!(&d.verdict, Verdict::Later(r) if r.code == "no_host_fits"), "{:?}", d.verdict);
    assert_eq!(
        (codes(&d, &pinned), codes(&d, &other)),
        (vec!["anti_affinity".into()], vec!["pinned_elsewhere".into()])
    );
}

proptest! {
    /// Whatever stands where: a chosen host breaks no hard rule of either side.
    #[test]
    fn pl3_a_chosen_host_breaks_no_hard_rule(
        placed in proptest::collection::vec((0u128..4, 0usize..4, proptest::option::of(0usize..4)), 0..12),
        own in 0usize..4, wants in proptest::option::of(0usize..4), avoids in proptest::option::of(0usize..4),
    ) {
        const KINDS: [&str; 4] = ["g=a", "g=b", "g=a,z=1", "z=1"];
        let hosts: Vec<_> = (0..4).map(host).collect();
        let peers: Vec<_> = placed.iter().enumerate().map(|(i, (at, kind, away))| {
            let away: Vec<&str> = away.iter().map(|k| KINDS[*k]).collect();
            (hosts[usize::try_from(*at).unwrap()].id, peer(&format!("p{i}"), KINDS[*kind], &away))
        }).collect();
        let hard = |kind: Option<usize>| kind.map(|k| rule(KINDS[k], true)).into_iter().collect::<Vec<_>>();
        let r = asks(KINDS[own], hard(wants), hard(avoids));
        let d = choose_beside(&r, peers.iter().map(|(h, p)| (*h, p)), &hosts);
        if let Some(at) = d.explanation.host_id {
            let here: Vec<&Peer> = peers.iter().filter(|(h, _)| *h == at).map(|(_, p)| p).collect();
            for rule in &r.rules.anti_affinity {
                prop_assert!(!here.iter().any(|p| p.labels.contains_all(&rule.vm_labels)));
            }
            prop_assert!(!here.iter().any(|p| p.keeps_away.iter().any(|l| r.labels.contains_all(l))));
            for rule in &r.rules.affinity {
                let with = here.iter().any(|p| p.labels.contains_all(&rule.vm_labels));
                let anywhere = peers.iter().any(|(_, p)| p.labels.contains_all(&rule.vm_labels));
                prop_assert!(with || (!anywhere && r.labels.contains_all(&rule.vm_labels)));
            }
        }
    }
}
