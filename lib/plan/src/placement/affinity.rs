//! Affinity and anti-affinity: which hosts a VM shares with which other VMs of its project.
//!
//! A hard rule leaves hosts out, a soft one changes their score. A hard anti-affinity rule holds both ways: what it
//! means stays away from the VM that has it. The first VM of a group that wants to be together goes anywhere.
//! Rules are about where a VM is put: they move no VM that is placed.

use super::{HostView, Request};
use basalt_model::{
    CapabilityReason, HostId, Labels, Name,
    vms::{AffinityRule, PlacementRules},
};
use std::collections::BTreeMap;

/// What a soft rule is worth, in thousandths of a host's capacity: it goes before spreading and packing.
const SOFT_RULE: i64 = 1000;
/// VMs that a soft anti-affinity rule counts on one host; beyond, one more makes no difference.
const SOFT_COUNT: i64 = 64;

/// A VM is there that must not be beside the new one.
const ANTI_AFFINITY: &str = "anti_affinity";
/// A VM is not there that must be beside the new one.
const AFFINITY_UNMET: &str = "affinity_unmet";

/// A placed VM as the rules of other VMs see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, for people.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// What its hard anti-affinity rules mean.
    pub keeps_away: Vec<Labels>,
}

impl Peer {
    /// A VM that other VMs' placement may depend on. Without labels no rule means it, and without hard anti-affinity it
    /// keeps nobody away.
    pub fn of(name: &Name, labels: &Labels, rules: &PlacementRules) -> Option<Self> {
        let keeps_away: Vec<Labels> = rules.required_anti_affinity().cloned().collect();
        (!labels.0.is_empty() || !keeps_away.is_empty()).then(|| Self {
            name: name.clone(),
            labels: labels.clone(),
            keeps_away,
        })
    }
}

/// What a VM that is to be placed has to do with the VMs that are: which of its rules mean whom, and who keeps it away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    hosts: BTreeMap<HostId, Beside>,
    /// By affinity rule: whether any host has a VM that it means.
    met: Vec<bool>,
}

/// The same on one host. Names are the first in their order, so that the same VMs give the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Beside {
    /// By affinity rule: whether a VM that it means is there.
    met: Vec<bool>,
    /// By anti-affinity rule: how many VMs that it means are there, and the first.
    unwanted: BTreeMap<usize, (i64, Name)>,
    /// The first VM there that keeps the new one away.
    kept_away_by: Option<(Name, Labels)>,
}

