//! The clients' door: tus 1.0 uploads and ranged downloads.
//!
//! Protocol: <https://tus.io/protocols/resumable-upload>, version 1.0.0 with the creation,
//! expiration and termination extensions.

use crate::{Error, ImageService, redeem::Session, uploads::State as UploadState};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use basalt_wire::{image::ImageOutcome, rest::Problem, upload_token::Verb};
use std::sync::Arc;
use tower::ServiceExt;
use tower_http::services::ServeFile;

const VERSION: &str = "1.0.0";
const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");

type Service = Arc<ImageService>;

/// All routes of the door.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/metrics", get(metrics))
        .route("/files", post(create).options(options))
        .route(
            "/files/{session}",
            axum::routing::patch(append).head(offset).delete(terminate).options(options),
        )
        .route("/blobs", get(redeem_download))
        .route("/downloads/{session}", get(download))
        .layer(axum::middleware::from_fn(tus_version))
        .with_state(service)
}

/// Every tus answer names the version, and a request of another version is refused.
async fn tus_version(request: Request, next: axum::middleware::Next) -> Response {
    let tus = request.uri().path().starts_with("/files");
    let right = request.headers().get(&TUS_RESUMABLE).is_some_and(|v| v == VERSION);
    let mut response = if tus && !right && request.method() != Method::OPTIONS {
        Error::Version.into_response()
    } else {
        next.run(request).await
    };
    if tus {
        response.headers_mut().insert(TUS_RESUMABLE, HeaderValue::from_static(VERSION));
    }
    response
}

async fn options() -> impl IntoResponse {
    let headers = [
        ("tus-version", VERSION),
        ("tus-extension", "creation,expiration,termination"),
        ("tus-max-size", "17592186044416"),
    ];
    (StatusCode::NO_CONTENT, headers)
}

async fn metrics(State(service): State<Service>) -> Result<String, Error> {
    let (waiting, poison) = service.spool.depth()?;
    Ok(format!(
        "# TYPE basalt_image_spool_events gauge\nbasalt_image_spool_events{{state=\"waiting\"}} {waiting}\n\
         basalt_image_spool_events{{state=\"poison\"}} {poison}\n"
    ))
}

fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    value.and_then(|v| v.strip_prefix("Bearer ")).ok_or(Error::NoToken)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, Error> {
    let text = headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    // `u64::from_str` takes a leading plus sign; a header must be digits alone.
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().map_err(|_| Error::Header { name: name.to_string() }),
        false => Err(Error::Header { name: name.to_string() }),
    }
}

fn session(text: &str) -> Result<Session, Error> {
    Session::parse(text).ok_or(Error::NoSession)
}

async fn create(State(service): State<Service>, headers: HeaderMap) -> Result<Response, Error> {
    let now = service.clock.now();
    let claims = service.ledger.check(bearer(&headers)?, Verb::Upload, now)?;
    let length = number(&headers, &UPLOAD_LENGTH)?;
    if length != claims.size_bytes {
        return Err(Error::Length { declared: claims.size_bytes, given: length });
    }
    let session = Session::new(service.clock.secret());
    let state = service.uploads.create(&session, claims.clone(), service.clock.new_id(), now)?;
    if let Err(e) = service.ledger.spend(&claims, &session) {
        service.uploads.remove(&session)?;
        return Err(e);
    }
    let location = format!("/files/{}", session.as_str());
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], progress(&state)).into_response())
}

fn progress(state: &UploadState) -> [(HeaderName, String); 2] {
    [
        (UPLOAD_OFFSET, state.offset.to_string()),
        (UPLOAD_EXPIRES, state.expires_at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
    ]
}

async fn offset(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, Error> {
    let state = service.uploads.state(&session(&id)?)?;
    let length = [(UPLOAD_LENGTH, state.claims.size_bytes.to_string())];
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::OK, progress(&state), length, no_store).into_response())
}

async fn append(
    State(service): State<Service>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let session = session(&id)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if kind != Some("application/offset+octet-stream") {
        return Err(Error::ContentType);
    }
    let offset = number(&headers, &UPLOAD_OFFSET)?;
    let stream = body.into_data_stream();
    // The client going away must not cancel a write half way: the work runs on its own.
    let (uploads, now) = (service.uploads.clone(), service.clock.now());
    let work = tokio::spawn(async move { uploads.append(&session, offset, stream, now).await });
    let state = work.await.map_err(|e| Error::Interrupted(e.to_string()))??;
    match &state.finished {
        Some(ImageOutcome::Failed { reason }) => Err(Error::Refused(reason.clone())),
        _ => Ok((StatusCode::NO_CONTENT, progress(&state)).into_response()),
    }
}

async fn terminate(State(service): State<Service>, Path(id): Path<String>) -> Result<StatusCode, Error> {
    service.uploads.remove(&session(&id)?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn redeem_download(State(service): State<Service>, request: Request) -> Result<Response, Error> {
    let now = service.clock.now();
    let claims = service.ledger.check(bearer(request.headers())?, Verb::Download, now)?;
    let session = Session::new(service.clock.secret());
    service.blobs.begin_download(&session, claims.clone(), now)?;
    service.ledger.spend(&claims, &session)?;
    let mut response = send(&service, &session, request).await?;
    let location = HeaderValue::from_str(&format!("/downloads/{}", session.as_str()));
    response.headers_mut().insert(header::LOCATION, location.map_err(|_| Error::NoSession)?);
    Ok(response)
}

async fn download(
    State(service): State<Service>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Error> {
    send(&service, &session(&id)?, request).await
}

/// Sends a blob; ranges and conditions are the file server's.
async fn send(service: &ImageService, session: &Session, request: Request) -> Result<Response, Error> {
    let path = service.blobs.download(session, service.clock.now())?;
    let sent = ServeFile::new_with_mime(path, &mime::APPLICATION_OCTET_STREAM).oneshot(request).await;
    let Ok(response) = sent;
    Ok(response.map(Body::new))
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let problem = self.problem();
        if problem.status >= 500 {
            tracing::error!(error = %self, "a request failed");
        }
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json::<Problem>(problem)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
