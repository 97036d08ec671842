//! The lines of a run, each from the first store that has it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::{self, BoxStream};

use super::asked::Asking;
use super::records::joined;
use super::source::{Found, Source, asked};
use crate::missing::{NOT_HERE, NOT_YET};
use crate::{
    Error, ErrorKind, Gap, LineNumber, LineRange, Lines, OutputItem, Result, RunId, RunRecord, RunStatus,
};

/// What the stores said of a run at first.
pub(super) struct Heads {
    pub(super) asking: Asking,
    pub(super) record: RunRecord,
    /// The largest number up to which any of them has all.
    pub(super) through: u64,
    pub(super) sources: Vec<Source>,
}

impl Heads {
    /// Asks all of them at once: for lines those that will surely be read, the others for how far they are.
    pub(super) async fn asked(asking: &Asking, run: &RunId, lines: Lines) -> Result<Self> {
        let of_end = matches!(lines, Lines::Last(1..));
        let begin = match lines {
            Lines::From(first) => first,
            Lines::Range(range) => range.first,
            Lines::Last(_) => LineNumber::FIRST,
        };
        let calls = asking.stores().iter().enumerate().map(async |(place, store)| {
            let read = place == 0 || of_end;
            let answer = asked(asking, store, run, if read { lines } else { Lines::Last(0) }).await;
            Source::new(Arc::clone(store), answer, read.then_some(begin))
        });
        let (mut sources, mut known, mut through) = (Vec::new(), None, 0);
        for (source, said) in join_all(calls).await {
            sources.push(source);
            if let Some((record, complete_through)) = said {
                through = through.max(complete_through);
                known = Some(match known {
                    Some(nearer) => joined(nearer, record),
                    None => record,
                });
            }
        }
        let Some(record) = known else { return Err(nobody_has(asking, run, &sources)) };
        through = through.max(record.last_number().map_or(0, LineNumber::get));
        Ok(Self { asking: asking.clone(), record, through, sources })
    }

    /// These lines.
    pub(super) fn merged(self, wanted: LineRange) -> Merged {
        let Self { asking, record, through, sources } = self;
        let (out, gap) = (VecDeque::new(), None);
        Merged { asking, record, through, sources, wanted: Some(wanted), skip: 0, at_line: false, gap, out }
    }

    /// The same, read anew.
    pub(super) fn again(&self) -> Self {
        let sources = self.sources.iter().map(Source::again).collect();
        Self { asking: self.asking.clone(), record: self.record.clone(), through: self.through, sources }
    }
}

/// Of a run that no store has which answered: one that did not may have it.
fn nobody_has(asking: &Asking, run: &RunId, sources: &[Source]) -> Error {
    let errors: Vec<_> = sources.iter().filter_map(Source::failure).cloned().collect();
    match errors.first() {
        None => Error::new(ErrorKind::NotFound, "read lines").with("run", run),
        Some(_) if errors.len() == sources.len() => asking.none_answers(&errors).with("run", run),
        Some(error) => Error::new(ErrorKind::Unavailable, "the run is in none of the stores that answer")
            .with("run", run)
            .with("unanswered", names(sources))
            .with_source(Arc::clone(error)),
    }
}

