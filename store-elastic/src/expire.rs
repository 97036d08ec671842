//! Removes the oldest runs. Where nothing of a day is left, its index goes as a whole, which costs next to nothing.

use pubsub_core::{Judgement, Keep, Result, RunId, RunQuery, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bulk::{Bulk, packed};
use crate::connect::Request;
use crate::list::{Walk, Way};
use crate::numbers::searched;
use crate::record::Stored;
use crate::store::Inner;

/// How many records are removed at once.
const PAGE: usize = 200;

const DOING: &str = "remove old runs";

/// How much there is.
#[derive(Clone, Copy, Debug, Default)]
struct There {
    runs: u64,
    bytes: u64,
}

/// Runs of one index that went.
#[derive(Debug, Default)]
struct Gone {
    index: String,
    runs: Vec<RunId>,
    /// Whether others of this index stay.
    others_stay: bool,
}

#[derive(Debug, Deserialize)]
struct Counted {
    hits: Hits,
    aggregations: Option<Aggregations>,
}

#[derive(Debug, Deserialize)]
struct Hits {
    total: Option<Total>,
}

#[derive(Debug, Deserialize)]
struct Total {
    value: u64,
}

#[derive(Debug, Deserialize)]
struct Aggregations {
    bytes: Sum,
}

#[derive(Debug, Deserialize)]
struct Sum {
    value: f64,
}

impl Inner {
    /// By the bytes that records count. What is left of lines where this fails is seen by nobody, and goes with its index.
    pub(crate) async fn expire(&self, keep: &Keep) -> Result<u64> {
        if keep.runs.is_none() && keep.bytes.is_none() && keep.since.is_none() {
            return Ok(0);
        }
        self.refresh(&self.layout.runs()).await?;
        let mut there = self.there().await?;
        let (mut walk, mut gone, mut removed) =
            (Walk::new(&RunQuery::all(), Way::OldestFirst), Gone::default(), 0);
        let mut is_over = false;
        while !is_over && let Some(page) = walk.next(self, PAGE).await? {
            let mut old = Vec::new();
            for stored in page {
                if !keep.is_exceeded(stored.record.started_at, there.runs, there.bytes) {
                    // All that began later stay as well.
                    is_over = true;
                    old.push((stored, false));
                    break;
                }
                let goes = stored.record.judge(Timestamp::now()) != Judgement::Running;
                if goes {
                    there.runs = there.runs.saturating_sub(1);
                    there.bytes = there.bytes.saturating_sub(stored.record.counts.bytes);
                }
                old.push((stored, goes));
            }
            let went = self.remove_records(&old).await?;
            for ((stored, goes), went) in old.into_iter().zip(went) {
                if goes && went == Went::Stays {
                    there.runs += 1;
                    there.bytes = there.bytes.saturating_add(stored.record.counts.bytes);
                }
                removed += u64::from(went == Went::Now);
                gone = self.enter(gone, stored, went).await?;
            }
        }
        self.remove_output(gone).await?;
        self.refresh(&self.layout.runs()).await?;
        Ok(removed)
    }

    async fn there(&self) -> Result<There> {
        let counted: Counted = self
            .link
            .ask(
                DOING,
                searched(
                    &self.layout.runs(),
                    json!({
                        "size": 0, "track_total_hits": true, "aggs": {"bytes": {"sum": {"field": "bytes"}}},
                    }),
                ),
            )
            .await?;
        let runs = counted.hits.total.map_or(0, |total| total.value);
        let bytes = counted.aggregations.map_or(0.0, |found| found.bytes.value);
        // A sum of the server is a float; `as` rounds and keeps within bounds.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        Ok(There { runs, bytes: bytes as u64 })
    }

    /// Removes those that go, where they are as they were looked at.
    async fn remove_records(&self, runs: &[(Stored, bool)]) -> Result<Vec<Went>> {
        let index = self.layout.runs();
        let item = |stored: &Stored| {
            let (run, seen) = (&stored.record.key.run_id, stored.seen);
            json!({"delete": {"_index": index, "_id": run, "if_seq_no": seen.number, "if_primary_term": seen.term}})
        };
        let items: String =
            runs.iter().filter(|(_, goes)| *goes).map(|(stored, _)| format!("{}\n", item(stored))).collect();
        let mut statuses = Vec::new();
        if !items.is_empty() {
            let body = packed(items.as_bytes())?;
            let bulk: Bulk = self.link.ask(DOING, Request::post("_bulk").lines(body)).await?;
            statuses.extend(bulk.statuses());
        }
        let mut statuses = statuses.into_iter();
        let went = |goes: bool| match if goes { statuses.next() } else { None } {
            Some(200) => Went::Now,
            Some(404) => Went::Before,
            _ => Went::Stays,
        };
        Ok(runs.iter().map(|(_, goes)| *goes).map(went).collect())
    }

    /// Enters what became of a run; removes the output of those before it, where it is of another index.
    async fn enter(&self, mut gone: Gone, stored: Stored, went: Went) -> Result<Gone> {
        if gone.index != stored.index {
            self.remove_output(gone).await?;
            gone = Gone { index: stored.index, ..Gone::default() };
        }
        match went {
            Went::Now => gone.runs.push(stored.record.key.run_id),
            Went::Before => {}
            Went::Stays => gone.others_stay = true,
        }
        Ok(gone)
    }

    async fn remove_output(&self, gone: Gone) -> Result<()> {
        if gone.runs.is_empty() {
            return Ok(());
        }
        // What comes into a day that is over, before the oldest run that stays, is as old as what goes; so nothing is lost
        // where a run of it begins just now, as one that is copied here.
        let is_over = gone.index < self.layout.lines(Timestamp::now());
        if is_over && !gone.others_stay && self.is_unused(&gone.index).await? {
            let delete = Request::delete(gone.index).with("ignore_unavailable", true);
            return self.link.run(DOING, delete).await;
        }
        for run in &gone.runs {
            self.remove_lines(&gone.index, run).await?;
        }
        Ok(())
    }

    async fn is_unused(&self, index: &str) -> Result<bool> {
        self.refresh(&self.layout.runs()).await?;
        let query: Value = json!({"term": {"index": index}});
        let body = json!({"query": query, "size": 0, "track_total_hits": true});
        let counted: Counted = self.link.ask(DOING, searched(&self.layout.runs(), body)).await?;
        Ok(counted.hits.total.is_some_and(|total| total.value == 0))
    }
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    Now,
    /// Somebody else removed it.
    Before,
    Stays,
}
