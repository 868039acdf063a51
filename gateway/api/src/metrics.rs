//! What the doors count, in Prometheus' text form at `/metrics`. Other rooms add their own to the
//! same registry.

use crate::{App, Error};
use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::{Arc, Mutex, PoisonError};

/// The process's registry, shared by its rooms.
pub type SharedRegistry = Arc<Mutex<Registry>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    route: &'static str,
    status: u16,
}

/// Counters of the doors.
#[derive(Clone)]
pub struct Metrics {
    registry: SharedRegistry,
    requests: Family<Request, Counter>,
    seconds: Histogram,
    /// Open watch streams.
    pub watches: Gauge,
    /// Logs of deployments that are being read.
    pub logs: Gauge,
    /// Open consoles, and those that wait for their agent.
    pub consoles: Gauge,
    /// Watchers that fell behind and were told to begin again.
    pub resyncs: Counter,
    /// Logins that were not looked at after too many failures.
    pub logins_limited: Counter,
    /// Requests of agents that a newer start with the same identity took over from.
    pub fenced: Counter,
    /// Agents that wait here for another manifest.
    pub agents_waiting: Gauge,
}

/// Counts something for as long as it lives.
pub struct Held(Gauge);

impl Held {
    /// One more; the second value says how many there were before.
    pub fn begin(gauge: &Gauge) -> (Self, i64) {
        let before = gauge.inc();
        (Self(gauge.clone()), before)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers the counters.
    pub fn new(registry: SharedRegistry) -> Self {
        let bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
        let metrics = Self {
            registry: registry.clone(),
            requests: Family::default(),
            seconds: Histogram::new(bounds),
            watches: Gauge::default(),
            logs: Gauge::default(),
            consoles: Gauge::default(),
            resyncs: Counter::default(),
            logins_limited: Counter::default(),
            fenced: Counter::default(),
            agents_waiting: Gauge::default(),
        };
        let mut r = registry.lock().unwrap_or_else(PoisonError::into_inner);
        r.register(
            "basalt_http_requests",
            "Requests answered, by route and status",
            metrics.requests.clone(),
        );
        r.register(
            "basalt_http_request_seconds",
            "Time to answer, without polls and watches",
            metrics.seconds.clone(),
        );
        r.register("basalt_watch_streams", "Open watch streams", metrics.watches.clone());
        r.register("basalt_log_streams", "Logs of deployments that are being read", metrics.logs.clone());
        r.register("basalt_consoles", "Open consoles", metrics.consoles.clone());
        r.register("basalt_watch_resyncs", "Watchers that fell behind", metrics.resyncs.clone());
        r.register(
            "basalt_logins_limited",
            "Logins refused unseen after too many failures",
            metrics.logins_limited.clone(),
        );
        r.register(
            "basalt_agents_fenced",
            "Requests refused to an agent's older start",
            metrics.fenced.clone(),
        );
        let waiting = "Agents that wait here for another manifest: those whose link stands";
        r.register("basalt_agents_waiting", waiting, metrics.agents_waiting.clone());
        drop(r);
        metrics
    }

    /// Counts one answer.
    pub fn answered(&self, method: &'static str, route: &'static str, status: u16, seconds: f64) {
        self.requests.get_or_create(&Request { method, route, status }).inc();
        if !is_held_open(route) {
            self.seconds.observe(seconds);
        }
    }

    /// The text of all metrics.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

/// Routes whose answer waits for news on purpose.
fn is_held_open(route: &str) -> bool {
    const HELD: [&str; 6] = [
        "/v1/watch",
        "/v1/tasks/{task}",
        "/v1/projects/{project}/deployments/{deployment}/logs",
        "/agent/v1/manifest",
        "/agent/v1/directory",
        "/agent/v1/consoles",
    ];
    HELD.contains(&route)
}

/// The process's metrics in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "application/openmetrics-text"), crate::openapi::Problems))]
pub async fn read_metrics(State(app): State<App>) -> Result<Response, Error> {
    let text = app.metrics.text().map_err(|e| Error::internal("writing metrics", e))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
