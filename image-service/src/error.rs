//! What can go wrong, and how a client is told.

use basalt_model::CapabilityReason;
use basalt_wire::{rest::Problem, upload_token};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("storage: {0}")]
    Io(#[from] std::io::Error),
    /// A file of ours cannot be read.
    #[error("a stored file cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// No bearer token.
    #[error("no token was given")]
    NoToken,
    /// The token is not good.
    #[error("{0}")]
    Token(#[from] upload_token::Error),
    /// The token is for the other way.
    #[error("the token is for another verb")]
    WrongVerb,
    /// The token was redeemed before.
    #[error("the token was used before")]
    TokenUsed,
    /// No such session.
    #[error("there is no such session")]
    NoSession,
    /// No such blob.
    #[error("there is no such blob")]
    NoBlob,
    /// Another request writes to this upload now.
    #[error("another request writes to this upload")]
    Busy,
    /// The upload has ended.
    #[error("the upload has ended")]
    Finished,
    /// Not where the upload stands.
    #[error("offset {given}, but the upload stands at {expected}")]
    Offset {
        /// Where it stands.
        expected: u64,
        /// What was given.
        given: u64,
    },
    /// More bytes than declared.
    #[error("more than the declared {limit} bytes")]
    TooLong {
        /// Declared length.
        limit: u64,
    },
    /// Another length than declared.
    #[error("length {given}, but the image was declared with {declared}")]
    Length {
        /// Declared length.
        declared: u64,
        /// What was given.
        given: u64,
    },
    /// A header is missing or malformed.
    #[error("header {name} is missing or no number")]
    Header {
        /// Which header.
        name: String,
    },
    /// Not a tus body.
    #[error("wrong content type")]
    ContentType,
    /// Not our tus version.
    #[error("wrong tus version")]
    Version,
    /// The client went away.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// The image itself was refused.
    #[error("{0}")]
    Refused(CapabilityReason),
}

impl Error {
    /// How a client is told: field, reason and remedy; nothing of the inside.
    pub fn problem(&self) -> Problem {
        let (status, code, title, subject, remedy) = self.words();
        let detail = match self {
            Self::Io(_) | Self::Json(_) | Self::Config(_) => title.to_owned(),
            // Which check a token failed is for the log alone.
            Self::Token(_) | Self::WrongVerb => "the token is not good for this".into(),
            other => other.to_string(),
        };
        let reason = match self {
            Self::Refused(reason) => reason.clone(),
            _ => CapabilityReason::new(code, subject, detail.clone(), remedy),
        };
        Problem::new(status, code, title, detail).with_reasons(vec![reason])
    }

    fn words(&self) -> Words {
        let again = "ask the gateway for a new token";
        let header = "Authorization";
        match self {
            Self::NoToken => {
                (401, "no_token", "No token", header, "send the token you were given as a bearer token")
            }
            Self::Token(_) | Self::WrongVerb => (403, "token_refused", "Token refused", header, again),
            Self::TokenUsed => {
                (403, "token_used", "Token used", header, "resume the session it opened, or get another")
            }
            Self::NoSession => (404, "no_session", "No such session", "session", again),
            Self::NoBlob => (404, "no_blob", "No such blob", "blob", "upload the image again"),
            Self::Refused(_) => (422, "image_refused", "Image refused", "image", "see the reason"),
            other => other.storage_words().unwrap_or_else(|| other.upload_words()),
        }
    }

    fn storage_words(&self) -> Option<Words> {
        match self {
            Self::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => Some((
                507,
                "storage_full",
                "The store is full",
                "storage",
                "free room or wait; then resume the upload",
            )),
            Self::Io(_) | Self::Json(_) | Self::Config(_) => Some((
                500,
                "internal",
                "Something went wrong inside",
                "storage",
                "try again; the log names the cause",
            )),
            _ => None,
        }
    }

    fn upload_words(&self) -> Words {
        let resume = "ask for the offset with HEAD and go on from there";
        let declare = "declare the image with the length of the file";
        match self {
            Self::Busy => (423, "busy", "Upload is busy", "session", resume),
            Self::Finished => (409, "finished", "Upload has ended", "session", "look at the image's state"),
            Self::Offset { .. } => (409, "offset", "Wrong offset", "Upload-Offset", resume),
            Self::TooLong { .. } => (413, "too_long", "Too many bytes", "body", declare),
            Self::Length { .. } => (413, "length", "Wrong length", "Upload-Length", declare),
            Self::Header { .. } => {
                (400, "header", "Header malformed", "headers", "send it as a decimal number")
            }
            Self::ContentType => (
                415,
                "content_type",
                "Wrong content type",
                "Content-Type",
                "send application/offset+octet-stream",
            ),
            Self::Version => {
                (412, "tus_version", "Wrong tus version", "Tus-Resumable", "send Tus-Resumable: 1.0.0")
            }
            _ => (400, "interrupted", "Body ended early", "body", resume),
        }
    }
}

/// Status, code, title, subject, remedy.
type Words = (u16, &'static str, &'static str, &'static str, &'static str);
