//! Which runs there are: sets of ids, and the records that decide.

use std::collections::HashSet;

use pubsub_core::{Error, ErrorKind, Result, RunId, RunKey, RunQuery, RunRecord};
use redis::Value;

use super::Inner;
use super::record::{Stored, asked};
use super::server::{self, taken};
use crate::script::Request;

/// How many records are asked for at once.
const PAGE: usize = 200;

/// How many entries of a set, by chance, are looked at whenever a run has ended that goes by itself: so of those that are
/// in it about one in so many may be gone.
const TIDIED: usize = 8;

const DOING: &str = "list runs";

/// What a set says of a run.
#[derive(Clone, Debug)]
pub(super) struct Entered {
    pub(super) run: RunId,
    pub(super) began: String,
}

/// Where a walk through a set is: after these entries of a score.
#[derive(Debug, Default)]
struct Place {
    score: Option<String>,
    seen: HashSet<String>,
}

impl Inner {
    /// The runs that fit, newest first, as they are stored.
    pub(super) async fn matching(&self, query: &RunQuery) -> Result<Vec<Stored>> {
        let limit = query.limit.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        if let Some(run) = &query.run {
            let found = self.find(DOING, run).await?;
            return Ok(found.into_iter().filter(|stored| query.matches(&stored.record)).collect());
        }
        let (set, mut place, mut found) = (self.layout.set_of(query), Place::default(), Vec::new());
        while found.len() < limit {
            let page = (limit - found.len()).clamp(16, PAGE);
            let (entered, is_last) = self.page(&set, query, &mut place, page).await?;
            let stored = self.records(&set, entered).await?;
            found.extend(stored.into_iter().filter(|stored| query.matches(&stored.record)));
            if is_last {
                break;
            }
        }
        let order = |stored: &Stored| (stored.record.started_at, stored.record.key.run_id.clone());
        found.sort_by_cached_key(|stored| std::cmp::Reverse(order(stored)));
        found.truncate(limit);
        Ok(found)
    }

