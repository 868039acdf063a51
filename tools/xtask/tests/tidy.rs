//! Each house rule, broken once in a tree that is otherwise clean, is reported once and at its line; and this very
//! checkout is clean.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use xtask::tidy::{Violation, tidy};

/// A small house in which every rule holds.
struct House(TempDir);

impl House {
    fn clean() -> Self {
        let house = Self(tempfile::tempdir().unwrap());
        house.room("lib/model", "basalt-model", "sqlx = { workspace = true, optional = true }\n");
        house.room("lib/wire", "basalt-wire", "basalt-model.workspace = true\n");
        house.room("lib/krt", "krt", "");
        house.room(
            "gateway/store",
            "basalt-store",
            "basalt-model = { workspace = true, features = [\"sql\"] }\nsqlx.workspace = true\n",
        );
        house.room("agent", "basalt-agent", "basalt-model.workspace = true\nvirt.workspace = true\n");
        house.room("image-service", "basalt-image-service", "basalt-wire.workspace = true\n");
        house.write("lib/krt/src/lib.rs", "//! Collections.\n#![forbid(unsafe_code)]\n");
        house.write("gateway/store/src/vms.rs", &format!("//! VMs.\nconst GET: &str = \"{}\";\n", sql()));
        house
    }

    fn room(&self, folder: &str, name: &str, dependencies: &str) {
        self.write(&format!("{folder}/Cargo.toml"), &manifest(name, dependencies));
        self.write(&format!("{folder}/src/lib.rs"), "//! What this room is for.\n");
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn violations(&self) -> Vec<Violation> {
        tidy(self.0.path()).unwrap()
    }

    /// Exactly this one violation, and it says more than the rule's name.
    #[track_caller]
    fn breaks_only(&self, path: &str, line: usize, rule: &str) {
        let violations = self.violations();
        let found: Vec<_> = violations.iter().map(|v| (v.path.as_str(), v.line, v.rule)).collect();
        assert_eq!(found, [(path, line, rule)]);
        assert!(violations[0].message.len() > 30, "why and remedy: {}", violations[0]);
    }
}

fn manifest(name: &str, dependencies: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\ndescription = \"A room\"\n\n[lints]\nworkspace = true\n\n[dependencies]\n{dependencies}"
    )
}

/// A query, put together so that this file passes its own rule.
fn sql() -> String {
    ["SELECT", "name FROM vms WHERE id = $1"].join(" ")
}

#[test]
fn a_clean_tree_passes() {
    assert_eq!(House::clean().violations(), []);
}

#[test]
fn this_checkout_is_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found: Vec<String> = tidy(&root).unwrap().iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_room_imports_only_what_its_row_allows() {
    let house = House::clean();
    house.room("agent", "basalt-agent", "basalt-model.workspace = true\nbasalt-store.workspace = true\n");
    house.breaks_only("agent/Cargo.toml", 10, "imports");
}

#[test]
fn tests_of_a_room_obey_the_same_table() {
    let house = House::clean();
    house.room("lib/wire", "basalt-wire", "\n[dev-dependencies.basalt-store]\nworkspace = true\n");
    house.breaks_only("lib/wire/Cargo.toml", 10, "imports");
}

#[test]
fn krt_imports_no_room_even_for_one_target_or_under_another_name() {
    let house = House::clean();
    let renamed =
        "\n[target.'cfg(unix)'.dependencies]\nnouns = { package = \"basalt-model\", version = \"1\" }\n";
    house.write("lib/krt/Cargo.toml", &manifest("krt", renamed));
    house.breaks_only("lib/krt/Cargo.toml", 11, "imports");
}

#[test]
fn a_room_that_is_not_in_the_house_is_refused() {
    let house = House::clean();
    house.room("lib/service", "basalt-service", "");
    house.breaks_only("lib/service/Cargo.toml", 1, "room");
}

#[test]
fn the_peers_of_krt_are_imported_by_nobody() {
    let house = House::clean();
    house.room("tools/peers", "krt-peers", "krt = { path = \"../../lib/krt\" }\nk8s-openapi = \"0.29\"\n");
    assert_eq!(house.violations(), []);
    house.write("lib/krt/Cargo.toml", &manifest("krt", "\n[dev-dependencies]\nkrt-peers = \"0.1\"\n"));
    house.breaks_only("lib/krt/Cargo.toml", 11, "imports");
}

