//! Names that people give: DNS labels (RFC 1123), so that every name can be a host name.

use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};
use utoipa::ToSchema;

/// A DNS label: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", examples("web-1"))]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(transparent))]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a DNS label: {why}; use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct NameError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: Cow<'static, str>,
}

impl Name {
    /// Parses a name.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let why = match text.as_bytes() {
            [] => Some(Cow::Borrowed("it is empty")),
            b if b.len() > 63 => Some(Cow::Owned(format!("it has {} characters", b.len()))),
            b if b.iter().any(u8::is_ascii_uppercase) => Some(Cow::Borrowed("it has capital letters")),
            b if !b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-') => {
                Some(Cow::Borrowed("it has a character that is not allowed"))
            }
            [b'-', ..] | [.., b'-'] => Some(Cow::Borrowed("it begins or ends with '-'")),
            _ => None,
        };
        match why {
            None => Ok(Self(text)),
            Some(why) => Err(NameError { text: text.chars().take(80).collect(), why }),
        }
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refused_name_says_why_and_what_to_do() {
        for (text, why) in [
            ("", "empty"),
            ("Web", "capital"),
            ("a_b", "not allowed"),
            ("-a", "begins"),
            ("a-", "begins"),
            ("é", "not allowed"),
        ] {
            let e = Name::new(text).unwrap_err().to_string();
            assert!(e.contains(why) && e.contains("use 1 to 63"), "{text}: {e}");
        }
        assert!(Name::new("a".repeat(64)).unwrap_err().to_string().contains("64 characters"));
        assert!(Name::new("a".repeat(63)).is_ok());
    }

    proptest! {
        #[test]
        fn every_accepted_name_is_a_dns_label(text in ".{0,70}") {
            if let Ok(n) = Name::new(text.clone()) {
                prop_assert!(n.as_str().len() <= 63 && !n.as_str().starts_with('-') && !n.as_str().ends_with('-'));
                prop_assert!(n.as_str().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            }
        }
    }
}
