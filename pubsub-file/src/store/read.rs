//! Reads the lines of a run back.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use pubsub_core::{
    Error, ErrorKind, Gap, Judgement, LineBatch, LineEnd, LineNumber, LineRange, Lines, MAX_LINE_BYTES,
    OutputItem, Result, RunRecord, RunStatus, Stream, Timestamp,
};

use super::index::{Entry, Index};
use super::layout::{RunFolder, open_for_reading};
use crate::error::io_error;

/// Most bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// Most entries that are looked at at once.
const ENTRIES: u64 = 1024;

/// A run's lines, from a number on, as they were when it was opened.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) record: RunRecord,
    log: File,
    index: Index,
    /// The next entry.
    place: u64,
    /// The next number.
    next: LineNumber,
    /// The last number to give.
    last: u64,
    /// Lines behind the index, of a run whose worker died while it wrote them.
    recovered: Vec<LineBatch>,
}

impl Reader {
    pub(super) fn open(folder: &RunFolder, record: RunRecord, lines: Lines) -> Result<Self> {
        let doing = "read the lines of a run";
        let log = open_for_reading(&folder.log()).map_err(io_error(doing))?;
        let index = Index::open(open_for_reading(&folder.index()).map_err(io_error(doing))?)
            .map_err(io_error(doing))?;
        let mut reader =
            Self { record, log, index, place: 0, next: LineNumber::FIRST, last: 0, recovered: Vec::new() };
        reader.recover()?;
        let end = reader.through();
        (reader.next, reader.last) = match lines {
            Lines::From(first) => (first, end),
            Lines::Range(range) => (range.first, end.min(range.last.get())),
            Lines::Last(0) => (LineNumber::FIRST, 0),
            Lines::Last(count) => (reader.first_of_last(count)?, end),
            other => return Err(Error::unsupported(format!("the file store does not know {other:?}"))),
        };
        reader.place = reader.index.find(reader.next).map_err(io_error(doing))?;
        Ok(reader)
    }

    /// All numbers up to this one have a line or never will have one.
    pub(super) fn through(&self) -> u64 {
        let stored = match self.recovered.last() {
            Some(batch) => batch.last().get(),
            None => self.index.last().ok().flatten().map_or(0, |entry| entry.range().last.get()),
        };
        let known = self.record.holes.iter().map(|gap| gap.range.last.get()).max().unwrap_or(0);
        match self.record.status {
            RunStatus::Running => stored.max(if self.contiguous(stored, known) { known } else { 0 }),
            RunStatus::Completed => stored.max(self.record.last_number().map_or(0, LineNumber::get)),
        }
    }

    /// Whether the holes that the record names reach from the last stored line to `known`.
    fn contiguous(&self, stored: u64, known: u64) -> bool {
        let mut next = stored + 1;
        let mut holes: Vec<LineRange> = self.record.holes.iter().map(|gap| gap.range).collect();
        holes.sort_by_key(|range| range.first);
        for hole in holes {
            if hole.first.get() <= next && hole.last.get() >= next {
                next = hole.last.get() + 1;
            }
        }
        next == known + 1
    }

    fn first_of_last(&self, count: u64) -> Result<LineNumber> {
        let mut wanted = count;
        for batch in self.recovered.iter().rev() {
            let lines = batch.len() as u64;
            if wanted <= lines {
                return Ok(batch.first().plus(lines - wanted));
            }
            wanted -= lines;
        }
        let indexed = self.index.last_lines(wanted).map_err(io_error("read the last lines of a run"))?;
        let available = self.indexed_lines_fewer_than(wanted)?;
        Ok(if available { LineNumber::FIRST } else { indexed.unwrap_or(LineNumber::FIRST) })
    }

    /// Whether the index has fewer lines than `wanted`, so that a gap at the front is part of the answer.
    fn indexed_lines_fewer_than(&self, wanted: u64) -> Result<bool> {
        let mut lines = 0;
        let mut end = self.index.count();
        while end > 0 && lines < wanted {
            let start = end.saturating_sub(ENTRIES);
            let entries =
                self.index.entries(start, end - start).map_err(io_error("read the index of a run"))?;
            lines += entries.iter().map(|entry| u64::from(entry.lines)).sum::<u64>();
            end = start;
        }
        Ok(lines < wanted)
    }

