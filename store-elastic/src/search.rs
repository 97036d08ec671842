//! Searches runs: the server narrows down, and core's engine decides.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Error, ErrorKind, Hit, Result, RunKey, RunQuery, Search};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::connect::Request;
use crate::line::Piece;
use crate::list::{Walk, Way};
use crate::narrow::conditions;
use crate::numbers::searched;
use crate::read::Reader;
use crate::record::Stored;
use crate::store::Inner;

/// Of how many runs the server is asked at once which may have hits.
const PAGE: usize = 500;

/// Of how many indices is known whether they narrow.
const KNOWN: usize = 1_000;

/// How many indices are named in one request: servers take 4 KiB for its first line.
const MOST_NAMES: usize = 40;

const DOING: &str = "search";

/// Which indices have trigrams. What an index was made with stays.
#[derive(Debug, Default)]
pub(crate) struct Indexed(Mutex<HashMap<String, bool>>);

impl Indexed {
    fn known(&self, index: &str) -> Option<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(index).copied()
    }

    fn enter(&self, index: &str, has: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(index.to_owned(), has);
    }
}

/// The hits of the runs that fit, by time begun, run and number; an error is the last item.
pub(crate) async fn hits(
    inner: Arc<Inner>,
    query: &RunQuery,
    search: &Search,
) -> Result<BoxStream<'static, Result<Hit>>> {
    let deadline = Instant::now() + search.time_limit();
    let runs = if query.limit.is_some() || query.run.is_some() {
        // The newest comes first there, and is popped last here.
        let found = timeout_at(deadline, inner.matching(query)).await.map_err(|_| search.timed_out())??;
        Runs::Listed(found)
    } else {
        Runs::Walked(Walk::new(query, Way::OldestFirst))
    };
    let conditions = conditions(search);
    let (query, search) = (query.clone(), search.clone());
    let searching =
        Searching { inner, query, runs, page: Vec::new(), current: None, search, conditions, deadline };
    let pages = stream::try_unfold(searching, |mut searching| async move {
        Ok::<_, Error>(searching.next().await?.map(|hits| (hits, searching)))
    });
    Ok(pages.map_ok(|hits| stream::iter(hits.into_iter().map(Ok))).try_flatten().boxed())
}

/// The runs that are to be searched.
enum Runs {
    /// The next one last.
    Listed(Vec<Stored>),
    Walked(Walk),
}

struct Searching {
    inner: Arc<Inner>,
    query: RunQuery,
    runs: Runs,
    /// Runs that may have hits; the next one last.
    page: Vec<Stored>,
    current: Option<Current>,
    search: Search,
    /// What the server is asked for in place of every line.
    conditions: Vec<Value>,
    deadline: Instant,
}

/// The run that is searched.
struct Current {
    key: Arc<RunKey>,
    reader: Reader,
    is_narrowed: bool,
}

impl Searching {
    /// The hits of the next page that has some; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Hit>>> {
        loop {
            if Instant::now() >= self.deadline {
                return Err(self.search.timed_out());
            }
            let step = timeout_at(self.deadline, self.step()).await;
            match step.map_err(|_| self.search.timed_out())?? {
                Step::Hits(hits) if hits.is_empty() => {}
                Step::Hits(hits) => return Ok(Some(hits)),
                Step::Over => return Ok(None),
            }
        }
    }

    async fn step(&mut self) -> Result<Step> {
        if let Some(current) = &mut self.current {
            let further = if current.is_narrowed { &self.conditions[..] } else { &[] };
            let Some(pieces) = current.reader.next_of(further).await? else {
                self.current = None;
                return Ok(Step::Hits(Vec::new()));
            };
            let (search, run) = (self.search.clone(), Arc::clone(&current.key));
            // A page of long lines may take a while, and others use this thread.
            let found = tokio::task::spawn_blocking(move || matches(&search, &run, pieces));
            let hits = found.await.map_err(|_| Error::new(ErrorKind::Internal, "a search panicked"))?;
            return Ok(Step::Hits(hits));
        }
        if let Some(stored) = self.page.pop() {
            let is_narrowed = !self.conditions.is_empty() && self.inner.has_trigrams(&stored.index).await?;
            let key = Arc::new(stored.record.key.clone());
            let reader = Reader::through_all(Arc::clone(&self.inner), stored);
            self.current = Some(Current { key, reader, is_narrowed });
            return Ok(Step::Hits(Vec::new()));
        }
        let Some(mut runs) = self.next_runs().await? else { return Ok(Step::Over) };
        if !self.conditions.is_empty() {
            runs = self.inner.with_candidates(runs, &self.conditions).await?;
        }
        runs.reverse();
        self.page = runs;
        Ok(Step::Hits(Vec::new()))
    }

    /// The next runs, oldest first; `None` after the last.
    async fn next_runs(&mut self) -> Result<Option<Vec<Stored>>> {
        match &mut self.runs {
            Runs::Listed(left) if left.is_empty() => Ok(None),
            Runs::Listed(left) => {
                let mut runs = left.split_off(left.len().saturating_sub(PAGE));
                runs.reverse();
                Ok(Some(runs))
            }
            Runs::Walked(walk) => {
                let mut page = walk.next(&self.inner, PAGE).await?;
                if let Some(page) = &mut page {
                    page.retain(|stored| self.query.matches(&stored.record));
                }
                Ok(page)
            }
        }
    }
}

