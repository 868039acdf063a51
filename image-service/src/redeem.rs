//! Single use: a token opens one session, once, even across crashes.
//!
//! The session is written first, then its transfer id is claimed in the ledger: a crash in between
//! leaves an unreachable session that the sweep removes, never a token that is spent for nothing.

use crate::{Error, durable};
use basalt_model::DateTime;
use basalt_wire::upload_token::{Claims, Keyring, Verb, verify};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};

/// The ledger of redeemed tokens.
pub struct Ledger {
    dir: PathBuf,
    keys: Keyring,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    session: Session,
    expires_at: DateTime,
}

/// The name of a session: 256 random bits that nobody can guess; whoever knows it may use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(String);

impl Session {
    /// A session of 32 random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(hex::encode(secret))
    }

    /// Reads the last part of a session's address; anything but 64 hex digits is none.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (text.len() == 64 && hex).then(|| Self(text.into()))
    }

    /// The text, safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ledger {
    /// Opens (or makes) the ledger's folder.
    pub fn open(dir: PathBuf, keys: Keyring) -> Result<Self, Error> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, keys })
    }

    /// Checks a token for one way of moving bytes.
    pub fn check(&self, token: &str, verb: Verb, now: DateTime) -> Result<Claims, Error> {
        let claims = verify(&self.keys, token, now)?;
        if claims.verb != verb {
            return Err(Error::WrongVerb);
        }
        Ok(claims)
    }

    /// Spends a token for a session that is durable already. Exactly one caller wins.
    pub fn spend(&self, claims: &Claims, session: &Session) -> Result<(), Error> {
        let entry = Entry { session: session.clone(), expires_at: claims.expires_at };
        let path = self.dir.join(claims.transfer_id.to_string());
        match durable::claim(&path, &serde_json::to_vec(&entry)?)? {
            true => Ok(()),
            false => Err(Error::TokenUsed),
        }
    }

    /// Forgets tokens whose time is over by a day; their signature alone refuses them now.
    pub fn sweep(&self, now: DateTime) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let parsed = fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Entry>(&b).ok());
            if parsed.is_some_and(|e| now - e.expires_at > chrono::TimeDelta::days(1)) {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }
}
