//! Reads the lines of a run back.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Error, ErrorKind, Gap, LineNumber, LineRange, Lines, Output, OutputItem, Result, RunId};

use crate::blocks::{Fetched, fetch};
use crate::query::Wanted;
use crate::segment::Block;
use crate::store::Inner;
use crate::view::{Look, Part, View};

/// How many requests are under way at once for one reader.
const AHEAD: usize = 4;

/// How often in a row a segment may turn out to be gone: merges of one run hardly meet one reader more often.
const LOOKS: u32 = 5;

const DOING: &str = "read lines";

/// A run's lines from a number on.
pub(crate) struct Reader {
    inner: Arc<Inner>,
    view: View,
    next: LineNumber,
    /// The last number to give.
    last: u64,
    fetched: Option<BoxStream<'static, Result<Fetched>>>,
    looks: u32,
}

impl Reader {
    pub(crate) async fn open(inner: Arc<Inner>, run: &RunId, lines: Lines) -> Result<(Self, u64)> {
        let view = inner.view(run, Look::Named).await?;
        let view = view.ok_or_else(|| Error::new(ErrorKind::NotFound, DOING).with("run", run))?;
        let through = view.complete_through();
        // Lines after a hole that may still be filled are given as well, with a gap before them.
        let end = through.max(view.last_stored());
        let (next, last) = match lines {
            Lines::From(first) => (first, end),
            Lines::Range(range) => (range.first, end.min(range.last.get())),
            Lines::Last(0) => (LineNumber::FIRST, 0),
            Lines::Last(count) => (view.first_of_last(count), end),
            other => return Err(Error::unsupported(format!("this store does not know {other:?}"))),
        };
        Ok((Self { inner, view, next, last, fetched: None, looks: 0 }, through))
    }

    pub(crate) fn output(self, complete_through: u64) -> Output {
        let record = self.view.stored.record.clone();
        let steps = stream::try_unfold(self, |mut reader| async move {
            Ok::<_, Error>(reader.step().await?.map(|items| (items, reader)))
        });
        let items = steps.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten().boxed();
        Output { record, complete_through, items }
    }

    /// The next lines and gaps; `None` after the last.
    async fn step(&mut self) -> Result<Option<Vec<OutputItem>>> {
        while self.next.get() <= self.last {
            let fetched = match &mut self.fetched {
                Some(fetched) => fetched.next().await,
                None => {
                    self.fetched = Some(self.begin());
                    continue;
                }
            };
            match fetched {
                Some(Ok(fetched)) => {
                    self.looks = 0;
                    return Ok(Some(self.items(fetched).await?));
                }
                Some(Err(error)) if error.kind() == ErrorKind::NotFound => self.look_again(error).await?,
                Some(Err(error)) => return Err(error),
                None => {
                    let mut items = Vec::new();
                    self.gap_to(self.last, &mut items);
                    return Ok(Some(items));
                }
            }
        }
        Ok(None)
    }

    fn begin(&self) -> BoxStream<'static, Result<Fetched>> {
        let last = LineNumber::new(self.last).unwrap_or(LineNumber::MAX);
        let parts = clipped(&self.view.parts, LineRange::new(self.next, last));
        let folder = self.view.stored.folder();
        fetch(Arc::clone(&self.inner), folder, parts, Arc::new(Wanted::Anything), AHEAD)
    }

    async fn look_again(&mut self, error: Error) -> Result<()> {
        self.looks += 1;
        if self.looks > LOOKS {
            return Err(Error::new(ErrorKind::Unavailable, "segments are gone as often as they are read")
                .with_source(error));
        }
        self.view.parts = self.inner.parts_again(&self.view).await?;
        self.fetched = None;
        Ok(())
    }

    async fn items(&mut self, fetched: Fetched) -> Result<Vec<OutputItem>> {
        let wanted = fetched.range;
        let decoded =
            tokio::task::spawn_blocking(move || Ok::<_, Error>(fetched.blocks()?.collect::<Vec<_>>()));
        let blocks = decoded.await.map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e))??;
        let mut items = Vec::new();
        for (range, block) in blocks {
            match block {
                Block::Lines(lines) => {
                    for batch in lines.batches() {
                        let last = LineNumber::new(wanted.last.get().min(self.last)).unwrap_or(wanted.last);
                        let range = LineRange::new(self.next.max(wanted.first), last);
                        let Some(lines) = batch.slice(range) else { continue };
                        self.gap_to(lines.first().before(), &mut items);
                        self.next = lines.last().plus(1);
                        items.push(OutputItem::Lines(lines));
                    }
                }
                Block::Damaged => self.damaged(
                    LineRange::new(range.first.max(wanted.first), range.last.min(wanted.last)),
                    &mut items,
                ),
            }
        }
        // What no block had, for the index of its segment is damaged.
        self.damaged(wanted, &mut items);
        Ok(items)
    }

    /// What is left of this range cannot be read.
    fn damaged(&mut self, range: LineRange, items: &mut Vec<OutputItem>) {
        let last = LineNumber::new(self.last).unwrap_or(LineNumber::MAX);
        let range = LineRange::new(range.first.max(self.next), range.last.min(last));
        if range.first <= range.last {
            self.gap_to(range.first.before(), items);
            self.next = range.last.plus(1);
            let reason = "the segment was changed after it was stored".to_owned();
            items.push(OutputItem::Gap(Gap { range, bytes: None, reason }));
        }
    }

    /// Says that all up to this number is missing.
    fn gap_to(&mut self, last: u64, items: &mut Vec<OutputItem>) {
        let Some(last) = LineNumber::new(last).filter(|last| *last >= self.next) else { return };
        let gaps = self.view.stored.record.missing(LineRange::new(self.next, last));
        items.extend(gaps.into_iter().map(OutputItem::Gap));
        self.next = last.plus(1);
    }
}

/// What of these parts is in a range.
pub(crate) fn clipped(parts: &[Part], range: LineRange) -> Vec<Part> {
    let clip = |part: &Part| {
        let within = LineRange::new(part.range.first.max(range.first), part.range.last.min(range.last));
        (within.first <= within.last).then_some(Part { range: within, ..*part })
    };
    parts.iter().filter_map(clip).collect()
}

impl Inner {
    /// The parts of a run of which a segment is gone; [`NotFound`](ErrorKind::NotFound) where the run is.
    pub(crate) async fn parts_again(&self, view: &View) -> Result<Vec<Part>> {
        let run = &view.stored.record.key.run_id;
        let again = self.view(run, Look::Listed).await?;
        match again.filter(|again| again.stored.own.made == view.stored.own.made) {
            Some(again) => Ok(again.parts),
            None => Err(Error::new(ErrorKind::NotFound, DOING).with("run", run)),
        }
    }
}
