//! Label and field selectors.

use crate::status::Status;
use serde_json::Value;

/// Which objects are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    pub fn parse(labels: &str, fields: &str) -> Result<Self, Status> {
        let mut selector = Self::default();
        for part in split(labels) {
            selector.labels.push(requirement(part.trim())?);
        }
        for part in fields.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, equal, value) = comparison(part)
                .ok_or_else(|| Status::bad_request(format!("invalid field selector: {part:?}")))?;
            selector.fields.push((key, equal, value));
        }
        Ok(selector)
    }

    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        let by_label = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|l| values.iter().any(|v| v == l)),
            Requirement::NotIn(key, values) => !label(key).is_some_and(|l| values.iter().any(|v| v == l)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        });
        by_label
            && self.fields.iter().all(|(path, equal, value)| {
                let found = path.split('.').fold(object, |at, name| &at[name]);
                (found.as_str().unwrap_or_default() == value) == *equal
            })
    }
}

/// The commas that stand outside brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.into_iter().filter(|p| !p.trim().is_empty()).collect()
}

fn comparison(part: &str) -> Option<(String, bool, String)> {
    let (key, equal, value) = if let Some((key, value)) = part.split_once("!=") {
        (key, false, value)
    } else {
        let (key, value) = part.split_once("==").or_else(|| part.split_once('='))?;
        (key, true, value)
    };
    Some((key.trim().to_owned(), equal, value.trim().to_owned()))
}

fn requirement(part: &str) -> Result<Requirement, Status> {
    for (word, within) in [(" notin ", false), (" in ", true)] {
        if let Some((key, set)) = part.split_once(word) {
            let set = set.trim().trim_start_matches('(').trim_end_matches(')');
            let values = set.split(',').map(|v| v.trim().to_owned()).collect();
            let key = key.trim().to_owned();
            return Ok(if within { Requirement::In(key, values) } else { Requirement::NotIn(key, values) });
        }
    }
    if let Some((key, equal, value)) = comparison(part) {
        let values = vec![value];
        return Ok(if equal { Requirement::In(key, values) } else { Requirement::NotIn(key, values) });
    }
    if part.contains(char::is_whitespace) {
        return Err(Status::bad_request(format!("unable to parse requirement: {part:?}")));
    }
    Ok(match part.strip_prefix('!') {
        Some(key) => Requirement::Absent(key.to_owned()),
        None => Requirement::Exists(part.to_owned()),
    })
}

/// Whether a `matchLabels` object selects what has these labels.
pub(crate) fn match_labels(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object();
    wanted.is_some_and(|w| !w.is_empty() && w.iter().all(|(key, value)| labels.get(key) == Some(value)))
}
