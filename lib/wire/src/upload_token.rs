//! Tokens that let one movement of bytes through the image service's door, once.
//!
//! `base64url(payload JSON) "." base64url(HMAC-SHA-256(key, payload part))`. The gateway mints, the
//! image service redeems: each `transfer_id` opens one session, which may then resume.

use basalt_model::{DateTime, ImageId, ProjectId, TenantId, TransferId, images::ImageFormat};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeMap;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Into the image service.
    Upload,
    /// Out of it.
    Download,
}

/// What a token lets its bearer do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Which key signed.
    pub key_id: u32,
    /// Redeemed once.
    pub transfer_id: TransferId,
    /// Which way.
    pub verb: Verb,
    /// The image.
    pub image_id: ImageId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// Format of the bytes.
    pub format: ImageFormat,
    /// Exact length in bytes.
    pub size_bytes: u64,
    /// Upload: the expected digest, if the user gave one. Download: the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Not redeemed after this.
    pub expires_at: DateTime,
}

/// Why a token was refused. The words are for logs; a client is told only that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not two base64url parts with JSON in the first.
    #[error("the token is malformed")]
    Malformed,
    /// No key with that id is held.
    #[error("the token was signed with an unknown key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// The keys that are held, by id; the highest id signs, all verify (rotation with overlap).
#[derive(Clone, Default)]
pub struct Keyring(BTreeMap<u32, Vec<u8>>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keyring").field(&self.0.keys()).finish()
    }
}

impl Keyring {
    /// A ring of keys; each at least 32 bytes.
    pub fn new(keys: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Option<Self> {
        let keys: BTreeMap<_, _> = keys.into_iter().collect();
        (!keys.is_empty() && keys.values().all(|k| k.len() >= 32)).then_some(Self(keys))
    }

    /// The id that [`mint`] must put into the claims.
    pub fn signing_key_id(&self) -> u32 {
        self.0.keys().next_back().copied().unwrap_or_default()
    }

    fn mac(&self, key_id: u32, payload: &str) -> Result<Hmac<Sha256>, Error> {
        let key = self.0.get(&key_id).ok_or(Error::UnknownKey)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Error::UnknownKey)?;
        mac.update(payload.as_bytes());
        Ok(mac)
    }
}

/// Signs claims.
pub fn mint(ring: &Keyring, claims: &Claims) -> Result<String, Error> {
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).map_err(|_| Error::Malformed)?);
    let mac = ring.mac(claims.key_id, &payload)?.finalize().into_bytes();
    Ok(format!("{payload}.{}", URL_SAFE_NO_PAD.encode(mac)))
}

/// Checks a token's signature (in constant time) and expiry. Single use is the redeemer's ledger.
pub fn verify(ring: &Keyring, token: &str, now: DateTime) -> Result<Claims, Error> {
    let (payload, signature) = token.split_once('.').ok_or(Error::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Error::Malformed)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Error::Malformed)?;
    let claims: Claims = serde_json::from_slice(&bytes).map_err(|_| Error::Malformed)?;
    ring.mac(claims.key_id, payload)?.verify_slice(&signature).map_err(|_| Error::Signature)?;
    if now >= claims.expires_at {
        return Err(Error::Expired);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn ring() -> Keyring {
        Keyring::new([(1, vec![1; 32]), (2, vec![2; 32])]).unwrap()
    }
    fn at(seconds: i64) -> DateTime {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }
    fn claims(key_id: u32) -> Claims {
        Claims {
            key_id,
            transfer_id: TransferId(Uuid::from_u128(1)),
            verb: Verb::Upload,
            image_id: ImageId(Uuid::from_u128(2)),
            tenant_id: TenantId(Uuid::from_u128(3)),
            project_id: ProjectId(Uuid::from_u128(4)),
            format: ImageFormat::Qcow2,
            size_bytes: 10,
            sha256: None,
            expires_at: at(1000),
        }
    }

    #[test]
    fn old_keys_verify_and_the_newest_signs() {
        assert_eq!(ring().signing_key_id(), 2);
        for key in [1, 2] {
            let token = mint(&ring(), &claims(key)).unwrap();
            assert_eq!(verify(&ring(), &token, at(999)), Ok(claims(key)));
            assert_eq!(verify(&ring(), &token, at(1000)), Err(Error::Expired));
        }
        let only_new = Keyring::new([(2, vec![2; 32])]).unwrap();
        assert_eq!(verify(&only_new, &mint(&ring(), &claims(1)).unwrap(), at(1)), Err(Error::UnknownKey));
        assert!(Keyring::new([(1, vec![0; 31])]).is_none());
    }

    proptest! {
        #[test]
        fn a_changed_token_is_refused(flip in 0usize..400, bit in 0u8..6) {
            let token = mint(&ring(), &claims(2)).unwrap();
            let mut bytes = token.clone().into_bytes();
            let at_byte = flip % bytes.len();
            bytes[at_byte] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) && changed != token {
                // The last character of an unpadded part has bits that carry nothing; strict decoding refuses them.
                prop_assert!(verify(&ring(), &changed, at(1)).is_err());
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = verify(&ring(), &text, at(1));
        }
    }
}