impl Neighbours {
    /// Of a request, among the placed VMs of the same project.
    pub fn of<'a>(request: &Request, placed: impl IntoIterator<Item = (HostId, &'a Peer)>) -> Self {
        let rules = &request.rules;
        let mut all = Self { hosts: BTreeMap::new(), met: vec![false; rules.affinity.len()] };
        for (host, peer) in placed {
            for (i, _) in rules.affinity.iter().enumerate().filter(|(_, r)| means(&r.vm_labels, &peer.labels))
            {
                all.met[i] = true;
                let met = &mut all.hosts.entry(host).or_default().met;
                met.resize(rules.affinity.len(), false);
                met[i] = true;
            }
            for (i, _) in
                rules.anti_affinity.iter().enumerate().filter(|(_, r)| means(&r.vm_labels, &peer.labels))
            {
                let unwanted = &mut all.hosts.entry(host).or_default().unwanted;
                let (count, first) = unwanted.entry(i).or_insert_with(|| (0, peer.name.clone()));
                *count += 1;
                if peer.name < *first {
                    *first = peer.name.clone();
                }
            }
            if let Some(rule) = peer.keeps_away.iter().find(|labels| means(labels, &request.labels)) {
                let by = &mut all.hosts.entry(host).or_default().kept_away_by;
                if by.as_ref().is_none_or(|(name, _)| peer.name < *name) {
                    *by = Some((peer.name.clone(), rule.clone()));
                }
            }
        }
        all
    }

    /// Why a host is left out.
    pub(super) fn rejections(&self, request: &Request, host: &HostView) -> Vec<CapabilityReason> {
        let beside = self.hosts.get(&host.id);
        let mut out = Vec::new();
        for (i, rule) in request.rules.anti_affinity.iter().enumerate().filter(|(_, r)| r.required) {
            if let Some((count, first)) = beside.and_then(|b| b.unwanted.get(&i)) {
                out.push(anti_affinity(host, &rule.vm_labels, first, *count));
            }
        }
        if let Some((by, labels)) = beside.and_then(|b| b.kept_away_by.as_ref()) {
            out.push(kept_away(host, by, labels));
        }
        for (i, rule) in request.rules.affinity.iter().enumerate().filter(|(_, r)| r.required) {
            let here = beside.is_some_and(|b| b.met.get(i) == Some(&true));
            let anywhere = self.met.get(i) == Some(&true);
            let is_first = !anywhere && means(&rule.vm_labels, &request.labels);
            if !here && !is_first {
                out.push(affinity_unmet(host, &rule.vm_labels, anywhere));
            }
        }
        out
    }

    /// What soft rules make of a host.
    pub(super) fn score(&self, request: &Request, host: HostId) -> i64 {
        let Some(beside) = self.hosts.get(&host) else { return 0 };
        let soft = |rules: &[AffinityRule]| {
            let soft = rules.iter().enumerate().filter(|(_, rule)| !rule.required);
            soft.map(|(i, _)| i).collect::<Vec<_>>()
        };
        let drawn = soft(&request.rules.affinity).into_iter().filter(|i| beside.met.get(*i) == Some(&true));
        let kept = soft(&request.rules.anti_affinity).into_iter().filter_map(|i| beside.unwanted.get(&i));
        drawn.map(|_| SOFT_RULE).sum::<i64>()
            - kept.map(|(count, _)| SOFT_RULE * (*count).min(SOFT_COUNT)).sum::<i64>()
    }
}

/// Whether a host is left out because of the VMs that are placed: it may change when one comes, goes or changes.
pub fn is_about_vms(reason: &CapabilityReason) -> bool {
    [ANTI_AFFINITY, AFFINITY_UNMET].contains(&reason.code.as_ref())
}

/// Whether a rule means a VM with these labels. A rule without labels means nobody.
fn means(rule: &Labels, labels: &Labels) -> bool {
    !rule.0.is_empty() && labels.contains_all(rule)
}

fn written(labels: &Labels) -> String {
    labels.0.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
}

fn anti_affinity(host: &HostView, rule: &Labels, first: &Name, count: i64) -> CapabilityReason {
    let others = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
    CapabilityReason::new(
        ANTI_AFFINITY,
        super::subject(host),
        format!("the VM must not share a host with VMs labelled {}", written(rule)),
        "add a host, delete the VM that stands in the way, or make the rule soft (required: false)",
    )
    .with_evidence(format!("vm/{first} is placed there{others}"))
}

fn kept_away(host: &HostView, by: &Name, rule: &Labels) -> CapabilityReason {
    CapabilityReason::new(
        ANTI_AFFINITY,
        super::subject(host),
        format!("a VM there keeps VMs labelled {} away", written(rule)),
        "add a host, delete the VM that stands in the way, or change its placement.anti_affinity",
    )
    .with_evidence(format!("vm/{by} is placed there"))
}

fn affinity_unmet(host: &HostView, rule: &Labels, anywhere: bool) -> CapabilityReason {
    let (evidence, remedy) = if anywhere {
        (
            "such VMs are on other hosts",
            "make room on a host that has such a VM, or make the rule soft (required: false)",
        )
    } else {
        (
            "no such VM is placed on any host",
            "declare a VM with these labels, or make the rule soft (required: false)",
        )
    };
    CapabilityReason::new(
        AFFINITY_UNMET,
        super::subject(host),
        format!("no VM labelled {} is placed there", written(rule)),
        remedy,
    )
    .with_evidence(evidence)
}

#[cfg(test)]
#[path = "affinity_tests.rs"]
mod tests;
