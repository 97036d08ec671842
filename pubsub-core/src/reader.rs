//! The traits that give output back and remove it.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{
    ActionId, EventId, Gap, Line, LineBatch, LineNumber, LineRange, Outcome, Result, RunId, RunKey,
    RunRecord, Search, Stage, Timestamp,
};

/// Gives back what sinks stored. The same question gets the same answer from every store.
#[async_trait]
pub trait OutputReader: Send + Sync {
    /// The records of the runs that fit, newest first: by time begun, then run id, both falling.
    ///
    /// # Errors
    /// A store that cannot be read answers an error, never an empty list.
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>>;

    /// Lines of one run in number order. Where lines are missing, a gap stands in their place.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for a run that never began here.
    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output>;

    /// The lines that match, by time begun, run id and number. The stream ends after the last hit; an `Err` item is
    /// the last one.
    ///
    /// # Errors
    /// [`TimedOut`](crate::ErrorKind::TimedOut) where the search takes longer than its limit.
    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>>;

    /// An item whenever records or lines of the fitting runs may have changed, and one at once. Items that nobody
    /// took are one. The stream ends only when the reader is closed; after an `Err` item more can follow.
    ///
    /// # Errors
    /// Where the store cannot be watched at all.
    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>>;
}

/// Removes output for good.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Removes a run with record and lines; `false` where it was not there.
    ///
    /// # Errors
    /// Where it is there and could not be removed.
    async fn remove(&self, run: &RunId) -> Result<bool>;

    /// Removes the oldest runs until what is left is within these limits; answers how many went. A run that is running
    /// and not lost stays, and counts.
    ///
    /// # Errors
    /// Where one could not be removed; those before it are gone.
    async fn expire(&self, keep: &Keep) -> Result<u64>;
}

/// What stays in a store: a run has to be within all limits. Without any, everything stays.
///
/// ```
/// use pubsub_core::{Keep, Timestamp};
/// use std::time::Duration;
/// let month = Timestamp::now().minus(Duration::from_secs(30 * 24 * 3600));
/// let keep = Keep::new().with_since(month).with_runs(10_000);
/// assert!(keep.is_exceeded(Timestamp::now(), 10_001, 0) && !keep.is_exceeded(Timestamp::now(), 10_000, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keep {
    /// Runs that began at this time or after it.
    pub since: Option<Timestamp>,
    /// At most so many bytes of output in all.
    pub bytes: Option<u64>,
    /// At most so many runs.
    pub runs: Option<u64>,
}

impl Keep {
    /// Everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs that began at this time or after it.
    #[must_use]
    pub const fn with_since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    /// At most so many bytes of output in all.
    #[must_use]
    pub const fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// At most so many runs.
    #[must_use]
    pub const fn with_runs(mut self, runs: u64) -> Self {
        self.runs = Some(runs);
        self
    }

    /// Whether a run that began then has to go from a store that holds so many runs, itself among them, and so many
    /// bytes of output. A store asks this of the oldest first, by time begun and run id: where the answer is no, all
    /// that began later stay as well.
    #[must_use]
    pub fn is_exceeded(&self, began: Timestamp, runs: u64, bytes: u64) -> bool {
        self.since.is_some_and(|since| began < since)
            || self.runs.is_some_and(|most| runs > most)
            || self.bytes.is_some_and(|most| bytes > most)
    }
}

/// Sink, reader and retention in one.
pub trait Store: crate::OutputSink + OutputReader + Retention {}

impl<T: crate::OutputSink + OutputReader + Retention + ?Sized> Store for T {}

/// Which runs: all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunQuery {
    /// Of this action.
    pub action: Option<ActionId>,
    /// Of this stage.
    pub stage: Option<Stage>,
    /// At this event.
    pub event: Option<EventId>,
    /// This run alone.
    pub run: Option<RunId>,
    /// Ended with this outcome.
    pub outcome: Option<Outcome>,
    /// Begun at or after.
    pub since: Option<Timestamp>,
    /// Begun before.
    pub until: Option<Timestamp>,
    /// At most so many, the newest.
    pub limit: Option<usize>,
}

impl RunQuery {
    /// All runs.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Of one action's stage.
    #[must_use]
    pub fn of(action: ActionId, stage: Stage) -> Self {
        Self { action: Some(action), stage: Some(stage), ..Self::default() }
    }

    /// One run.
    #[must_use]
    pub fn of_run(run: RunId) -> Self {
        Self { run: Some(run), ..Self::default() }
    }

    /// Of this action.
    #[must_use]
    pub fn with_action(mut self, action: ActionId) -> Self {
        self.action = Some(action);
        self
    }

    /// Of this stage.
    #[must_use]
    pub fn with_stage(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// At this event.
    #[must_use]
    pub fn with_event(mut self, event: EventId) -> Self {
        self.event = Some(event);
        self
    }

    /// Ended with this outcome.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Begun at or after.
    #[must_use]
    pub fn with_since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    /// Begun before.
    #[must_use]
    pub fn with_until(mut self, until: Timestamp) -> Self {
        self.until = Some(until);
        self
    }

    /// At most so many, the newest.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Whether a record fits, the limit aside.
    #[must_use]
    pub fn matches(&self, record: &RunRecord) -> bool {
        fn fits<T: PartialEq>(wanted: Option<&T>, value: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == value)
        }
        fits(self.action.as_ref(), &record.key.action_id)
            && fits(self.stage.as_ref(), &record.key.stage)
            && fits(self.event.as_ref(), &record.key.event_id)
            && fits(self.run.as_ref(), &record.key.run_id)
            && (self.outcome.is_none() || self.outcome == record.outcome)
            && self.since.is_none_or(|since| record.started_at >= since)
            && self.until.is_none_or(|until| record.started_at < until)
    }
}

/// Which lines of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lines {
    /// From this number on, all that are there now.
    From(LineNumber),
    /// From one number to another, both included.
    Range(LineRange),
    /// The last so many.
    Last(u64),
}

impl Lines {
    /// All of them.
    pub const ALL: Self = Self::From(LineNumber::FIRST);
}

/// An answer with lines.
pub struct Output {
    /// The record as it was when the lines were looked up.
    pub record: RunRecord,
    /// All lines up to this number are visible; 0 where none is yet.
    pub complete_through: u64,
    /// The lines. An `Err` item is the last one.
    pub items: BoxStream<'static, Result<OutputItem>>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("record", &self.record)
            .field("complete_through", &self.complete_through)
            .finish_non_exhaustive()
    }
}

/// Lines, or the place where some are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputItem {
    /// Lines.
    Lines(LineBatch),
    /// No lines, and why.
    Gap(Gap),
}

impl OutputItem {
    /// Its numbers.
    #[must_use]
    pub fn range(&self) -> LineRange {
        match self {
            Self::Lines(batch) => batch.range(),
            Self::Gap(gap) => gap.range,
        }
    }

    /// What of it is in `range`; `None` where nothing is.
    #[must_use]
    pub fn slice(&self, range: LineRange) -> Option<Self> {
        match self {
            Self::Lines(batch) => batch.slice(range).map(Self::Lines),
            Self::Gap(gap) => gap.slice(range).map(Self::Gap),
        }
    }
}

/// A line that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// In which run.
    pub run: Arc<RunKey>,
    /// Which line.
    pub line: Line,
}

#[async_trait]
impl<T: OutputReader + ?Sized> OutputReader for Arc<T> {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        (**self).runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        (**self).lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        (**self).search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        (**self).changes(query).await
    }
}

#[async_trait]
impl<T: Retention + ?Sized> Retention for Arc<T> {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        (**self).remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        (**self).expire(keep).await
    }
}
