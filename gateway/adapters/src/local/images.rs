//! Images: which one is meant, and that it is there. One that is there is not pulled again, whatever its tag: what runs
//! must not change by itself.

use super::{
    container::Image,
    engine::{Engine, Failure},
    reasons::{failed, pull},
};
use crate::Result;
use futures::StreamExt;
use hyper::Method;
use serde_json::Value;

/// Longest line of an engine's report on a pull.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// The reference without its tag where it has a digest: engines refuse one with both, and the digest says it all.
pub(super) fn canonical(reference: &str) -> String {
    let Some((rest, digest)) = reference.split_once('@') else { return reference.to_owned() };
    format!("{}@{digest}", repository_and_tag(rest).0)
}

fn repository_and_tag(reference: &str) -> (&str, Option<&str>) {
    let slash = reference.rfind('/').map_or(0, |i| i + 1);
    match reference[slash..].find(':') {
        Some(colon) => (&reference[..slash + colon], Some(&reference[slash + colon + 1..])),
        None => (reference, None),
    }
}

/// What the engine's pull takes: the repository, and a tag or a digest.
fn parts(reference: &str) -> (&str, &str) {
    if let Some((repository, digest)) = reference.split_once('@') {
        return (repository, digest);
    }
    let (repository, tag) = repository_and_tag(reference);
    (repository, tag.unwrap_or("latest"))
}

/// The image; pulled when it is not there.
pub(super) async fn ensure(engine: &Engine, name: &str, reference: &str) -> Result<Image> {
    if let Some(image) = get(engine, name, reference).await? {
        return Ok(image);
    }
    let (repository, tag) = parts(reference);
    let query = [("fromImage", repository), ("tag", tag)];
    match engine.stream(Method::POST, "/images/create", &query).await {
        Ok(stream) => {
            if let Some(said) = last_error(Box::pin(stream)).await {
                return Err(pull(reference, &said));
            }
        }
        Err(Failure::Refused { message, .. }) => return Err(pull(reference, &message)),
        Err(failure) => return Err(failed(name, &format!("pulling {reference}"), &failure)),
    }
    get(engine, name, reference).await?.ok_or_else(|| pull(reference, "no such image after the pull"))
}

async fn get(engine: &Engine, name: &str, reference: &str) -> Result<Option<Image>> {
    match engine.get(&format!("/images/{reference}/json"), &[]).await {
        Ok(image) => Ok(Some(image)),
        Err(failure) if failure.status() == Some(404) => Ok(None),
        Err(failure) => Err(failed(name, &format!("looking for the image {reference}"), &failure)),
    }
}

/// Reads a pull's report to its end. A pull that fails is a 200 with an error in its last line.
async fn last_error(
    mut report: impl futures::Stream<Item = super::engine::Answer<hyper::body::Bytes>> + Unpin,
) -> Option<String> {
    let mut line = Vec::new();
    let mut error = None;
    loop {
        let piece = match report.next().await {
            Some(Ok(piece)) => piece,
            Some(Err(failure)) => return Some(failure.message()),
            None => break,
        };
        for byte in piece {
            if byte == b'\n' {
                error = error_in(&line).or(error);
                line.clear();
            } else if line.len() < MAX_LINE_BYTES {
                line.push(byte);
            }
        }
    }
    error_in(&line).or(error)
}

fn error_in(line: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(line).ok()?;
    let text = said.get("error").or_else(|| said.pointer("/errorDetail/message"))?;
    Some(text.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart_as_engines_want_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(parts("r.example:5000/a/b"), ("r.example:5000/a/b", "latest"));
        assert_eq!(parts("r.example:5000/a/b:1"), ("r.example:5000/a/b", "1"));
        assert_eq!(canonical(&format!("r:5000/a:1@{digest}")), format!("r:5000/a@{digest}"));
        assert_eq!(canonical("a:1"), "a:1");
        assert_eq!(parts(&format!("a@{digest}")), ("a", digest.as_str()));
    }

    #[tokio::test]
    async fn a_pull_fails_by_what_its_report_says() {
        let report = |text: &'static str| {
            // In pieces that end in the middle of a line.
            let (a, b) = text.split_at(text.len() / 2);
            futures::stream::iter([Ok(a.into()), Ok(b.into())])
        };
        let bad = report(
            "{\"status\":\"pulling\"}\n{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"manifest unknown\"}\n",
        );
        assert_eq!(last_error(bad).await.as_deref(), Some("manifest unknown"));
        assert_eq!(last_error(report("{\"status\":\"done\"}\n{\"id\":\"x\"}")).await, None);
    }
}
