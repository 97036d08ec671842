//! Reads the lines of a run back.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use pubsub_core::{
    Error, ErrorKind, Gap, Judgement, LineBatch, LineNumber, LineRange, Lines, OutputItem, Result, RunRecord,
    RunStatus, Timestamp,
};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::index::{ENTRIES, Entry, Index};
use super::pinned::Pinned;
use super::{late, recover};
use crate::error::io_error;
use crate::files::open_for_reading;

/// Most bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// A run's lines, from a number on, as they were when it was opened.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) record: RunRecord,
    /// `None` where it was deleted.
    log: Option<File>,
    index: Index,
    /// The next entry.
    place: u64,
    /// Entries from there on that were looked at already, with their places.
    ahead: VecDeque<(u64, Entry)>,
    /// The next number.
    next: LineNumber,
    /// The last number to give.
    last: u64,
    /// What was found behind the index.
    recovered: Vec<Entry>,
}

/// Bytes of an output and the entries that they belong to.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) entries: Vec<Entry>,
    /// Where the bytes begin in the output.
    offset: u64,
    bytes: Bytes,
}

impl Block {
    /// The bytes from one place of the output to another; `None` where they are not there.
    pub(super) fn bytes_between(&self, start: u64, end: u64) -> Option<Bytes> {
        let at = |place: u64| usize::try_from(place.checked_sub(self.offset)?).ok();
        let range = at(start)?..at(end)?;
        self.bytes.get(range.clone())?;
        Some(self.bytes.slice(range))
    }

    /// The bytes of an entry; `None` where the output was cut before their end.
    pub(super) fn bytes_of(&self, entry: &Entry) -> Option<Bytes> {
        self.bytes_between(entry.offset, entry.end())
    }
}

