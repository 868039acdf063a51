//! V5: the NoCloud seed.

use crate::golden;
use basalt_agent::{
    config::Config,
    host::{seed, storage::Pools},
};
use basalt_model::VmId;
use basalt_plan::host::{SeedDefinition, SeedNic};
use hadris_iso::read::IsoImage;
use std::io::Cursor;
use uuid::Uuid;

fn nic(dhcp: bool) -> SeedNic {
    SeedNic {
        mac: "02:00:00:00:00:05".into(),
        address: "10.10.0.5".parse().unwrap(),
        prefix_len: 24,
        address6: None,
        gateway: "10.10.0.1".parse().unwrap(),
        dns: vec!["9.9.9.9".parse().unwrap(), "1.1.1.1".parse().unwrap()],
        mtu: 1450,
        dhcp,
    }
}

fn definition() -> SeedDefinition {
    SeedDefinition {
        vm_id: VmId(Uuid::from_u128(7)),
        incarnation: 0,
        hostname: "web-1".parse().unwrap(),
        user_data: Some("#cloud-config\nruncmd:\n  - echo \"hällo\"\r\n\n".into()),
        ssh_authorized_keys: vec![
            "ssh-ed25519 AAAA me@here".into(),
            "ssh-rsa BBBB a \"quoted\" comment".into(),
        ],
        nics: vec![nic(true), SeedNic { mac: "02:00:00:00:00:06".into(), ..nic(false) }],
        hash: "0123456789abcdef".into(),
    }
}

#[test]
fn n1_a_guest_without_dhcp_is_told_both_of_its_addresses() {
    let both = SeedNic { address6: Some("fd00:10::ff:fe00:5".parse().unwrap()), ..nic(false) };
    let said = text(&SeedDefinition { nics: vec![both], ..definition() }, "network-config");
    assert!(said.contains("addresses: [10.10.0.5/24, \"fd00:10::ff:fe00:5/64\"]"), "{said}");
}

fn text(seed: &SeedDefinition, name: &str) -> String {
    seed::texts(seed).into_iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn v5_the_texts_are_as_checked_in() {
    golden::check("seed-meta-data", &text(&definition(), "meta-data"));
    golden::check("seed-network-config", &text(&definition(), "network-config"));
    golden::check(
        "seed-network-config-static",
        &text(&SeedDefinition { nics: vec![nic(false)], ..definition() }, "network-config"),
    );
}

#[test]
fn v5_user_data_is_on_the_disc_byte_by_byte_under_the_label_that_cloud_init_seeks() {
    let disc = seed::disc(&definition()).unwrap();
    assert_eq!(disc[32808..32840].trim_ascii_end(), b"cidata");
    assert_eq!(disc.len() % 2048, 0);
    let find = |text: &str| disc.windows(text.len()).filter(|w| *w == text.as_bytes()).count();
    assert_eq!(find(definition().user_data.as_deref().unwrap()), 1);
    assert_eq!(find(&text(&definition(), "meta-data")), 1);
    let image = IsoImage::open(Cursor::new(disc)).unwrap();
    let root = image.root_dir();
    let names: Vec<_> = root
        .iter(&image)
        .entries()
        .map(|e| e.unwrap())
        .filter(|e| e.is_file())
        .map(|e| e.display_name().into_owned())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn v5_a_redeployed_or_changed_guest_is_a_new_instance() {
    let id = |seed: &SeedDefinition| text(seed, "meta-data").lines().next().unwrap().to_owned();
    let first = id(&definition());
    assert_eq!(first, id(&definition()));
    assert_ne!(first, id(&SeedDefinition { incarnation: 1, ..definition() }));
    assert_ne!(first, id(&SeedDefinition { hash: "ffff456789abcdef".into(), ..definition() }));
}

#[test]
fn v5_a_host_name_that_yaml_would_misread_is_quoted() {
    for (name, wanted) in [("web-1", "web-1"), ("123", "\"123\""), ("true", "\"true\""), ("1e5", "\"1e5\"")] {
        let seed = SeedDefinition { hostname: name.parse().unwrap(), ..definition() };
        assert!(text(&seed, "meta-data").contains(&format!("local-hostname: {wanted}\n")), "{name}");
    }
    assert_eq!(
        text(&SeedDefinition { nics: vec![], ..definition() }, "network-config"),
        "version: 2\nethernets: {}\n"
    );
    assert_eq!(text(&SeedDefinition { user_data: None, ..definition() }, "user-data"), "");
}

#[test]
fn v5_a_seed_is_written_once_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(dir.path());
    seed::write(&pools, &definition()).unwrap();
    let path = seed::path(&pools, &definition().key()).unwrap();
    let inode = |p: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).unwrap());
    let before = inode(&path);
    seed::write(&pools, &definition()).unwrap();
    assert_eq!(inode(&path), before);
    assert_eq!(seed::list(&pools).unwrap(), [definition().key()]);
    seed::remove(&pools, &definition().key()).unwrap();
    seed::remove(&pools, &definition().key()).unwrap();
    assert_eq!(seed::list(&pools).unwrap(), []);
}

/// One pool under a directory.
pub fn pools(dir: &std::path::Path) -> Pools {
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let text = format!(
        "[gateway]\nurl = \"https://g:9444\"\nca = \"/ca\"\n[state]\ndir = \"{0}/state\"\n[host]\nname = \"h1\"\n\
         [[pool]]\nname = \"default\"\nkind = \"directory\"\npath = \"{0}/pool\"\n",
        dir.display()
    );
    let config = Config::parse(&text).unwrap();
    Pools::new(&config.pools, &config.state.dir)
}
