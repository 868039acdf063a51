//! Values as people read and write them: sizes, ages, roles.

use basalt_model::{
    DateTime,
    artifacts::ArtifactRef,
    roles::{Grant, Scope},
};
use serde_json::Value;

/// A column's value for people: sizes in binary units, times as ages.
pub fn cell(object: &Value, title: &str, pointer: &str, now: DateTime) -> String {
    let value = pointer.split('|').find_map(|at| object.pointer(at)).unwrap_or(&Value::Null);
    match value {
        Value::Null => "-".into(),
        Value::Number(n) if pointer.ends_with("_bytes") => size(n.as_u64().unwrap_or_default()),
        Value::Number(n) if title == "PROGRESS" || title.ends_with('%') => format!("{n} %"),
        Value::String(s) if matches!(title, "AGE" | "SEEN") => {
            s.parse::<DateTime>().map_or_else(|_| s.clone(), |t| age(now - t))
        }
        Value::String(s) => s.clone(),
        other if title == "ROLES" => match serde_json::from_value::<Vec<Grant>>(other.clone()) {
            Ok(grants) if grants.is_empty() => "-".into(),
            Ok(grants) => grants.iter().map(role).collect::<Vec<_>>().join(", "),
            Err(_) => other.to_string(),
        },
        other if title == "ROLE" => match serde_json::from_value::<Grant>(other.clone()) {
            Ok(grant) => role(&grant),
            Err(_) => other.to_string(),
        },
        other if title == "TARGET" => match serde_json::from_value::<ArtifactRef>(other.clone()) {
            Ok(target) => target.to_string(),
            Err(_) => other.to_string(),
        },
        other => other.to_string(),
    }
}

/// A role and where it holds, as `--at` of `create role-binding` takes it.
pub fn role(grant: &Grant) -> String {
    let role = format!("{:?}", grant.role).to_lowercase();
    match grant.scope {
        Scope::System => format!("{role} at system"),
        Scope::Tenant { tenant_id } => format!("{role} at tenant/{tenant_id}"),
        Scope::Project { project_id, .. } => format!("{role} at project/{project_id}"),
    }
}

/// Bytes in the largest binary unit that keeps three digits.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// Reads a size: `512MiB`, `10GiB`, `1048576`. Powers of two only; `MB` is refused, it means two things.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        other => return Err(format!("{other:?} is no unit; write bytes, KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; write for example 512MiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too large"))
}

fn age(d: chrono::TimeDelta) -> String {
    match d.num_seconds() {
        s if s < 0 => "0s".into(),
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_read_and_print() {
        assert_eq!(parse_size("256MiB"), Ok(268_435_456));
        assert_eq!(parse_size("7"), Ok(7));
        assert!(parse_size("1MB").unwrap_err().contains("no unit"));
        assert!(parse_size("-1").is_err() && parse_size("99999999999TiB").is_err());
        assert_eq!((size(268_435_456), size(1500)), ("256 MiB".into(), "1.5 KiB".into()));
    }

    #[test]
    fn a_column_shows_the_first_of_its_places_that_is_there_and_a_target_by_its_name() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let at = "/spec/provider|/found/provider";
        assert_eq!(cell(&json!({"found": {"provider": "here"}}), "PROVIDER", at, now), "here");
        assert_eq!(cell(&json!({"spec": {"provider": "there"}}), "PROVIDER", at, now), "there");
        assert_eq!(cell(&json!({}), "PROVIDER", at, now), "-");
        let target = json!({"spec": {"target": {"kind": "agent", "name": "planner"}}});
        assert_eq!(cell(&target, "TARGET", "/spec/target", now), "agent/planner:latest");
    }

    #[test]
    fn roles_print_as_they_are_given() {
        let id = uuid::Uuid::from_u128(7);
        let object = json!({"grants": [
            {"role": "admin", "scope": {"kind": "system"}},
            {"role": "viewer", "scope": {"kind": "project", "tenant_id": id, "project_id": id}},
        ]});
        let now = DateTime::from_timestamp(0, 0).unwrap();
        assert_eq!(
            cell(&object, "ROLES", "/grants", now),
            format!("admin at system, viewer at project/{id}")
        );
        assert_eq!(cell(&json!({"grants": []}), "ROLES", "/grants", now), "-");
    }
}
