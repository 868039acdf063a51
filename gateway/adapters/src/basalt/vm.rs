//! A VM as the API shows it, as far as it matters here. What another version shows besides is kept where it is written
//! back, and not minded elsewhere.

use crate::labels;
use basalt_model::{CapabilityReason, DateTime, DeploymentId, Epoch, Generation};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, net::Ipv4Addr};
use uuid::Uuid;

/// The rest of a fingerprint: a label's value has at most 63 characters.
pub(super) const FINGERPRINT_REST: &str = "basalt/fingerprint-rest";
/// Most characters of a label's value.
pub(super) const LABEL_CHARS: usize = 63;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Vm {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) generation: i64,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) deletion_requested_at: Option<DateTime>,
    pub(super) spec: Value,
    #[serde(default)]
    pub(super) phase: String,
    #[serde(default)]
    pub(super) nics: Vec<Nic>,
    #[serde(default)]
    pub(super) placement: Option<Placement>,
    #[serde(default)]
    pub(super) observed: Observed,
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Nic {
    pub(super) network: String,
    pub(super) address: Ipv4Addr,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Placement {
    pub(super) host: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Observed {
    pub(super) power: String,
    pub(super) started_at: Option<DateTime>,
    pub(super) blocked: Option<CapabilityReason>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
}

impl Vm {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// The deployment that is written on it.
    pub(super) fn owner(&self) -> Option<DeploymentId> {
        Uuid::try_parse(self.label(labels::DEPLOYMENT)?).ok().map(DeploymentId)
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.label(labels::EPOCH)?.parse().ok().map(Epoch)
    }

    pub(super) fn generation_of_deployment(&self) -> Option<Generation> {
        self.label(labels::GENERATION)?.parse().ok().map(Generation)
    }

    pub(super) fn is_going(&self) -> bool {
        self.deletion_requested_at.is_some()
    }

    /// Where it is on a network.
    pub(super) fn address_on(&self, network: &str) -> Option<Ipv4Addr> {
        self.nics.iter().find(|nic| nic.network == network).map(|nic| nic.address)
    }

    pub(super) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// A text of the spec, by its path in it.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the spec, by its path in it.
    pub(super) fn number(&self, pointer: &str) -> Option<u64> {
        self.spec.pointer(pointer).and_then(Value::as_u64)
    }

    pub(super) fn user_data(&self) -> &str {
        self.text("/cloud_init/user_data")
    }
}

/// A fingerprint as labels.
pub(super) fn fingerprint_labels(text: &str) -> Vec<(&'static str, String)> {
    let (head, rest) = text.split_at_checked(LABEL_CHARS).unwrap_or((text, ""));
    let mut all = vec![(labels::FINGERPRINT, head.to_owned())];
    if !rest.is_empty() {
        all.push((FINGERPRINT_REST, rest.to_owned()));
    }
    all
}

/// The other way round.
pub(super) fn fingerprint<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let rest = label(FINGERPRINT_REST).unwrap_or_default();
    Some(format!("{}{rest}", label(labels::FINGERPRINT)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::{Labels, Validate};

    #[test]
    fn a_fingerprint_of_any_length_is_labels_that_are_allowed_and_is_read_back() {
        for text in ["", "f-1", &"a".repeat(63), &"0123456789abcdef".repeat(4)] {
            let labels: Labels = fingerprint_labels(text).into_iter().collect();
            assert_eq!(labels.errors(), vec![], "{text}");
            assert_eq!(fingerprint(|key| labels.get(key)).as_deref(), Some(text));
        }
        assert_eq!(fingerprint(|_| None), None);
    }
}