    /// The worker of a lost run died between writing bytes and their index entry: the bytes are lines all the same.
    fn recover(&mut self) -> Result<()> {
        if self.record.judge(Timestamp::now()) != Judgement::Lost {
            return Ok(());
        }
        let doing = "read what a dead worker wrote last";
        let last = self.index.last().map_err(io_error(doing))?;
        let (end, number) = last.map_or((0, 0), |entry| (entry.end(), entry.range().last.get()));
        let length = self.log.metadata().map_err(io_error(doing))?.len();
        // One append brings at most a megabyte and one batch.
        let rest = usize::try_from(length.saturating_sub(end).min(2 * READ_BYTES)).unwrap_or(0);
        let mut bytes = vec![0; rest];
        self.log.read_exact_at(&mut bytes, end).map_err(io_error(doing))?;
        let mut rest = Bytes::from(bytes);
        let mut next = LineNumber::new(number + 1).unwrap_or(LineNumber::FIRST);
        while !rest.is_empty() {
            let cut = memchr::memchr(b'\n', rest.get(..MAX_LINE_BYTES).unwrap_or(&rest))
                .map_or(rest.len().min(MAX_LINE_BYTES), |at| at + 1);
            let line = rest.split_to(cut);
            let tail = if rest.is_empty() { LineEnd::None } else { LineEnd::Part };
            let batch = LineBatch::split(next, self.record.beat_at, Stream::Stdout, line, tail)?;
            next = next.plus(1);
            self.recovered.push(batch.with_recovered(true));
        }
        if !self.recovered.is_empty() {
            let text = format!("{} lines were found behind the index of a lost run", self.recovered.len());
            self.record.note("repaired", text, LineNumber::new(number));
        }
        Ok(())
    }

    /// The next lines and gaps; `None` after the last.
    pub(super) fn step(&mut self) -> Result<Option<Vec<OutputItem>>> {
        if self.next.get() > self.last {
            return Ok(None);
        }
        let doing = "read the lines of a run";
        let mut items = Vec::new();
        let mut entries = self.index.entries(self.place, ENTRIES).map_err(io_error(doing))?;
        let first = entries.first().map_or(0, |entry| entry.offset);
        entries.retain(|entry| entry.end() <= first + READ_BYTES || entry.offset == first);
        if entries.is_empty() && self.place >= self.index.count() {
            for batch in std::mem::take(&mut self.recovered) {
                self.give(batch, &mut items);
            }
            self.gap_to(self.last, &mut items);
            self.next = LineNumber::new(self.last + 1).unwrap_or(LineNumber::MAX);
            return Ok(Some(items));
        }
        self.place += (entries.len() as u64).max(1);
        let end = entries.last().map_or(first, Entry::end);
        let mut bytes = vec![0; usize::try_from(end - first).unwrap_or(0)];
        if self.log.read_exact_at(&mut bytes, first).is_err() {
            return self.shortened(&entries).map(Some);
        }
        let bytes = Bytes::from(bytes);
        for entry in entries {
            let start = usize::try_from(entry.offset - first).unwrap_or(usize::MAX);
            let stop = usize::try_from(entry.end() - first).unwrap_or(usize::MAX);
            let batch =
                LineBatch::split(entry.first, entry.time, entry.stream, bytes.slice(start..stop), entry.tail);
            match batch.ok().filter(|batch| batch.len() == usize::try_from(entry.lines).unwrap_or(0)) {
                Some(batch) => self.give(batch, &mut items),
                None => self.damaged(entry.range(), "the output was changed after it was stored", &mut items),
            }
        }
        Ok(Some(items))
    }

    /// The output is shorter than its index says: somebody cut it.
    fn shortened(&mut self, entries: &[Entry]) -> Result<Vec<OutputItem>> {
        let length = self.log.metadata().map_err(io_error("read the lines of a run"))?.len();
        if entries.iter().all(|entry| entry.end() <= length) {
            return Err(Error::new(ErrorKind::Unavailable, "read the lines of a run"));
        }
        let mut items = Vec::new();
        for entry in entries {
            self.damaged(entry.range(), "the output was cut after it was stored", &mut items);
        }
        Ok(items)
    }

    fn damaged(&mut self, range: LineRange, reason: &str, items: &mut Vec<OutputItem>) {
        self.gap_to(range.first.before(), items);
        let gap = Gap { range, bytes: None, reason: reason.to_owned() };
        let wanted = LineNumber::new(self.last).map(|last| LineRange::new(self.next, last));
        items.extend(wanted.and_then(|wanted| gap.slice(wanted)).map(OutputItem::Gap));
        self.next = self.next.max(range.last.plus(1));
    }

    fn give(&mut self, batch: LineBatch, items: &mut Vec<OutputItem>) {
        self.gap_to(batch.first().before(), items);
        let wanted = LineNumber::new(self.last).map(|last| LineRange::new(self.next, last));
        items.extend(wanted.and_then(|wanted| batch.slice(wanted)).map(OutputItem::Lines));
        self.next = self.next.max(batch.last().plus(1));
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
