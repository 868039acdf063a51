//! The one table of kinds: what they are called, where they live, what a list shows of them.

use crate::Failure;
use serde_json::Value;

/// One kind of object.
pub struct Kind {
    /// `vm`
    pub name: &'static str,
    /// `vms`, also the last part of the collection's path.
    pub plural: &'static str,
    /// Whether the collection belongs to a project.
    pub in_project: bool,
    /// Columns of a list: title and JSON pointer.
    pub columns: &'static [(&'static str, &'static str)],
}

const ID: (&str, &str) = ("ID", "/id");
const NAME: (&str, &str) = ("NAME", "/name");
const AGE: (&str, &str) = ("AGE", "/created_at");

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "vm",
        plural: "vms",
        in_project: true,
        columns: &[
            NAME,
            ("PHASE", "/phase"),
            ("POWER", "/observed/power"),
            ("CPUS", "/spec/cpus"),
            ("MEMORY", "/spec/memory_bytes"),
            ("ADDRESS", "/nics/0/address"),
            ("HOST", "/placement/host"),
            AGE,
        ],
    },
    Kind {
        name: "network",
        plural: "networks",
        in_project: true,
        columns: &[
            NAME,
            ("PHASE", "/phase"),
            ("CIDR", "/spec/cidr"),
            ("VNI", "/vni"),
            ("USED", "/addresses_used"),
            AGE,
        ],
    },
    Kind {
        name: "volume",
        plural: "volumes",
        in_project: true,
        columns: &[
            NAME,
            ("PHASE", "/phase"),
            ("SIZE", "/spec/size_bytes"),
            ("POOL", "/observed/pool"),
            ("VM", "/vm_id"),
            AGE,
        ],
    },
    Kind {
        name: "image",
        plural: "images",
        in_project: true,
        columns: &[
            NAME,
            ("PHASE", "/phase"),
            ("STATE", "/observed/state"),
            ("FORMAT", "/spec/format"),
            ("SIZE", "/spec/size_bytes"),
            AGE,
        ],
    },
    Kind {
        name: "port",
        plural: "ports",
        in_project: true,
        columns: &[
            ("PORT", "/port_id"),
            ("NETWORK", "/network"),
            ("ADDRESS", "/address"),
            ("MAC", "/mac"),
            ("VM", "/vm_id"),
        ],
    },
    Kind {
        name: "host",
        plural: "hosts",
        in_project: false,
        columns: &[
            NAME,
            ("STATE", "/state"),
            ("THREADS", "/facts/threads"),
            ("MEMORY", "/facts/memory_bytes"),
            ("VMS", "/claimed/vms"),
            ("CLAIMED", "/claimed/memory_bytes"),
            ("SEEN", "/seen_at"),
        ],
    },
    Kind {
        name: "pool",
        plural: "pools",
        in_project: false,
        columns: &[
            ("NAME", "/facts/name"),
            ("HOST", "/host"),
            ("KIND", "/facts/kind"),
            ("SIZE", "/facts/capacity_bytes"),
            ("FREE", "/facts/available_bytes"),
            ("CLAIMED", "/claimed_bytes"),
        ],
    },
    Kind { name: "tenant", plural: "tenants", in_project: false, columns: &[NAME, ID, AGE] },
    Kind {
        name: "project",
        plural: "projects",
        in_project: false,
        columns: &[
            NAME,
            ("VMS", "/quota/used/vms"),
            ("CPUS", "/quota/used/cpus"),
            ("MEMORY", "/quota/used/memory_bytes"),
            ("STORAGE", "/quota/used/storage_bytes"),
            AGE,
        ],
    },
    Kind {
        name: "task",
        plural: "tasks",
        in_project: false,
        columns: &[
            ID,
            ("KIND", "/kind"),
            ("SUBJECT", "/subject/name"),
            ("STATE", "/state"),
            ("PROGRESS", "/progress"),
            ("STAGE", "/stage"),
            ("BY", "/actor/name"),
            AGE,
        ],
    },
    Kind { name: "user", plural: "users", in_project: false, columns: &[NAME, ID, AGE] },
    Kind {
        name: "service-token",
        plural: "service-tokens",
        in_project: false,
        columns: &[NAME, ID, ("EXPIRES", "/expires_at"), ("REVOKED", "/revoked_at")],
    },
    Kind {
        name: "role-binding",
        plural: "role-bindings",
        in_project: false,
        columns: &[
            ID,
            ("PRINCIPAL", "/principal_id"),
            ("ROLE", "/grant/role"),
            ("SCOPE", "/grant/scope/kind"),
        ],
    },
    Kind {
        name: "audit",
        plural: "audit",
        in_project: false,
        columns: &[
            ("AT", "/at"),
            ("BY", "/actor/name"),
            ("ACTION", "/action"),
            ("KIND", "/subject_kind"),
            ("SUBJECT", "/subject_name"),
        ],
    },
];

