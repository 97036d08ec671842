//! A sink of the fan-out and how it is used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Backoff, DEFAULT_CALL_LIMIT, OutputSink, RefusedLines};

/// Most bytes of memory that wait for a sink and a run, beside what one read brings. What a batch and its lines cost
/// beside their bytes counts as well.
pub const DEFAULT_QUEUE_BYTES: usize = 4 << 20;

/// How long a sink gathers lines before it appends them, unless told otherwise.
pub const DEFAULT_SINK_DELAY: Duration = Duration::from_millis(100);

/// Whether the work is done only once this sink has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// The delivery is acknowledged only once this sink has everything.
    Required,
    /// The work does not wait for it.
    BestEffort,
}

/// What happens while a sink's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The command waits.
    Block,
    /// Lines are dropped for this sink, counted, and told as a hole.
    Drop,
}

/// A sink and how it is used.
#[derive(Clone)]
#[non_exhaustive]
pub struct SinkConfig {
    /// Its name in accounts, metrics and logs.
    pub name: String,
    /// Where the output goes.
    pub sink: Arc<dyn OutputSink>,
    /// Whether the work waits for it.
    pub need: Need,
    /// What happens while its queue is full.
    pub when_full: WhenFull,
    /// Most bytes of memory that wait for it, for each run.
    pub queue_bytes: usize,
    /// How long it gathers.
    pub delay: Duration,
    /// How it is tried again.
    pub backoff: Backoff,
    /// How long one call may take. One that takes longer is dropped, counts as [`TimedOut`](crate::ErrorKind::TimedOut), and is
    /// repeated as after any failure that may pass; lines then go in smaller appends. Each call of an [`OutputSink`] is
    /// safe to drop and to repeat.
    pub call_limit: Duration,
    /// Keeps the lines that it refuses for good; without one they are a hole alone.
    pub refused_lines: Option<Arc<dyn RefusedLines>>,
}

impl SinkConfig {
    /// A sink that the work waits for, and that holds up the command while its queue is full.
    pub fn required(name: impl Into<String>, sink: Arc<dyn OutputSink>) -> Self {
        Self {
            name: name.into(),
            sink,
            need: Need::Required,
            when_full: WhenFull::Block,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            delay: DEFAULT_SINK_DELAY,
            backoff: Backoff::default(),
            call_limit: DEFAULT_CALL_LIMIT,
            refused_lines: None,
        }
    }

    /// A sink that nothing waits for: what its queue does not hold is dropped and told.
    pub fn best_effort(name: impl Into<String>, sink: Arc<dyn OutputSink>) -> Self {
        Self { need: Need::BestEffort, when_full: WhenFull::Drop, ..Self::required(name, sink) }
    }

    /// With another rule for a full queue.
    #[must_use]
    pub const fn with_when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// With another bound on what waits, in bytes of memory.
    #[must_use]
    pub const fn with_queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// With another delay for gathering.
    #[must_use]
    pub const fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With another back-off.
    #[must_use]
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// With another limit on the time of one call; [`Duration::MAX`] for a sink that may take as long as it wants.
    #[must_use]
    pub const fn with_call_limit(mut self, limit: Duration) -> Self {
        self.call_limit = limit;
        self
    }

    /// With a place for the lines that it refuses for good.
    #[must_use]
    pub fn with_refused_lines(mut self, lines: Arc<dyn RefusedLines>) -> Self {
        self.refused_lines = Some(lines);
        self
    }
}

impl fmt::Debug for SinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkConfig")
            .field("name", &self.name)
            .field("need", &self.need)
            .finish_non_exhaustive()
    }
}
