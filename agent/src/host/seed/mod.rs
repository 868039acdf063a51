//! The NoCloud seed: an ISO 9660 disc labelled `cidata` from which cloud-init reads (V5).
//!
//! Source of the format: cloud-init's documentation of the NoCloud data source and of network configuration
//! version 2. The user's user-data goes in byte by byte; SSH keys go into the meta-data, so nothing is merged.

use super::storage::{Pools, files};
use crate::Error;
use basalt_model::VmId;
use basalt_plan::host::{SeedDefinition, SeedKey, SeedNic};
use hadris_iso::read::PathSeparator;
use hadris_iso::write::{
    File, InputFiles, IsoImageWriter,
    options::{CreationFeatures, IsoFormatOptions},
};
use std::{fmt::Write as _, io::Cursor, path::PathBuf, sync::Arc};

/// The disc's label, by which cloud-init finds it.
const LABEL: &str = "cidata";

/// The texts on the disc, by file name.
pub fn texts(seed: &SeedDefinition) -> [(&'static str, String); 3] {
    [
        ("meta-data", meta_data(seed)),
        ("user-data", seed.user_data.clone().unwrap_or_default()),
        ("network-config", network_config(&seed.nics)),
    ]
}

fn meta_data(seed: &SeedDefinition) -> String {
    // A new instance id makes cloud-init set the guest up anew.
    let hash = seed.hash.get(..12).unwrap_or(&seed.hash);
    let mut text = format!("instance-id: i-{}-{}-{hash}\n", seed.vm_id, seed.incarnation);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "local-hostname: {}", plain(seed.hostname.as_str()));
    if !seed.ssh_authorized_keys.is_empty() {
        text.push_str("public-keys:\n");
        for key in &seed.ssh_authorized_keys {
            let _ = writeln!(text, "  - {}", quoted(key));
        }
    }
    text
}

fn network_config(nics: &[SeedNic]) -> String {
    if nics.is_empty() {
        return "version: 2\nethernets: {}\n".into();
    }
    let mut text = String::from("version: 2\nethernets:\n");
    for (number, nic) in nics.iter().enumerate() {
        let mut line = |indent: usize, line: String| {
            let _ = writeln!(text, "{:indent$}{line}", "");
        };
        line(2, format!("eth{number}:"));
        line(4, "match:".into());
        line(6, format!("macaddress: {}", quoted(&nic.mac)));
        line(4, format!("set-name: eth{number}"));
        line(4, format!("mtu: {}", nic.mtu));
        if nic.dhcp {
            line(4, "dhcp4: true".into());
            continue;
        }
        line(4, "dhcp4: false".into());
        let second = nic.address6.map(|address| format!(", \"{address}/64\"")).unwrap_or_default();
        line(4, format!("addresses: [{}/{}{second}]", nic.address, nic.prefix_len));
        // One way out: a second default route would only compete.
        if number == 0 {
            line(4, format!("gateway4: {}", nic.gateway));
        }
        if !nic.dns.is_empty() {
            let servers: Vec<String> = nic.dns.iter().map(ToString::to_string).collect();
            line(4, "nameservers:".into());
            line(6, format!("addresses: [{}]", servers.join(", ")));
        }
    }
    text
}

/// A DNS label as YAML: bare, unless YAML would read it as a number, date, truth value or nothing.
fn plain(label: &str) -> String {
    let special = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let odd = label.starts_with(|c: char| !c.is_ascii_lowercase()) || special.contains(&label);
    if odd { quoted(label) } else { label.to_owned() }
}

/// Every JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The disc's bytes.
pub fn disc(seed: &SeedDefinition) -> Result<Vec<u8>, Error> {
    let file = |(name, text): (&str, String)| File::File {
        name: Arc::new(name.to_owned()),
        contents: text.into_bytes(),
    };
    let files = InputFiles {
        path_separator: PathSeparator::ForwardSlash,
        files: texts(seed).into_iter().map(file).collect(),
    };
    let options = IsoFormatOptions {
        volume_name: LABEL.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures::extensions(),
        strict_charset: false,
    };
    let mut disc = Cursor::new(Vec::new());
    IsoImageWriter::create(&mut disc, files, options).map_err(|e| Error::host("making a seed", e))?;
    Ok(disc.into_inner())
}

/// Where a seed is.
pub fn path(pools: &Pools, key: &SeedKey) -> Result<PathBuf, Error> {
    Ok(pools.first()?.seeds().join(format!("{}.{}.iso", key.vm_id, key.hash)))
}

/// The seeds that were written.
pub fn list(pools: &Pools) -> Result<Vec<SeedKey>, Error> {
    let names = files::names(&pools.first()?.seeds())?;
    let parse = |name: &String| {
        let (id, rest) = name.split_once('.')?;
        let vm_id: VmId = id.parse().ok()?;
        Some(SeedKey { vm_id, hash: rest.strip_suffix(".iso")?.to_owned() })
    };
    Ok(names.iter().filter_map(parse).collect())
}

/// The seed is there. Its name carries its hash, so one that is there says the same.
pub fn write(pools: &Pools, seed: &SeedDefinition) -> Result<(), Error> {
    let path = path(pools, &seed.key())?;
    if path.exists() {
        return Ok(());
    }
    // libvirt gives the file to QEMU's account while the guest runs; user-data may hold secrets.
    files::write(&path, &disc(seed)?, 0o400)
}

/// The seed is gone.
pub fn remove(pools: &Pools, key: &SeedKey) -> Result<(), Error> {
    files::remove(&path(pools, key)?)
}
