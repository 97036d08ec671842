//! Which numbers of a run there are lines of.

use pubsub_core::{LineNumber, LineRange, Result, RunRecord, RunStatus};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connect::Request;
use crate::line::MOST_NUMBER;
use crate::record::Stored;
use crate::store::Inner;

/// Most documents of one answer: what servers give unless they are told otherwise.
pub(crate) const MOST_HITS: usize = 10_000;

const DOING: &str = "look which lines there are";

/// How many lines of a run are visible, and the largest number among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Visible {
    lines: u64,
    pub(crate) last: u64,
}

#[derive(Debug, Deserialize)]
struct Found {
    hits: Hits,
}

#[derive(Debug, Deserialize)]
struct Hits {
    total: Option<Total>,
    hits: Vec<Numbered>,
}

#[derive(Debug, Deserialize)]
struct Total {
    value: u64,
}

#[derive(Debug, Deserialize)]
struct Numbered {
    sort: [u64; 1],
}

#[derive(Debug, Deserialize)]
struct Counted {
    aggregations: Option<Aggregations>,
}

#[derive(Debug, Deserialize)]
struct Aggregations {
    parts: Parts,
}

#[derive(Debug, Deserialize)]
struct Parts {
    buckets: Vec<Bucket>,
}

#[derive(Debug, Deserialize)]
struct Bucket {
    doc_count: u64,
}

/// Asks an index for documents, all of which have to be looked at: an answer of some of its shards is none.
pub(crate) fn searched(index: &str, body: Value) -> Request {
    let post = Request::post(format!("{index}/_search")).with("allow_partial_search_results", false);
    post.with("ignore_unavailable", true).json(body)
}

/// The lines of a run with these numbers, and whatever else holds.
pub(crate) fn lines_of(stored: &Stored, from: u64, to: u64, further: &[Value]) -> Value {
    let mut filter = vec![
        json!({"term": {"made": stored.made}}),
        json!({"range": {"line_number": {"gte": from.min(MOST_NUMBER), "lte": to.min(MOST_NUMBER)}}}),
    ];
    filter.extend_from_slice(further);
    json!({"bool": {"filter": filter}})
}

impl Inner {
    pub(crate) async fn visible(&self, stored: &Stored) -> Result<Visible> {
        let found: Found = self.link.ask(DOING, searched(&stored.index, json!({
            "query": lines_of(stored, 0, u64::MAX, &[]), "size": 1, "_source": false, "track_total_hits": true,
            "sort": [{"line_number": "desc"}],
        }))).await?;
        let last = found.hits.hits.first().map_or(0, |hit| hit.sort[0]);
        Ok(Visible { lines: found.hits.total.map_or(0, |total| total.value), last })
    }

    /// How many lines there are from one number to another.
    async fn count(&self, stored: &Stored, from: u64, to: u64) -> Result<u64> {
        let found: Found = self
            .link
            .ask(
                DOING,
                searched(
                    &stored.index,
                    json!({
                        "query": lines_of(stored, from, to, &[]), "size": 0, "track_total_hits": true,
                    }),
                ),
            )
            .await?;
        Ok(found.hits.total.map_or(0, |total| total.value))
    }

