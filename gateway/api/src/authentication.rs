//! Who calls: opaque bearer tokens, of which only a SHA-256 is kept, looked up in the store and
//! remembered for two seconds; and what the caller may do, as a [`Permit`] that handlers receive.

use crate::{
    App, Error,
    authorization::{ScopeSource, Who},
};
use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use basalt_model::{
    DateTime, ProjectId, TenantId,
    roles::{Grant, Role, Scope, allows},
    tasks::Actor,
};
use basalt_store::{
    Change, Key, projects,
    service_tokens::{self, Principal},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// Seconds for which an answer of the store about a token or a project is remembered.
pub const REMEMBER_SECONDS: i64 = 2;
/// Most answers that are remembered; when there are more, all are forgotten.
const REMEMBER_MOST: usize = 10_000;
const PREFIX: &str = "basalt_";

/// A new token's text: 256 bits that nobody can guess.
pub fn token_text(secret: [u8; 32]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))
}

/// What of a token is kept.
pub fn token_hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Tokens that were looked up within the last seconds.
#[derive(Default)]
pub struct Tokens(Mutex<KnownTokens>);

type KnownTokens = HashMap<[u8; 32], (DateTime, Arc<Principal>)>;

impl Tokens {
    fn get(&self, hash: &[u8; 32], now: DateTime) -> Option<Arc<Principal>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, principal) = known.get(hash)?;
        let fresh =
            (now - *since).num_seconds() < REMEMBER_SECONDS && now >= *since && now < principal.expires_at;
        fresh.then(|| principal.clone())
    }

    fn put(&self, hash: [u8; 32], now: DateTime, principal: Arc<Principal>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBER_MOST {
            known.clear();
        }
        known.insert(hash, (now, principal));
    }

    /// Forgets everything: something about people, tokens or roles was changed here.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The principal of a request's bearer token.
async fn principal(app: &App, headers: &HeaderMap) -> Result<(Arc<Principal>, [u8; 32]), Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Error::Unauthenticated) };
    let text = value.to_str().map_err(|_| Error::Unauthenticated)?;
    let (scheme, token) = text.split_once(' ').ok_or(Error::Unauthenticated)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::Unauthenticated);
    }
    let hash = token_hash(token.trim());
    let now = app.clock.now();
    if let Some(principal) = app.tokens.get(&hash, now) {
        return Ok((principal, hash));
    }
    let found = lookup(app, &hash).await?.ok_or(Error::Unauthenticated)?;
    app.tokens.put(hash, now, found.clone());
    Ok((found, hash))
}

/// Asks the store about a token, past the memory.
pub async fn lookup(app: &App, hash: &[u8; 32]) -> Result<Option<Arc<Principal>>, Error> {
    let mut tx = app.store.system_read().await?;
    Ok(service_tokens::authenticate(&mut tx, hash, app.clock.now()).await?.map(Arc::new))
}

/// Whether a caller may do now what it might when it began to read; looked up past the memory (S6).
pub async fn is_unchanged(app: &App, permit: &Permit) -> bool {
    match lookup(app, &permit.token_hash).await {
        Ok(found) => found.is_some_and(|p| p.grants == permit.principal.grants),
        Err(e) => {
            tracing::debug!(error = %e, "a reader's token cannot be looked up now");
            app.clock.now() < permit.principal.expires_at
        }
    }
}

/// The project that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectRef {
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: ProjectId,
}

impl ProjectRef {
    /// The scope of the project.
    pub fn scope(self) -> Scope {
        Scope::Project { tenant_id: self.tenant_id, project_id: self.id }
    }
}

type Looked = Vec<(Option<TenantId>, DateTime, ProjectRef)>;

/// Projects that were looked up within the last seconds, by what the path said.
#[derive(Default)]
pub struct Projects(Mutex<HashMap<String, Looked>>);

