//! What the reconciler counts, in Prometheus' terms.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::atomic::AtomicU64;

/// Labels of effects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EffectLabels {
    /// `place`, `manifests`, `conditions`, `tasks`, `finalise`.
    pub effect: &'static str,
    /// `done` or `failed`.
    pub result: &'static str,
}

/// Labels of lanes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabels {
    /// As in [`EffectLabels`].
    pub effect: &'static str,
}

/// Counters of the reconciler. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Batches taken in.
    pub pulls: Counter,
    /// Rows that changed in them.
    pub changes: Counter,
    /// Times that everything was read anew: once at the start, then only after a crash of the database, a restore, or
    /// an absence so long that the log was pruned past this gateway. All watchers of this gateway begin again.
    pub reloads: Counter,
    /// Pulls that failed.
    pub pull_failures: Counter,
    /// How old the truth is that the graph shows: seconds since the last pull that came through began. At rest it
    /// stays below the second in which every pull comes again.
    pub lag_seconds: Gauge<f64, AtomicU64>,
    /// The graph's revision.
    pub revision: Gauge,
    /// Bytes of the graph by its own accounts, as of the last sweep.
    pub graph_bytes: Gauge,
    /// Runs of transforms.
    pub runs: Counter,
    /// Effects carried out.
    pub effects: Family<EffectLabels, Counter>,
    /// Rows in them.
    pub rows: Family<EffectLabels, Counter>,
    /// Rows due, waiting or running.
    pub backlog: Family<LaneLabels, Gauge>,
    /// Times the graph was compared with a recomputation.
    pub verifications: Counter,
    /// Rows that differed. Anything but 0 is a defect of the graph.
    pub differences: Counter,
    /// Whether this gateway carries out effects: 1 while it holds the lease.
    pub acting: Gauge,
    /// Hosts with whose identity two agents act.
    pub agent_conflicts: Gauge,
    /// Seconds from the begin of a pull until the graph had taken it in.
    pub pull_seconds: Histogram,
    /// Seconds from an effect's begin to its commit.
    pub effect_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let bounds = || Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0]);
        Self {
            pulls: Counter::default(),
            changes: Counter::default(),
            reloads: Counter::default(),
            pull_failures: Counter::default(),
            lag_seconds: Gauge::default(),
            revision: Gauge::default(),
            graph_bytes: Gauge::default(),
            runs: Counter::default(),
            effects: Family::default(),
            rows: Family::default(),
            backlog: Family::default(),
            verifications: Counter::default(),
            differences: Counter::default(),
            acting: Gauge::default(),
            agent_conflicts: Gauge::default(),
            pull_seconds: bounds(),
            effect_seconds: bounds(),
        }
    }
}

impl Metrics {
    /// Adds the counters to the process's registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry;
        r.register("basalt_feed_pulls", "Batches of the change feed taken in", self.pulls.clone());
        r.register("basalt_feed_changes", "Changed rows taken in", self.changes.clone());
        r.register("basalt_feed_reloads", "Times that everything was read anew", self.reloads.clone());
        r.register("basalt_feed_pull_failures", "Pulls that failed", self.pull_failures.clone());
        r.register("basalt_feed_pull_seconds", "Time of a pull and of the graph", self.pull_seconds.clone());
        let lag = "Seconds since the begin of the last pull that came through";
        r.register("basalt_feed_lag_seconds", lag, self.lag_seconds.clone());
        r.register("basalt_graph_revision", "Revision of the graph", self.revision.clone());
        r.register("basalt_graph_bytes", "Bytes of the graph by its own accounts", self.graph_bytes.clone());
        r.register("basalt_graph_runs", "Runs of transforms", self.runs.clone());
        r.register(
            "basalt_graph_verifications",
            "Comparisons with a recomputation",
            self.verifications.clone(),
        );
        r.register(
            "basalt_graph_differences",
            "Rows that differed from a recomputation",
            self.differences.clone(),
        );
        r.register("basalt_effects", "Effects carried out", self.effects.clone());
        r.register("basalt_effect_rows", "Rows in effects", self.rows.clone());
        r.register("basalt_effect_seconds", "Time of an effect", self.effect_seconds.clone());
        r.register("basalt_effect_backlog", "Rows due, waiting or running", self.backlog.clone());
        r.register(
            "basalt_reconciler_acting",
            "1 while this gateway carries out effects",
            self.acting.clone(),
        );
        r.register(
            "basalt_agent_conflicts",
            "Hosts with whose identity two agents act",
            self.agent_conflicts.clone(),
        );
    }

    pub(crate) fn effect(&self, effect: &'static str, rows: usize, done: bool, seconds: f64) {
        let labels = EffectLabels { effect, result: if done { "done" } else { "failed" } };
        self.effects.get_or_create(&labels).inc();
        self.rows.get_or_create(&labels).inc_by(rows as u64);
        self.effect_seconds.observe(seconds);
    }
}
