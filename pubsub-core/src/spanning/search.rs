//! Hits of several stores, each once, in the order of one store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::asked::{Answer, Asking, Store};
use crate::{Error, Hit, LineNumber, Result, RunId, RunQuery, RunRecord, Search};

/// Where a hit stands: its run among those that fit, oldest first, and its number.
type Place = (usize, LineNumber);

/// Searches all stores.
pub(super) async fn hits(
    asking: &Asking,
    query: &RunQuery,
    search: &Search,
) -> Result<BoxStream<'static, Result<Hit>>> {
    let times = Times::new(asking.limit, search);
    let records = asking.runs(query).await?;
    let wide = widened(query, &records);
    let calls = asking
        .stores()
        .iter()
        .map(async |store| (store, times.wait(asking, store, store.reader.search(&wide, search)).await));
    let (mut lists, mut errors) = (Vec::new(), Vec::new());
    for (store, answer) in join_all(calls).await {
        match answer {
            None => return Err(search.timed_out()),
            Some(Ok(items)) => {
                lists.push(List { store: Arc::clone(store), items, head: None, failure: None, ended: false })
            }
            Some(Err(error)) => errors.push(error),
        }
    }
    if lists.is_empty() {
        return Err(asking.none_answers(&errors));
    }
    let oldest_first = records.into_iter().rev().map(|record| record.key.run_id);
    let places = oldest_first.enumerate().map(|(place, run)| (run, place)).collect();
    let found =
        Found { asking: asking.clone(), search: search.clone(), times, places, lists, failed: Vec::new() };
    Ok(stream::unfold(Some(found), |found| async move {
        let mut found = found?;
        let hit = found.next().await.transpose()?;
        // An error is the last item.
        let rest = hit.is_ok().then_some(found);
        Some((hit, rest))
    })
    .boxed())
}

/// What each store is asked. One whose record of a run is older does not know its outcome, and has lines of it all the
/// same.
fn widened(query: &RunQuery, records: &[RunRecord]) -> RunQuery {
    if query.outcome.is_none() {
        return query.clone();
    }
    let oldest = records.last().map(|record| record.started_at);
    RunQuery { outcome: None, limit: None, since: oldest.or(query.since), ..query.clone() }
}

/// How long a store is waited for.
struct Times {
    /// The search's own end.
    deadline: Instant,
    half: Instant,
    limit: Duration,
}

impl Times {
    fn new(limit: Duration, search: &Search) -> Self {
        let (now, whole) = (Instant::now(), search.time_limit());
        // A limit that no clock reaches is none.
        let far = Duration::from_secs(365 * 24 * 3600);
        Self { deadline: now + whole.min(far), half: now + (whole / 2).min(far), limit }
    }

    /// What a store answers; `None` where the search itself has no more time.
    async fn wait<T>(
        &self,
        asking: &Asking,
        store: &Store,
        call: impl Future<Output = Result<T>>,
    ) -> Option<Answer<T>> {
        let call = async {
            match call.await {
                // It says so, and it is no fault of its own.
                Err(_) if self.are_over() => Ok(None),
                answer => answer.map(Some),
            }
        };
        let limit = self.half.saturating_duration_since(Instant::now()).max(self.limit);
        let answer = tokio::time::timeout_at(self.deadline, asking.ask_within(limit, store, call));
        answer.await.ok()?.transpose()
    }

    fn are_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// The hits of one store.
struct List {
    store: Arc<Store>,
    items: BoxStream<'static, Result<Hit>>,
    head: Option<(Place, Hit)>,
    failure: Option<Error>,
    ended: bool,
}

impl List {
    /// Takes the next hit where it is there already. A failure is left to [`fill`](Self::fill).
    fn take_ready(&mut self, places: &HashMap<RunId, usize>) {
        while self.head.is_none() && !self.ended && self.failure.is_none() {
            match self.items.next().now_or_never() {
                None => return,
                Some(next) => match next.transpose() {
                    Err(error) => self.failure = Some(error),
                    Ok(hit) => self.take(hit, places),
                },
            }
        }
    }

    fn take(&mut self, hit: Option<Hit>, places: &HashMap<RunId, usize>) {
        let Some(hit) = hit else {
            self.ended = true;
            return;
        };
        // A run that is not among the records began, or came into reach, after they were read.
        let place = places.get(&hit.run.run_id).copied();
        self.head = place.map(|place| ((place, hit.line.number), hit));
    }

    async fn fill(&mut self, places: &HashMap<RunId, usize>) -> Result<()> {
        while self.head.is_none() && !self.ended {
            let failure = self.failure.take();
            let next = match failure {
                Some(error) => Err(error),
                None => self.items.next().await.transpose(),
            };
            self.take(next?, places);
        }
        Ok(())
    }
}

struct Found {
    asking: Asking,
    search: Search,
    times: Times,
    places: HashMap<RunId, usize>,
    /// The nearest first.
    lists: Vec<List>,
    failed: Vec<Arc<Error>>,
}

impl Found {
    async fn next(&mut self) -> Result<Option<Hit>> {
        self.fill().await?;
        let first = self.lists.iter().filter_map(|list| list.head.as_ref().map(|(place, _)| *place)).min();
        let Some(first) = first else { return Ok(None) };
        let mut nearest = None;
        for list in &mut self.lists {
            if list.head.as_ref().is_some_and(|(place, _)| *place == first) {
                nearest = nearest.or(list.head.take().map(|(_, hit)| hit));
                list.head = None;
            }
        }
        Ok(nearest)
    }

    /// Takes the next hit of each store that has none waiting.
    async fn fill(&mut self) -> Result<()> {
        // Most have one ready, which costs no clock.
        for list in &mut self.lists {
            list.take_ready(&self.places);
        }
        let Self { asking, times, places, lists, .. } = self;
        let (asking, times, places) = (&*asking, &*times, &*places);
        let filling = lists.iter_mut().filter(|list| list.head.is_none() && !list.ended).map(async |list| {
            let store = Arc::clone(&list.store);
            let filled = times.wait(asking, &store, list.fill(places)).await;
            list.ended |= !matches!(filled, Some(Ok(())));
            filled?.err()
        });
        let errors = join_all(filling).await;
        self.failed.extend(errors.into_iter().flatten());
        if self.times.are_over() {
            return Err(self.search.timed_out());
        }
        if self.failed.len() == self.lists.len() {
            return Err(self.asking.none_answers(&self.failed));
        }
        Ok(())
    }
}
