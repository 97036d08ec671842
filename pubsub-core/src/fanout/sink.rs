//! What all runs of a process share of one sink.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::SinkConfig;
use super::gate::Gate;
use crate::sync::AtomicUsize;
use crate::{ErrorKind, RefusalLog, Refusals, Result, RunKey, RunRecord};

/// How many runs' full queues may wait for one sink that drops: with a store away, memory does not grow with the runs.
const ALL_RUNS: usize = 16;

/// Most ended runs that wait for a best-effort sink; what ends after them is not brought there.
const MAX_BEHIND: usize = 1000;

/// A sink, its gate, and what waits for it.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) config: SinkConfig,
    pub(super) gate: Gate,
    /// Keeps what it refuses for good, where that is wanted.
    pub(super) refusals: Option<Refusals>,
    /// Says that it refuses lines.
    pub(super) refusing: RefusalLog,
    queued: AtomicUsize,
    behind: AtomicUsize,
}

impl Sink {
    pub(super) fn new(mut config: SinkConfig) -> Arc<Self> {
        // A bound of nothing is never kept, and whoever waits for room would wait for ever.
        config.queue_bytes = config.queue_bytes.max(1);
        let gate = Gate::new(config.name.clone(), config.backoff, config.call_limit);
        let refusals = config.refused_lines.clone().map(|lines| Refusals::new(&config.name, lines));
        let refusing = RefusalLog::new(&config.name);
        let (queued, behind) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { config, gate, refusals, refusing, queued, behind })
    }

    /// Whether it does not have a run that began there once: then somebody removed it, and a later record would bring it back.
    pub(super) async fn lacks(&self, run: &RunKey) -> bool {
        // The answer to lines that are none says whether the run is there.
        let answer = self.gate.call(|| self.config.sink.append(run, &[])).await;
        answer.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    /// Brings the record of a run that ended: everywhere, or only where the run is there.
    pub(super) async fn bring(&self, record: &RunRecord, everywhere: bool) -> Result<()> {
        if !everywhere && self.lacks(&record.key).await {
            return Ok(());
        }
        self.gate.call(|| self.config.sink.finish(record)).await
    }

    pub(super) fn queue(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn unqueue(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn behind(&self) -> usize {
        self.behind.load(Ordering::Relaxed)
    }

    /// Whether the queues of all runs together are full.
    pub(super) fn is_full(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= self.config.queue_bytes.saturating_mul(ALL_RUNS)
    }

    /// Whether so many ended runs wait that no further one may.
    pub(super) fn is_overrun(&self) -> bool {
        self.behind.load(Ordering::Relaxed) >= MAX_BEHIND
    }

    /// Counts one ended run that waits, until the answer is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Behind {
        self.behind.fetch_add(1, Ordering::Relaxed);
        Behind(Arc::clone(self))
    }
}

/// An ended run that waits for a sink.
#[derive(Debug)]
pub(super) struct Behind(Arc<Sink>);

impl Drop for Behind {
    fn drop(&mut self) {
        self.0.behind.fetch_sub(1, Ordering::Relaxed);
    }
}
