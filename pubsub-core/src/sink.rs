//! The trait that takes output.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Gap, LineBatch, LineNumber, LineRange, Result, RunKey, RunRecord};

/// Takes a run's record and output, and makes them durable.
///
/// For each run: [`begin`](Self::begin), any number of [`append`](Self::append)s, [`finish`](Self::finish). Every
/// call may be repeated, also from another process after a crash: writing the same again changes nothing. A record
/// only moves forward: one whose revision is not higher than the stored one changes nothing. What a call answered
/// `Ok` to survives a crash of this process.
///
/// A sink of your own, which counts lines; [`async_trait`](crate::async_trait) is re-exported for that:
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use pubsub_core::{Appended, FanOut, LineBatch, OutputSink, Result, RunKey, RunRecord, SinkConfig, async_trait};
///
/// #[derive(Default)]
/// struct Counted(AtomicUsize);
///
/// #[async_trait]
/// impl OutputSink for Counted {
///     async fn begin(&self, _: &RunRecord) -> Result<()> {
///         Ok(())
///     }
///
///     async fn append(&self, _: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
///         self.0.fetch_add(batches.iter().map(LineBatch::len).sum(), Ordering::Relaxed);
///         Ok(Appended::all())
///     }
///
///     async fn finish(&self, _: &RunRecord) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let fan_out = FanOut::new(vec![SinkConfig::best_effort("counted", Arc::new(Counted::default()))]);
/// # let _ = fan_out;
/// ```
///
/// # Cancel safety
/// A dropped call may have happened, in part or as a whole; repeat it.
#[async_trait]
pub trait OutputSink: Send + Sync {
    /// Creates the run, or takes a later revision of its record (a sign of life, a note).
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) and the other retryable kinds where trying again may help.
    async fn begin(&self, record: &RunRecord) -> Result<()>;

    /// Appends lines, in number order, of a run that has begun. Lines that are there already count as stored. Lines of
    /// an ended run fill holes, as when it is copied again: they are visible, and no hole any more, once
    /// [`finish`](Self::finish) was called again.
    ///
    /// # Errors
    /// An error is about all of `batches`; what befell only some lines is in the answer.
    /// [`NotFound`](crate::ErrorKind::NotFound) for a run that never began here or was removed, also where no lines are
    /// given.
    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended>;

    /// Ends the run: the record has its counts, its digest and this store's holes. Once it returns, all lines are
    /// visible to readers. Called again when the outcome became the conclusion; creates the run where this sink
    /// never saw it begin.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    async fn finish(&self, record: &RunRecord) -> Result<()>;
}

/// What became of the lines of one [`append`](OutputSink::append): all that is not named here is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Refused for good, with the store's reason.
    pub refused: Vec<Gap>,
    /// Not taken for want of room, by a sink that may drop; with the reason.
    pub dropped: Vec<Gap>,
    /// To be tried again.
    pub again: Vec<LineRange>,
}

impl Appended {
    /// Everything is stored.
    #[must_use]
    pub const fn all() -> Self {
        Self { refused: Vec::new(), dropped: Vec::new(), again: Vec::new() }
    }

    /// Of the batches that were appended, what is to be tried again: each line once, in number order.
    #[must_use]
    pub fn left_of(&self, batches: &[LineBatch]) -> Vec<LineBatch> {
        let again = in_order(&self.again);
        again.iter().flat_map(|range| batches.iter().filter_map(|batch| batch.slice(*range))).collect()
    }

    /// These lines will never be taken.
    #[must_use]
    pub fn with_refused(mut self, gap: Gap) -> Self {
        self.refused.push(gap);
        self
    }

    /// There is no room for these lines.
    #[must_use]
    pub fn with_dropped(mut self, gap: Gap) -> Self {
        self.dropped.push(gap);
        self
    }

    /// These lines are to be tried again.
    #[must_use]
    pub fn with_again(mut self, range: LineRange) -> Self {
        self.again.push(range);
        self
    }
}

/// The same numbers, each once, in growing ranges.
pub(crate) fn in_order(ranges: &[LineRange]) -> Vec<LineRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.first);
    let mut merged: Vec<LineRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.plus(1) => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

#[async_trait]
impl<T: OutputSink + ?Sized> OutputSink for Arc<T> {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        (**self).begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        (**self).append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        (**self).finish(record).await
    }
}

/// What of a range is in none of `named`, which are in order.
pub(crate) fn without(range: LineRange, named: &[LineRange]) -> Vec<LineRange> {
    let mut left = Vec::new();
    let mut first = range.first;
    for other in named {
        if other.first > range.last {
            break;
        }
        if let Some(before) = LineNumber::new(other.first.before())
            && first <= before
        {
            left.push(LineRange::new(first, before));
        }
        first = first.max(other.last.plus(1));
    }
    if first <= range.last {
        left.push(LineRange::new(first, range.last));
    }
    left
}
