//! Reads the lines of a run back, page by page.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{
    Gap, LineNumber, LineRange, Lines, Output, OutputItem, Result, RunId, RunRecord, RunStatus,
};
use redis::Value;

use super::Inner;
use super::entry::{Piece, late_number, merged, place_of};
use super::layout::late_range;
use super::list::not_found;
use super::record::{Stored, again, asked_again};
use super::server::{list, strange, texts};
use crate::script::Request;

/// About how many bytes a page has, by the lines of the page before it; a page has at most so many lines.
const PAGE_BYTES: usize = 256 * 1024;
const MOST_LINES: usize = 512;
const FIRST_LINES: usize = 128;

const DOING: &str = "read lines";

/// A run's lines from a number on, as they were when it was looked up.
#[derive(Debug)]
pub(super) struct Reader {
    inner: Arc<Inner>,
    stored: Stored,
    /// As readers see it.
    pub(super) record: RunRecord,
    through: u64,
    next: LineNumber,
    /// The last number to give.
    last: u64,
    page_lines: usize,
}

impl Reader {
    pub(super) async fn open(inner: Arc<Inner>, run: &RunId, lines: Lines) -> Result<Self> {
        let stored = inner.find(DOING, run).await?.ok_or_else(|| not_found(DOING, run))?;
        let record = inner.seen(&stored);
        let through = through(&stored, &record);
        let (next, last) = match lines {
            Lines::From(first) => (first, through),
            Lines::Range(range) => (range.first, through.min(range.last.get())),
            Lines::Last(0) => (LineNumber::FIRST, 0),
            Lines::Last(count) => (inner.first_of_last(&stored, count).await?, through),
            other => {
                return Err(pubsub_core::Error::unsupported(format!("this store does not know {other:?}")));
            }
        };
        Ok(Self { inner, stored, record, through, next, last, page_lines: FIRST_LINES })
    }

    pub(super) fn output(self) -> Output {
        let (record, complete_through) = (self.record.clone(), self.through);
        let pages = stream::try_unfold(self, |mut reader| async move {
            Ok::<_, pubsub_core::Error>(reader.step().await?.map(|items| (items, reader)))
        });
        let items: BoxStream<'static, Result<OutputItem>> =
            pages.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten().boxed();
        Output { record, complete_through, items }
    }

    /// The next lines and gaps; `None` after the last.
    pub(super) async fn step(&mut self) -> Result<Option<Vec<OutputItem>>> {
        if self.next.get() > self.last {
            return Ok(None);
        }
        let mut items = Vec::new();
        let end = self.last.min(self.stored.last_line);
        if self.next.get() > end {
            self.gap_to(self.last, &mut items);
            return Ok(Some(items));
        }
        let (entries, late) = self.page(end).await?;
        // Up to there both places are known: one that gave a whole page may have more behind it.
        let mut known = end;
        if let Some(last) = entries.last().filter(|_| entries.len() >= self.page_lines) {
            known = known.min(place_of(last).ok_or_else(|| strange(DOING))?);
        }
        if let Some(last) = late.last().filter(|_| late.len() >= self.page_lines) {
            known = known.min(late_number(last).ok_or_else(|| strange(DOING))?.get());
        }
        self.adapt(&entries, &late);
        for piece in merged(entries, late, known) {
            match piece {
                Piece::Lines(batch) => {
                    self.gap_to(batch.first().before(), &mut items);
                    self.next = self.next.max(batch.last().plus(1));
                    items.push(OutputItem::Lines(batch));
                }
                Piece::Damaged(range) => {
                    self.gap_to(range.first.before(), &mut items);
                    self.next = self.next.max(range.last.plus(1));
                    let reason = "the line was changed after it was stored".to_owned();
                    items.push(OutputItem::Gap(Gap { range, bytes: None, reason }));
                }
            }
        }
        self.gap_to(known, &mut items);
        Ok(Some(items))
    }

    /// Entries and late lines from the next number to `end`, at most a page of each.
    async fn page(&mut self, end: u64) -> Result<(Vec<Value>, Vec<Vec<u8>>)> {
        let range = Request::new("XRANGE").arg(&self.stored.keys.lines).arg(self.next.get()).arg(end);
        let mut requests = vec![range.arg("COUNT").arg(self.page_lines)];
        let with_late = self.stored.late > 0;
        if with_late {
            let (from, to) = late_range(self.next, end);
            let range = Request::new("ZRANGEBYLEX").arg(&self.stored.keys.late).arg(from).arg(to);
            requests.push(range.arg("LIMIT").arg(0).arg(self.page_lines));
        }
        // After the lines: where it is still the same run, they are its own.
        requests.push(asked_again(&self.stored.keys.record));
        let mut answers = self.inner.run(DOING, requests).await?;
        let entries = list(DOING, &mut answers)?;
        let late = if with_late { texts(list(DOING, &mut answers)?) } else { Vec::new() };
        let (made, dropped) = again(list(DOING, &mut answers)?);
        if made != self.stored.made {
            return Err(not_found(DOING, &self.record.key.run_id));
        }
        if dropped != self.stored.dropped {
            self.stored.dropped = dropped;
            self.record = self.inner.seen(&self.stored);
        }
        Ok((entries, late))
    }

    /// Chooses the lines of the next page by what this one had; never many times more at once.
    fn adapt(&mut self, entries: &[Value], late: &[Vec<u8>]) {
        let lines = entries.len() + late.len();
        if lines == 0 {
            return;
        }
        let bytes = entries.iter().map(size).sum::<usize>() + late.iter().map(Vec::len).sum::<usize>();
        let fits = PAGE_BYTES * lines / bytes.max(1);
        self.page_lines = fits.clamp(4, (self.page_lines * 4).min(MOST_LINES));
    }

    fn gap_to(&mut self, last: u64, items: &mut Vec<OutputItem>) {
        let last = LineNumber::new(last.min(self.last)).filter(|last| *last >= self.next);
        if let Some(last) = last {
            let missing = self.record.missing(LineRange::new(self.next, last));
            items.extend(missing.into_iter().map(OutputItem::Gap));
            self.next = last.plus(1);
        }
    }
}

/// How many bytes an answer has.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(size).sum(),
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    }
}

/// All numbers up to this one have a line or never will have one.
fn through(stored: &Stored, record: &RunRecord) -> u64 {
    let last = stored.last_line;
    let through = match record.status {
        RunStatus::Completed => last.max(record.last_number().map_or(0, LineNumber::get)),
        RunStatus::Running => over_holes(last, record),
    };
    // Whatever a damaged record says: after each line there is a next number.
    through.min(u64::MAX - 1)
}

/// What is in no store, or not in this one, holds nothing up that comes after it.
fn over_holes(last: u64, record: &RunRecord) -> u64 {
    let mut holes: Vec<LineRange> = record.holes.iter().chain(&record.gaps).map(|gap| gap.range).collect();
    holes.sort_by_key(|range| range.first);
    holes.iter().fold(last, |through, hole| {
        let goes_on = hole.first.get() <= through.saturating_add(1);
        if goes_on { through.max(hole.last.get()) } else { through }
    })
}
