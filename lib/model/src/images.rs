//! Images: what volumes begin with. The bytes live in the image service, by their SHA-256.

use crate::{
    CapabilityReason, GIB,
    validate::{FieldError, Validate, within},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a user wants of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Format of the bytes that will be uploaded.
    pub format: ImageFormat,
    /// Length in bytes, 1 byte to 16 TiB. An upload needs it; an import learns it, and fails where this says another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Expected SHA-256, 64 lower-case hex digits; bytes with another digest are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where the image service fetches the bytes itself; without it they are uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ImageSource>,
    /// Who may use it.
    #[serde(default)]
    pub visibility: Visibility,
}

/// Where an image's bytes are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// `https://…`; `http://…` only with a `sha256`, for nothing else would say that the bytes are the right ones.
    pub url: String,
}

/// Format of an image's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// QEMU copy-on-write 2, without backing or external data file.
    Qcow2,
    /// Raw sectors.
    Raw,
    /// An optical disc.
    Iso,
}

/// Who may use an image.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Its project.
    #[default]
    Project,
    /// Every project of its tenant.
    Tenant,
}

/// Where an image is in its life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// Bytes are awaited.
    #[default]
    Uploading,
    /// All bytes are there; the digest and the format are being checked.
    Verifying,
    /// Volumes can begin with it.
    Ready,
    /// It was refused; see the reason.
    Failed,
    /// It is going.
    Deleting,
}

/// What the image service reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageObserved {
    /// Where it is in its life.
    pub state: ImageState,
    /// SHA-256 of the bytes, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes stored.
    #[serde(default)]
    pub size_bytes: u64,
    /// Size that a guest sees, in bytes.
    #[serde(default)]
    pub virtual_size_bytes: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
}

/// Whether a text is a SHA-256 in lower-case hex.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl ImageSource {
    fn validate(&self, digest_given: bool, field: String, errors: &mut Vec<FieldError>) {
        if !crate::artifacts::is_http_url(&self.url) {
            errors.push(FieldError::new(
                field,
                "malformed",
                "it is no address that can be fetched",
                "write it like https://images.example/debian.qcow2, without user name or password",
            ));
        } else if self.url.starts_with("http://") && !digest_given {
            errors.push(FieldError::new(
                field,
                "unverifiable",
                "over plain HTTP anybody on the way may send other bytes",
                "give sha256 as well, or fetch it by https",
            ));
        }
    }
}

impl Validate for ImageSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let size = format!("{path}.size_bytes");
        match self.size_bytes {
            Some(bytes) => {
                within(errors, size, bytes, (1, 16 * 1024 * GIB), "bytes");
            }
            None if self.source.is_none() => errors.push(FieldError::new(
                size,
                "missing",
                "an upload says first how long it will be",
                "give the file's length in bytes, or the address in source.url to have it fetched",
            )),
            None => {}
        }
        if let Some(source) = &self.source {
            source.validate(self.sha256.is_some(), format!("{path}.source.url"), errors);
        }
        if self.sha256.as_ref().is_some_and(|s| !is_sha256(s)) {
            errors.push(FieldError::new(
                format!("{path}.sha256"),
                "malformed",
                "a SHA-256 is 64 of 0-9 a-f",
                "paste the output of sha256sum",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn im6_an_import_names_an_address_and_over_plain_http_a_digest() {
        let fields = |json: serde_json::Value| -> Vec<(String, String)> {
            let spec: ImageSpec = serde_json::from_value(json).unwrap();
            spec.errors().into_iter().map(|e| (e.field, e.code)).collect()
        };
        let digest = "a".repeat(64);
        let url = "spec.source.url".to_owned();
        let of = |url: &str| serde_json::json!({ "format": "raw", "source": { "url": url } });
        assert_eq!(fields(of("https://images.example/a.raw")), []);
        assert_eq!(fields(of("http://images.example/a.raw")), [(url.clone(), "unverifiable".into())]);
        assert_eq!(fields(of("file:///etc/shadow")), [(url.clone(), "malformed".into())]);
        assert_eq!(fields(of("https://me:word@images.example/a")), [(url, "malformed".into())]);
        let mut plain = of("http://images.example/a.raw");
        plain["sha256"] = digest.into();
        assert_eq!(fields(plain), []);
        let none = serde_json::json!({ "format": "raw" });
        assert_eq!(fields(none), [("spec.size_bytes".into(), "missing".into())]);
    }
}
