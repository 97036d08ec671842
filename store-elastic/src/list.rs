//! Which runs there are.

use pubsub_core::{Error, ErrorKind, Result, RunId, RunQuery};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::numbers::searched;
use crate::record::{Document, FIELDS, Stored, name_of};
use crate::store::Inner;

/// How many records are asked for at once.
const PAGE: usize = 500;

const DOING: &str = "list runs";

#[derive(Debug, Deserialize)]
struct Found {
    hits: Hits,
}

#[derive(Debug, Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Debug, Deserialize)]
struct Hit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(flatten)]
    document: Document,
    /// When it began, and its id.
    sort: (i64, String),
}

/// Which end of a list comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    NewestFirst,
    OldestFirst,
}

/// Walks through records, page by page. A place is a time and an id and not a count: runs come and go meanwhile.
#[derive(Debug)]
pub(crate) struct Walk {
    query: Value,
    way: Way,
    after: Option<(i64, String)>,
    is_over: bool,
}

impl Walk {
    pub(crate) fn new(query: &RunQuery, way: Way) -> Self {
        Self { query: filter(query), way, after: None, is_over: false }
    }

    /// The next records; `None` after the last.
    pub(crate) async fn next(&mut self, inner: &Inner, most: usize) -> Result<Option<Vec<Stored>>> {
        if self.is_over {
            return Ok(None);
        }
        let size = most.clamp(1, PAGE);
        let order = if self.way == Way::NewestFirst { "desc" } else { "asc" };
        let mut body = json!({
            "query": self.query,
            "size": size,
            "_source": FIELDS,
            "seq_no_primary_term": true,
            "track_total_hits": false,
            "sort": [{"began_us": order}, {"run_id": order}],
        });
        if let (Some(after), Some(body)) = (&self.after, body.as_object_mut()) {
            body.insert("search_after".to_owned(), json!(after));
        }
        let found: Found = inner.link.ask(DOING, searched(&inner.layout.runs(), body)).await?;
        self.is_over = found.hits.hits.len() < size;
        let mut records = Vec::with_capacity(found.hits.hits.len());
        for hit in found.hits.hits {
            match hit.document.stored(DOING) {
                Ok(stored) => records.extend(stored),
                // One that cannot be read must not hide all others; asked for by its id, it is an error.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew) => {
                    if let Some(times) = inner.unreadable.happened(1) {
                        let error = error.chain();
                        tracing::warn!(run = hit.id, error, times, "the record of a run cannot be read");
                    }
                }
                Err(error) => return Err(error),
            }
            self.after = Some(hit.sort);
        }
        Ok(Some(records))
    }
}

impl Inner {
    /// The runs that fit, newest first, as they are stored.
    pub(crate) async fn matching(&self, query: &RunQuery) -> Result<Vec<Stored>> {
        let limit = query.limit.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        if let Some(run) = &query.run {
            let found = self.stored(DOING, run).await?;
            return Ok(found.into_iter().filter(|stored| query.matches(&stored.record)).collect());
        }
        let (mut walk, mut found) = (Walk::new(query, Way::NewestFirst), Vec::new());
        while found.len() < limit
            && let Some(records) = walk.next(self, limit - found.len()).await?
        {
            found.extend(records.into_iter().filter(|stored| query.matches(&stored.record)));
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn filter(query: &RunQuery) -> Value {
    let mut filter = Vec::new();
    let mut term = |name: &str, value: Option<&str>| {
        filter.extend(value.map(|value| json!({"term": {name: value}})));
    };
    term("action_id", query.action.as_ref().map(|id| id.as_str()));
    term("stage", query.stage.as_ref().map(|id| id.as_str()));
    term("event_id", query.event.as_ref().map(|id| id.as_str()));
    term("run_id", query.run.as_ref().map(RunId::as_str));
    filter.extend(query.outcome.map(|outcome| json!({"term": {"outcome": name_of(outcome)}})));
    if let Some(since) = query.since {
        filter.push(json!({"range": {"began_us": {"gte": since.as_micros()}}}));
    }
    if let Some(until) = query.until {
        filter.push(json!({"range": {"began_us": {"lt": until.as_micros()}}}));
    }
    json!({"bool": {"filter": filter}})
}

/// That a run is not there.
pub(crate) fn not_found(doing: &'static str, run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, doing).with("run", run)
}
