//! Ways out for what is stuck: which are safe now, and what shows it. Whoever applies one judges anew with the facts of
//! that moment.

use crate::migrations::Decision;
use basalt_model::{CapabilityReason, DateTime, Name, hosts::HostState};
use basalt_wire::rest::{Outcome, WayOut};

/// What stands on one host of an object, or of what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnHost {
    /// The host.
    pub host: Name,
    /// Its state.
    pub state: HostState,
    /// When it was heard of last.
    pub seen_at: Option<DateTime>,
    /// The host is to have it.
    pub present: bool,
    /// The host said that nothing of it is left.
    pub gone: bool,
    /// What the host said last.
    pub says: String,
    /// When.
    pub reported_at: Option<DateTime>,
}

impl OnHost {
    fn is_silent(&self) -> bool {
        self.state == HostState::Unreachable
    }
}

/// An object as it is judged.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// `vm/web`
    pub label: String,
    /// What it waits for, as its conditions say; empty when it is as declared.
    pub waits: String,
    /// It gets there by itself.
    pub progressing: bool,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// Where something of it stands.
    pub on: Vec<OnHost>,
    /// What its live task is called, if it has one that can be taken back.
    pub task: Option<String>,
    /// What is decided about its migration.
    pub migration: Option<Decision>,
    /// It is a host: whether its death is proven.
    pub proven_dead: Option<bool>,
    /// It can be made anew from images: what that loses.
    pub redeploy: Option<String>,
    /// It can be deleted.
    pub deletable: bool,
}

/// Whether it waits for something that may never come, one sentence, and the ways out.
pub fn judge(s: &Situation) -> (bool, String, Vec<Outcome>) {
    let silent: Vec<&OnHost> = s.on.iter().filter(|o| !o.gone && o.is_silent()).collect();
    let asks = matches!(s.migration, Some(Decision::Ask(_)));
    let stuck = asks || !silent.is_empty() || !s.waits.is_empty() && !s.progressing;
    let mut outcomes = vec![wait(s, &silent)];
    outcomes.extend(s.migration.iter().flat_map(owners));
    if let Some(proven) = s.proven_dead {
        outcomes.push(confirm(s, proven, &silent));
    } else if s.deleting {
        outcomes.push(forget(s, &silent));
    }
    if let Some(task) = &s.task {
        outcomes.push(Outcome {
            evidence: format!("{task} is under way"),
            ..outcome(WayOut::Cancel, "the task is taken back, and its intent with it where that is possible")
        });
    }
    if !s.deleting && s.migration.is_none() && stuck {
        if let Some(loses) = &s.redeploy {
            let effect = "it is destroyed and made anew from its image, with the same identity and addresses";
            let mut way = Outcome { loses: loses.clone(), ..outcome(WayOut::Redeploy, effect) };
            way.refused = silent.first().map(|host| unheard(host, "its host cannot carry that out"));
            outcomes.push(way);
        }
        if s.deletable {
            outcomes.push(Outcome {
                loses: "the object and all that it holds".into(),
                ..outcome(
                    WayOut::Delete,
                    "it is deleted; what stands on a host that is not heard of can be given up then",
                )
            });
        }
    }
    outcomes.sort_by_key(|o| o.refused.is_some());
    (stuck, summary(s, &silent, asks), outcomes)
}

fn outcome(way: WayOut, effect: &str) -> Outcome {
    Outcome { way, effect: effect.into(), loses: String::new(), evidence: String::new(), refused: None }
}

fn names(hosts: &[&OnHost]) -> String {
    hosts.iter().map(|o| o.host.as_str()).collect::<Vec<_>>().join(", ")
}

fn summary(s: &Situation, silent: &[&OnHost], asks: bool) -> String {
    match (&s.migration, silent) {
        (Some(Decision::Ask(why)), _) if asks => {
            format!("nobody can tell who has it whole: {why}; choose source or target")
        }
        (Some(Decision::Wait(why)), _) => format!("it is on its way: {why}"),
        (_, [_, ..]) if s.deleting => {
            format!(
                "it is being deleted, and {} is not heard of, so nobody says that nothing of it is left",
                names(silent)
            )
        }
        (_, [_, ..]) => format!("{} is not heard of; what it does there is not known", names(silent)),
        _ if !s.waits.is_empty() => s.waits.clone(),
        _ => "it is as declared; nothing is stuck".into(),
    }
}

