//! The script is run by a real shell, with programs in place of podman and `basalt-run` that say what they were given.

use super::*;
use basalt_model::{
    DeploymentId, Epoch, Generation, Name,
    artifacts::{ArtifactRef, Tag},
    deployments::{Owner, Program, Resources, SecretText},
};
use std::{os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn place(changes: Value) -> BasaltProvider {
    let mut spec =
        json!({ "access": { "secret": "a" }, "project": "p", "image": "runner", "network": "lan" });
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn workload() -> Workload {
    Workload {
        owner: Owner {
            id: DeploymentId(uuid::Uuid::from_u128(7)),
            project: name("p"),
            name: name("web"),
            namespace: None,
        },
        generation: Generation(1),
        epoch: Epoch(1),
        fingerprint: "f".repeat(64),
        target: ArtifactRef { kind: ArtifactKind::Agent, name: name("web"), tag: Tag::default() },
        program: Program {
            source: Source::Image { image: "registry.example/web:1".into() },
            transport: Transport::StreamableHttp { port: 8080, path: "/ä'\n".into() },
            command: Vec::new(),
            args: Vec::new(),
            health: None,
        },
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        resources: Resources::default(),
        kubernetes: Default::default(),
        local: Default::default(),
    }
}

/// Words that a shell would make something of.
const WORDS: &[&str] = &[
    "",
    "two words",
    "'",
    "''\\''",
    "$HOME `id` $(id)",
    "\"\\\n\"",
    "*",
    "-x",
    "; exit 3",
    "ä€\u{1f980}",
    "# no",
    "%s",
];

/// Runs a script with one program in its path, and gives what that was called with, the variables and the console.
fn run(script: &str, program: &str) -> (Vec<String>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file);
    let write = |file: &str, text: &str| {
        std::fs::write(at(file), text).unwrap();
        std::fs::set_permissions(at(file), std::fs::Permissions::from_mode(0o700)).unwrap();
    };
    let path = format!("{}:/usr/bin:/bin", at("bin").display());
    std::fs::create_dir(at("bin")).unwrap();
    let called = at("called");
    if !program.is_empty() {
        let says = format!(
            "#!/bin/sh\ncase \"$1\" in logs) exit 0;; esac\nprintf '%s\\0' \"$@\" > {0}.new && mv {0}.new {0}\n",
            called.display()
        );
        write(&format!("bin/{program}"), &says);
    }
    std::fs::write(at("console"), "").unwrap();
    let script = script
        .replace("/run/basalt", &at("run").display().to_string())
        .replace("/dev/console", &at("console").display().to_string())
        .replace("/var/lib/cloud", &at("cloud").display().to_string())
        // Only the one that is meant, wherever the test runs.
        .replace("command -v ", &format!("ls {}/bin/", folder.path().display()))
        .replace("sleep 1;", "false;");
    write("script", &script);
    let status = Command::new("/bin/sh").arg(at("script")).env("PATH", path).status().unwrap();
    assert_eq!(status.success(), !program.is_empty());
    let read = |file: &Path| std::fs::read_to_string(file).unwrap();
    for _ in 0..500 {
        if called.exists() || program.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let words = if program.is_empty() { String::new() } else { read(&called) };
    let words =
        words.split_terminator('\0').map(|w| w.replace(&at("run").display().to_string(), "RUN")).collect();
    (words, read(&at("run/artifact.env")), read(&at("console")))
}

#[test]
fn every_word_and_variable_reaches_the_program_as_it_was_written() {
    let mut given = workload();
    given.program.args = WORDS.iter().map(ToString::to_string).collect();
    for (i, word) in WORDS.iter().filter(|w| !w.contains('\n')).enumerate() {
        given.env.insert(format!("V{i}"), (*word).to_owned());
    }
    given.secret_env.insert("TOKEN".into(), SecretText::new("it's $hush"));
    let made = wanted(&given, &place(json!({ "secrets_in_user_data": true }))).unwrap();
    let (words, variables, console) = run(&made.user_data, "basalt-run");
    assert_eq!(words[..4], ["artifact", "RUN/artifact.env", "registry.example/web:1", "args"]);
    assert_eq!(words[4..], *WORDS);
    let lines: Vec<&str> = variables.lines().collect();
    assert!(lines.contains(&"PORT=8080") && lines.contains(&"TOKEN=it's $hush"), "{variables}");
    for (i, word) in WORDS.iter().filter(|w| !w.contains('\n')).enumerate() {
        assert!(lines.contains(&format!("V{i}={word}").as_str()), "{variables}");
    }
    assert_eq!(lines.len(), WORDS.len() - 1 + 2);
    assert!(console.contains("by basalt-run"), "{console}");

    given.program.command = vec!["/bin/it's".into(), "a b".into()];
    let made = wanted(&given, &place(json!({ "secrets_in_user_data": true }))).unwrap();
    let (words, ..) = run(&made.user_data, "podman");
    let at = words.iter().position(|w| w == "--entrypoint").unwrap();
    assert_eq!(words[at + 1..at + 3], ["[\"/bin/it's\",\"a b\"]", "registry.example/web:1"]);
    assert_eq!(words[at + 3..], *WORDS);
    assert_eq!(words[..2], ["run", "--detach"]);
    let (words, ..) = run(&made.user_data, "basalt-run");
    assert_eq!(words[3..6], ["command", "/bin/it's", "a b"]);
}

#[test]
fn a_guest_that_can_run_nothing_says_so_on_its_console() {
    let made = wanted(&workload(), &place(json!({}))).unwrap();
    let (_, _, console) = run(&made.user_data, "");
    assert!(console.contains("registry.example/web:1") && console.contains("podman"), "{console}");
}

#[test]
fn what_cannot_run_in_a_vm_is_refused_for_good_with_a_remedy() {
    let refused = |change: &dyn Fn(&mut Workload)| {
        let mut given = workload();
        change(&mut given);
        let error = wanted(&given, &place(json!({}))).err().unwrap();
        assert_eq!(error.class, ErrorClass::Permanent);
        assert!(!error.reason.remedy.is_empty() && !error.to_string().contains("hush"), "{error}");
        error.reason.code.to_string()
    };
    let package =
        |w: &mut Workload| w.program.source = Source::Npm { package: "a".into(), version: "1".into() };
    assert_eq!(refused(&package), "no_runner");
    assert_eq!(refused(&|w| w.program.transport = Transport::Stdio {}), "no_bridge");
    let secret = |w: &mut Workload| drop(w.secret_env.insert("T".into(), SecretText::new("hush")));
    assert_eq!(refused(&secret), "secrets_refused");
    assert_eq!(refused(&|w| drop(w.env.insert("A".into(), "hush\nhush".into()))), "variable_of_lines");
    assert_eq!(refused(&|w| drop(w.env.insert("A".into(), "x".repeat(70_000)))), "too_long");
}

#[test]
fn a_vm_is_as_large_as_the_deployment_says_or_the_provider() {
    let size = |memory: Option<u64>, millis: Option<u32>| {
        let mut given = workload();
        given.resources = Resources { memory_bytes: memory, cpu_millis: millis };
        let body = wanted(&given, &place(json!({ "cpus": 3 }))).unwrap().create("x", None);
        (body["spec"]["cpus"].as_u64().unwrap(), body["spec"]["memory_bytes"].as_u64().unwrap() / MIB)
    };
    assert_eq!(size(None, None), (3, 512));
    assert_eq!(size(Some(100 * MIB + 1), Some(1001)), (2, 101));
    assert_eq!(size(Some(4 * MIB), Some(10)), (1, 64));
}

#[test]
fn what_others_changed_is_named_field_by_field() {
    let made =
        wanted(&workload(), &place(json!({ "pool": "fast", "disk_bytes": 4096 * MIB, "probe": true })))
            .unwrap();
    let shown = |change: &dyn Fn(&mut Value)| -> Vm {
        let mut vm = made.create(&made.name, None);
        vm["id"] = json!(uuid::Uuid::from_u128(1));
        vm["generation"] = json!(1);
        change(&mut vm);
        serde_json::from_value(vm).unwrap()
    };
    let same = shown(&|_| {});
    assert_eq!(Recipe::of(&same).as_ref(), Some(&made.recipe));
    assert!(made.is_made_as(&same) && made.is_said_by(&same));
    assert_eq!(super::super::vm::fingerprint(|key| same.label(key)), Some("f".repeat(64)));
    for (pointer, value, field) in [
        ("/spec/cpus", json!(2), "cpus: 2 instead of 1"),
        ("/spec/memory_bytes", json!(MIB), "memory_bytes: "),
        ("/spec/disks/0/source/image", json!("other"), "disks[0].source.image: other instead of runner"),
        ("/spec/disks/0/pool", json!("slow"), "disks[0].pool: slow"),
        ("/spec/nics/0/network", json!("wan"), "nics[0].network: wan"),
        ("/spec/cloud_init/user_data", json!(format!("{}#", made.user_data)), "cloud_init.user_data: "),
    ] {
        let other = shown(&|vm| *vm.pointer_mut(pointer).unwrap() = value.clone());
        let drift = Recipe::of(&other).unwrap().drift(&other);
        assert!(drift.len() == 1 && drift[0].starts_with(field), "{field}: {drift:?}");
        assert!(!made.is_made_as(&other));
    }
    let epoch = shown(&|vm| vm["labels"][labels::EPOCH] = json!("9"));
    assert!(made.is_said_by(&epoch), "the attempt alone is no difference");
    let label = shown(&|vm| vm["labels"][labels::GENERATION] = json!("9"));
    assert!(!made.is_said_by(&label));
    let over = made.over(&shown(&|vm| {
        vm["labels"]["mine"] = json!("1");
        vm["spec"]["power"] = json!("stopped");
        vm["spec"]["of_another_version"] = json!(1);
    }));
    assert_eq!((&over["labels"]["mine"], &over["spec"]["power"]), (&json!("1"), &json!("running")));
    assert_eq!(over["spec"]["of_another_version"], 1);
}
