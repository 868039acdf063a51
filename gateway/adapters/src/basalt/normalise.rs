//! From what [`super::observe`] wrote down to the words of all platforms. Pure, and good for what a former life of the
//! gateway wrote down as well.

use super::vm::fingerprint;
use crate::{Discovered, labels};
use basalt_model::{
    CapabilityReason, Epoch, Generation,
    artifacts::ArtifactKind,
    deployments::{ObservedWorkload, Readiness},
};
use serde_json::Value;

/// What the VMs of one owner, or one VM without an owner, come to.
pub fn normalise(found: &[Discovered]) -> Option<ObservedWorkload> {
    // While one replaces another there may be both: the one that stays counts, and the newer attempt of two.
    let vms = || found.iter().filter(|d| d.kind == "vm");
    let number = |d: &Discovered, key: &str| d.raw.get(key).and_then(Value::as_i64);
    let newest = vms().max_by_key(|d| (!is_going(d), number(d, "epoch")))?;
    let label = |key: &str| newest.raw.get("labels")?.get(key)?.as_str();
    let mut drift: Vec<String> = newest.raw.get("drift").into_iter().flat_map(strings).collect();
    let staying = vms().filter(|d| !is_going(d)).count();
    if staying > 1 {
        drift.push(format!("vms: {staying} instead of 1"));
    }
    Some(ObservedWorkload {
        owner: newest.owner,
        project: label(labels::PROJECT).map(str::to_owned),
        fingerprint: fingerprint(label),
        generation: number(newest, "generation").map(Generation),
        epoch: number(newest, "epoch").map(Epoch),
        kind: match label(labels::KIND) {
            Some("agent") => Some(ArtifactKind::Agent),
            Some("server") => Some(ArtifactKind::Server),
            _ => None,
        },
        image: text(newest, "runs")
            .or_else(|| text(newest, "image"))
            .filter(|i| !i.is_empty())
            .map(str::to_owned),
        readiness: readiness(newest),
        endpoints: newest
            .raw
            .get("endpoint")
            .and_then(|endpoint| serde_json::from_value(endpoint.clone()).ok())
            .into_iter()
            .collect(),
        drift,
    })
}

fn text<'a>(of: &'a Discovered, key: &str) -> Option<&'a str> {
    of.raw.get(key).and_then(Value::as_str)
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn is_going(of: &Discovered) -> bool {
    of.raw.get("going").and_then(Value::as_bool) == Some(true)
}

fn readiness(of: &Discovered) -> Readiness {
    let subject = format!("vm/{}", of.name);
    let not = |code: &'static str, message: &str, remedy: &str| Readiness::NotReady {
        reason: CapabilityReason::new(code, &subject, message, remedy),
    };
    if is_going(of) {
        return not(
            "deleting",
            "it is being deleted",
            "wait until it is gone; a deployment that is to run is made anew",
        );
    }
    let phase = text(of, "phase").unwrap_or_default();
    match phase {
        "running" => well(of, &not),
        "pending" => Readiness::Starting,
        "stopped" | "paused" => {
            not(phase_code(phase), &format!("somebody said that it is to be {phase}"), "deploy it again")
        }
        _ => Readiness::NotReady { reason: why(of, phase, subject) },
    }
}

fn phase_code(phase: &str) -> &'static str {
    if phase == "paused" { "paused" } else { "stopped" }
}