/// The stores that failed.
fn names(sources: &[Source]) -> String {
    let failed = sources.iter().filter(|source| source.failure().is_some());
    failed.map(|source| source.store.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Lines that are put together as they are taken.
pub(super) struct Merged {
    asking: Asking,
    record: RunRecord,
    through: u64,
    sources: Vec<Source>,
    /// What is still to come; `None` after the end.
    wanted: Option<LineRange>,
    /// So many lines are passed by.
    skip: u64,
    /// No gap is given before the first line.
    at_line: bool,
    /// A gap that may go on.
    gap: Option<Gap>,
    out: VecDeque<Result<OutputItem>>,
}

impl Merged {
    /// Behind so many lines, and behind the gaps after them.
    pub(super) const fn behind(mut self, lines: u64) -> Self {
        (self.skip, self.at_line) = (lines, lines > 0);
        self
    }

    pub(super) fn into_items(self) -> BoxStream<'static, Result<OutputItem>> {
        stream::unfold(self, |mut merged| async move { Some((merged.next().await?, merged)) }).boxed()
    }

    pub(super) async fn next(&mut self) -> Option<Result<OutputItem>> {
        loop {
            if let Some(item) = self.out.pop_front() {
                return Some(item);
            }
            let Some(wanted) = self.wanted else {
                return self.gap.take().map(|gap| Ok(OutputItem::Gap(gap)));
            };
            match self.find(wanted).await {
                Ok(Some(item)) => {
                    let next = item.range().last.plus(1);
                    self.wanted = (next <= wanted.last && next != LineNumber::MAX)
                        .then(|| LineRange::new(next, wanted.last));
                    self.give(item);
                }
                Ok(None) => self.wanted = None,
                Err(error) => {
                    self.wanted = None;
                    self.out.extend(self.gap.take().map(|gap| Ok(OutputItem::Gap(gap))));
                    self.out.push_back(Err(error));
                }
            }
        }
    }

    /// Puts an item behind those before it: neighbouring gaps of one reason are one.
    fn give(&mut self, item: OutputItem) {
        match item {
            OutputItem::Lines(batch) => {
                let lines = batch.len() as u64;
                let passed = self.skip.min(lines);
                self.skip -= passed;
                let rest = batch.slice(LineRange::new(batch.first().plus(passed), LineNumber::MAX));
                let Some(batch) = rest else { return };
                self.at_line = false;
                self.out.extend(self.gap.take().map(|gap| Ok(OutputItem::Gap(gap))));
                self.out.push_back(Ok(OutputItem::Lines(batch)));
            }
            OutputItem::Gap(_) if self.at_line => {}
            OutputItem::Gap(gap) => match &mut self.gap {
                Some(before)
                    if before.range.last.plus(1) == gap.range.first && before.reason == gap.reason =>
                {
                    before.range.last = gap.range.last;
                    before.bytes = before.bytes.zip(gap.bytes).map(|(a, b)| a.saturating_add(b));
                }
                _ => {
                    let before = self.gap.replace(gap);
                    self.out.extend(before.map(|gap| Ok(OutputItem::Gap(gap))));
                }
            },
        }
    }

    /// What there is at the first of these numbers; `None` where nobody says anything of it or a later one.
    async fn find(&mut self, wanted: LineRange) -> Result<Option<OutputItem>> {
        let Self { asking, record, sources, .. } = self;
        let run = &record.key.run_id;
        let running = record.status == RunStatus::Running;
        // Up to here no store that is nearer has anything.
        let (mut free, mut gap): (LineRange, Option<Gap>) = (wanted, None);
        for (place, source) in sources.iter_mut().enumerate() {
            // What the nearest lacks by now may have come to the next ones since they were opened.
            match source.at(asking, run, wanted, running && place > 0).await {
                Found::Lines(batch) => return Ok(batch.slice(free).map(OutputItem::Lines)),
                Found::Gap(found) => {
                    free.last = free.last.min(found.range.last);
                    let known = gap.take().filter(|gap| is_known(gap) || !is_known(&found));
                    gap = known.or(Some(found));
                }
                Found::Nothing => {}
            }
        }
        if let Some(gap) = gap {
            return Ok(gap.slice(free).map(|gap| OutputItem::Gap(self.told(gap))));
        }
        self.vouched_for(wanted)
    }

    /// Numbers of which only a store knew that failed since.
    fn vouched_for(&self, wanted: LineRange) -> Result<Option<OutputItem>> {
        let end = LineNumber::new(self.through.min(wanted.last.get())).filter(|end| *end >= wanted.first);
        let Some(end) = end else { return Ok(None) };
        if self.record.status == RunStatus::Completed {
            let missing = self.record.missing(LineRange::new(wanted.first, end)).into_iter().next();
            return Ok(missing.map(|gap| OutputItem::Gap(self.told(gap))));
        }
        // They are there, and whoever follows the run gets them once the store is back.
        let Some(error) = self.sources.iter().find_map(Source::failure) else { return Ok(None) };
        Err(Error::new(ErrorKind::Unavailable, "a store failed that alone has the next lines")
            .with("run", &self.record.key.run_id)
            .with("first", wanted.first)
            .with_source(Arc::clone(error)))
    }

    /// A gap that also says who might fill it.
    fn told(&self, mut gap: Gap) -> Gap {
        let unanswered = names(&self.sources);
        if !unanswered.is_empty() && !self.record.is_dropped_everywhere(gap.range) {
            gap.reason = format!("{}; {unanswered} did not answer, and may have them", gap.reason);
        }
        gap
    }
}

/// Whether a gap says more than that there is one.
fn is_known(gap: &Gap) -> bool {
    gap.reason != NOT_HERE && gap.reason != NOT_YET
}
