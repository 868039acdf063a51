//! The image service's process.

use anyhow::Context;
use basalt_daemon::{Drain, SystemClock, boot, config, listen::Inherited};
use clap::Parser;
use std::{path::PathBuf, sync::Arc};

/// Keeps images: resumable uploads, single-use tokens, ranged downloads.
#[derive(Parser)]
#[command(name = "basalt-image-service", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = "/etc/basalt/image-service.toml")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    boot::begin();
    let arguments = Arguments::parse();
    let config = config::read(&arguments.config)?;
    let options = basalt_image_service::from_config(&config, Arc::new(SystemClock), &mut Inherited::take())?;
    let drain = Drain::on_signals().context("signals")?;
    boot::ready();
    options.run(drain).await.context("the image service stopped")
}
