//! The keys that secrets are sealed with: read from a file, which is made at the first start.
//!
//! They are not in the database, so that a copy of it tells nothing. Who loses them sets every secret anew.

use crate::{Config, key_file};
use anyhow::Context;
use basalt_daemon::{Clock, config::write_secret};
use basalt_store::secrets::SealingKeys;
use std::{fs, io::ErrorKind};

/// Reads the keys; makes the first one where nobody said which file it is.
pub fn open(config: &Config, clock: &dyn Clock) -> anyhow::Result<SealingKeys> {
    let file = match &config.secrets.key_file {
        Some(file) => file.clone(),
        None => config.state.dir.join("secrets.keys"),
    };
    let text = match fs::read_to_string(&file) {
        // A file that was named is there, or was forgotten: another key in its place would open nothing.
        Err(e) if e.kind() == ErrorKind::NotFound && config.secrets.key_file.is_none() => {
            let text = format!("1 {}\n", hex::encode(clock.secret()));
            write_secret(&file, text.as_bytes())?;
            text
        }
        read => read.with_context(|| format!("[secrets] key_file: {}", file.display()))?,
    };
    key_file::keys(&text).and_then(SealingKeys::new).with_context(|| {
        format!("{}: write lines of `<id> <hex>`, each key 32 bytes: openssl rand -hex 32", file.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_daemon::ManualClock;

    #[test]
    fn keys_are_made_once_and_a_file_that_was_named_is_never_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(basalt_model::DateTime::UNIX_EPOCH, 1);
        let config = |secrets: &str| -> Config {
            let dir = dir.path().display();
            toml::from_str(&format!(
                "[database]\nurl = \"postgres:///basalt\"\n[pki]\ndir = \"{dir}/pki\"\n[state]\ndir = \"{dir}\"\n\
                 [image]\nurl = \"https://images:9445\"\ntoken_key_file = \"{dir}/token.keys\"\n{secrets}"
            ))
            .unwrap()
        };
        let own = config("");
        open(&own, &clock).unwrap();
        let first = fs::read_to_string(dir.path().join("secrets.keys")).unwrap();
        open(&own, &clock).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("secrets.keys")).unwrap(), first);
        let named = config(&format!("[secrets]\nkey_file = \"{}/other.keys\"", dir.path().display()));
        let refused = format!("{:#}", open(&named, &clock).unwrap_err());
        assert!(refused.contains("other.keys"), "{refused}");
        for wrong in ["", "1 abcd", "one ".repeat(3).as_str()] {
            fs::write(dir.path().join("other.keys"), wrong).unwrap();
            let refused = format!("{:#}", open(&named, &clock).unwrap_err());
            assert!(refused.contains("openssl rand -hex 32"), "{refused}");
        }
    }
}