fn wait(s: &Situation, silent: &[&OnHost]) -> Outcome {
    let effect = match (&s.migration, silent) {
        (Some(Decision::Wait(why)), _) => format!("it goes on by itself: {why}"),
        (Some(Decision::Ask(_)), _) => "nothing happens by itself any more".into(),
        (_, [_, ..]) => {
            format!("it goes on when {} is heard of: check its power, network and agent", names(silent))
        }
        _ if s.waits.is_empty() => "nothing is waited for".into(),
        _ => "it goes on when what it waits for is so".into(),
    };
    Outcome { way: WayOut::Wait, effect, loses: String::new(), evidence: String::new(), refused: None }
}

/// Who owns a VM that is on its way: a person's to say only where the facts cannot.
fn owners(decision: &Decision) -> [Outcome; 2] {
    let (evidence, refused) = match decision {
        Decision::Ask(why) => ((*why).to_owned(), None),
        Decision::Wait(why) => (String::new(), Some(undecided(why, "wait, or take the task back"))),
        _ => (String::new(), Some(undecided("the facts decide it", "it is decided within seconds"))),
    };
    let to = |way, whose: &str| {
        let effect = format!("the VM is the {whose} host's, and starts there from its disk");
        let loses = "what the guest held in memory, and what only the disk at the other host has".into();
        Outcome { way, effect, loses, evidence: evidence.clone(), refused: refused.clone() }
    };
    [to(WayOut::Source, "source"), to(WayOut::Target, "target")]
}

fn undecided(why: &str, remedy: &str) -> CapabilityReason {
    let message = "who has it whole is not a matter of opinion yet";
    CapabilityReason::new("facts_decide", "migration", message, remedy).with_evidence(why)
}

fn unheard(host: &OnHost, message: &str) -> CapabilityReason {
    let remedy = "bring the host back, or delete the object and forget what stands there";
    let seen = host.seen_at.map(|at| format!("last heard of at {at}")).unwrap_or_default();
    CapabilityReason::new("host_unreachable", format!("host/{}", host.host), message, remedy)
        .with_evidence(seen)
}

fn confirm(s: &Situation, proven: bool, silent: &[&OnHost]) -> Outcome {
    let effect =
        "its VMs with ha.policy restart are started elsewhere, and migrations from and to it are decided";
    let mut way = outcome(WayOut::ConfirmPowerOff, effect);
    let no = |code, message: &str, remedy: &str| {
        Some(CapabilityReason::new(code, s.label.clone(), message, remedy))
    };
    if proven {
        way.refused = no("proven_already", "its death is proven already", "nothing more is to be said");
    } else if silent.is_empty() {
        way.refused = no("host_reachable", "it gives signs of life", "drain it, if it is to go");
    } else {
        way.evidence =
            "only who SAW that it is off may say so: of a host that is on, VMs are executed twice".into();
        way.loses = "what its guests held in memory".into();
    }
    way
}