/// Of a VM that runs.
fn well(of: &Discovered, not: &dyn Fn(&'static str, &str, &str) -> Readiness) -> Readiness {
    let has_address = of.raw.get("addresses").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if of.owner.is_some() && !has_address {
        return not("no_address", "it has no address", "deploy it again, on a network");
    }
    let Some(check) = of.raw.get("check") else { return Readiness::Ready };
    match check.get("state").and_then(Value::as_str) {
        Some("well") => Readiness::Ready,
        Some("starting") => Readiness::Starting,
        _ => match not(
            "unhealthy",
            "the VM runs, and its program is not well as seen from the gateway",
            "read its log; when it needs longer to begin, raise `health.start_seconds`; when the gateway does not reach the \
             network, leave `probe` out of the provider",
        ) {
            Readiness::NotReady { reason } => Readiness::NotReady {
                reason: reason.with_evidence(check.get("seen").and_then(Value::as_str).unwrap_or_default()),
            },
            other => other,
        },
    }
}

/// Why it does not run, in the words of the Basalt that has it.
fn why(of: &Discovered, phase: &str, subject: String) -> CapabilityReason {
    let said = of.raw.get("why");
    let word = |key: &str| said.and_then(|w| w.get(key)).and_then(Value::as_str).map(str::to_owned);
    let remedy = "see why with GET …/vms/{vm}/explain there";
    if let Some(mut whole) = said.and_then(|w| serde_json::from_value::<CapabilityReason>(w.clone()).ok()) {
        whole.evidence = format!("{}: {}", whole.subject, whole.evidence);
        whole.subject = subject;
        return whole;
    }
    let message = word("message").unwrap_or_else(|| format!("it is {phase}"));
    CapabilityReason::new(word("code").unwrap_or_else(|| "not_running".to_owned()), subject, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::basalt::{observe::raw, vm::Vm};
    use basalt_model::DeploymentId;
    use serde_json::json;
    use uuid::Uuid;

    const OWNER: u128 = 7;

    fn shown(change: impl FnOnce(&mut Value)) -> Discovered {
        let mut vm = json!({
            "id": Uuid::from_u128(1), "name": "web-00000007", "generation": 3, "phase": "running",
            "created_at": "2026-11-22T14:51:17Z",
            "labels": { "basalt/deployment": Uuid::from_u128(OWNER), "basalt/epoch": "2", "basalt/kind": "agent" },
            "spec": { "power": "running", "cpus": 1, "cloud_init": { "user_data": "hush" } },
            "nics": [{ "network": "lan", "address": "10.0.0.3", "mac": "02:00:00:00:00:01" }],
            "placement": { "host": "h1", "epoch": 1 }, "observed": { "power": "running" }, "conditions": [],
        });
        change(&mut vm);
        let vm: Vm = serde_json::from_value(vm).unwrap();
        let raw = raw(&vm, None);
        assert!(!raw.to_string().contains("hush"), "{raw}");
        Discovered { kind: "vm".into(), namespace: None, owner: vm.owner(), name: vm.name, raw }
    }

    fn reason(found: Discovered) -> CapabilityReason {
        match normalise(&[found]).unwrap().readiness {
            Readiness::NotReady { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_phase_has_its_word_and_the_other_sides_reason() {
        assert_eq!(normalise(&[shown(|_| {})]).unwrap().readiness, Readiness::Ready);
        let pending = shown(|vm| vm["phase"] = json!("pending"));
        assert_eq!(normalise(&[pending]).unwrap().readiness, Readiness::Starting);
        let stopped = shown(|vm| {
            vm["phase"] = json!("stopped");
            vm["spec"]["power"] = json!("stopped");
        });
        assert_eq!(reason(stopped).code, "stopped");
        let unplaced = reason(shown(|vm| {
            vm["phase"] = json!("blocked");
            vm["conditions"] = json!([{ "type": "Placed", "status": "false", "reason": "no_host_fits", "message": "No host." }]);
        }));
        assert_eq!((&*unplaced.code, unplaced.message.as_str()), ("no_host_fits", "No host."));
        let blocked = reason(shown(|vm| {
            vm["phase"] = json!("blocked");
            vm["observed"]["blocked"] =
                json!({ "code": "image_unfit", "subject": "host/h1", "message": "m", "remedy": "mend it" });
        }));
        assert_eq!((&*blocked.code, blocked.remedy.as_str()), ("image_unfit", "mend it"));
        assert_eq!(reason(shown(|vm| vm["nics"] = json!([]))).code, "no_address");
        let going = shown(|vm| vm["deletion_requested_at"] = json!("2026-11-22T14:51:17Z"));
        assert_eq!(reason(going).code, "deleting");
    }

    #[test]
    fn of_two_the_one_that_stays_counts_then_the_newer_attempt() {
        let old = || shown(|_| {});
        let new = |going: bool| {
            shown(move |vm| {
                vm["name"] = json!("next");
                vm["labels"]["basalt/epoch"] = json!("3");
                if going {
                    vm["deletion_requested_at"] = json!("2026-11-22T14:51:17Z");
                }
            })
        };
        let two = normalise(&[old(), new(false)]).unwrap();
        assert_eq!(two.epoch, Some(Epoch(3)));
        assert!(two.drift.contains(&"vms: 2 instead of 1".to_owned()), "{:?}", two.drift);
        let one = normalise(&[new(true), old()]).unwrap();
        assert_eq!(one.epoch, Some(Epoch(2)));
        assert!(!one.drift.iter().any(|d| d.starts_with("vms")), "{:?}", one.drift);
        assert_eq!(normalise(&[]), None);
    }

    #[test]
    fn a_stranger_is_a_vm_without_an_owner_and_without_drift() {
        let found = shown(|vm| vm["labels"] = json!({ "app": "db" }));
        let seen = normalise(&[found]).unwrap();
        assert_eq!((seen.owner, seen.kind, seen.drift), (None::<DeploymentId>, None, vec![]));
    }

    #[test]
    fn a_program_that_does_not_answer_is_not_ready_with_what_was_seen() {
        let mut found = shown(|_| {});
        found.raw["check"] = json!({ "state": "failing", "seen": "GET /healthz: HTTP 503" });
        let why = reason(found);
        assert_eq!((&*why.code, why.evidence.as_str()), ("unhealthy", "GET /healthz: HTTP 503"));
    }
}
