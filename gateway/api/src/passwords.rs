//! Passwords: Argon2id off the async threads, a few at a time, and as slow for a user that does not
//! exist as for one that does.

use crate::Error;
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use basalt_model::FieldError;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// Characters of a password.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=256;

/// Hashes and verifies at most two passwords at once; each takes 19 MiB and some 20 ms.
#[derive(Clone)]
pub struct Passwords(Arc<Semaphore>);

impl Default for Passwords {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(2)))
    }
}

/// OWASP's first recommendation: Argon2id, 19 MiB, two passes, one lane.
fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

impl Passwords {
    /// Hashes a new password with a salt of 16 bytes or more.
    pub async fn hash(&self, password: String, salt: [u8; 32]) -> Result<String, Error> {
        if !LENGTH.contains(&password.chars().count()) {
            return Err(Error::Invalid(vec![FieldError::new(
                "password",
                "length",
                format!("a password has {} to {} characters", LENGTH.start(), LENGTH.end()),
                "choose a longer pass phrase",
            )]));
        }
        self.run(move || {
            let hash: PasswordHash = hasher()
                .hash_password_with_salt(password.as_bytes(), &salt[..16])
                .map_err(|e| Error::internal("hashing a password", e))?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether a password fits a stored hash. Without a hash (no such user) the same work is done.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Error> {
        self.run(move || {
            let known = stored.is_some();
            let text = match stored {
                Some(hash) => hash,
                None => decoy()?,
            };
            let hash = PasswordHash::new(&text).map_err(|e| Error::internal("reading a password hash", e))?;
            Ok(PasswordVerifier::verify_password(&hasher(), password.as_bytes(), &hash).is_ok() && known)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _turn = self.0.acquire().await.map_err(|e| Error::internal("waiting for a password slot", e))?;
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("hashing a password", e))?
    }
}

fn decoy() -> Result<String, Error> {
    static DECOY: OnceLock<String> = OnceLock::new();
    if let Some(text) = DECOY.get() {
        return Ok(text.clone());
    }
    let hash: PasswordHash = hasher()
        .hash_password_with_salt(b"nobody has this password", b"a salt of nobody")
        .map_err(|e| Error::internal("hashing a password", e))?;
    Ok(DECOY.get_or_init(|| hash.to_string()).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s13_a_password_is_argon2id_with_owasp_parameters() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse battery".into(), [7; 32]).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("correct horse battery".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("correct horse batterx".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("nobody has this password".into(), None).await.unwrap());
        assert!(matches!(passwords.hash("short".into(), [7; 32]).await, Err(Error::Invalid(_))));
    }
}
