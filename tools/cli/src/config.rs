//! Where the gateway is and who we are: `~/.config/basalt/config.toml`, or the environment.

use crate::Failure;
use serde::{Deserialize, Serialize};
use std::{env, fs, path::PathBuf};

/// The user's configuration; environment variables win over it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `https://…:9443` (`BASALT_URL`).
    #[serde(default)]
    pub url: String,
    /// Bearer token (`BASALT_TOKEN`).
    #[serde(default)]
    pub token: String,
    /// The gateway's certificate authority, PEM (`BASALT_CA`).
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Project of commands that name none (`BASALT_PROJECT`).
    #[serde(default)]
    pub project: Option<String>,
}

/// Where the file is: `BASALT_CONFIG`, else below the user's configuration folder.
pub fn path() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".config");
    env::var_os("BASALT_CONFIG").map(PathBuf::from).unwrap_or_else(|| {
        env::var_os("XDG_CONFIG_HOME").map_or_else(home, PathBuf::from).join("basalt/config.toml")
    })
}

/// Reads the file alone, if there is one.
pub fn remembered() -> Result<Config, Failure> {
    let path = path();
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|e| {
            Failure::Usage(format!("{}: {e}; correct the file or log in again", path.display()))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(e) => Err(Failure::Usage(format!("{}: {e}", path.display()))),
    }
}

/// Reads the file, if there is one, and the environment.
pub fn read() -> Result<Config, Failure> {
    let mut config = remembered()?;
    let set = |field: &mut String, name: &str| {
        if let Ok(value) = env::var(name) {
            *field = value;
        }
    };
    set(&mut config.url, "BASALT_URL");
    set(&mut config.token, "BASALT_TOKEN");
    config.ca_file = env::var_os("BASALT_CA").map(PathBuf::from).or(config.ca_file);
    config.project = env::var("BASALT_PROJECT").ok().or(config.project);
    Ok(config)
}

/// Writes the file so that only its owner can read it.
pub fn write(config: &Config) -> Result<PathBuf, Failure> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let path = path();
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = toml::to_string(config).map_err(|e| Failure::Other(e.to_string()))?;
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(beside, &path)?;
    Ok(path)
}
