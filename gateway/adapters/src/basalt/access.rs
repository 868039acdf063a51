//! How one gets in: the text of the provider's secret, in the words of the command line's configuration.
//!
//! A user of the project wrote it, so nothing is read or run on the gateway's machine for it, and nothing of it is ever
//! repeated: what is wrong is said by line and by field.

use super::reasons::error;
use crate::{Error, Result};
use basalt_model::deployments::{ErrorClass, SecretText};
use reqwest::{Certificate, Url};
use toml::{Table, Value};

/// Where a Basalt is, and who we are there.
pub(super) struct Access {
    /// `https://host:9443`, without a slash at its end.
    pub(super) url: String,
    pub(super) token: SecretText,
    /// Whom to trust; the system's authorities when absent.
    pub(super) ca: Option<Vec<Certificate>>,
}

/// What a text is, that begins like this.
const PEM: &str = "-----BEGIN CERTIFICATE-----";

/// Reads the secret.
pub(super) fn read(secret: &SecretText) -> Result<Access> {
    let text = secret.expose();
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        unusable(format!("its line {line} is no TOML"))
    })?;
    if table.keys().any(|key| !["url", "token", "ca"].contains(&key.as_str())) {
        return Err(unusable("it has other fields than `url`, `token` and `ca`"));
    }
    let field = |name: &str| match table.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim())),
        Some(_) => Err(unusable(format!("`{name}` is no text"))),
    };
    let required = |name: &str| match field(name)? {
        None | Some("") => Err(unusable(format!("it has no `{name}`"))),
        Some(text) => Ok(text),
    };
    let token = required("token")?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable("`token` has characters that no token has"));
    }
    let ca = match field("ca")? {
        None => None,
        Some(pem) => {
            let read = Certificate::from_pem_bundle(pem.as_bytes()).ok();
            let read = read.filter(|all| pem.contains(PEM) && !all.is_empty());
            Some(read.ok_or_else(|| unusable("`ca` holds no certificate in PEM"))?)
        }
    };
    Ok(Access { url: url(required("url")?)?, token: SecretText::new(token), ca })
}

/// A token is sent over TLS only, and to nothing but the root of a server.
fn url(text: &str) -> Result<String> {
    let wrong = || unusable("`url` is not like https://basalt.example:9443");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if url.scheme() != "https" || !url.has_host() || !bare || url.path() != "/" || url.fragment().is_some() {
        return Err(wrong());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The text is not what it is to be: it stays so until the secret changes.
pub(super) fn unusable(message: impl Into<String>) -> Error {
    error(
        ErrorClass::Permanent,
        "access_unusable",
        "spec.access",
        format!("the secret cannot be used: {}", message.into()),
        "set the secret to lines of TOML: url = \"https://…:9443\", token = \"…\", and ca = \"\"\"PEM\"\"\" where its \
         authority is one of its own",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let error = read(&SecretText::new(text)).err().unwrap();
        assert_eq!((error.class, &*error.reason.code), (ErrorClass::Permanent, "access_unusable"));
        let said = error.to_string();
        assert!(!said.contains("hush"), "{said}");
        said
    }

    #[test]
    fn a_place_is_read_as_the_command_line_writes_it() {
        let access = read(&SecretText::new("url = \"https://b.example:9443/\"\ntoken = \"hush\"\n")).unwrap();
        assert_eq!((access.url.as_str(), access.token.expose()), ("https://b.example:9443", "hush"));
        assert!(access.ca.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_of_the_secret_is_said() {
        for (text, says) in [
            ("url = \"https://b\"\ntoken = \"hush", "line 2"),
            ("token = \"hush\"", "no `url`"),
            ("url = \"https://b\"\ntoken = \"\"", "no `token`"),
            ("url = \"https://b\"\ntoken = 4711", "`token` is no text"),
            ("url = \"https://b\"\ntoken = \"hu sh\"", "characters"),
            ("url = \"https://b\"\ntoken = \"t\"\nhush = 1", "other fields"),
            ("url = \"https://b\"\ntoken = \"t\"\nca = \"hush\"", "`ca`"),
        ] {
            assert!(refused(text).contains(says), "{text}: {}", refused(text));
        }
        for url in
            ["http://b", "https://hush@b", "https://b/path", "https://b/?hush", "file:///etc/hush", "b:9443"]
        {
            assert!(refused(&format!("url = \"{url}\"\ntoken = \"t\"")).contains("`url`"), "{url}");
        }
    }
}