#[test]
fn foreign_crates_stay_in_their_room() {
    for (dependency, line) in [("sqlx", 10), ("kube", 10), ("bollard", 10), ("virt-sys", 10), ("ratatui", 10)]
    {
        let house = House::clean();
        let dependencies = format!("basalt-wire.workspace = true\n{dependency}.workspace = true\n");
        house.room("image-service", "basalt-image-service", &dependencies);
        house.breaks_only("image-service/Cargo.toml", line, "foreign-crate");
    }
}

#[test]
fn only_the_store_turns_on_the_models_sql_feature() {
    let house = House::clean();
    house.room("lib/wire", "basalt-wire", "basalt-model = { workspace = true, features = [\"sql\"] }\n");
    house.breaks_only("lib/wire/Cargo.toml", 9, "foreign-crate");
}

#[test]
fn the_model_takes_sqlx_only_as_an_option() {
    let house = House::clean();
    house.room("lib/model", "basalt-model", "sqlx.workspace = true\n");
    house.breaks_only("lib/model/Cargo.toml", 9, "foreign-crate");
}

#[test]
fn pure_rooms_hold_no_runtime_crate() {
    let house = House::clean();
    house.room("lib/wire", "basalt-wire", "basalt-model.workspace = true\ntokio.workspace = true\n");
    house.breaks_only("lib/wire/Cargo.toml", 10, "pure");
}

#[test]
fn pure_rooms_hold_no_clock_file_socket_environment_runtime_or_chance() {
    let lines = [
        "use std::time::{Duration, Instant};",
        "fn now() -> Time { chrono::Utc::now() }",
        "fn at(t: std::time::SystemTime) {}",
        "fn read() { std::fs::read(\"x\"); }",
        "use std::{fmt, fs::File};",
        "fn dial() { TcpStream::connect(\"a\"); }",
        "fn var() { std::env::var(\"A\"); }",
        "async fn wait() {}",
        "fn spawn() { tokio::spawn(x); }",
        "fn pick() -> u8 { rand::random() }",
        "fn id() -> Uuid { Uuid::now_v7() }",
    ];
    for line in lines {
        let house = House::clean();
        house.write("lib/model/src/vms.rs", &format!("//! VMs.\n\n{line}\n"));
        house.breaks_only("lib/model/src/vms.rs", 3, "pure");
    }
}

#[test]
fn pure_rooms_may_name_addresses_and_use_files_in_tests() {
    let house = House::clean();
    house.write(
        "lib/model/src/vms.rs",
        "//! VMs. A clock such as Utc::now() is an argument.\nuse std::net::Ipv4Addr;\nfn operand(rand: u8) -> u8 { rand }\n#[cfg(test)]\nmod tests {\n    fn golden() { std::fs::read(\"x\"); }\n}\n",
    );
    assert_eq!(house.violations(), []);
}

#[test]
fn krt_forbids_unsafe_code() {
    let house = House::clean();
    house.write("lib/krt/src/lib.rs", "//! Collections.\n");
    house.breaks_only("lib/krt/src/lib.rs", 1, "unsafe");
}

#[test]
fn a_file_has_at_most_800_lines() {
    let house = House::clean();
    house.write("agent/src/cycle.rs", &format!("//! The cycle.\n{}", "// .\n".repeat(799)));
    assert_eq!(house.violations(), []);
    house.write("agent/src/cycle.rs", &format!("//! The cycle.\n{}", "// .\n".repeat(800)));
    house.breaks_only("agent/src/cycle.rs", 801, "file-length");
}

#[test]
fn a_function_has_at_most_70_lines() {
    let function = |lines: usize| {
        format!("//! The cycle.\n\nfn step() {{\n{}}}\n", "    act(\"}\"); // }\n".repeat(lines - 2))
    };
    let house = House::clean();
    house.write("agent/src/cycle.rs", &function(70));
    assert_eq!(house.violations(), []);
    house.write("agent/src/cycle.rs", &function(71));
    house.breaks_only("agent/src/cycle.rs", 3, "function-length");
}

