//! Log lines about what may happen thousands of times a second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::LineNumber;

/// How long it is silent after each line.
const SILENCE: Duration = Duration::from_secs(10);

/// Decides when it is time to log what happens again and again: the first time, and then at most every ten seconds.
///
/// ```
/// use pubsub_core::Seldom;
/// let failures = Seldom::default();
/// assert_eq!(failures.happened(1), Some(1));
/// assert_eq!(failures.happened(1), None);
/// ```
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// When it happened last.
    last: Instant,
    /// How often it happened since it was said.
    since: u64,
}

impl Seldom {
    /// It happened so many times more. Answers how often since it was said last, where it is to be said now.
    pub fn happened(&self, times: u64) -> Option<u64> {
        let (now, mut state) = (Instant::now(), self.lock());
        let Some(said) = &mut *state else {
            *state = Some(Said { at: now, last: now, since: 0 });
            return Some(times);
        };
        (said.last, said.since) = (now, said.since.saturating_add(times));
        if now.duration_since(said.at) < SILENCE {
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.since))
    }

    /// It did not happen. Where it was said, and has not happened for ten seconds, answers once how often that was since.
    pub fn passed(&self) -> Option<u64> {
        let mut state = self.lock();
        let over = state.as_ref().is_some_and(|said| said.last.elapsed() >= SILENCE);
        if over { state.take().map(|said| said.since) } else { None }
    }

    /// How often it happened since it was said; from now on it is new.
    fn rest(&self) -> u64 {
        self.lock().take().map_or(0, |said| said.since)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs that a sink refuses lines for good: when it begins, then at most every ten seconds with how many since, and when it
/// has refused none for ten seconds and takes others. What is not told yet is told when this is dropped.
#[derive(Debug)]
pub struct RefusalLog {
    sink: String,
    lines: Seldom,
}

impl RefusalLog {
    /// Of the sink with this name.
    pub fn new(sink: impl Into<String>) -> Self {
        Self { sink: sink.into(), lines: Seldom::default() }
    }

    /// It refused so many lines of a run, from this one on.
    pub fn refused(&self, run: &crate::RunId, first: LineNumber, lines: u64, reason: &str) {
        if let Some(lines) = self.lines.happened(lines) {
            tracing::warn!(sink = self.sink, %run, %first, lines, reason, "a sink refuses lines for good");
        }
    }

    /// It took all lines of a call.
    pub fn took_all(&self) {
        if let Some(lines) = self.lines.passed() {
            tracing::info!(sink = self.sink, lines, "a sink refuses no lines any more");
        }
    }
}

impl Drop for RefusalLog {
    fn drop(&mut self) {
        let lines = self.lines.rest();
        if lines > 0 {
            tracing::warn!(sink = self.sink, lines, "a sink refused further lines for good");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Seldom;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_at_once_then_every_ten_seconds_with_how_often_and_once_when_it_is_over() {
        let seldom = Seldom::default();
        assert_eq!(seldom.passed(), None);
        assert_eq!((seldom.happened(3), seldom.happened(2), seldom.happened(1)), (Some(3), None, None));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!((seldom.happened(1), seldom.passed()), (None, None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((seldom.passed(), seldom.happened(1), seldom.happened(1)), (None, Some(5), None));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((seldom.passed(), seldom.passed()), (Some(1), None));
        assert_eq!(seldom.happened(1), Some(1));
    }
}
