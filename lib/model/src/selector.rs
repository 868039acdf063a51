//! Label selectors: `a=b,c!=d,e,!f` as in the `labelSelector` query parameter.

use crate::{Labels, labels};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// `key=value`
    Equals(String, String),
    /// `key!=value` (also true when the key is absent)
    NotEquals(String, String),
    /// `key`
    Exists(String),
    /// `!key`
    Missing(String),
}

/// All requirements must hold; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector(pub Vec<Requirement>);

/// A selector that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} is not a label requirement; write key=value, key!=value, key or !key, joined by commas")]
pub struct SelectorError {
    /// The part that could not be read.
    pub part: String,
}

impl Selector {
    /// Whether labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|r| match r {
            Requirement::Equals(k, v) => labels.get(k) == Some(v),
            Requirement::NotEquals(k, v) => labels.get(k) != Some(v),
            Requirement::Exists(k) => labels.get(k).is_some(),
            Requirement::Missing(k) => labels.get(k).is_none(),
        })
    }

    /// The pairs that must be equal: what an index can look up before the rest is filtered.
    pub fn equalities(&self) -> Labels {
        self.0
            .iter()
            .filter_map(|r| match r {
                Requirement::Equals(k, v) => Some((k.clone(), v.clone())),
                _ => None,
            })
            .collect()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut out = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let requirement = if let Some((k, v)) = part.split_once("!=") {
                Requirement::NotEquals(k.trim().into(), v.trim().into())
            } else if let Some((k, v)) = part.split_once('=') {
                Requirement::Equals(k.trim().into(), v.trim_start_matches('=').trim().into())
            } else if let Some(k) = part.strip_prefix('!') {
                Requirement::Missing(k.trim().into())
            } else {
                Requirement::Exists(part.into())
            };
            let (key, value) = match &requirement {
                Requirement::Equals(k, v) | Requirement::NotEquals(k, v) => (k, v.as_str()),
                Requirement::Exists(k) | Requirement::Missing(k) => (k, ""),
            };
            if key.is_empty() || !labels::allowed(key) || !labels::allowed(value) {
                return Err(SelectorError { part: part.into() });
            }
            out.push(requirement);
        }
        Ok(Self(out))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match r {
                Requirement::Equals(k, v) => write!(f, "{k}={v}")?,
                Requirement::NotEquals(k, v) => write!(f, "{k}!={v}")?,
                Requirement::Exists(k) => f.write_str(k)?,
                Requirement::Missing(k) => write!(f, "!{k}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_reads_matches_and_prints() {
        let s: Selector = "app=web,tier!=db,gpu,!old".parse().unwrap();
        assert_eq!(s.to_string(), "app=web,tier!=db,gpu,!old");
        assert!(s.matches(&[("app", "web"), ("gpu", "1")].into_iter().collect()));
        assert!(!s.matches(&[("app", "web"), ("gpu", "1"), ("old", "")].into_iter().collect()));
        assert!(!s.matches(&[("app", "web"), ("gpu", "1"), ("tier", "db")].into_iter().collect()));
        assert!("a b=c".parse::<Selector>().is_err());
        assert!("=c".parse::<Selector>().is_err());
    }
}
