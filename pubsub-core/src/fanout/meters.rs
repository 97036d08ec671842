//! The accounts of one run and sink as metrics.

use metrics::{Counter, Gauge};

/// Made for each run, so that a recorder that is installed late is not missed for ever.
pub(super) struct Meters {
    pub(super) captured: Counter,
    pub(super) stored: Counter,
    pub(super) dead_lettered: Counter,
    /// Not even tried, or given up while they waited.
    pub(super) dropped: Counter,
    /// Lines that wait for the sink, over all runs: captured = stored + waiting + dead-lettered + dropped.
    pub(super) waiting: Gauge,
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
            waiting: metrics::gauge!("pipeline_sink_waiting_lines", "sink" => sink.to_owned()),
            lag: metrics::gauge!("pipeline_sink_queued_bytes", "sink" => sink.to_owned()),
        }
    }
}

/// A number of bytes or lines as a gauge takes it.
pub(super) fn gauged(amount: impl TryInto<u32>) -> f64 {
    f64::from(amount.try_into().unwrap_or(u32::MAX))
}
