//! What agents and servers have in common: registered, read, changed and removed by kind, name and tag.

use crate::{
    App, Error,
    authentication::Permit,
    body,
    intent::{Intent, With, tagged},
    pages,
    query::ListParams,
};
use axum::{http::StatusCode, response::Response};
use basalt_model::{
    Labels, Name, Validate,
    artifacts::{ArtifactKind, ArtifactSpec, Tag},
};
use basalt_store::{
    List, New,
    artifacts::{self, Artifact, ArtifactKey, Left},
};
use basalt_wire::rest::{Register, Update};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// How one kind is shown.
pub(crate) struct Shown<T> {
    pub kind: ArtifactKind,
    pub view: fn(Artifact) -> Option<T>,
}

impl<T: Serialize> Shown<T> {
    fn view(&self, artifact: Artifact) -> Result<T, Error> {
        (self.view)(artifact).ok_or_else(|| Error::internal("reading an artifact", "it is of another kind"))
    }

    pub(crate) async fn list(
        &self,
        app: &App,
        permit: &Permit,
        params: &ListParams,
    ) -> Result<List<Artifact>, Error> {
        let project = permit.project()?;
        let mut tx = app.store.tenant_read(project.tenant_id).await?;
        Ok(artifacts::list(&mut tx, project.id, self.kind, &pages::range(params)?).await?)
    }

    pub(crate) async fn get(&self, app: &App, permit: &Permit, named: &str) -> Result<Response, Error> {
        let project = permit.project()?;
        let key = ArtifactKey::parse(self.kind, named)?;
        let mut tx = app.store.tenant_read(project.tenant_id).await?;
        let found = artifacts::get(&mut tx, project.id, self.kind, &key).await?;
        Ok(crate::intent::shown(found.metadata.generation, self.view(found)?))
    }

    pub(crate) async fn register<S: Validate>(
        &self,
        app: &App,
        intent: Intent,
        body: Register<S>,
        bytes: &[u8],
        spec: fn(S) -> ArtifactSpec,
    ) -> Result<Response, Error> {
        let Register { name, tag, labels, spec: given } = body;
        body::check(&[(&labels, "labels"), (&given, "spec")])?;
        let new = New { name, labels, spec: spec(given) };
        itself(&new.name, &tag, &new.spec)?;
        let mut writing = intent.begin(app, bytes).await?;
        let project = writing.project.id;
        let made = artifacts::insert(&mut writing.tx, &writing.change, project, &tag, &new).await?;
        let generation = made.metadata.generation;
        let answer = writing.answer(StatusCode::CREATED, None, &self.view(made)?).await?;
        Ok(tagged(generation, answer))
    }

    pub(crate) async fn change<S: Validate>(
        &self,
        app: &App,
        intent: Intent,
        named: &str,
        (body, bytes): (Update<S>, &[u8]),
        spec: fn(S) -> ArtifactSpec,
    ) -> Result<Response, Error> {
        body::check_update(&body)?;
        let key = ArtifactKey::parse(self.kind, named)?;
        let labels: Option<Labels> = body.labels;
        let mut writing = intent.begin(app, bytes).await?;
        let update = basalt_store::Update { expected: writing.expected, labels, spec: spec(body.spec) };
        let project = writing.project.id;
        let changed = artifacts::update(&mut writing.tx, &writing.change, project, &key, &update).await?;
        itself(&changed.metadata.name, &changed.tag, &changed.spec)?;
        writing.answer(StatusCode::OK, None, &self.view(changed)?).await
    }

    pub(crate) async fn remove(
        &self,
        app: &App,
        With(intent, params): With<DeleteArtifact>,
        named: &str,
    ) -> Result<Response, Error> {
        let key = ArtifactKey::parse(self.kind, named)?;
        let left = params.left()?;
        let mut writing = intent.begin(app, b"").await?;
        let (of, expected) = ((writing.project.id, self.kind), writing.expected);
        let gone = artifacts::delete(&mut writing.tx, &writing.change, of, &key, expected, left).await?;
        writing.answer(StatusCode::OK, None, &self.view(gone)?).await
    }
}

/// What the removal of an agent or a server may be told.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteArtifact {
    /// `undeploy`: its deployments are undeployed. Without this and `orphan`, one that is deployed is not removed.
    #[serde(default)]
    #[param(inline)]
    pub cascade: Option<Cascade>,
    /// With `true` its deployments run on as they are.
    #[serde(default)]
    pub orphan: bool,
}

/// What becomes of the deployments of an artifact that is removed.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cascade {
    /// They are undeployed.
    Undeploy,
}

impl DeleteArtifact {
    fn left(&self) -> Result<Left, Error> {
        match (self.cascade, self.orphan) {
            (None, false) => Ok(Left::Refused),
            (None, true) => Ok(Left::Running),
            (Some(Cascade::Undeploy), false) => Ok(Left::Undeployed),
            (Some(Cascade::Undeploy), true) => Err(Error::Query(basalt_model::FieldError::new(
                "orphan",
                "not_allowed",
                "what is undeployed is not left running",
                "give cascade=undeploy or orphan=true, not both",
            ))),
        }
    }
}

/// Refuses an agent that uses itself.
pub(crate) fn itself(name: &Name, tag: &Tag, spec: &ArtifactSpec) -> Result<(), Error> {
    let own =
        |r: &basalt_model::artifacts::ArtifactRef| r.kind == spec.kind() && r.name == *name && r.tag == *tag;
    if !spec.references().iter().any(own) {
        return Ok(());
    }
    Err(Error::Invalid(vec![basalt_model::FieldError::new(
        "spec.agents",
        "itself",
        format!("{name}:{tag} names itself"),
        "leave it out: an agent knows its own address by PORT",
    )]))
}

/// `name:tag`
pub(crate) fn reference(artifact: &Artifact) -> String {
    format!("{}:{}", artifact.metadata.name, artifact.tag)
}