#[test]
fn every_file_says_what_it_is_for() {
    let house = House::clean();
    house.write("agent/src/cycle.rs", "use std::fmt;\n\n//! Too late.\n");
    house.breaks_only("agent/src/cycle.rs", 1, "module-doc");
}

#[test]
fn every_crate_has_a_description_of_one_line() {
    let house = House::clean();
    let text = manifest("basalt-wire", "").replace("A room", "");
    house.write("lib/wire/Cargo.toml", &text);
    house.breaks_only("lib/wire/Cargo.toml", 1, "description");
}

#[test]
fn every_crate_inherits_the_lints() {
    let house = House::clean();
    house.write("lib/wire/Cargo.toml", &manifest("basalt-wire", "").replace("workspace = true", ""));
    house.breaks_only("lib/wire/Cargo.toml", 1, "lints");
}

#[test]
fn names_say_what_is_inside() {
    for path in
        ["agent/src/utils.rs", "agent/src/common/vms.rs", "agent/src/helpers/vms.rs", "gateway/core/vms.rs"]
    {
        let house = House::clean();
        house.write(path, "//! Things.\n");
        house.breaks_only(path, 1, "vague-name");
    }
    let house = House::clean();
    house.write("agent/src/cycle.rs", "//! The cycle.\npub mod common {}\n");
    house.breaks_only("agent/src/cycle.rs", 2, "vague-name");
}

#[test]
fn nothing_lands_unfinished() {
    let comment = format!("// {}: later", ["TO", "DO"].concat());
    let lines =
        ["fn a() { todo!() }", "fn a() { unimplemented!() }", "#[ignore = \"slow\"]", comment.as_str()];
    for line in lines {
        let house = House::clean();
        house.write("agent/src/cycle.rs", &format!("//! The cycle.\n{line}\n"));
        house.breaks_only("agent/src/cycle.rs", 2, "unfinished");
    }
    let house = House::clean();
    house.write("gateway/store/migrations/1.sql", &format!("-- {}\n", ["FIX", "ME"].concat()));
    house.breaks_only("gateway/store/migrations/1.sql", 1, "unfinished");
}

#[test]
fn only_the_store_speaks_sql() {
    let house = House::clean();
    house.write("agent/src/cycle.rs", &format!("//! The cycle.\nconst GET: &str = \"{}\";\n", sql()));
    house.breaks_only("agent/src/cycle.rs", 2, "sql");
}

#[test]
fn s42_agent_and_image_service_start_no_shell() {
    for line in [
        "fn a() { Command::new(\"sh\"); }",
        "fn a() { Command::new(\"/bin/bash\"); }",
        "fn a() { c.arg(\"-c\"); }",
    ] {
        for room in ["agent", "image-service"] {
            let house = House::clean();
            house.write(&format!("{room}/src/host/ovs.rs"), &format!("//! Open vSwitch.\n\n{line}\n"));
            house.breaks_only(&format!("{room}/src/host/ovs.rs"), 3, "shell");
        }
    }
}

#[test]
fn no_path_of_the_machine_it_was_written_on() {
    let house = House::clean();
    let root = house.0.path().canonicalize().unwrap();
    house.write("docs/style.md", &format!("# Style\nsee {}/notes\n", root.display()));
    house.breaks_only("docs/style.md", 2, "machine-path");
    house.write("docs/style.md", &format!("# Style\nsee `{}someone/notes`\n", ["/ho", "me/"].concat()));
    house.breaks_only("docs/style.md", 2, "machine-path");
    house.write("docs/style.md", "# Style\nimages/home/x\n");
    assert_eq!(house.violations(), []);
}

#[test]
fn no_package_registry_by_name() {
    let house = House::clean();
    house.write("deny.toml", &format!("allow = [\"https://index.{}.io\"]\n", "crates"));
    house.breaks_only("deny.toml", 1, "registry-host");
    house.write("deny.toml", "");
    house.write("Cargo.lock", &format!("source = \"registry+https://index.{}.io\"\n", "crates"));
    assert_eq!(house.violations(), []);
}
