//! The token that makes the first administrator (S17): made when there is nobody yet, given out once,
//! and not again before it has expired, however often the gateway is restarted.

use basalt_api::{FIRST_BOOT_HOURS, first_boot_token};
use basalt_daemon::Clock;
use basalt_model::DateTime;
use basalt_store::Store;
use std::{fs, path::Path, sync::Arc};

/// A token, if one is to be shown now.
pub async fn token(
    store: &Store,
    clock: &Arc<dyn Clock>,
    state_dir: &Path,
) -> anyhow::Result<Option<String>> {
    // The file says only when the last token expires; the token itself is written nowhere.
    let file = state_dir.join("first-boot-expires");
    let shown = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<DateTime>().ok());
    if shown.is_some_and(|expires| clock.now() < expires) {
        return Ok(None);
    }
    let Some(token) = first_boot_token(store, clock).await? else { return Ok(None) };
    let expires = clock.now() + chrono::TimeDelta::hours(FIRST_BOOT_HOURS);
    fs::write(&file, format!("{}\n", expires.to_rfc3339()))?;
    Ok(Some(token))
}
