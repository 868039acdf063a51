//! The image service's configuration file.

use basalt_wire::upload_token::Keyring;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `image-service.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Where the bytes are kept.
    pub storage: Storage,
    /// Where events go.
    pub gateway: Gateway,
    /// Own certificate and the authority.
    pub tls: Tls,
    /// Keys that token signatures are checked with.
    pub tokens: Tokens,
    /// What may be fetched for imports.
    #[serde(default)]
    pub import: Import,
}

/// `[import]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Import {
    /// Networks that are not public and may be fetched from all the same: `["10.20.0.0/16"]`, for a mirror inside.
    pub allow: Vec<ipnet::IpNet>,
    /// Authorities to trust besides the machine's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// `[listen]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address of the clients' door; sockets inherited under the name `clients` win.
    pub clients: String,
}

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Folder of uploads, blobs, ledger and spool; one filesystem.
    pub dir: PathBuf,
}

/// `[gateway]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The agents' door of the gateway, `https://…:9444`.
    pub url: String,
}

/// `[tls]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Folder with `cert.pem`, `key.pem` and `ca.pem`.
    pub dir: PathBuf,
}

/// `[tokens]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Lines of `<key id> <64 or more hex digits>`, shared with the gateway.
    pub key_file: PathBuf,
}

/// Reads a key file.
pub fn read_keys(path: &Path) -> Result<Keyring, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let keys = text.lines().filter(|l| !l.trim().is_empty()).map(|line| {
        let (id, key) = line.trim().split_once(' ')?;
        Some((id.parse().ok()?, hex::decode(key.trim()).ok()?))
    });
    keys.collect::<Option<Vec<_>>>().and_then(Keyring::new).ok_or_else(|| {
        format!("{}: write lines of `<key id> <hex>`, each key 32 bytes or more", path.display())
    })
}
