//! Lines that a sink refused for good: kept with the reason, so that they are not gone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::retry::limited;
use crate::{DEFAULT_CALL_LIMIT, Gap, LineBatch, Result, RunId, RunKey, Timestamp};

/// Lines that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The name of the sink.
    pub sink: String,
    /// Whose lines they are.
    pub run: RunKey,
    /// The lines as they were captured, masked.
    pub lines: LineBatch,
    /// The sink's reason.
    pub reason: String,
    /// When they were refused.
    pub time: Timestamp,
}

impl Refused {
    /// Refused now.
    pub fn new(sink: impl Into<String>, run: RunKey, lines: LineBatch, reason: impl Into<String>) -> Self {
        Self { sink: sink.into(), run, lines, reason: reason.into(), time: Timestamp::now() }
    }
}

/// Keeps lines that sinks refused for good, bounded: the dead letters of output.
///
/// The lines that a store lacks are brought there from another one by [`copy`](crate::copy()); what is here is left of them
/// where no other store has them.
#[async_trait]
pub trait RefusedLines: fmt::Debug + Send + Sync {
    /// Keeps all of these, or none. Lines of a sink and run that are there already may be kept twice, and are listed once.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full) where there is no room for them.
    async fn keep(&self, refused: &[Refused]) -> Result<()>;

    /// What is kept, of one run or of all, oldest first, at most so many.
    ///
    /// # Errors
    /// Where it cannot be read.
    async fn list(&self, run: Option<&RunId>, limit: usize) -> Result<Vec<Refused>>;

    /// Removes what is kept of a run; `false` where that was nothing.
    ///
    /// # Errors
    /// Where it cannot be removed.
    async fn remove(&self, run: &RunId) -> Result<bool>;
}

/// Keeps what one sink refuses. Where that fails it is said: once in the log, and always in the reason of the hole.
#[derive(Clone, Debug)]
pub struct Refusals {
    sink: String,
    lines: Arc<dyn RefusedLines>,
    failed: Arc<AtomicBool>,
}

impl Refusals {
    /// Of the sink with this name.
    pub fn new(sink: impl Into<String>, lines: Arc<dyn RefusedLines>) -> Self {
        Self { sink: sink.into(), lines, failed: Arc::default() }
    }

    /// Keeps lines, each with the sink's reason; answers the gaps that they leave.
    ///
    /// # Cancel safety
    /// Dropped, they may have been kept.
    pub async fn keep(&self, run: &RunKey, refused: Vec<(LineBatch, String)>) -> Vec<Gap> {
        let all: Vec<Refused> = refused
            .into_iter()
            .map(|(lines, reason)| Refused::new(&self.sink, run.clone(), lines, reason))
            .collect();
        let kept = limited(DEFAULT_CALL_LIMIT, self.lines.keep(&all)).await;
        if let Err(error) = &kept
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let error = error.chain();
            tracing::warn!(sink = self.sink, %run.run_id, error, "lines that a sink refused are not kept");
        }
        let unkept = kept.err().map(|error| format!("; not kept: {}", error.chain())).unwrap_or_default();
        all.iter().map(|refused| refused.lines.gap(format!("{}{unkept}", refused.reason))).collect()
    }
}