fn forget(s: &Situation, silent: &[&OnHost]) -> Outcome {
    let mut way = outcome(
        WayOut::Forget,
        "its rows go, and its name and addresses are free. What stands on the host is listed there as nobody's when it comes \
         back; if it runs there now, it runs on until then",
    );
    let alive: Vec<&OnHost> = s.on.iter().filter(|o| !o.gone && !o.is_silent()).collect();
    if let Some(host) = alive.first() {
        let message = format!("{} is heard of and removes it: {}", host.host, host.says);
        let remedy = "wait for it, or mend what the host says";
        way.refused =
            Some(CapabilityReason::new("host_reachable", format!("host/{}", host.host), message, remedy));
    } else if silent.is_empty() {
        let message = "nothing of it stands on a host that is not heard of";
        let remedy = "wait: its rows go by themselves";
        way.refused = Some(CapabilityReason::new("nothing_to_forget", s.label.clone(), message, remedy));
    } else {
        let seen = silent.iter().filter_map(|o| Some(format!("{} since {}", o.host, o.seen_at?)));
        way.evidence = format!("not heard of: {}", seen.collect::<Vec<_>>().join(", "));
        way.loses = format!("what is on {} of it stays there, and nobody removes it", names(silent));
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::migrations::MigrationResult;

    fn on(host: &str, state: HostState) -> OnHost {
        OnHost {
            host: Name::new(host).unwrap(),
            state,
            seen_at: Some(DateTime::UNIX_EPOCH),
            present: false,
            gone: false,
            says: "removing the volume".into(),
            reported_at: None,
        }
    }

    fn ways(s: &Situation) -> (bool, Vec<&'static str>, Vec<&'static str>) {
        let (stuck, summary, outcomes) = judge(s);
        assert!(!summary.is_empty());
        for o in &outcomes {
            assert!(!o.effect.is_empty() && o.refused.as_ref().is_none_or(|r| !r.remedy.is_empty()), "{o:?}");
        }
        let of = |legal: bool| {
            let some = outcomes.iter().filter(|o| o.refused.is_none() == legal);
            some.map(|o| o.way.as_str()).collect()
        };
        (stuck, of(true), of(false))
    }

    #[test]
    fn m3_a_person_says_who_owns_a_vm_only_where_the_facts_cannot() {
        let with = |migration| Situation { migration: Some(migration), ..Situation::default() };
        let ask = with(Decision::Ask("neither side has it"));
        assert_eq!(ways(&ask), (true, vec!["wait", "source", "target"], vec![]));
        let waits = with(Decision::Wait("the source is not heard of"));
        assert_eq!(ways(&waits), (false, vec!["wait"], vec!["source", "target"]));
        let decided =
            Decision::SourceOwns { result: MigrationResult::Failed, why: "whole", from_disk: false };
        assert_eq!(ways(&with(decided)).2, ["source", "target"]);
    }

    #[test]
    fn what_a_host_still_removes_is_not_forgotten() {
        let gone = OnHost { gone: true, ..on("h3", HostState::Ready) };
        let with = |on: Vec<OnHost>| Situation { deleting: true, on, ..Situation::default() };
        let silent = with(vec![on("h1", HostState::Unreachable), gone.clone()]);
        assert_eq!(ways(&silent), (true, vec!["wait", "forget"], vec![]));
        let both = with(vec![on("h1", HostState::Unreachable), on("h2", HostState::Ready)]);
        assert_eq!(ways(&both), (true, vec!["wait"], vec!["forget"]));
        assert_eq!(ways(&with(vec![gone])), (false, vec!["wait"], vec!["forget"]));
    }

    #[test]
    fn m5_the_power_of_a_host_that_is_heard_of_is_not_confirmed_off() {
        let host = |state, proven| Situation {
            proven_dead: Some(proven),
            on: vec![on("h1", state)],
            ..Situation::default()
        };
        assert_eq!(
            ways(&host(HostState::Unreachable, false)),
            (true, vec!["wait", "confirm_power_off"], vec![])
        );
        assert_eq!(ways(&host(HostState::Unreachable, true)).2, ["confirm_power_off"]);
        assert_eq!(ways(&host(HostState::Ready, false)), (false, vec!["wait"], vec!["confirm_power_off"]));
    }

    #[test]
    fn a_vm_that_waits_on_a_silent_host_can_be_deleted_and_not_made_anew() {
        let mut s = Situation {
            waits: "blocked".into(),
            redeploy: Some("its disk".into()),
            deletable: true,
            task: Some("vm_create".into()),
            on: vec![on("h1", HostState::Ready)],
            ..Situation::default()
        };
        assert_eq!(ways(&s), (true, vec!["wait", "cancel", "redeploy", "delete"], vec![]));
        let going = Situation { progressing: true, ..s.clone() };
        assert_eq!(ways(&going), (false, vec!["wait", "cancel"], vec![]));
        s.on[0].state = HostState::Unreachable;
        assert_eq!(ways(&s), (true, vec!["wait", "cancel", "delete"], vec!["redeploy"]));
        assert_eq!(ways(&Situation::default()), (false, vec!["wait"], vec![]));
    }
}
