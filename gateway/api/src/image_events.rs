//! What the image service reports: an upload is being verified, is ready, or was refused. Delivered
//! at least once; the event's id tells repeats.

use crate::{
    App, Error,
    body::Json,
    query::{NoParams, Query},
};
use axum::{extract::State, http::StatusCode};
use basalt_store::image_transfers::{self, Event, Outcome};
use basalt_wire::image::{ImageEvent, ImageOutcome};

/// Takes one event.
#[utoipa::path(post, path = "/image/v1/events", tag = "agents", request_body = ImageEvent,
    responses((status = 204, description = "Taken, now or before"), crate::openapi::Problems))]
pub async fn take_image_event(
    State(app): State<App>,
    _: Query<NoParams>,
    Json { value, .. }: Json<ImageEvent>,
) -> Result<StatusCode, Error> {
    let outcome = match value.outcome {
        ImageOutcome::Verifying => Outcome::Verifying,
        ImageOutcome::Ready { sha256, size_bytes, virtual_size_bytes } => {
            Outcome::Ready { sha256, size_bytes, virtual_size_bytes }
        }
        ImageOutcome::Failed { reason } => Outcome::Failed { reason },
    };
    let event = Event {
        id: value.id,
        at: value.at,
        image_id: value.image_id,
        transfer_id: value.transfer_id,
        outcome,
    };
    let mut tx = app.store.system().await?;
    if !image_transfers::apply_event(&mut tx, &event, app.clock.now()).await? {
        tracing::debug!(event = %event.id, image = %event.image_id, "an event came again, or of an image that is gone");
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
