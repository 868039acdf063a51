//! The first lines of every `main`: logging, the crypto provider, and telling the service manager.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Sets up logging to stderr (`BASALT_LOG`, default `info`; `BASALT_LOG_FORMAT=json` for machines) and
/// installs the one crypto provider of the house. Call once, first.
pub fn begin() {
    let filter =
        EnvFilter::try_from_env("BASALT_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,hyper=warn"));
    let json = std::env::var("BASALT_LOG_FORMAT").is_ok_and(|f| f == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let done = if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false)).try_init()
    };
    if done.is_err() {
        tracing::debug!("logging was set up before");
    }
    crypto();
}

/// Installs the crypto provider; harmless when it is there already.
pub fn crypto() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::trace!("a crypto provider is installed already");
    }
}

/// Tells the service manager that the process serves.
pub fn ready() {
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(error = %e, "no service manager to tell");
    }
}
