//! Deployments of a house: declared over HTTP, and waited for.

use crate::{House, wait};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a platform may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(60);

impl House {
    /// Declares something of the project.
    pub async fn declare(&self, kind: &str, body: Value) -> Result<Value> {
        self.api.post(&self.api.path(kind), &body).await
    }

    /// Declares that the latest of an agent or a server runs at a provider.
    pub async fn deploy(&self, name: &str, kind: &str, artifact: &str, provider: &str) -> Result<Value> {
        let spec = json!({ "target": { "kind": kind, "name": artifact }, "provider": provider });
        self.declare("deployments", json!({ "name": name, "spec": spec })).await
    }

    /// A deployment as the API shows it.
    pub async fn deployment(&self, name: &str) -> Result<Value> {
        self.api.get(&self.api.path(&format!("deployments/{name}"))).await
    }

    /// Waits until a deployment is as wanted.
    pub async fn until_deployment(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let ask = || async {
            let seen = self.deployment(name).await?;
            if holds(&seen) { Ok(Some(seen)) } else { bail!("{seen:#}") }
        };
        wait::within(PATIENCE, &format!("{name} is {what}"), ask).await
    }

    /// Waits until a deployment runs as it is declared now, and gives its address.
    pub async fn deployed(&self, name: &str) -> Result<String> {
        let current = |d: &Value| d["phase"] == "deployed" && d["observed_generation"] == d["generation"];
        let seen = self.until_deployment(name, "deployed", current).await?;
        Ok(seen["endpoints"][0]["url"].as_str().context("an endpoint")?.to_owned())
    }

    /// How often it was tried to have a deployment so, and what came of it, newest first.
    pub async fn attempts(&self, name: &str) -> Result<Vec<Value>> {
        let page: Value = self.api.get(&self.api.path(&format!("deployments/{name}/events"))).await?;
        Ok(page["items"].as_array().context("items")?.clone())
    }

    /// Tells all deployments of these names to go.
    pub async fn delete_deployments(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.api.delete(&self.api.path(&format!("deployments/{name}"))).await?;
        }
        Ok(())
    }
}

/// What a deployment says of a condition: its status and its message.
pub fn condition<'a>(deployment: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let all = deployment["conditions"].as_array()?;
    let one = all.iter().find(|c| c["type"] == kind)?;
    Some((one["status"].as_str()?, one["message"].as_str()?))
}

/// Whether a deployment was made from a generation of something: `agent/a:latest`.
pub fn is_made_from(deployment: &Value, what: &str, generation: i64) -> bool {
    let made_from = deployment["applied"]["dependencies"].as_array();
    made_from.is_some_and(|all| all.iter().any(|d| d["what"] == what && d["generation"] == generation))
}