    pub(super) async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        Ok(self.matching(query).await?.iter().map(|stored| self.seen(stored)).collect())
    }

    /// The next entries, newest first, and whether they are the last. A place is a score and not a rank: runs come and go meanwhile.
    async fn page(
        &self,
        set: &str,
        query: &RunQuery,
        place: &mut Place,
        count: usize,
    ) -> Result<(Vec<Entered>, bool)> {
        let since = query.since.map_or_else(|| "-inf".to_owned(), super::layout::score);
        let until = query.until.map_or_else(|| "+inf".to_owned(), |until| format!("({}", until.as_micros()));
        let until = place.score.as_ref().unwrap_or(&until);
        let range = Request::new("ZRANGE").arg(set).arg(until).arg(since).arg("BYSCORE").arg("REV");
        let asked = count + place.seen.len();
        let range = range.arg("LIMIT").arg(0).arg(asked).arg("WITHSCORES");
        let given = entries(self.ask(DOING, range).await?)?;
        let is_last = given.len() < asked;
        let mut entered = Vec::with_capacity(count);
        for (member, began) in given {
            if place.score.as_ref() != Some(&began) {
                place.score = Some(began.clone());
                place.seen.clear();
            }
            if place.seen.insert(member.clone()) {
                entered.extend(RunId::new(member).ok().map(|run| Entered { run, began }));
            }
        }
        Ok((entered, is_last))
    }

    /// The records of these. What is not there any more is taken out of the set.
    pub(super) async fn records(&self, set: &str, entered: Vec<Entered>) -> Result<Vec<Stored>> {
        let keys: Vec<String> = entered.iter().map(|entered| self.layout.record(&entered.run)).collect();
        let Some(any) = keys.first() else { return Ok(Vec::new()) };
        let requests = keys.iter().map(|key| asked(key)).collect();
        let (mut answers, ours) = self.timed(DOING, any, requests).await?;
        let (mut found, mut gone) = (Vec::with_capacity(entered.len()), Vec::new());
        for entry in entered {
            match self.stored(DOING, ours, server::list(DOING, &mut answers)?) {
                Ok(Some(stored)) => found.push(stored),
                Ok(None) => gone.push(entry),
                // One that cannot be read must not hide all others; asked for by its id, it is an error.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew) => {
                    if let Some(times) = self.unreadable.happened(1) {
                        let error = error.chain();
                        tracing::warn!(run = %entry.run, error, times, "the record of a run cannot be read");
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.take_out(set, gone).await?;
        Ok(found)
    }

    /// Takes runs out of a set, and puts back what began just now.
    async fn take_out(&self, set: &str, gone: Vec<Entered>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let out = |entered: &Entered| Request::new("ZREM").arg(set).arg(entered.run.as_str());
        let there = |entered: &Entered| Request::new("EXISTS").arg(self.layout.record(&entered.run));
        let steps = [gone.iter().map(out).collect(), gone.iter().map(there).collect()];
        // What begins after it was taken out enters itself once more.
        let mut answers = self.run_in_order(DOING, steps).await?;
        for _ in &gone {
            taken(DOING, &mut answers)?;
        }
        let mut back = Vec::new();
        for Entered { run, began } in &gone {
            if taken(DOING, &mut answers)? != Value::Int(0) {
                back.push(Request::new("ZADD").arg(set).arg(began).arg(run.as_str()));
            }
        }
        self.run(DOING, back).await?.try_for_each(|answer| answer.get(DOING).map(drop))
    }

    /// Takes some of those out whose time ended, so that sets do not grow where nobody looks.
    pub(super) async fn tidy(&self, key: &RunKey) -> Result<()> {
        let sets = self.layout.sets(key);
        let some = |set: &String| Request::new("ZRANDMEMBER").arg(set).arg(TIDIED).arg("WITHSCORES");
        let mut answers = self.run(DOING, sets.iter().map(some).collect()).await?;
        for set in &sets {
            let entered = runs_of(entries(taken(DOING, &mut answers)?)?);
            self.records(set, entered).await?;
        }
        Ok(())
    }

    /// All runs that a set has, oldest first; those that began before a time, where one is given.
    pub(super) async fn oldest(&self, until: Option<pubsub_core::Timestamp>) -> Result<Vec<Entered>> {
        let until = until.map_or_else(|| "+inf".to_owned(), |until| format!("({}", until.as_micros()));
        let range = Request::new("ZRANGE").arg(self.layout.all_runs()).arg("-inf").arg(until);
        Ok(runs_of(entries(self.ask(DOING, range.arg("BYSCORE").arg("WITHSCORES")).await?)?))
    }
}

/// Members with their scores, one after the other as in RESP2, or in pairs as in RESP3.
fn entries(answer: Value) -> Result<Vec<(String, String)>> {
    let Value::Array(values) = answer else { return Err(server::strange(DOING)) };
    let is_pair = |value: &Value| matches!(value, Value::Array(_));
    let flat: Vec<Value> = if values.iter().all(is_pair) {
        let parts = |value| if let Value::Array(parts) = value { parts } else { Vec::new() };
        values.into_iter().flat_map(parts).collect()
    } else {
        values
    };
    let pairs = flat.chunks_exact(2).map(|pair| match pair {
        [Value::BulkString(member), score] => {
            let score = match score {
                Value::BulkString(score) => String::from_utf8_lossy(score).into_owned(),
                Value::Double(score) => score.to_string(),
                _ => return Err(server::strange(DOING)),
            };
            Ok((String::from_utf8_lossy(member).into_owned(), score))
        }
        _ => Err(server::strange(DOING)),
    });
    pairs.collect()
}

/// What is no run is passed over.
fn runs_of(entries: Vec<(String, String)>) -> Vec<Entered> {
    let entered = |(member, began)| Some(Entered { run: RunId::new(member).ok()?, began });
    entries.into_iter().filter_map(entered).collect()
}

/// That a run is not there.
pub(super) fn not_found(doing: &'static str, run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, doing).with("run", run)
}