impl Projects {
    fn get(&self, text: &str, tenant: Option<TenantId>, now: DateTime) -> Option<ProjectRef> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, since, project) = known.get(text)?.iter().find(|(t, ..)| *t == tenant)?;
        ((now - *since).num_seconds() < REMEMBER_SECONDS && now >= *since).then_some(*project)
    }

    fn put(&self, text: &str, tenant: Option<TenantId>, now: DateTime, project: ProjectRef) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBER_MOST {
            known.clear();
        }
        let looked = known.entry(text.to_owned()).or_default();
        looked.retain(|(t, ..)| *t != tenant);
        looked.push((tenant, now, project));
    }

    /// Forgets everything: a project was changed here.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Finds the project that a caller means. One that the caller may not read is not found, in the
/// same words and with the same work as one that does not exist.
pub async fn find_project(app: &App, grants: &[Grant], text: &str) -> Result<ProjectRef, Error> {
    let unknown = || Error::not_found("project", text);
    let key = Key::parse("project", text).map_err(|_| unknown())?;
    let mut places: Vec<Option<TenantId>> = Vec::new();
    for grant in grants {
        let place = match (&key, grant.scope) {
            (Key::Id(_), _) | (_, Scope::System) => None,
            (_, Scope::Tenant { tenant_id } | Scope::Project { tenant_id, .. }) => Some(tenant_id),
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let mut found: Option<ProjectRef> = None;
    for place in places {
        let Some(project) = look_up_project(app, place, &key, text).await? else { continue };
        if !allows(grants, Role::Viewer, &project.scope()) || found == Some(project) {
            continue;
        }
        if found.replace(project).is_some() {
            return Err(Error::Ambiguous { kind: "project", name: text.into() });
        }
    }
    found.ok_or_else(unknown)
}

async fn look_up_project(
    app: &App,
    tenant: Option<TenantId>,
    key: &Key,
    text: &str,
) -> Result<Option<ProjectRef>, Error> {
    let now = app.clock.now();
    if let Some(project) = app.projects.get(text, tenant, now) {
        return Ok(Some(project));
    }
    let mut tx = app.store.system_read().await?;
    match projects::get(&mut tx, tenant, key).await {
        Ok(row) => {
            let Some(tenant_id) = row.metadata.tenant_id else { return Ok(None) };
            let project = ProjectRef { tenant_id, id: ProjectId(row.metadata.id) };
            app.projects.put(text, tenant, now, project);
            Ok(Some(project))
        }
        Err(basalt_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What a handler may do for its caller: made by the outermost layer after the table was asked.
#[derive(Clone)]
pub struct Permit {
    /// Names the request.
    pub request_id: Uuid,
    /// Who calls.
    pub principal: Arc<Principal>,
    /// The hash of the token that was sent.
    pub token_hash: [u8; 32],
    role: Role,
    project: Option<ProjectRef>,
}

impl Permit {
    /// The project in the path.
    pub fn project(&self) -> Result<ProjectRef, Error> {
        self.project
            .ok_or_else(|| Error::internal("authorising", "a handler needs a project and its route has none"))
    }

    /// Refuses unless the route's role is held at a scope. Who may not even read there is told that
    /// there is no such thing.
    pub fn demand(&self, scope: &Scope, kind: &'static str, name: &str) -> Result<(), Error> {
        self.demand_role(self.role, scope, kind, name)
    }

    /// Refuses unless the route's role is held at a scope, of something that the caller sees anyway.
    pub fn require(&self, scope: &Scope) -> Result<(), Error> {
        if allows(&self.principal.grants, self.role, scope) {
            Ok(())
        } else {
            Err(Error::Forbidden(self.role))
        }
    }

    /// As [`Self::demand`], for another role than the route's.
    pub fn demand_role(
        &self,
        role: Role,
        scope: &Scope,
        kind: &'static str,
        name: &str,
    ) -> Result<(), Error> {
        if allows(&self.principal.grants, role, scope) {
            Ok(())
        } else if allows(&self.principal.grants, Role::Viewer, scope) {
            Err(Error::Forbidden(role))
        } else {
            Err(Error::not_found(kind, name))
        }
    }

    /// Refuses unless the caller is an administrator where a grant would hold, and so may give it.
    /// A project is looked up: a body may claim that it belongs to the caller's own tenant.
    pub async fn demand_grant(&self, app: &App, grant: &Grant) -> Result<(), Error> {
        match grant.scope {
            Scope::System => self.require(&Scope::System),
            Scope::Tenant { tenant_id } => self.demand(&grant.scope, "tenant", &tenant_id.to_string()),
            Scope::Project { tenant_id, project_id } => {
                let text = project_id.to_string();
                match look_up_project(app, None, &Key::Id(project_id.0), &text).await? {
                    Some(project) if project.tenant_id == tenant_id => {
                        self.demand(&grant.scope, "project", &text)
                    }
                    _ => Err(Error::not_found("project", text)),
                }
            }
        }
    }

    /// The scopes at which the route's role holds, without those inside another.
    pub fn scopes(&self) -> Vec<Scope> {
        widest(&self.principal.grants, self.role)
    }

    /// A change in the caller's name.
    pub fn change(&self, app: &App) -> Change {
        Change {
            actor: Actor {
                kind: self.principal.kind.to_string(),
                id: self.principal.id,
                name: self.principal.name.to_string(),
            },
            request_id: Some(self.request_id.to_string()),
            now: app.clock.now(),
            ids: app.ids.clone(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Permit {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let permit = parts.extensions.get::<Permit>().cloned();
        permit.ok_or_else(|| {
            Error::internal("authorising", "a handler needs a permit and its route gives none")
        })
    }
}

/// The scopes of grants with a role (or more), without those inside another.
pub fn widest(grants: &[Grant], role: Role) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::new();
    for grant in grants.iter().filter(|g| g.role >= role) {
        if !scopes.iter().any(|s| s.covers(&grant.scope)) {
            scopes.retain(|s| !grant.scope.covers(s));
            scopes.push(grant.scope);
        }
    }
    scopes
}

/// Asks the table whether a request may pass, and puts what it may do into its extensions.
pub async fn authorise(app: &App, parts: &mut Parts, request_id: Uuid) -> Result<(), Error> {
    let Some(path) = parts.extensions.get::<MatchedPath>().cloned() else { return Ok(()) };
    let who = crate::authorization::who(&parts.method, path.as_str());
    let (role, scope) = match who {
        // No row: either the router has no such method, or somebody forgot the row. Nobody passes.
        None => return Err(Error::Method),
        Some(Who::Anyone | Who::JoinToken) => return Ok(()),
        Some(Who::Agent) => return crate::agent_identity::agent(app, parts).await,
        Some(Who::ImageService) => return crate::agent_identity::image_service(parts),
        Some(Who::Caller) => (Role::Viewer, ScopeSource::Rows),
        Some(Who::Role(role, scope)) => (role, scope),
    };
    let (principal, token_hash) = principal(app, &parts.headers).await?;
    let mut permit = Permit { request_id, principal, token_hash, role, project: None };
    match scope {
        ScopeSource::System if !allows(&permit.principal.grants, role, &Scope::System) => {
            return Err(Error::Forbidden(role));
        }
        ScopeSource::System | ScopeSource::Rows | ScopeSource::Handler => {}
        ScopeSource::Project => {
            let text = parts.uri.path().split('/').nth(3).unwrap_or_default();
            let project = find_project(app, &permit.principal.grants, text).await?;
            if !allows(&permit.principal.grants, role, &project.scope()) {
                return Err(Error::Forbidden(role));
            }
            permit.project = Some(project);
        }
    }
    parts.extensions.insert(permit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_scopes_hide_those_inside() {
        let (t, u) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let project = Scope::Project { tenant_id: t, project_id: ProjectId(Uuid::from_u128(3)) };
        let grant = |role, scope| Grant { role, scope };
        let grants = [
            grant(Role::Admin, project),
            grant(Role::Viewer, Scope::Tenant { tenant_id: t }),
            grant(Role::Viewer, Scope::Tenant { tenant_id: u }),
        ];
        assert_eq!(
            widest(&grants, Role::Viewer),
            [Scope::Tenant { tenant_id: t }, Scope::Tenant { tenant_id: u }]
        );
        assert_eq!(widest(&grants, Role::Operator), [project]);
    }

    #[test]
    fn a_token_is_long_and_only_its_digest_is_kept() {
        let text = token_text([7; 32]);
        assert!(text.starts_with("basalt_") && text.len() == 7 + 43);
        assert_ne!(token_hash(&text), token_hash(&token_text([8; 32])));
    }
}
