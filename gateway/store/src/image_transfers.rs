//! What moved an image's bytes, and what the image service says became of them.

use crate::{Change, Error, Key, Result, SystemTx, TenantTx, error::named, images, row, work};
use crate::{
    Handle,
    audit_events::{self, Entry},
};
use basalt_model::{
    CapabilityReason, DateTime, HostId, ImageId, TransferId,
    images::{ImageObserved, ImageState},
    tasks::TaskKind,
};
use sqlx::{Row, types::Json};
use uuid::Uuid;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the image service.
    Upload,
    /// From the image service to a host.
    Download,
}

/// One upload or download that a token was minted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its id, as it stands in the token.
    pub id: TransferId,
    /// Which way.
    pub direction: Direction,
    /// The host that downloads.
    pub host_id: Option<HostId>,
    /// When the token ends.
    pub expires_at: DateTime,
}

/// What the image service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Names this event; tells repeats.
    pub id: Uuid,
    /// When it happened.
    pub at: DateTime,
    /// The image.
    pub image_id: ImageId,
    /// The upload.
    pub transfer_id: TransferId,
    /// What happened.
    pub outcome: Outcome,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte is there; the digest is being taken.
    Verifying,
    /// The bytes are what they should be.
    Ready {
        /// SHA-256 in lower-case hex.
        sha256: String,
        /// Length in bytes.
        size_bytes: u64,
        /// Size that a guest sees, in bytes.
        virtual_size_bytes: u64,
    },
    /// They were refused.
    Failed {
        /// Why.
        reason: CapabilityReason,
    },
}

/// Length of the upload of an image; what is imported is not uploaded.
pub fn expected_bytes(image: &images::Image) -> Result<u64> {
    let why = match (&image.spec.source, image.spec.size_bytes) {
        (None, Some(bytes)) => return Ok(bytes),
        (Some(source), _) => format!("its bytes are fetched from {}", source.url),
        (None, None) => "it was declared without a length".to_owned(),
    };
    Err(Error::Refused(Box::new(CapabilityReason::new(
        "not_uploaded",
        format!("image/{}", image.metadata.name),
        why,
        "declare an image with size_bytes and without source to upload its bytes",
    ))))
}

/// Records an upload that a token is minted for. Refused once the image is ready or going.
pub async fn begin_upload(
    tx: &mut TenantTx,
    change: &Change,
    id: ImageId,
    transfer: &Transfer,
) -> Result<()> {
    let view = images::get_by_id(tx, id).await?;
    let name = &view.image.metadata.name;
    if view.image.metadata.deletion_requested_at.is_some() {
        return Err(Error::Deleting { kind: "image", name: name.to_string() });
    }
    let state = view.facts.observed.state;
    if matches!(state, ImageState::Ready | ImageState::Verifying) {
        let word = row::word(&state)?;
        return Err(Error::Immutable {
            field: format!("image {name} is {word}; its bytes"),
            remedy: "declare another image for other bytes".into(),
        });
    }
    begin_transfer(tx, change, id, transfer).await?;
    let m = &view.image.metadata;
    let entry = Entry::new("image.upload", m.tenant_id, m.project_id, "image", m.id, name.as_str());
    audit_events::write(tx.conn(), change, entry).await
}

/// Records a transfer that a token is minted for.
pub async fn begin_transfer(
    tx: &mut impl Handle,
    change: &Change,
    id: ImageId,
    transfer: &Transfer,
) -> Result<()> {
    let written = sqlx::query(
        "INSERT INTO transfers (id, image_id, tenant_id, direction, host_id, created_at, expires_at)
         SELECT $1, i.id, i.tenant_id, $3, $4, $5, $6 FROM images i WHERE i.id = $2",
    )
    .bind(transfer.id)
    .bind(id)
    .bind(match transfer.direction {
        Direction::Upload => "upload",
        Direction::Download => "download",
    })
    .bind(transfer.host_id)
    .bind(change.now)
    .bind(transfer.expires_at)
    .execute(tx.conn())
    .await
    .map_err(|e| named(e, |c| (c == "transfers_image").then(|| Key::from(id).missing("image"))))?
    .rows_affected();
    if written == 1 { Ok(()) } else { Err(Key::from(id).missing("image")) }
}