impl Kind {
    /// Finds a kind by singular or plural.
    pub fn find(text: &str) -> Result<&'static Kind, Failure> {
        KINDS.iter().find(|k| k.name == text || k.plural == text).ok_or_else(|| {
            let names: Vec<_> = KINDS.iter().map(|k| k.name).collect();
            Failure::Usage(format!("{text:?} is no kind; choose one of {}", names.join(", ")))
        })
    }

    /// The collection's path.
    pub fn collection(&self, project: &str) -> String {
        if self.in_project {
            format!("/v1/projects/{}/{}", escape(project), self.plural)
        } else {
            format!("/v1/{}", self.plural)
        }
    }

    /// An object's path, by name or id.
    pub fn object(&self, project: &str, name: &str) -> String {
        format!("{}/{}", self.collection(project), escape(name))
    }
}

/// Reads `kind/name` or the two words `kind name`.
pub fn target(words: &[String]) -> Result<(&'static Kind, Option<String>), Failure> {
    match words {
        [one] => match one.split_once('/') {
            Some((kind, name)) => Ok((Kind::find(kind)?, Some(name.to_owned()))),
            None => Ok((Kind::find(one)?, None)),
        },
        [kind, name] => Ok((Kind::find(kind)?, Some(name.clone()))),
        _ => Err(Failure::Usage("give a kind and a name: vm web-1 or vm/web-1".into())),
    }
}

/// Percent-encodes what may not stand in a path segment.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A column's value for people: sizes in binary units, times as ages.
pub fn cell(object: &Value, title: &str, pointer: &str, now: basalt_model::DateTime) -> String {
    let value = object.pointer(pointer).unwrap_or(&Value::Null);
    match value {
        Value::Null => "-".into(),
        Value::Number(n) if pointer.ends_with("_bytes") => size(n.as_u64().unwrap_or_default()),
        Value::Number(n) if title == "PROGRESS" => format!("{n} %"),
        Value::String(s) if matches!(title, "AGE" | "SEEN") => {
            s.parse::<basalt_model::DateTime>().map_or_else(|_| s.clone(), |t| age(now - t))
        }
        Value::String(s) => s.clone(),
        other => other.to_string(),
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

    #[test]
    fn sizes_read_and_print() {
        assert_eq!(parse_size("256MiB"), Ok(268_435_456));
        assert_eq!(parse_size("7"), Ok(7));
        assert!(parse_size("1MB").unwrap_err().contains("no unit"));
        assert!(parse_size("-1").is_err() && parse_size("99999999999TiB").is_err());
        assert_eq!((size(268_435_456), size(1500)), ("256 MiB".into(), "1.5 KiB".into()));
    }

    #[test]
    fn a_target_is_two_words_or_one_with_a_slash() {
        let words = |w: &[&str]| w.iter().map(ToString::to_string).collect::<Vec<_>>();
        for w in [words(&["vm/web"]), words(&["vms", "web"])] {
            let (kind, name) = target(&w).ok().unwrap();
            assert_eq!((kind.name, name.as_deref()), ("vm", Some("web")));
        }
        assert_eq!(target(&words(&["toaster"])).err().unwrap().exit_code(), 2);
        assert_eq!(Kind::find("vm").ok().unwrap().object("a b", "../x"), "/v1/projects/a%20b/vms/..%2Fx");
    }
}
