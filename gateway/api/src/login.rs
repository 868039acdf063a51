//! Signing in and out. There are no default credentials: the gateway's first start prints a token
//! once, which creates the first administrator and expires.

use crate::{
    App, Error,
    authentication::{Permit, token_hash, token_text},
    body::{Json, NoBody},
    login_limit::Wait,
    query::{NoParams, Query},
};
use axum::{
    Extension, Json as Answer,
    extract::{ConnectInfo, State},
    http::StatusCode,
};
use basalt_daemon::Clock;
use basalt_model::{
    roles::{Grant, Role, Scope},
    tasks::Actor,
};
use basalt_store::{Change, Store, SystemTx, audit_events, role_bindings, service_tokens, users};
use basalt_wire::rest::{IssuedToken, Login, Whoami};
use chrono::TimeDelta;
use std::{net::SocketAddr, sync::Arc};

/// Hours for which a session lasts.
const SESSION_HOURS: i64 = 12;
/// Hours for which the first-boot token can be used.
pub const FIRST_BOOT_HOURS: i64 = 24;

/// Begins a session: with a password, or with the first-boot token and the administrator to create. After too many
/// failures of one user name, or from one address, 429 says in `Retry-After` when to try again.
#[utoipa::path(post, path = "/v1/login", tag = "people", request_body = Login,
    responses((status = 200, body = IssuedToken), crate::openapi::Problems))]
pub async fn login(
    State(app): State<App>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    _: Query<NoParams>,
    Json { value, .. }: Json<Login>,
) -> Result<Answer<IssuedToken>, Error> {
    let now = app.clock.now();
    let address = peer.map(|Extension(ConnectInfo(address))| address.ip());
    let attempt = app.logins.attempt(&value.user, address, now).map_err(|Wait(seconds)| {
        app.metrics.logins_limited.inc();
        Error::LoginLimited { retry_after_seconds: seconds }
    })?;
    let user = match judge(&app, value).await {
        Ok(user) => user,
        Err(refused @ Error::LoginRefused) => return Err(refused),
        Err(failed) => {
            // Nothing was said about the password.
            app.logins.forgive(&attempt);
            return Err(failed);
        }
    };
    app.logins.succeeded(attempt, now);
    let mut tx = app.store.system().await?;
    let actor = Actor { kind: "user".into(), id: user.id.0, name: user.name.to_string() };
    let change = Change { actor, request_id: None, now, ids: app.ids.clone() };
    let token = token_text(app.clock.secret());
    let expires_at = now + TimeDelta::hours(SESSION_HOURS);
    let hash = token_hash(&token);
    let session = service_tokens::New { name: &user.name, hash: &hash, user_id: Some(user.id), expires_at };
    let made = service_tokens::insert(&mut tx, &change, &session).await?;
    let entry = audit_events::Entry::new("user.login", None, None, "user", user.id.0, user.name.as_str());
    audit_events::record(&mut tx, &change, entry).await?;
    tx.commit().await?;
    Ok(Answer(IssuedToken { id: made.id, token, expires_at }))
}

/// The user whose password, or whose first-boot token, it is.
async fn judge(app: &App, login: Login) -> Result<users::User, Error> {
    if let Some(token) = login.first_boot_token {
        return create_first(app, &token, login.user, login.password).await;
    }
    let mut tx = app.store.system_read().await?;
    let (user, hash) = users::by_name(&mut tx, &login.user).await?.unzip();
    drop(tx);
    let fits = app.passwords.verify(login.password, hash).await?;
    user.filter(|_| fits).ok_or(Error::LoginRefused)
}

/// Redeems the first-boot token and makes the first administrator, both or neither.
async fn create_first(
    app: &App,
    token: &str,
    name: basalt_model::Name,
    password: String,
) -> Result<users::User, Error> {
    let hash = app.passwords.hash(password, app.clock.secret()).await?;
    let mut tx = app.store.system().await?;
    match users::redeem_first_boot_token(&mut tx, &token_hash(token), app.clock.now()).await {
        Err(basalt_store::Error::TokenInvalid) => return Err(Error::LoginRefused),
        other => other?,
    };
    let change = system_change(app.clock.as_ref(), app.ids.clone());
    let user = users::insert(&mut tx, &change, &name, &hash).await?;
    role_bindings::insert(&mut tx, &change, user.id.0, Grant { role: Role::Admin, scope: Scope::System })
        .await?;
    tx.commit().await?;
    Ok(user)
}

fn system_change(clock: &dyn Clock, ids: basalt_store::Ids) -> Change {
    Change { actor: Actor::system("first-boot"), request_id: None, now: clock.now(), ids }
}

/// A token for the first administrator, unless there is a user already. It is to be shown once.
pub async fn first_boot_token(store: &Store, clock: &Arc<dyn Clock>) -> Result<Option<String>, Error> {
    let mut tx: SystemTx = store.system().await?;
    if users::any(&mut tx).await? {
        return Ok(None);
    }
    let token = token_text(clock.secret());
    let now = clock.now();
    users::put_first_boot_token(&mut tx, &token_hash(&token), now + TimeDelta::hours(FIRST_BOOT_HOURS), now)
        .await?;
    tx.commit().await?;
    Ok(Some(token))
}

/// Ends the token that the request carries.
#[utoipa::path(post, path = "/v1/logout", tag = "people", responses((status = 204, description = "Ended"), crate::openapi::Problems))]
pub async fn logout(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let mut tx = app.store.system().await?;
    service_tokens::revoke(&mut tx, &permit.change(&app), permit.principal.token_id).await?;
    tx.commit().await?;
    app.tokens.forget();
    Ok(StatusCode::NO_CONTENT)
}

/// Shows who the caller is and what they may do.
#[utoipa::path(get, path = "/v1/whoami", tag = "people", responses((status = 200, body = Whoami), crate::openapi::Problems))]
pub async fn whoami(permit: Permit, _: Query<NoParams>) -> Answer<Whoami> {
    let p = &permit.principal;
    Answer(Whoami { kind: p.kind.to_string(), id: p.id, name: p.name.to_string(), grants: p.grants.clone() })
}
