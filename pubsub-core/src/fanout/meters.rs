//! The accounts of one run and sink as metrics.

use metrics::{Counter, Gauge};

/// Made for each run, so that a recorder that is installed late is not missed for ever.
pub(super) struct Meters {
    pub(super) captured: Counter,
    pub(super) stored: Counter,
    pub(super) dead_lettered: Counter,
    pub(super) dropped: Counter,
    /// Bytes of memory that wait for the sink, over all runs.
    pub(super) lag: Gauge,
}

impl Meters {
    pub(super) fn new(sink: &str) -> Self {
        let lines = |became: &'static str| metrics::counter!("pipeline_sink_lines_total", "sink" => sink.to_owned(), "result" => became);
        Self {
            captured: lines("captured"),
            stored: lines("stored"),
            dead_lettered: lines("dead_lettered"),
            dropped: lines("dropped"),
            lag: metrics::gauge!("pipeline_sink_queued_bytes", "sink" => sink.to_owned()),
        }
    }
}

/// A number of bytes as a gauge takes it.
pub(super) fn gauged(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}
