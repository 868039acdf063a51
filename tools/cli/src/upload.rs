//! Uploads a file to the image service in pieces, going on after any interruption (tus 1.0).

use crate::{
    Failure,
    client::{chain, check},
};
use basalt_wire::rest::TransferGrant;
use reqwest::{Client, Response, header};
use std::{path::Path, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

/// Bytes of one request: what is lost at most when it breaks.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Broken requests in a row before giving up.
const TRIES: u32 = 8;

/// Sends a file under a grant; `progress` hears of the bytes that are safe.
pub async fn upload(
    http: &Client,
    grant: &TransferGrant,
    file: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), Failure> {
    let mut source =
        File::open(file).await.map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
    let size = source.metadata().await?.len();
    let session = create(http, grant, size).await?;
    let (mut offset, mut broken) = (0, 0);
    while offset < size {
        let piece = PIECE_BYTES.min(size - offset);
        source.seek(std::io::SeekFrom::Start(offset)).await?;
        let mut bytes = vec![0; usize::try_from(piece).unwrap_or_default()];
        source.read_exact(&mut bytes).await?;
        let request = http
            .patch(&session)
            .header("tus-resumable", "1.0.0")
            .header("upload-offset", offset)
            .header(header::CONTENT_TYPE, "application/offset+octet-stream");
        match request.body(bytes).send().await {
            Ok(response) if !response.status().is_server_error() && response.status() != 409 => {
                offset = offset_of(&check(response).await?)?;
                broken = 0;
            }
            other => {
                broken += 1;
                if broken == TRIES {
                    return Err(match other {
                        Ok(response) => {
                            check(response).await.err().unwrap_or(Failure::Other("conflict".into()))
                        }
                        Err(e) => Failure::Unreachable(chain(&e)),
                    });
                }
                tokio::time::sleep(Duration::from_millis(100 << broken)).await;
                if let Ok(head) = http.head(&session).header("tus-resumable", "1.0.0").send().await {
                    offset = offset_of(&check(head).await?)?;
                }
            }
        }
        progress(offset);
    }
    Ok(())
}

async fn create(http: &Client, grant: &TransferGrant, size: u64) -> Result<String, Failure> {
    let request = http
        .post(&grant.url)
        .header("tus-resumable", "1.0.0")
        .header("upload-length", size)
        .bearer_auth(&grant.token);
    let response = check(request.send().await.map_err(|e| Failure::Unreachable(chain(&e)))?).await?;
    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    let session = response.url().join(location).map_err(|e| Failure::Other(e.to_string()))?;
    Ok(session.to_string())
}

fn offset_of(response: &Response) -> Result<u64, Failure> {
    let text = response.headers().get("upload-offset").and_then(|v| v.to_str().ok());
    text.and_then(|t| t.parse().ok()).ok_or_else(|| Failure::Other("the image service gave no offset".into()))
}
