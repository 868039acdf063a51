//! Taking over what stands on a host, or runs at a provider, and is nobody's.

use super::{Session, change::Taken};
use crate::{
    Failure,
    args::Adopt,
    kinds::{Kind, escape},
};
use serde_json::{Value, json};

impl Session {
    pub(super) async fn adopt(&self, what: Adopt) -> Result<(), Failure> {
        let (kind, what, name, network, dry_run) = match what {
            Adopt::Vm { what, name, network, dry_run } => ("vm", what, name, network, dry_run),
            Adopt::Volume { what, name, dry_run } => ("volume", what, name, None, dry_run),
            Adopt::Deployment(what) => return self.adopt_deployment(what).await,
        };
        let (host, id) = split(&what)?;
        let mut body = json!({"kind": kind, "id": id, "project": self.project, "name": name});
        if let Some(network) = network {
            body["network"] = json!(network);
        }
        let (query, done) = if dry_run { ("?dry_run=true", "can be adopted") } else { ("", "adopted") };
        let path = format!("/v1/hosts/{}/adopt{query}", escape(host));
        let answer: Value = self.client.post(&path, &body).await?;
        self.conclude(Taken::read(Kind::find(kind)?, &name, done, answer)?).await
    }
}

/// `h1/handmade`: the host, and what the thing is called there.
fn split(text: &str) -> Result<(&str, &str), Failure> {
    match text.split_once('/') {
        Some((host, id)) if !host.is_empty() && !id.is_empty() => Ok((host, id)),
        _ => Err(Failure::Usage(format!(
            "{text:?} names no thing of a host: write HOST/NAME, as in h1/handmade or h1/default/data.qcow2"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h5_a_thing_of_a_host_is_the_host_and_what_it_is_called_there() {
        assert_eq!(split("h1/handmade").ok(), Some(("h1", "handmade")));
        assert_eq!(split("h1/default/data.qcow2").ok(), Some(("h1", "default/data.qcow2")));
        for wrong in ["", "h1", "h1/", "/handmade"] {
            assert!(split(wrong).is_err_and(|e| e.text().contains("HOST/NAME")), "{wrong}");
        }
    }
}
