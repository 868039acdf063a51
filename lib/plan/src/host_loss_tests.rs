//! The loss of a host: every combination of what can be known, and what follows.

use super::*;

fn grant(seen_for_seconds: u64, fencer: bool) -> Option<Grant> {
    Some(Grant { seen_for_seconds, fencer })
}

#[test]
fn r55_a_host_is_dead_only_by_a_lease_that_is_over_under_a_fencer() {
    let proof = u64::from(PROOF_SECONDS);
    let dead = Verdict::Dead(DeathKind::LeaseExpired);
    // Of each grant: what is said of a host that is silent.
    let silent = [
        (None, Verdict::Unfenced),
        (grant(0, false), Verdict::Unfenced),
        (grant(proof - 1, false), Verdict::Unfenced),
        (grant(proof, false), Verdict::Unfenced),
        (grant(u64::MAX, false), Verdict::Unfenced),
        (grant(0, true), Verdict::Waiting),
        (grant(u64::from(HA_LEASE_SECONDS), true), Verdict::Waiting),
        (grant(proof - 1, true), Verdict::Waiting),
        (grant(proof, true), dead),
        (grant(u64::MAX, true), dead),
    ];
    for (grant, expected) in silent {
        let signs = Signs { heard: false, grant, proven: false };
        assert_eq!(decide(signs), expected, "{signs:?}");
        // Heard of, it is alive whatever its lease; proven, it is proven, heard of or not, until it is told otherwise.
        assert_eq!(decide(Signs { heard: true, ..signs }), Verdict::Alive, "{signs:?}");
        for heard in [false, true] {
            assert_eq!(decide(Signs { heard, proven: true, ..signs }), Verdict::Proven, "{signs:?}");
        }
    }
}

#[test]
fn r55_the_proof_waits_for_lease_and_window() {
    assert_eq!(PROOF_SECONDS, HA_LEASE_SECONDS + FENCE_WINDOW_SECONDS);
    // What M5 promises: a host's loss is over within 60 s, the start of the guest included.
    const { assert!(PROOF_SECONDS <= 35) };
}

#[test]
fn m5_a_vm_is_started_elsewhere_only_with_policy_lease_and_proof() {
    let name = |text: &str| Name::new(text).unwrap();
    let (vm, host) = (name("web"), name("h1"));
    let verdicts = [
        Verdict::Alive,
        Verdict::Waiting,
        Verdict::Unfenced,
        Verdict::Dead(DeathKind::LeaseExpired),
        Verdict::Proven,
    ];
    for verdict in verdicts {
        for (restarts, leased) in [(false, false), (false, true), (true, false), (true, true)] {
            let stranded = Stranded { restarts, leased, verdict };
            let code = match fate(stranded, &vm, &host) {
                Fate::Elsewhere => "elsewhere".to_owned(),
                Fate::Stays(reason) => {
                    assert!(!reason.message.is_empty() && !reason.remedy.is_empty(), "{reason:?}");
                    reason.code.to_string()
                }
            };
            let expected = match (restarts, leased, verdict) {
                (false, _, _) => "no_ha_policy",
                (true, false, _) => "never_leased",
                (true, true, Verdict::Proven) => "elsewhere",
                (true, true, Verdict::Unfenced) => "fencing_not_proven",
                (true, true, _) => "lease_running_out",
            };
            assert_eq!(code, expected, "{stranded:?}");
        }
    }
}