enum Step {
    Hits(Vec<Hit>),
    Over,
}

#[derive(Debug, Deserialize)]
struct Found {
    aggregations: Option<Aggregations>,
}

#[derive(Debug, Deserialize)]
struct Aggregations {
    runs: ByRun,
}

#[derive(Debug, Deserialize)]
struct ByRun {
    buckets: Vec<Bucket>,
}

#[derive(Debug, Deserialize)]
struct Bucket {
    key: String,
}

impl Inner {
    /// Whether lines of this index are found by trigrams. One that is not there has no lines.
    async fn has_trigrams(&self, index: &str) -> Result<bool> {
        if let Some(known) = self.indexed.known(index) {
            return Ok(known);
        }
        let request = Request::get(format!("{index}/_mapping/field/message.trigrams"));
        let Some(found): Option<HashMap<String, Mappings>> = self.link.find(DOING, request).await? else {
            return Ok(false);
        };
        let has = found.values().any(|index| !index.mappings.is_empty());
        self.indexed.enter(index, has);
        Ok(has)
    }

    /// Those of these runs that may have hits, in their order.
    async fn with_candidates(&self, runs: Vec<Stored>, conditions: &[Value]) -> Result<Vec<Stored>> {
        let (mut indices, mut asked) = (HashSet::new(), Vec::new());
        for stored in &runs {
            if self.has_trigrams(&stored.index).await? {
                indices.insert(stored.index.clone());
                asked.push(stored.record.key.run_id.as_str());
            }
        }
        // One run alone is searched at once.
        if asked.len() < 2 {
            return Ok(runs);
        }
        let mut filter = vec![json!({"terms": {"run_id": asked}})];
        filter.extend_from_slice(conditions);
        let by_run = json!({"terms": {"field": "run_id", "size": asked.len()}});
        let body = json!({"query": {"bool": {"filter": filter}}, "size": 0, "aggs": {"runs": by_run}});
        // By a pattern where the names of many days are longer than a path may be.
        let index = match indices.len() {
            0..=MOST_NAMES => indices.iter().map(String::as_str).collect::<Vec<_>>().join(","),
            _ => self.layout.all_lines(),
        };
        let found: Found = self.link.ask(DOING, searched(&index, body)).await?;
        let buckets = found.aggregations.map_or_else(Vec::new, |found| found.runs.buckets);
        let candidates: HashSet<String> = buckets.into_iter().map(|bucket| bucket.key).collect();
        let may_have = |stored: &Stored| {
            !indices.contains(&stored.index) || candidates.contains(stored.record.key.run_id.as_str())
        };
        Ok(runs.into_iter().filter(may_have).collect())
    }
}

#[derive(Debug, Deserialize)]
struct Mappings {
    #[serde(default)]
    mappings: serde_json::Map<String, Value>,
}

fn matches(search: &Search, run: &Arc<RunKey>, pieces: Vec<Piece>) -> Vec<Hit> {
    let mut hits = Vec::new();
    for piece in pieces {
        let Piece::Lines(batch) = piece else { continue };
        let mut found = Vec::new();
        batch.for_each(|number, _, content| found.extend(search.is_match(content).then_some(number)));
        let lines = found.into_iter().filter_map(|number| batch.get(number));
        hits.extend(lines.map(|line| Hit { run: Arc::clone(run), line }));
    }
    hits
}
