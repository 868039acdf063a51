//! Deployments: every reason for an attempt, and every reason for none.

use super::*;
use basalt_model::{
    DeploymentId,
    agents::AgentSpec,
    artifacts::Tag,
    attempts::{AttemptError, DeploymentPhase},
    deployments::Readiness,
};
use serde_json::json;

const HASH: &str = "aa";

struct World {
    spec: DeploymentSpec,
    artifact: ArtifactSpec,
    provider: ProviderSpec,
    attempted: Option<Attempted>,
    applied: Option<Applied>,
    seen: Option<ObservedWorkload>,
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn world() -> World {
    let agent: AgentSpec =
        serde_json::from_value(json!({"source": {"type": "image", "image": "a"}})).unwrap();
    World {
        spec: serde_json::from_value(json!({"target": {"kind": "agent", "name": "a"}, "provider": "here"}))
            .unwrap(),
        artifact: ArtifactSpec::Agent(agent),
        provider: serde_json::from_value(json!({"platform": "local"})).unwrap(),
        attempted: None,
        applied: None,
        seen: None,
    }
}

fn workload(readiness: Readiness) -> ObservedWorkload {
    ObservedWorkload {
        owner: Some(DeploymentId(id(1))),
        project: None,
        fingerprint: None,
        generation: None,
        epoch: None,
        kind: None,
        image: None,
        readiness,
        endpoints: Vec::new(),
        drift: Vec::new(),
    }
}

impl World {
    fn situation(&self) -> Situation<'_> {
        Situation {
            generation: Generation(1),
            spec: &self.spec,
            deleting: false,
            orphan: false,
            force: None,
            target: Named::Found(Target {
                id: ArtifactId(id(2)),
                generation: Generation(1),
                spec: &self.artifact,
                content_hash: HASH,
            }),
            place: Named::Found(Place {
                id: ProviderId(id(3)),
                generation: Generation(1),
                spec: &self.provider,
                revision: 1,
                unreachable: None,
            }),
            references: Vec::new(),
            secrets: Vec::new(),
            past: Past {
                attempted: self.attempted.as_ref(),
                applied: self.applied.as_ref(),
                begun: self.attempted.as_ref().map_or(Epoch::default(), |a| a.epoch),
                ended: self.attempted.as_ref().map_or(Epoch::default(), |a| a.epoch),
                flapping: false,
            },
            seen: self.seen.as_ref().map_or(Seen::NotYet, Seen::There),
        }
    }

    /// As after an attempt that went well.
    fn deployed(mut self) -> Self {
        let (fingerprint, dependencies) = resolve(&self.situation()).unwrap();
        self.attempted = Some(Attempted {
            action: Some(Action::Deploy),
            epoch: Epoch(1),
            generation: Generation(1),
            fingerprint: fingerprint.clone(),
            ..Attempted::default()
        });
        self.applied = Some(Applied {
            generation: Generation(1),
            fingerprint: fingerprint.clone(),
            dependencies,
            epoch: Epoch(1),
            endpoints: Vec::new(),
        });
        self.seen = Some(ObservedWorkload { fingerprint: Some(fingerprint), ..workload(Readiness::Ready) });
        self
    }
}

fn phase_of(of: &Situation<'_>, next: &Next) -> DeploymentPhase {
    standing(of, next).phase
}

