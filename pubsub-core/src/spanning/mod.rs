//! Asking several stores as if they were one.

mod asked;
mod changes;
mod last;
mod lines;
mod records;
mod search;
mod source;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::{self, BoxStream};

use asked::Asking;
pub use asked::{DEFAULT_ANSWER_LIMIT, Unanswered};
use lines::Heads;

use crate::{
    Hit, LineNumber, LineRange, Lines, Output, OutputReader, Result, RunId, RunQuery, RunRecord, Search,
};

/// Several stores as one reader, the nearest first: recent lines from the near store, old ones from the archive.
///
/// - **Runs** of all stores are one list, in the order that one store has. Of two records of a run the one that has
///   ended wins, then the one with the higher revision, then the nearer; so it is the one that
///   [`RunRecord::followed_by`] keeps. Its holes are those that every store with the run names.
/// - **Lines** come from the first store that has them. What one lacks (a hole, what it trimmed, what has not come
///   there yet) the next ones fill, and a gap stands only where none has the line. Its reason is that of the nearest
///   store which knows one. The last N lines are the last N of all stores together.
/// - **A reading is complete** up to the largest number that any of them vouches for.
/// - **A search** gives each hit once, the nearest store's, by time begun, run id and number. Where two copies of a
///   line differ, one of which is damaged, it is found where either fits.
/// - **Changes** are those of all; a store that comes back is listened to again.
/// - **A store without the run** is no failure.
/// - **A store that does not answer**, fails in the middle of an answer, or takes longer than the
///   [limit](Self::with_answer_limit), is left out, and the others answer. [`unanswered`](Self::unanswered) says so,
///   so does one warning in the log for each outage, and so does the reason of each gap that it might fill. It is an
///   error only where none answers, and [`Unavailable`](crate::ErrorKind::Unavailable) where lines are asked for of a
///   run that none of those has which answered.
///
/// Memory: one batch or one hit of each store, and the records that a question names.
///
/// ```
/// use std::sync::Arc;
/// use pubsub_core::{MemoryStore, OutputReader, RunQuery, Spanning};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (near, archive) = (MemoryStore::new(), MemoryStore::new());
/// let both = Spanning::new("near", Arc::new(near)).with("archive", Arc::new(archive));
/// assert!(both.runs(&RunQuery::all()).await?.is_empty());
/// assert!(both.unanswered().is_empty());
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Spanning {
    asking: Asking,
}

impl Spanning {
    /// With the nearest store; its name stands in logs and in the reasons of gaps.
    pub fn new(name: impl Into<String>, nearest: Arc<dyn OutputReader>) -> Self {
        Self { asking: Asking::default() }.with(name, nearest)
    }

    /// And with one that is asked after those before it.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, reader: Arc<dyn OutputReader>) -> Self {
        self.asking.add(name.into(), reader);
        self
    }

    /// How long one store may take for an answer, or for the next piece of it, before it is left out; unless told
    /// otherwise [`DEFAULT_ANSWER_LIMIT`]. A store that took longer has a tenth of it until it answers again. For the
    /// next hit a store may also take until half of the time is over that the search itself has.
    #[must_use]
    pub const fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.asking.limit = limit;
        self
    }

    /// A handle to the same stores for one question more: [`unanswered`](Self::unanswered) tells of what is asked
    /// through it alone.
    #[must_use]
    pub fn question(&self) -> Self {
        Self { asking: self.asking.anew() }
    }

    /// Which stores did not answer, or failed in the middle of an answer, since this handle was made, and why at first;
    /// the nearest first. What a stream gives counts as it is taken.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Unanswered> {
        self.asking.unanswered()
    }
}

#[async_trait]
impl OutputReader for Spanning {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.asking.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        let heads = Heads::asked(&self.asking, run, lines).await?;
        let (record, complete_through) = (heads.record.clone(), heads.through);
        let items = match lines {
            Lines::From(first) => heads.merged(LineRange::new(first, LineNumber::MAX)).into_items(),
            Lines::Range(range) => heads.merged(range).into_items(),
            Lines::Last(0) => stream::empty().boxed(),
            Lines::Last(count) => last::merged(heads, count).await?.into_items(),
        };
        Ok(Output { record, complete_through, items })
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        search::hits(&self.asking, query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        changes::joined(&self.asking, query).await
    }
}

impl Asking {
    /// The records of all stores that answer.
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        let answers =
            join_all(self.stores().iter().map(|store| self.ask(store, store.reader.runs(query)))).await;
        Ok(records::merged(query, self.answered(answers)?))
    }
}
