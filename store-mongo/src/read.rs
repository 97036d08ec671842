//! Reads the lines of a run back.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use mongodb::raw_batch_cursor::RawBatchCursor;
use pubsub_core::{Error, Gap, LineNumber, LineRange, Lines, Output, OutputItem, Result, RunId};

use crate::batch::documents;
use crate::layout::Ids;
use crate::line::{Joiner, Piece};
use crate::numbers::range;
use crate::run::{Stored, is_run, not_found};
use crate::store::Inner;

/// How many lines the server gives at once; it gives less where that would be more than 16 MB.
const BATCH: u32 = 1_000;

/// So few lines, as followers ask for, are asked for by their ids: what speaks MongoDB's protocol seeks each of these, while not
/// all of it seeks a range.
const FEW: u64 = 64;

const DOING: &str = "read lines";

/// Lines of a run from a number on, as the server gives them.
pub(crate) struct Cursor {
    inner: Arc<Inner>,
    ids: Ids,
    next: u64,
    last: u64,
    /// What they have to be beside their numbers.
    narrowed: Document,
    open: Option<RawBatchCursor>,
    /// Whether it was lost, and nothing came since: a server that was restarted knows it no more, and one that was not asked
    /// for ten minutes forgets it.
    is_lost: bool,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("ids", &self.ids).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Cursor {
    pub(crate) fn new(inner: &Arc<Inner>, ids: Ids, next: u64, last: u64, narrowed: Document) -> Self {
        Self { inner: Arc::clone(inner), ids, next, last, narrowed, open: None, is_lost: false }
    }

    /// The next lines; `None` after the last.
    pub(crate) async fn pieces(&mut self, limit: Option<Duration>) -> Result<Option<Vec<Piece>>> {
        loop {
            match self.batch(limit).await {
                Ok(None) => return Ok(None),
                Ok(Some(pieces)) if pieces.is_empty() => {}
                Ok(pieces) => {
                    self.is_lost = false;
                    return Ok(pieces);
                }
                // It goes on behind what came last, once.
                Err(error) if error.is_retryable() && self.open.take().is_some() && !self.is_lost => {
                    self.is_lost = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn batch(&mut self, limit: Option<Duration>) -> Result<Option<Vec<Piece>>> {
        if self.next > self.last {
            return Ok(None);
        }
        let link = &self.inner.link;
        let time = limit.unwrap_or(link.config().answer_limit());
        let cursor = match &mut self.open {
            Some(cursor) => cursor,
            None => {
                let mut wanted = if self.last - self.next < FEW {
                    let ids: Vec<String> = (self.next..=self.last).map(|n| self.ids.line(n)).collect();
                    doc! { "_id": { "$in": ids } }
                } else {
                    range(&self.ids, self.next, self.last)
                };
                wanted.extend(self.narrowed.clone());
                let lines = link.collections(DOING).await?.lines;
                let asked = lines.find(wanted).sort(doc! { "_id": 1 }).batch_size(BATCH);
                let asked = match limit {
                    Some(limit) => asked.max_time(limit),
                    None => asked,
                };
                let opened = link.answer_within(time, DOING, asked.batch());
                self.open.insert(opened.await?)
            }
        };
        let Some(batch) = link.batch_within(time, DOING, cursor).await? else { return Ok(None) };
        let mut joiner = Joiner::new(&self.ids);
        documents(DOING, &batch)?.into_iter().for_each(|document| joiner.document(document));
        let pieces = joiner.finish();
        if let Some(last) = pieces.last() {
            self.next = last.range().last.get().saturating_add(1);
        }
        Ok(Some(pieces))
    }
}

/// A run's lines from a number on, as they were when it was looked up.
#[derive(Debug)]
struct Reader {
    inner: Arc<Inner>,
    stored: Stored,
    cursor: Cursor,
    next: LineNumber,
    /// The last number to give.
    last: u64,
}

/// The lines of a run.
pub(crate) async fn output(inner: Arc<Inner>, run: &RunId, lines: Lines) -> Result<Output> {
    let stored = inner.find(DOING, run).await?.ok_or_else(|| not_found(DOING, run))?;
    let complete_through = stored.complete_through();
    let end = stored.end();
    let (next, last) = match lines {
        Lines::From(first) => (first, end),
        Lines::Range(range) => (range.first, end.min(range.last.get())),
        Lines::Last(0) => (LineNumber::FIRST, 0),
        Lines::Last(count) => (inner.first_of_last(&stored, count).await?, end),
        other => return Err(Error::unsupported(format!("this store does not know {other:?}"))),
    };
    let cursor = Cursor::new(&inner, stored.ids(), next.get(), last, Document::new());
    let record = stored.record.clone();
    let reader = Reader { inner, stored, cursor, next, last };
    let steps = stream::try_unfold(reader, |mut reader| async move {
        Ok::<_, Error>(reader.step().await?.map(|items| (items, reader)))
    });
    let items: BoxStream<'static, Result<OutputItem>> =
        steps.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten().boxed();
    Ok(Output { record, complete_through, items })
}

impl Reader {
    /// The next lines and gaps; `None` after the last.
    async fn step(&mut self) -> Result<Option<Vec<OutputItem>>> {
        if self.next.get() > self.last {
            return Ok(None);
        }
        let (mut items, mut is_whole) = (Vec::new(), true);
        match self.cursor.pieces(None).await? {
            None => is_whole &= self.gap_to(self.last, &mut items),
            Some(pieces) => {
                for piece in pieces {
                    let range = piece.range();
                    is_whole &= self.gap_to(range.first.before(), &mut items);
                    self.next = self.next.max(range.last.plus(1));
                    items.push(piece.item());
                }
            }
        }
        // Lines go after the document of their run.
        if !is_whole && !self.is_there().await? {
            return Err(not_found(DOING, &self.stored.record.key.run_id));
        }
        Ok(Some(items))
    }

    // Borrowed as a whole: a cursor cannot be looked at from two threads.
    async fn is_there(&mut self) -> Result<bool> {
        let runs = self.inner.link.collections(DOING).await?.runs;
        let asked = runs.find_one(is_run(&self.stored.record.key.run_id, &self.stored.made));
        Ok(self.inner.link.answer(DOING, asked.projection(doc! { "_id": 1 })).await?.is_some())
    }

    /// Says of numbers up to this one that they are missing; `true` where none is.
    fn gap_to(&mut self, last: u64, items: &mut Vec<OutputItem>) -> bool {
        let last = LineNumber::new(last.min(self.last)).filter(|last| *last >= self.next);
        let Some(last) = last else { return true };
        let missing = self.stored.record.missing(LineRange::new(self.next, last));
        items.extend(missing.into_iter().map(OutputItem::Gap));
        self.next = last.plus(1);
        false
    }
}

impl Piece {
    pub(crate) fn range(&self) -> LineRange {
        match self {
            Self::Lines(batch) => batch.range(),
            Self::Damaged(range) => *range,
        }
    }

    fn item(self) -> OutputItem {
        match self {
            Self::Lines(batch) => OutputItem::Lines(batch),
            Self::Damaged(range) => {
                let reason = "the line was changed after it was stored".to_owned();
                OutputItem::Gap(Gap { range, bytes: None, reason })
            }
        }
    }
}