fn causes(next: Next) -> Vec<String> {
    match next {
        Next::Attempt(request) => request.causes.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn server(generation: i64, hash: &str) -> Named<Dependency> {
    Named::Found(dependency("server/w:latest".into(), id(9), Generation(generation), hash))
}

#[test]
fn what_is_as_it_was_applied_rests_and_what_was_never_applied_is_new() {
    let fresh = world();
    assert_eq!(causes(next(&fresh.situation())), ["nothing of it was applied yet"]);
    assert_eq!(phase_of(&fresh.situation(), &next(&fresh.situation())), DeploymentPhase::Pending);
    let deployed = world().deployed();
    assert_eq!(next(&deployed.situation()), Next::Rest);
    assert_eq!(phase_of(&deployed.situation(), &Next::Rest), DeploymentPhase::Deployed);
}

#[test]
fn dp55_a_fingerprint_is_of_what_runs_and_of_nothing_else() {
    let deployed = world().deployed();
    let before = resolve(&deployed.situation()).unwrap().0;
    let of = |change: &dyn Fn(&mut Situation<'_>)| {
        let mut situation = deployed.situation();
        change(&mut situation);
        resolve(&situation).unwrap().0
    };
    // What was seen, what was tried, a higher generation by itself (a label, a reason to look): none of it runs.
    let not_ready = workload(Readiness::Starting);
    assert_eq!(of(&|s| s.seen = Seen::Absent(3)), before);
    assert_eq!(of(&|s| s.past.flapping = true), before);
    assert_eq!(of(&|s| s.generation = Generation(7)), before);
    assert_eq!(of(&|s| s.force = Some(id(7))), before);
    let _ = not_ready;
    let other: DeploymentSpec = serde_json::from_value(
        json!({"target": {"kind": "agent", "name": "a"}, "provider": "here", "env": {"A": "b"}}),
    )
    .unwrap();
    let mut quiet = deployed.spec.clone();
    quiet.on_drift = OnDrift::Report;
    let mut seen = std::collections::BTreeSet::from([before.clone()]);
    let quiet_fingerprint = {
        let mut situation = deployed.situation();
        situation.spec = &quiet;
        resolve(&situation).unwrap().0
    };
    assert_eq!(quiet_fingerprint, before, "what is done about drift is no part of what runs");
    let mut changed = deployed.situation();
    changed.spec = &other;
    assert!(seen.insert(resolve(&changed).unwrap().0));
    assert!(seen.insert(of(&|s| s.references = vec![server(1, "bb")])));
    assert!(seen.insert(of(&|s| s.references = vec![server(1, "cc")])));
    let name = Name::new("k").unwrap();
    assert!(
        seen.insert(
            of(&|s| s.secrets = vec![(name.clone(), Named::Found((SecretId(id(5)), Generation(1))))])
        )
    );
    assert!(
        seen.insert(
            of(&|s| s.secrets = vec![(name.clone(), Named::Found((SecretId(id(5)), Generation(2))))])
        )
    );
    let mut revised = deployed.situation();
    if let Named::Found(place) = &mut revised.place {
        place.revision = 2;
    }
    assert!(seen.insert(resolve(&revised).unwrap().0));
    let mut retagged = deployed.situation();
    if let Named::Found(target) = &mut retagged.target {
        target.content_hash = "dd";
    }
    assert!(seen.insert(resolve(&retagged).unwrap().0));
}

#[test]
fn dp57_each_cause_names_what_changed_and_both_generations() {
    let mut deployed = world();
    let with = |situation: &mut Situation<'_>| situation.references = vec![server(3, "bb")];
    let mut first = deployed.situation();
    with(&mut first);
    let (fingerprint, dependencies) = resolve(&first).unwrap();
    deployed.applied = Some(Applied {
        generation: Generation(1),
        fingerprint,
        dependencies,
        epoch: Epoch(1),
        endpoints: Vec::new(),
    });
    let mut situation = deployed.situation();
    situation.references = vec![server(4, "cc")];
    assert_eq!(causes(next(&situation)), ["server/w:latest changed: generation 3 to 4"]);
    situation.references = Vec::new();
    assert_eq!(causes(next(&situation)), ["it is not made from server/w:latest any more"]);
    let replaced = dependency("server/w:latest".into(), id(10), Generation(1), "bb");
    situation.references = vec![Named::Found(replaced)];
    assert_eq!(causes(next(&situation)), ["server/w:latest is another one of the same name"]);
    with(&mut situation);
    let named = (Name::new("k").unwrap(), Named::Found((SecretId(id(5)), Generation(1))));
    situation.secrets = vec![named];
    assert_eq!(causes(next(&situation)), ["it is made from secret/k too"]);
}

#[test]
fn dp20_dp21_what_is_missing_blocks_the_first_time_and_leaves_alone_what_runs() {
    let reference =
        ArtifactRef { kind: ArtifactKind::Agent, name: Name::new("a").unwrap(), tag: Tag::default() };
    let mut situation = world();
    let fresh = situation.situation();
    let missing = Situation { target: Named::Missing(not_registered(&reference)), ..fresh };
    let blocked = next(&missing);
    assert!(matches!(&blocked, Next::Blocked(why) if why[0].code == "not_registered"));
    assert_eq!(phase_of(&missing, &blocked), DeploymentPhase::Blocked);
    situation = world().deployed();
    let running = Situation { target: Named::Missing(not_registered(&reference)), ..situation.situation() };
    let blocked = next(&running);
    assert!(matches!(blocked, Next::Blocked(_)), "nothing is done to it");
    assert_eq!(phase_of(&running, &blocked), DeploymentPhase::Deployed, "it runs on");
}

#[test]
fn dp7_dp8_dp11_failures_are_tried_ever_more_seldom_and_permanent_ones_wait_for_a_change() {
    let mut world = world();
    let reason = CapabilityReason::new("x", "y", "z", "w");
    let (fingerprint, _) = resolve(&world.situation()).unwrap();
    let mut attempted = Attempted {
        action: Some(Action::Deploy),
        generation: Generation(1),
        fingerprint,
        epoch: Epoch(1),
        error: Some(AttemptError { class: ErrorClass::Transient, reason: reason.clone() }),
        ..Attempted::default()
    };
    let mut pauses = Vec::new();
    for failures in [1, 2, 3, 9, 40] {
        attempted.failures = failures;
        attempted.pause_ms = pause(ErrorClass::Transient, failures, None).as_millis() as u64;
        world.attempted = Some(attempted.clone());
        let Next::Attempt(request) = next(&world.situation()) else { panic!("an attempt") };
        pauses.push(request.pause.as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 256, 300]);
    assert_eq!(phase_of(&world.situation(), &next(&world.situation())), DeploymentPhase::Failed);
    // A new generation, or a word, is no continuation.
    let changed = Situation { generation: Generation(2), ..world.situation() };
    assert!(matches!(next(&changed), Next::Attempt(r) if r.pause.is_zero()));
    let forced = Situation { force: Some(id(7)), ..world.situation() };
    assert!(matches!(next(&forced), Next::Attempt(r) if r.pause.is_zero()));
    attempted.error = Some(AttemptError { class: ErrorClass::Permanent, reason: reason.clone() });
    world.attempted = Some(attempted);
    assert_eq!(next(&world.situation()), Next::Failed(reason));
    let mended = Situation { references: vec![server(1, "bb")], ..world.situation() };
    assert!(matches!(next(&mended), Next::Attempt(r) if r.pause.is_zero()));
}

#[test]
fn dp31_dp35_dp32_what_is_gone_is_made_again_unless_it_is_only_to_be_said_or_flaps() {
    let mut world = world().deployed();
    world.seen = None;
    let absent = |misses| Situation { seen: Seen::Absent(misses), ..world.situation() };
    assert_eq!(next(&absent(1)), Next::Rest, "a listing left it out once");
    assert_eq!(causes(next(&absent(2))), ["it is not there any more"]);
    let flapping = Situation { past: Past { flapping: true, ..world.situation().past }, ..absent(2) };
    let slowed = next(&flapping);
    assert!(matches!(&slowed, Next::Attempt(r) if r.repair && r.pause == FLAPPING_PAUSE));
    assert_eq!(phase_of(&flapping, &slowed), DeploymentPhase::Degraded);
    let mut quiet = world.spec.clone();
    quiet.on_drift = OnDrift::Report;
    let reported = Situation { spec: &quiet, ..absent(2) };
    assert_eq!(next(&reported), Next::Report(vec![Cause::Gone]));
}

#[test]
fn dp54_a_word_asks_for_one_attempt() {
    let mut world = world().deployed();
    let forced = Situation { force: Some(id(7)), ..world.situation() };
    assert_eq!(causes(next(&forced)), ["somebody asked for it"]);
    if let Some(attempted) = &mut world.attempted {
        attempted.force = Some(id(7));
    }
    let done = Situation { force: Some(id(7)), ..world.situation() };
    assert_eq!(next(&done), Next::Rest);
}

#[test]
fn dp23_dp25_dp26_what_is_not_wanted_goes_and_ends_also_when_nothing_ever_worked() {
    let mut world = world().deployed();
    world.spec.desired_state = DesiredState::Undeployed;
    assert!(matches!(next(&world.situation()), Next::Attempt(r) if r.action == Action::Undeploy));
    let deleting = Situation { deleting: true, ..world.situation() };
    assert!(matches!(next(&deleting), Next::Attempt(r) if r.action == Action::Delete));
    let orphan = Situation { orphan: true, ..deleting };
    assert_eq!(next(&orphan), Next::Forget);
    world.applied = None;
    world.seen = None;
    // An attempt to deploy that failed may have left something, so something is taken away first.
    assert!(matches!(next(&world.situation()), Next::Attempt(r) if r.action == Action::Undeploy));
    world.attempted =
        Some(Attempted { action: Some(Action::Undeploy), epoch: Epoch(2), ..Attempted::default() });
    assert_eq!(next(&world.situation()), Next::Rest);
    assert_eq!(phase_of(&world.situation(), &Next::Rest), DeploymentPhase::Undeployed);
    let gone = Situation { deleting: true, ..world.situation() };
    assert_eq!(next(&gone), Next::Forget);
    // A target that is missing holds no deletion up.
    let reference =
        ArtifactRef { kind: ArtifactKind::Agent, name: Name::new("a").unwrap(), tag: Tag::default() };
    let without = Situation { target: Named::Missing(not_registered(&reference)), ..gone };
    assert_eq!(next(&without), Next::Forget);
}
