//! Whether that Basalt answers, and whether the token suffices for what deployments need.

use super::{
    Basalt,
    reasons::{self, error},
};
use crate::{Health, Result};
use basalt_model::{
    CapabilityReason, DateTime, ProjectId, TenantId,
    deployments::ErrorClass,
    roles::{Grant, Role, Scope},
};
use serde::Deserialize;
use serde_json::Value;
use std::sync::PoisonError;

/// After so many minutes it is asked again which version answers.
const VERSION_MINUTES: i64 = 60;

#[derive(Deserialize)]
struct Whoami {
    name: String,
    grants: Vec<Value>,
}

#[derive(Deserialize)]
struct Project {
    id: ProjectId,
    tenant_id: TenantId,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default)]
    phase: String,
}

#[derive(Deserialize)]
struct Description {
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    title: String,
    version: String,
}

impl Basalt {
    pub(super) async fn look_at_health(&self) -> Result<Health> {
        let who: Whoami = self.calls.get("asking who we are", "/v1/whoami").await?;
        let project = self.calls.get::<Project>("looking at the project", &self.calls.path("")).await;
        let project = project.map_err(|e| reasons::in_project(e, &self.place.project))?;
        let here = Scope::Project { tenant_id: project.tenant_id, project_id: project.id };
        // Grants of scopes that only a newer version knows are none of ours.
        let grants = who.grants.into_iter().filter_map(|grant| serde_json::from_value::<Grant>(grant).ok());
        if !grants.into_iter().any(|g| g.role >= Role::Operator && g.scope.covers(&here)) {
            return Err(error(
                ErrorClass::Auth,
                "not_allowed",
                format!("project/{}", self.place.project),
                format!("the token {} may look at the project and change nothing there", who.name),
                "give it the role operator there: POST /v1/role-bindings, or a new token with POST /v1/service-tokens",
            ));
        }
        let mut limits = Vec::new();
        limits.extend(self.image_limit().await?);
        limits.extend(self.network_limit().await?);
        Ok(Health { version: self.version().await?, limits })
    }

    async fn image_limit(&self) -> Result<Option<CapabilityReason>> {
        let name = &self.place.image;
        let found: Option<Image> =
            self.calls.find("looking at the image", &self.calls.path(&format!("/images/{name}"))).await?;
        Ok(match found {
            None => Some(CapabilityReason::new(
                "image_missing",
                format!("image/{name}"),
                format!("the project {} has no such image, so no VM can be made of it", self.place.project),
                "upload it there (basalt create image), or correct spec.image of the provider",
            )),
            Some(image) if image.phase != "ready" => Some(CapabilityReason::new(
                "image_not_ready",
                format!("image/{name}"),
                format!("it is {}, so no VM can be made of it yet", image.phase),
                "upload its bytes, or wait until that has ended",
            )),
            Some(_) => None,
        })
    }

    async fn network_limit(&self) -> Result<Option<CapabilityReason>> {
        let name = &self.place.network;
        let found: Option<Value> =
            self.calls.find("looking at the network", &self.calls.path(&format!("/networks/{name}"))).await?;
        Ok(found.is_none().then(|| {
            CapabilityReason::new(
                "network_missing",
                format!("network/{name}"),
                format!("the project {} has no such network, so no VM can be put on it", self.place.project),
                "create it there (basalt create network), or correct spec.network of the provider",
            )
        }))
    }

    /// `Basalt 0.1.0`. It stands in the description of the API, which is long: it is read once an hour.
    async fn version(&self) -> Result<String> {
        let now = (self.now)();
        let is_fresh = |at: DateTime| (0..VERSION_MINUTES).contains(&(now - at).num_minutes());
        let known = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, version)) = known
            && is_fresh(at)
        {
            return Ok(version);
        }
        let read: Description = self.calls.get("reading the API's description", "/openapi.json").await?;
        let version = format!("{} {}", read.info.title, read.info.version);
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, version.clone()));
        Ok(version)
    }
}
