//! Searches runs: pages of their lines, of which core's engine decides.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Error, ErrorKind, Hit, Lines, OutputItem, Result, RunId, RunKey, RunQuery, Search};
use tokio::time::{Instant, timeout_at};

use super::Inner;
use super::read::Reader;

/// The hits of the runs that fit, by time begun, run and number; an error is the last item.
pub(super) async fn hits(
    inner: Arc<Inner>,
    query: &RunQuery,
    search: &Search,
) -> Result<BoxStream<'static, Result<Hit>>> {
    let deadline = Instant::now() + search.time_limit();
    let found = timeout_at(deadline, inner.matching(query)).await;
    // The newest comes first there, and is popped last here.
    let runs = found.map_err(|_| search.timed_out())??.into_iter().map(|stored| stored.record.key.run_id);
    let searching =
        Searching { inner, runs: runs.collect(), current: None, search: search.clone(), deadline };
    let pages = stream::try_unfold(searching, |mut searching| async move {
        Ok::<_, Error>(searching.next().await?.map(|hits| (hits, searching)))
    });
    Ok(pages.map_ok(|hits| stream::iter(hits.into_iter().map(Ok))).try_flatten().boxed())
}

struct Searching {
    inner: Arc<Inner>,
    /// The next one last.
    runs: Vec<RunId>,
    current: Option<(Arc<RunKey>, Reader)>,
    search: Search,
    deadline: Instant,
}

impl Searching {
    /// The hits of the next page that has some; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Hit>>> {
        loop {
            if Instant::now() >= self.deadline {
                return Err(self.search.timed_out());
            }
            let Some((run, reader)) = &mut self.current else {
                let Some(run) = self.runs.pop() else { return Ok(None) };
                let opened =
                    timeout_at(self.deadline, Reader::open(Arc::clone(&self.inner), &run, Lines::ALL));
                let reader = unless_gone(opened.await.map_err(|_| self.search.timed_out())?)?;
                self.current = reader.map(|reader| (Arc::new(reader.record.key.clone()), reader));
                continue;
            };
            let run = Arc::clone(run);
            let step = timeout_at(self.deadline, reader.step()).await;
            let step = unless_gone(step.map_err(|_| self.search.timed_out())?)?.flatten();
            let Some(items) = step else {
                self.current = None;
                continue;
            };
            let search = self.search.clone();
            // A page of long lines may take a while, and others use this thread.
            let found = tokio::task::spawn_blocking(move || matches(&search, &run, items));
            let hits = found.await.map_err(|_| Error::new(ErrorKind::Internal, "a search panicked"))?;
            if !hits.is_empty() {
                return Ok(Some(hits));
            }
        }
    }
}

/// A run that was removed meanwhile has no hits.
fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn matches(search: &Search, run: &Arc<RunKey>, items: Vec<OutputItem>) -> Vec<Hit> {
    let mut hits = Vec::new();
    for item in items {
        let OutputItem::Lines(batch) = item else { continue };
        let mut found = Vec::new();
        batch.for_each(|number, _, content| found.extend(search.is_match(content).then_some(number)));
        let lines = found.into_iter().filter_map(|number| batch.get(number));
        hits.extend(lines.map(|line| Hit { run: Arc::clone(run), line }));
    }
    hits
}
