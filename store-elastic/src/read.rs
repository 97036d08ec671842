//! Reads the lines of a run back, page by page.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Error, Gap, LineNumber, LineRange, Lines, Output, OutputItem, Result, RunId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::line::{FIELDS, LineHit, MOST_NUMBER, Piece, joined};
use crate::list::not_found;
use crate::numbers::{MOST_HITS, lines_of, searched};
use crate::record::Stored;
use crate::store::Inner;

/// About how many bytes a page has, by the lines of the page before it.
const PAGE_BYTES: usize = 2 << 20;

/// How many lines the first page has at most, and by how much a page may have more than the one before it.
const FIRST_LINES: usize = 500;
const GROWTH: usize = 4;

const DOING: &str = "read lines";

/// A run's lines from a number on, as they were when it was looked up.
#[derive(Debug)]
pub(crate) struct Reader {
    inner: Arc<Inner>,
    stored: Stored,
    through: u64,
    next: LineNumber,
    /// The last number to give.
    last: u64,
    page_lines: usize,
}

#[derive(Debug, Deserialize)]
struct Found {
    hits: Hits,
}

#[derive(Debug, Deserialize)]
struct Hits {
    hits: Vec<LineHit>,
}

impl Reader {
    pub(crate) async fn open(inner: Arc<Inner>, run: &RunId, lines: Lines) -> Result<Self> {
        let stored = inner.stored(DOING, run).await?.ok_or_else(|| not_found(DOING, run))?;
        let visible = inner.visible(&stored).await?;
        let through = inner.through(&stored, visible).await?;
        let end = through.max(visible.last);
        let (next, last) = match lines {
            Lines::From(first) => (first, end),
            Lines::Range(range) => (range.first, end.min(range.last.get())),
            Lines::Last(0) => (LineNumber::FIRST, 0),
            Lines::Last(count) => (inner.first_of_last(&stored, visible, count).await?, end),
            other => return Err(Error::unsupported(format!("this store does not know {other:?}"))),
        };
        Ok(Self { inner, stored, through, next, last, page_lines: FIRST_LINES })
    }

    /// From the first line to whatever is the last by then.
    pub(crate) const fn through_all(inner: Arc<Inner>, stored: Stored) -> Self {
        let (through, next) = (0, LineNumber::FIRST);
        Self { inner, stored, through, next, last: MOST_NUMBER, page_lines: FIRST_LINES }
    }

    pub(crate) fn output(self) -> Output {
        let (record, complete_through) = (self.stored.record.clone(), self.through);
        let pages = stream::try_unfold(self, |mut reader| async move {
            Ok::<_, Error>(reader.step().await?.map(|items| (items, reader)))
        });
        let items: BoxStream<'static, Result<OutputItem>> =
            pages.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten().boxed();
        Output { record, complete_through, items }
    }

    /// The next lines and gaps; `None` after the last.
    async fn step(&mut self) -> Result<Option<Vec<OutputItem>>> {
        if self.next.get() > self.last {
            return Ok(None);
        }
        let (pieces, known) = self.page(&[]).await?;
        let mut items = Vec::new();
        for piece in pieces {
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

    /// The next lines for which this holds as well; `None` after the last.
    pub(crate) async fn next_of(&mut self, further: &[Value]) -> Result<Option<Vec<Piece>>> {
        if self.next.get() > self.last {
            return Ok(None);
        }
        let (pieces, known) = self.page(further).await?;
        self.next = LineNumber::new(known).map_or(LineNumber::FIRST, |known| known.plus(1));
        Ok(Some(pieces))
    }

    /// A page of lines from the next number on, and up to which number all are known.
    async fn page(&mut self, further: &[Value]) -> Result<(Vec<Piece>, u64)> {
        let body = json!({
            "query": lines_of(&self.stored, self.next.get(), self.last, further),
            "size": self.page_lines,
            "_source": FIELDS,
            "track_total_hits": false,
            "sort": [{"line_number": "asc"}],
        });
        let request =
            searched(&self.stored.index, body).with("filter_path", "hits.hits.sort,hits.hits._source");
        let answer = self.inner.link.send(DOING, request).await?;
        if !answer.is_success() {
            return Err(answer.complaint().failed(DOING));
        }
        // Of nothing, the filter leaves nothing.
        let found: Option<Found> =
            if answer.body.as_ref() == b"{}" { None } else { Some(answer.read(DOING)?) };
        let hits = found.map_or_else(Vec::new, |found| found.hits.hits);
        let known = match hits.last() {
            Some(last) if hits.len() >= self.page_lines => last.number(),
            _ => self.last,
        };
        self.adapt(&hits);
        Ok((joined(&hits), known))
    }

    /// Chooses the lines of the next page by what this one had.
    fn adapt(&mut self, hits: &[LineHit]) {
        if hits.is_empty() {
            return;
        }
        let bytes: usize = hits.iter().map(LineHit::size).sum();
        let fits = PAGE_BYTES * hits.len() / bytes.max(1);
        self.page_lines = fits.clamp(4, (self.page_lines * GROWTH).min(MOST_HITS));
    }

    fn gap_to(&mut self, last: u64, items: &mut Vec<OutputItem>) {
        let last = LineNumber::new(last.min(self.last)).filter(|last| *last >= self.next);
        if let Some(last) = last {
            let missing = self.stored.record.missing(LineRange::new(self.next, last));
            items.extend(missing.into_iter().map(OutputItem::Gap));
            self.next = last.plus(1);
        }
    }
}
