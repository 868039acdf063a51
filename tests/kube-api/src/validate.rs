//! What makes an object invalid: names, labels, what must not change, what must be there.

use crate::{kinds::Kind, select, status::Status};
use serde_json::Value;

type Errors = Vec<(String, &'static str, String)>;

/// Refuses an object that a real server would refuse.
pub(crate) fn check(kind: &Kind, name: &str, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    let mut errors = Errors::new();
    let dots = !matches!(kind.kind, "Service" | "Namespace");
    if !is_dns(name, dots) || name.len() > if dots { 253 } else { 63 } {
        errors.push(("metadata.name".into(), "FieldValueInvalid", format!(
            "Invalid value: {name:?}: a lowercase RFC 1123 {} must consist of lower case alphanumeric characters or '-'",
            if dots { "subdomain" } else { "label" }
        )));
    }
    check_labels(&new["metadata"]["labels"], "metadata.labels", &mut errors);
    let annotations = new["metadata"]["annotations"].as_object();
    let total: usize =
        annotations.into_iter().flatten().map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len()).sum();
    if total > 256 * 1024 {
        errors.push((
            "metadata.annotations".into(),
            "FieldValueTooLong",
            "Too long: must have at most 262144 bytes".into(),
        ));
    }
    match kind.kind {
        "Deployment" => check_deployment(old, new, &mut errors),
        "Service" => check_service(new, &mut errors),
        "Secret" if old.is_some_and(|old| old["type"] != new["type"]) => {
            errors.push((
                "type".into(),
                "FieldValueInvalid",
                format!("Invalid value: {}: field is immutable", new["type"]),
            ));
        }
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&shown(kind), name, &errors)) }
}

fn shown(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) }
}

fn is_dns(name: &str, dots: bool) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || dots && c == '.';
    edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(plain)
}

fn is_label_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.is_empty()
        || text.len() <= 63
            && edge(text.chars().next())
            && edge(text.chars().last())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn check_labels(labels: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let (prefix, bare) = key.split_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
        let key_fits = is_label_value(bare) && !bare.is_empty() && prefix.is_none_or(|p| is_dns(p, true));
        let value_fits = value.as_str().is_some_and(is_label_value);
        if !key_fits || !value_fits {
            errors.push((path.to_owned(), "FieldValueInvalid", format!("Invalid value: {key}: {value}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'")));
        }
    }
}

fn check_deployment(old: Option<&Value>, new: &Value, errors: &mut Errors) {
    let spec = &new["spec"];
    let selector = &spec["selector"];
    if let Some(old) = old
        && old["spec"]["selector"] != *selector
    {
        errors.push((
            "spec.selector".into(),
            "FieldValueInvalid",
            format!("Invalid value: {selector}: field is immutable"),
        ));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    check_labels(labels, "spec.template.labels", errors);
    if selector.is_null() {
        errors.push(("spec.selector".into(), "FieldValueRequired", "Required value".into()));
    } else if !select::match_labels(&selector["matchLabels"], labels) {
        errors.push((
            "spec.template.metadata.labels".into(),
            "FieldValueInvalid",
            format!("Invalid value: {labels}: `selector` does not match template `labels`"),
        ));
    }
    let containers = spec["template"]["spec"]["containers"].as_array();
    if containers.is_none_or(Vec::is_empty) {
        errors.push(("spec.template.spec.containers".into(), "FieldValueRequired", "Required value".into()));
    }
    for (i, container) in containers.into_iter().flatten().enumerate() {
        let at = format!("spec.template.spec.containers[{i}]");
        if container["image"].as_str().unwrap_or_default().is_empty() {
            errors.push((format!("{at}.image"), "FieldValueRequired", "Required value".into()));
        }
        if !container["name"].as_str().is_some_and(|n| is_dns(n, false)) {
            errors.push((format!("{at}.name"), "FieldValueInvalid", "Invalid value".into()));
        }
        check_resources(container, &at, errors);
        check_ports(container, &at, errors);
    }
}

fn check_ports(container: &Value, at: &str, errors: &mut Errors) {
    for (i, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        let name = port["name"].as_str().unwrap_or("x");
        if name.len() > 15 || !is_dns(name, false) {
            errors.push((
                format!("{at}.ports[{i}].name"),
                "FieldValueInvalid",
                format!("Invalid value: {name:?}: must be no more than 15 characters"),
            ));
        }
        if !(1..=65535).contains(&port["containerPort"].as_i64().unwrap_or(0)) {
            errors.push((
                format!("{at}.ports[{i}].containerPort"),
                "FieldValueInvalid",
                "Invalid value: must be between 1 and 65535, inclusive".into(),
            ));
        }
    }
}

fn check_resources(container: &Value, at: &str, errors: &mut Errors) {
    for (name, amount) in container["resources"]["limits"].as_object().into_iter().flatten() {
        let text = amount.as_str().unwrap_or_default();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        if digits.is_empty() || digits.parse::<f64>().is_err() {
            errors.push((
                format!("{at}.resources.limits[{name}]"),
                "FieldValueInvalid",
                format!("Invalid value: {amount}: quantities must match the regular expression"),
            ));
        }
    }
}

fn check_service(new: &Value, errors: &mut Errors) {
    let ports = new["spec"]["ports"].as_array();
    if ports.is_none_or(Vec::is_empty) {
        errors.push(("spec.ports".into(), "FieldValueRequired", "Required value".into()));
    }
    for (i, port) in ports.into_iter().flatten().enumerate() {
        if !(1..=65535).contains(&port["port"].as_i64().unwrap_or(0)) {
            errors.push((
                format!("spec.ports[{i}].port"),
                "FieldValueInvalid",
                "Invalid value: must be between 1 and 65535, inclusive".into(),
            ));
        }
    }
}