    /// The same for many ranges at once.
    async fn counts(&self, stored: &Stored, ranges: &[LineRange]) -> Result<Vec<u64>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let filter = |range: &LineRange| {
            let (first, last) = (range.first.get().min(MOST_NUMBER), range.last.get().min(MOST_NUMBER));
            json!({"range": {"line_number": {"gte": first, "lte": last}}})
        };
        let filters: Vec<Value> = ranges.iter().map(filter).collect();
        let counted: Counted = self
            .link
            .ask(
                DOING,
                searched(
                    &stored.index,
                    json!({
                        "query": lines_of(stored, 0, u64::MAX, &[]), "size": 0,
                        "aggs": {"parts": {"filters": {"filters": filters}}},
                    }),
                ),
            )
            .await?;
        let buckets = counted.aggregations.map_or_else(Vec::new, |found| found.parts.buckets);
        let mut counts: Vec<u64> = buckets.iter().map(|bucket| bucket.doc_count).collect();
        // Without an index there is nothing.
        counts.resize(ranges.len(), 0);
        Ok(counts)
    }

    /// All numbers up to this one have a line, or never will have one.
    pub(crate) async fn through(&self, stored: &Stored, visible: Visible) -> Result<u64> {
        let record = &stored.record;
        let through = match record.status {
            RunStatus::Completed => visible.last.max(record.last_number().map_or(0, LineNumber::get)),
            RunStatus::Running if visible.lines == visible.last => over_holes(record, visible.last),
            RunStatus::Running => self.unbroken(stored, visible.last).await?,
        };
        // Whatever a damaged record says: after each line there is a next number.
        Ok(through.min(u64::MAX - 1))
    }

    /// Of a running run in which lines are missing before others.
    async fn unbroken(&self, stored: &Stored, last: u64) -> Result<u64> {
        let ranges = between_holes(&stored.record, last);
        let counts = self.counts(stored, &ranges).await?;
        let broken = ranges.iter().zip(&counts).find(|(range, count)| **count < range.lines());
        let Some((range, _)) = broken else { return Ok(over_holes(&stored.record, last)) };
        // All up to `there` are there, and not all up to `not`.
        let (first, mut there, mut not) = (range.first.get(), range.first.before(), range.last.get());
        while there + 1 < not {
            let middle = there + (not - there) / 2;
            if self.count(stored, first, middle).await? == middle - first + 1 {
                there = middle;
            } else {
                not = middle;
            }
        }
        Ok(there)
    }

    /// The number with which the last so many lines begin.
    pub(crate) async fn first_of_last(
        &self,
        stored: &Stored,
        visible: Visible,
        wanted: u64,
    ) -> Result<LineNumber> {
        let first = if wanted > visible.lines {
            1
        } else if visible.lines == visible.last {
            visible.last - wanted + 1
        } else {
            // From `enough` on there are as many or more, from `few` on there are less.
            let (mut enough, mut few) = (1, visible.last + 1);
            while enough + 1 < few {
                let middle = enough + (few - enough) / 2;
                if self.count(stored, middle, visible.last).await? >= wanted {
                    enough = middle;
                } else {
                    few = middle;
                }
            }
            enough
        };
        Ok(LineNumber::new(first).unwrap_or(LineNumber::FIRST))
    }

    /// Takes out of the holes what has come.
    pub(crate) async fn fill(&self, stored: &Stored, record: &mut RunRecord) -> Result<()> {
        let holes: Vec<LineRange> = record.holes.iter().map(|hole| hole.range).collect();
        let counts = self.counts(stored, &holes).await?;
        for (hole, count) in holes.into_iter().zip(counts) {
            if count >= hole.lines() {
                record.fill(hole);
            } else if count > 0 {
                self.fill_some(stored, hole, record).await?;
            }
        }
        Ok(())
    }

    async fn fill_some(&self, stored: &Stored, hole: LineRange, record: &mut RunRecord) -> Result<()> {
        let mut next = hole.first;
        loop {
            let found: Found = self.link.ask(DOING, searched(&stored.index, json!({
                "query": lines_of(stored, next.get(), hole.last.get(), &[]), "size": MOST_HITS, "_source": false,
                "track_total_hits": false, "sort": [{"line_number": "asc"}],
            }))).await?;
            let numbers: Vec<LineNumber> =
                found.hits.hits.iter().filter_map(|hit| LineNumber::new(hit.sort[0])).collect();
            numbers.chunk_by(|a, b| a.plus(1) == *b).for_each(|chunk| {
                if let [first, .., last] | [first @ last] = chunk {
                    record.fill(LineRange::new(*first, *last));
                }
            });
            match numbers.last() {
                Some(last) if numbers.len() >= MOST_HITS => next = last.plus(1),
                _ => return Ok(()),
            }
        }
    }
}

/// What no store has, or not this one, in growing order, without overlaps.
fn holes_of(record: &RunRecord) -> Vec<LineRange> {
    let mut holes: Vec<LineRange> = record.holes.iter().chain(&record.gaps).map(|gap| gap.range).collect();
    holes.sort_by_key(|range| range.first);
    let mut merged: Vec<LineRange> = Vec::new();
    for hole in holes {
        match merged.last_mut() {
            Some(last) if hole.first <= last.last => last.last = last.last.max(hole.last),
            _ => merged.push(hole),
        }
    }
    merged
}

/// What is in no store, or not in this one, holds nothing up that comes after it.
fn over_holes(record: &RunRecord, last: u64) -> u64 {
    holes_of(record).iter().fold(last, |through, hole| {
        let goes_on = hole.first.get() <= through.saturating_add(1);
        if goes_on { through.max(hole.last.get()) } else { through }
    })
}

/// The numbers up to the last one that are in no hole.
fn between_holes(record: &RunRecord, last: u64) -> Vec<LineRange> {
    let (mut ranges, mut next) = (Vec::new(), 1);
    let mut add = |first: u64, last: u64| {
        let range = LineNumber::new(first).zip(LineNumber::new(last)).filter(|(first, last)| first <= last);
        ranges.extend(range.map(|(first, last)| LineRange::new(first, last)));
    };
    for hole in holes_of(record) {
        add(next, hole.first.before().min(last));
        next = hole.last.get().saturating_add(1);
    }
    add(next, last);
    ranges
}

#[cfg(test)]
mod tests {
    use pubsub_core::conformance::store::{SampleRun, at};
    use pubsub_core::{Gap, LineRange};

    use super::{between_holes, over_holes};

    #[test]
    fn what_never_comes_holds_nothing_up() {
        let mut record = SampleRun::new().record;
        let gap =
            |first, last| Gap { range: LineRange::new(at(first), at(last)), bytes: None, reason: "x".into() };
        record.holes = vec![gap(5, 7), gap(20, 30)];
        record.gaps = vec![gap(6, 9), gap(31, 31)];
        for (last, through) in [(0, 0), (3, 3), (4, 9), (9, 9), (12, 12), (19, 31), (25, 31), (40, 40)] {
            assert_eq!(over_holes(&record, last), through, "{last}");
        }
        let told = |last| {
            between_holes(&record, last).iter().map(|r| (r.first.get(), r.last.get())).collect::<Vec<_>>()
        };
        assert_eq!(told(3), [(1, 3)]);
        assert_eq!(told(12), [(1, 4), (10, 12)]);
        assert_eq!(told(33), [(1, 4), (10, 19), (32, 33)]);
        assert_eq!(told(0), []);
    }
}
