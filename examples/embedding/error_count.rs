//! A sink of one's own in front of a store: it counts the errors of each run, and passes everything on.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use pubsub_pipeline::{
    Appended, LineBatch, LineNumber, OutputSink, Result, RunId, RunKey, RunRecord, async_trait,
};

/// By their numbers: calls are repeated, and a line that comes again is no further error.
type Errors = HashMap<RunId, BTreeSet<LineNumber>>;

pub(crate) struct ErrorCount<S>(pub(crate) S, pub(crate) Mutex<Errors>);

impl<S> ErrorCount<S> {
    /// How many errors the run has printed.
    pub(crate) fn of(&self, run: &RunId) -> usize {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).get(run).map_or(0, BTreeSet::len)
    }
}

#[async_trait]
impl<S: OutputSink> OutputSink for ErrorCount<S> {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let appended = self.0.append(run, batches).await?;
        let lines =
            batches.iter().flat_map(LineBatch::lines).filter(|line| line.text().starts_with("error:"));
        let mut errors = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        errors.entry(run.run_id.clone()).or_default().extend(lines.map(|line| line.number));
        Ok(appended)
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}
