//! The one table of kinds: what they are called, where they live, what can be done with them, what a list shows.

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
    /// JSON pointers of what one is called by; the first stands in `kind/name`.
    pub names: &'static [&'static str],
    /// What the gateway lets users do with one; each can be listed.
    pub can: &'static [Can],
    /// Columns of a list: title and JSON pointer, or several with `|` between them, of which the first that is there counts.
    pub columns: &'static [(&'static str, &'static str)],
}

/// What can be done with an object of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Can {
    /// It can be read by any of its names; others are looked for in the list.
    Show,
    /// `apply` can declare it.
    Declare,
    /// `apply` can change it.
    Change,
    /// It can be deleted.
    Delete,
}

use Can::{Change, Declare, Delete, Show};

const ID: (&str, &str) = ("ID", "/id");
const NAME: (&str, &str) = ("NAME", "/name");
const AGE: (&str, &str) = ("AGE", "/created_at");

/// Most kinds: named, and unique by their name.
const NAMED: &[&str] = &["/name", "/id"];
/// Kinds that are there once for each tag; a name alone means the tag `latest`.
const TAGGED: &[&str] = &["/reference", "/name", "/id"];
const REFERENCE: (&str, &str) = ("NAME", "/reference");
/// Kinds without a name.
const BY_ID: &[&str] = &["/id"];

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "vm",
        plural: "vms",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
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
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
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
        name: "security-group",
        plural: "security-groups",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
        columns: &[NAME, ("PHASE", "/phase"), ID, AGE],
    },
    Kind {
        name: "router",
        plural: "routers",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
        columns: &[
            NAME,
            ("PHASE", "/phase"),
            ("UPLINK", "/spec/uplink/network"),
            ("ADDRESS", "/wiring/uplink/address"),
            ("PREFERRED", "/hosts/0/host"),
            ("OTHER", "/hosts/1/host"),
            AGE,
        ],
    },
    Kind {
        name: "volume",
        plural: "volumes",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Delete],
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
        names: NAMED,
        can: &[Show, Declare, Delete],
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
        name: "agent",
        plural: "agents",
        in_project: true,
        names: TAGGED,
        can: &[Show, Declare, Change, Delete],
        columns: &[REFERENCE, ("SOURCE", "/spec/source/type"), ("HASH", "/content_hash"), AGE],
    },
    Kind {
        name: "server",
        plural: "servers",
        in_project: true,
        names: TAGGED,
        can: &[Show, Declare, Change, Delete],
        columns: &[
            REFERENCE,
            ("SOURCE", "/spec/source/type"),
            ("TRANSPORT", "/spec/transport/type"),
            ("HASH", "/content_hash"),
            AGE,
        ],
    },
    Kind {
        name: "provider",
        plural: "providers",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
        columns: &[NAME, ("PLATFORM", "/spec/platform"), ID, AGE],
    },
    Kind {
        name: "deployment",
        plural: "deployments",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
        columns: &[
            NAME,
            ("PHASE", "/phase"),
            ("TARGET", "/spec/target"),
            ("PROVIDER", "/spec/provider|/found/provider"),
            ("ORIGIN", "/origin"),
            ("ENDPOINT", "/endpoints/0/url"),
            AGE,
            ID,
        ],
    },
    Kind {
        name: "secret",
        plural: "secrets",
        in_project: true,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
        columns: &[NAME, ("VALUES", "/generation"), ID, AGE],
    },
    Kind {
        name: "port",
        plural: "ports",
        in_project: true,
        names: &["/port_id"],
        can: &[Show],
        columns: &[
            ("PORT", "/port_id"),
            ("NETWORK", "/network"),
            ("ADDRESS", "/address"),
            ("MAC", "/mac"),
            ("VM", "/vm_id"),
        ],
    },
    Kind {
        name: "migration",
        plural: "migrations",
        in_project: true,
        names: BY_ID,
        can: &[Show],
        columns: &[
            ID,
            ("VM", "/vm"),
            ("FROM", "/source"),
            ("TO", "/target"),
            ("PHASE", "/phase"),
            ("PAUSE", "/outcome/progress/pause_milliseconds"),
            ("REASON", "/outcome/reason/message"),
            ("AGE", "/requested_at"),
        ],
    },
    Kind {
        name: "host",
        plural: "hosts",
        in_project: false,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
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
        names: &["/id", "/facts/name"],
        can: &[],
        columns: &[
            ("NAME", "/facts/name"),
            ("HOST", "/host"),
            ("KIND", "/facts/kind"),
            ("SIZE", "/facts/capacity_bytes"),
            ("FREE", "/facts/available_bytes"),
            ("CLAIMED", "/claimed_bytes"),
            ID,
        ],
    },
    Kind {
        name: "tenant",
        plural: "tenants",
        in_project: false,
        names: NAMED,
        can: &[Show, Declare],
        columns: &[NAME, ID, AGE],
    },
    Kind {
        name: "project",
        plural: "projects",
        in_project: false,
        names: NAMED,
        can: &[Show, Declare, Change, Delete],
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
        names: BY_ID,
        can: &[Show],
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
    Kind {
        name: "user",
        plural: "users",
        in_project: false,
        names: NAMED,
        can: &[Show, Delete],
        columns: &[NAME, ID, ("ROLES", "/grants"), AGE],
    },
    Kind {
        name: "service-token",
        plural: "service-tokens",
        in_project: false,
        names: NAMED,
        can: &[Delete],
        columns: &[NAME, ID, ("ROLES", "/grants"), ("EXPIRES", "/expires_at"), ("REVOKED", "/revoked_at")],
    },
    Kind {
        name: "role-binding",
        plural: "role-bindings",
        in_project: false,
        names: BY_ID,
        can: &[Delete],
        columns: &[ID, ("PRINCIPAL", "/principal_id"), ("ROLE", "/grant"), AGE],
    },
    Kind {
        name: "audit",
        plural: "audit",
        in_project: false,
        names: BY_ID,
        can: &[],
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

    /// Refuses what cannot be done with this kind, and names the kinds with which it can.
    pub fn demand(&self, can: Can, done: &str) -> Result<(), Failure> {
        if self.can.contains(&can) {
            return Ok(());
        }
        let others: Vec<_> = KINDS.iter().filter(|k| k.can.contains(&can)).map(|k| k.name).collect();
        Err(Failure::Usage(format!(
            "a {} cannot be {done}; these can: {}",
            self.name.replace('-', " "),
            others.join(", ")
        )))
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

    /// What an object is called: `vm/web-1`.
    pub fn label(&self, object: &Value) -> String {
        let name = self.names.iter().find_map(|at| object.pointer(at).and_then(Value::as_str));
        format!("{}/{}", self.name, name.unwrap_or("-"))
    }

    /// Whether an object is called so.
    pub fn is_called(&self, object: &Value, name: &str) -> bool {
        self.names.iter().any(|at| object.pointer(at).and_then(Value::as_str) == Some(name))
    }
}

/// What the words after a verb name.
pub struct Targets {
    /// Kind and name of each, in the order in which they were given.
    pub named: Vec<(&'static Kind, String)>,
    /// The kind, when no name was given.
    pub all: Option<&'static Kind>,
}

/// Reads `kind`, `kind name …` or `kind/name …`.
pub fn targets(words: &[String]) -> Result<Targets, Failure> {
    let slashed = |word: &String| {
        let (kind, name) = word.split_once('/').ok_or_else(|| {
            Failure::Usage(format!(
                "{word:?} has no kind; write kind/name for each, or the kind once: vm web-1 web-2"
            ))
        })?;
        match name {
            "" => Err(Failure::Usage(format!("{word:?} has no name; write for example vm/web-1"))),
            name => Ok((Kind::find(kind)?, name.to_owned())),
        }
    };
    match words {
        [] => Err(Failure::Usage("give a kind and a name: vm web-1 or vm/web-1".into())),
        [first, ..] if first.contains('/') => {
            let named = words.iter().map(slashed).collect::<Result<_, Failure>>()?;
            Ok(Targets { named, all: None })
        }
        [kind] => Ok(Targets { named: Vec::new(), all: Some(Kind::find(kind)?) }),
        [kind, names @ ..] => {
            let kind = Kind::find(kind)?;
            Ok(Targets { named: names.iter().map(|n| (kind, n.clone())).collect(), all: None })
        }
    }
}

/// The same for a verb that needs names.
pub fn named(words: &[String]) -> Result<Vec<(&'static Kind, String)>, Failure> {
    let targets = targets(words)?;
    match targets.all {
        None => Ok(targets.named),
        Some(kind) => Err(Failure::Usage(format!(
            "which {}? give a name: {} NAME, or {}/NAME",
            kind.name.replace('-', " "),
            kind.name,
            kind.name
        ))),
    }
}

/// Percent-encodes what may not stand in a path segment.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(w: &[&str]) -> Vec<String> {
        w.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn targets_are_a_kind_and_names_or_words_with_a_slash() {
        for w in [words(&["vm/web", "vms/db"]), words(&["vms", "web", "db"])] {
            let read: Vec<_> = named(&w).ok().unwrap().into_iter().map(|(k, n)| (k.name, n)).collect();
            assert_eq!(read, [("vm", "web".into()), ("vm", "db".into())]);
        }
        assert_eq!(targets(&words(&["pools"])).ok().unwrap().all.unwrap().name, "pool");
        assert_eq!(named(&words(&["pool/h1/default"])).ok().unwrap()[0].1, "h1/default");
        for wrong in [&["toaster"][..], &["vm"], &["vm/"], &["vm/a", "b"], &["toaster/x"], &[]] {
            assert_eq!(named(&words(wrong)).err().unwrap().exit_code(), 2, "{wrong:?}");
        }
        assert_eq!(Kind::find("vm").ok().unwrap().object("a b", "../x"), "/v1/projects/a%20b/vms/..%2Fx");
    }

    #[test]
    fn the_table_says_what_the_gateway_offers() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json");
        let document: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let has = |path: &str, method: &str| paths.get(path).is_some_and(|p| p.get(method).is_some());
        for kind in KINDS {
            let list = kind.collection("{project}").replace("%7B", "{").replace("%7D", "}");
            assert!(has(&list, "get"), "{} cannot be listed", kind.name);
            let one = paths.keys().find(|p| p.starts_with(&format!("{list}/{{")) && p.ends_with('}'));
            let offers = |method| one.is_some_and(|p| has(p, method));
            for (can, method) in [(Show, "get"), (Change, "put"), (Delete, "delete")] {
                // A pool has a route that knows no names, so it is looked for in the list.
                let said = kind.can.contains(&can) || (kind.name == "pool" && can == Show);
                assert_eq!(said, offers(method), "{} {can:?}", kind.name);
            }
            assert!(!kind.can.contains(&Declare) || has(&list, "post"), "{} cannot be declared", kind.name);
        }
        // Whatever comes in pages is a kind, unless it is of one object: that object's verbs show it.
        let of_one =
            |path: &str| path.rsplit('/').nth(1).is_some_and(|p| p.starts_with('{') && p != "{project}");
        for (path, route) in paths.iter().filter(|(path, _)| !of_one(path)) {
            let parameters = route["get"]["parameters"].as_array().cloned().unwrap_or_default();
            if parameters.iter().any(|p| p["name"] == "cursor") && path != "/v1/watch" {
                let plural = path.rsplit('/').next().unwrap();
                assert!(KINDS.iter().any(|k| k.plural == plural), "{path} is not in the table of kinds");
            }
        }
    }

    #[test]
    fn an_object_is_called_by_its_names() {
        let pool = Kind::find("pools").ok().unwrap();
        let object = json!({"id": "1-2", "facts": {"name": "default"}});
        assert!(pool.is_called(&object, "default") && pool.is_called(&object, "1-2"));
        assert_eq!(pool.label(&object), "pool/1-2");
    }
}