/// Applies what the image service says, once for each event, and moves the image's upload task with it.
/// `false`: it was applied before, the image is gone, a newer upload decided already, or it is of a claim on the image's
/// import that does not count any more.
pub async fn apply_event(tx: &mut SystemTx, event: &Event, now: DateTime) -> Result<bool> {
    let conn = tx.conn();
    let row = sqlx::query(
        "SELECT o.observed, i.spec -> 'source' IS NOT NULL AS imported
         FROM image_observed o JOIN images i ON i.id = o.image_id WHERE o.image_id = $1 FOR UPDATE OF o",
    )
    .bind(event.image_id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let kind = if row.try_get("imported")? { TaskKind::ImageImport } else { TaskKind::ImageUpload };
    // Of an import only who holds the newest claim may say what became of it; another may be at it again.
    if kind == TaskKind::ImageImport
        && work::is_newest(conn, event.image_id.0, kind, event.transfer_id.0).await? != Some(true)
    {
        return Ok(false);
    }
    let fresh = sqlx::query(
        "INSERT INTO image_events (id, image_id, applied_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(event.id)
    .bind(event.image_id)
    .bind(now)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let before: ImageObserved = row::json(&row, "observed")?;
    // Ready is final: volumes may stand on these bytes.
    if fresh == 0 || before.state == ImageState::Ready {
        return Ok(false);
    }
    let (observed, state, stage, error) = judge(&event.outcome, before);
    sqlx::query("UPDATE image_observed SET observed = $2, reported_at = $3 WHERE image_id = $1")
        .bind(event.image_id)
        .bind(Json(&observed))
        .bind(now)
        .execute(&mut *conn)
        .await?;
    let done = state != "executing";
    sqlx::query(
        "UPDATE tasks SET state = $2, stage = $3, error = $4, started_at = coalesce(started_at, $5),
            progress = CASE $2 WHEN 'completed' THEN 100 WHEN 'executing' THEN greatest(progress, 90) ELSE progress END,
            finished_at = CASE WHEN $6 THEN $5 END
         WHERE subject_id = $1 AND kind = $7 AND finished_at IS NULL",
    )
    .bind(event.image_id)
    .bind(state)
    .bind(stage)
    .bind(error.map(Json))
    .bind(now)
    .bind(done)
    .bind(row::word(&kind)?)
    .execute(&mut *conn)
    .await?;
    Ok(true)
}

type Judged = (ImageObserved, &'static str, &'static str, Option<CapabilityReason>);

fn judge(outcome: &Outcome, before: ImageObserved) -> Judged {
    match outcome {
        Outcome::Verifying => {
            (ImageObserved { state: ImageState::Verifying, ..before }, "executing", "verifying", None)
        }
        Outcome::Ready { sha256, size_bytes, virtual_size_bytes } => {
            let observed = ImageObserved {
                state: ImageState::Ready,
                sha256: Some(sha256.clone()),
                size_bytes: *size_bytes,
                virtual_size_bytes: *virtual_size_bytes,
                reason: None,
            };
            (observed, "completed", "", None)
        }
        Outcome::Failed { reason } => {
            let observed =
                ImageObserved { state: ImageState::Failed, reason: Some(reason.clone()), ..before };
            (observed, "failed", "", Some(reason.clone()))
        }
    }
}

/// Whether an upload of an image was recorded under an id.
pub async fn is_upload(tx: &mut SystemTx, image: ImageId, id: TransferId) -> Result<bool> {
    let row = sqlx::query("SELECT EXISTS (SELECT FROM transfers WHERE id = $1 AND image_id = $2 AND direction = 'upload') AS found")
        .bind(id)
        .bind(image)
        .fetch_one(tx.conn())
        .await?;
    Ok(row.try_get("found")?)
}