/// So many bytes from a place on, or as many as there are.
fn read_up_to(file: &File, at: u64, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).unwrap_or(0);
    // Not filled with zeros first.
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let next = at.saturating_add(bytes.len() as u64);
        match rustix::io::pread(file, spare_capacity(&mut bytes), next) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes.into())
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match open_for_reading(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

impl Reader {
    /// The record is as it was after the folder was pinned.
    pub(super) fn open(pinned: &Pinned<'_>, record: RunRecord, lines: Lines) -> Result<Self> {
        let doing = "read the lines of a run";
        let folder = pinned.folder();
        let (log, length, index) = loop {
            let log = open_if_there(&folder.log()).map_err(io_error(doing))?;
            // Before the index is looked at: what a live writer adds meanwhile must not look like lines without entries.
            let length = log.as_ref().map_or(Ok(0), |log| log.metadata().map(|meta| meta.len()));
            let length = length.map_err(io_error(doing))?;
            let index =
                open_if_there(&late::index_of(folder)).and_then(Index::open).map_err(io_error(doing))?;
            // Both of one time: lines may have been merged in between.
            if late::is_still(&folder.log(), log.as_ref()) {
                break (log, length, index);
            }
        };
        // Where it was removed meanwhile, what was read does not belong together.
        if !pinned.is_in_place().map_err(io_error(doing))? {
            return Err(Error::new(ErrorKind::NotFound, doing).with("run", &record.key.run_id));
        }
        let mut reader = Self {
            record,
            log,
            index,
            place: 0,
            ahead: VecDeque::new(),
            next: LineNumber::FIRST,
            last: 0,
            recovered: Vec::new(),
        };
        reader.recover(length)?;
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
            Some(entry) => entry.range().last.get(),
            None => self.index.last().ok().flatten().map_or(0, |entry| entry.range().last.get()),
        };
        let known = self.record.holes.iter().map(|gap| gap.range.last.get()).max().unwrap_or(0);
        let through = match self.record.status {
            RunStatus::Running => stored.max(if self.contiguous(stored, known) { known } else { 0 }),
            RunStatus::Completed => stored.max(self.record.last_number().map_or(0, LineNumber::get)),
        };
        // Whatever a damaged record says: after each line there is a next number.
        through.min(u64::MAX - 1)
    }

    /// Whether the holes that the record names reach from the last stored line to `known`.
    fn contiguous(&self, stored: u64, known: u64) -> bool {
        let mut next = stored + 1;
        let mut holes: Vec<LineRange> = self.record.holes.iter().map(|gap| gap.range).collect();
        holes.sort_by_key(|range| range.first);
        for hole in holes {
            if hole.first.get() <= next && hole.last.get() >= next {
                next = hole.last.get().saturating_add(1);
            }
        }
        next == known.saturating_add(1)
    }

    /// How many entries there are.
    fn count(&self) -> u64 {
        self.index.count() + self.recovered.len() as u64
    }

    /// The next entries from a place on, with their places; none only at the end or where they are all damaged.
    fn entries(&self, place: u64) -> Result<Vec<(u64, Entry)>> {
        match place.checked_sub(self.index.count()).map(usize::try_from) {
            None => self.index.entries(place).map_err(io_error("read the index of a run")),
            Some(skip) => {
                let rest = self.recovered.iter().copied().skip(skip.unwrap_or(usize::MAX));
                Ok((place..).zip(rest).take(usize::try_from(ENTRIES).unwrap_or(0)).collect())
            }
        }
    }

    /// The number with which the last `wanted` lines begin. Where there are fewer, a gap at the front is part of the
    /// answer.
    fn first_of_last(&self, mut wanted: u64) -> Result<LineNumber> {
        let mut end = self.count();
        while end > 0 {
            let floor = if end > self.index.count() { self.index.count() } else { 0 };
            let start = end.saturating_sub(ENTRIES).max(floor);
            for (_, entry) in self.entries(start)?.iter().rev().filter(|(place, _)| *place < end) {
                let lines = u64::from(entry.lines);
                if lines >= wanted {
                    return Ok(entry.first.plus(lines - wanted));
                }
                wanted -= lines;
            }
            end = start;
        }
        Ok(LineNumber::FIRST)
    }

    /// The worker of a lost run died between writing bytes and their index entry, or the index was lost: the bytes are
    /// lines all the same. Nothing is written; the next append of the run's owner does that.
    fn recover(&mut self, length: u64) -> Result<()> {
        let doing = "find lines behind the index of a run";
        let lost = recover::is_lost(&self.index, length).map_err(io_error(doing))?;
        if !lost && self.record.judge(Timestamp::now()) != Judgement::Lost {
            return Ok(());
        }
        let before = self.index.last().map_err(io_error(doing))?.map(|entry| entry.range().last);
        let Some(log) = &self.log else { return Ok(()) };
        self.recovered = recover::find(&self.index, log, length).map_err(io_error(doing))?;
        let lines: u64 = self.recovered.iter().map(|entry| u64::from(entry.lines)).sum();
        if lines > 0 {
            self.record.note("repaired", format!("{lines} lines were found behind the index"), before);
        }
        Ok(())
    }

    /// The next bytes and the entries that they belong to; `None` after the last.
    pub(super) fn block(&mut self) -> Result<Option<Block>> {
        while self.place < self.count() {
            if self.ahead.is_empty() {
                self.ahead = self.entries(self.place)?.into();
            }
            let Some((_, first)) = self.ahead.front().copied() else {
                // All damaged.
                self.place = self.place.saturating_add(ENTRIES).min(self.index.count());
                continue;
            };
            let fits = |entry: &Entry| {
                entry.offset >= first.offset && entry.end() <= first.offset.saturating_add(READ_BYTES)
            };
            let wanted = |(place, entry): &&(u64, Entry)| *place == self.place || fits(entry);
            let count = self.ahead.iter().take_while(wanted).count();
            let entries: Vec<(u64, Entry)> = self.ahead.drain(..count).collect();
            let (place, end) = entries.last().map_or((self.place, 0), |(place, last)| (*place, last.end()));
            self.place = place + 1;
            let read = |log| read_up_to(log, first.offset, end.saturating_sub(first.offset));
            let bytes = self.log.as_ref().map_or_else(|| Ok(Bytes::new()), read);
            let bytes = bytes.map_err(io_error("read the lines of a run"))?;
            let entries = entries.into_iter().map(|(_, entry)| entry).collect();
            return Ok(Some(Block { entries, offset: first.offset, bytes }));
        }
        Ok(None)
    }

    /// The next lines and gaps; `None` after the last.
    pub(super) fn step(&mut self) -> Result<Option<Vec<OutputItem>>> {
        if self.next.get() > self.last {
            return Ok(None);
        }
        let mut items = Vec::new();
        let Some(block) = self.block()? else {
            self.gap_to(self.last, &mut items);
            self.next = LineNumber::new(self.last + 1).unwrap_or(LineNumber::MAX);
            return Ok(Some(items));
        };
        for entry in &block.entries {
            match block.bytes_of(entry).map(|bytes| entry.batch(bytes)) {
                Some(Some(batch)) => self.give(batch, &mut items),
                Some(None) => {
                    self.damaged(entry.range(), "the output was changed after it was stored", &mut items);
                }
                None => self.damaged(entry.range(), "the output was cut after it was stored", &mut items),
            }
        }
        Ok(Some(items))
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

#[cfg(test)]
mod tests {
    use pubsub_core::{
        ActionId, Durability, EventId, LineNumber, Lines, OutputItem, RunKey, RunRecord, RunStatus, Stage,
    };

    use super::Reader;
    use crate::store::layout::Layout;
    use crate::store::pinned::Pinned;

    #[test]
    fn a_record_that_counts_more_lines_than_there_are_numbers_is_one_gap() {
        let folder = tempfile::tempdir().unwrap();
        let key =
            RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::new("e").unwrap(), 1);
        let run = Layout::open(folder.path().into(), Durability::ProcessCrash).unwrap().make(&key).unwrap();
        let mut record = RunRecord::begun(key, "w");
        record.status = RunStatus::Completed;
        record.counts.lines = u64::MAX;
        let pinned = Pinned::new(&run).unwrap().unwrap();
        let mut reader = Reader::open(&pinned, record, Lines::ALL).unwrap();
        let items = reader.step().unwrap().unwrap();
        assert!(matches!(items.as_slice(), [OutputItem::Gap(gap)] if gap.range.first == LineNumber::FIRST
                && gap.range.last.get() == u64::MAX - 1));
        assert_eq!(reader.step().unwrap(), None);
    }
}
