//! The line index: one entry of fixed size for each batch of lines.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use pubsub_core::{LineBatch, LineEnd, LineNumber, LineRange, MAX_BATCH_BYTES, Stream, Timestamp};

/// Bytes of one entry: first number 8, offset 8, time 8, bytes 4, lines 4, stream 1, tail 1, recovered 1, no NUL 1,
/// CRC-32 of all this 4; all little-endian.
pub(super) const ENTRY_BYTES: usize = 40;

/// What the index says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first: LineNumber,
    /// Where its bytes begin in the output.
    pub(super) offset: u64,
    pub(super) time: Timestamp,
    pub(super) bytes: u32,
    pub(super) lines: u32,
    pub(super) stream: Stream,
    pub(super) tail: LineEnd,
    /// Found in the output after the index was lost.
    pub(super) recovered: bool,
    /// None of its bytes is NUL: where one is read, the file has a hole.
    pub(super) no_nul: bool,
}

impl Entry {
    pub(super) fn new(batch: &LineBatch, offset: u64) -> Self {
        // A batch is bounded far below what 32 bits hold.
        let short = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Self {
            first: batch.first(),
            offset,
            time: batch.time(),
            bytes: short(batch.bytes().len()),
            lines: short(batch.len()),
            stream: batch.stream(),
            tail: batch.tail(),
            recovered: batch.is_recovered(),
            no_nul: memchr::memchr(0, batch.bytes()).is_none(),
        }
    }

    pub(super) fn range(&self) -> LineRange {
        LineRange::new(self.first, self.first.plus(u64::from(self.lines).saturating_sub(1)))
    }

    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.first.get().to_le_bytes());
        into.extend_from_slice(&self.offset.to_le_bytes());
        into.extend_from_slice(&self.time.as_micros().to_le_bytes());
        into.extend_from_slice(&self.bytes.to_le_bytes());
        into.extend_from_slice(&self.lines.to_le_bytes());
        let stream = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        let tail = match self.tail {
            LineEnd::Lf | LineEnd::CrLf => 1,
            LineEnd::None => 3,
            LineEnd::Part => 4,
        };
        into.extend_from_slice(&[stream, tail, u8::from(self.recovered), u8::from(self.no_nul)]);
        let check = crc32fast::hash(into.get(start..).unwrap_or_default());
        into.extend_from_slice(&check.to_le_bytes());
    }

    /// `None` for what was not written as a whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_at_checked(ENTRY_BYTES - 4)?;
        if crc32fast::hash(body).to_le_bytes() != check {
            return None;
        }
        let long = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let entry = Self {
            first: LineNumber::new(long(0)?)?,
            offset: long(8)?,
            time: Timestamp::from_micros(i64::from_le_bytes(body.get(16..24)?.try_into().ok()?)),
            // No batch has more, whatever a foreign file says.
            bytes: short(24).filter(|bytes| (*bytes as usize) <= MAX_BATCH_BYTES)?,
            lines: short(28).filter(|lines| *lines > 0)?,
            stream: match body.get(32)? {
                1 => Stream::Stdout,
                2 => Stream::Stderr,
                _ => return None,
            },
            tail: match body.get(33)? {
                1 => LineEnd::Lf,
                3 => LineEnd::None,
                4 => LineEnd::Part,
                _ => return None,
            },
            recovered: *body.get(34)? == 1,
            no_nul: *body.get(35)? == 1,
        };
        // There is a number after each line, and no file is longer than the system can say.
        let counts = entry.first.get().checked_add(u64::from(entry.lines)).is_some();
        let lies =
            entry.offset.checked_add(u64::from(entry.bytes)).is_some_and(|end| i64::try_from(end).is_ok());
        (counts && lies).then_some(entry)
    }

    /// The batch that these bytes are; `None` where its lines are not there any more, as in the hole that a cut leaves.
    /// A byte that was changed within a line is for `verify` to name: a check over the batch would hide its other lines.
    pub(super) fn batch(&self, bytes: Bytes) -> Option<LineBatch> {
        if self.no_nul && memchr::memchr(0, &bytes).is_some() {
            return None;
        }
        let batch = LineBatch::split(self.first, self.time, self.stream, bytes, self.tail).ok()?;
        let same = u32::try_from(batch.len()) == Ok(self.lines) && batch.tail() == self.tail;
        same.then(|| batch.with_recovered(self.recovered))
    }
}

/// The entries of an index file that were written as a whole, as they are now.
#[derive(Debug)]
pub(super) struct Index {
    /// `None` where it was deleted.
    file: Option<File>,
    count: u64,
    damaged: bool,
}

/// Most entries that are looked at at once.
pub(super) const ENTRIES: u64 = 1024;

impl Index {
    pub(super) fn open(file: Option<File>) -> io::Result<Self> {
        let length = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()))?;
        // Before anything is printed, a mark is made in the index: one that has not even this was lost.
        let mut index = Self { file, count: length / ENTRY_BYTES as u64, damaged: length == 0 };
        // A killed writer leaves at most a part of an entry; a whole one that cannot be read is damage.
        while index.count > 0 && index.entry(index.count - 1)?.is_none() {
            index.count -= 1;
            index.damaged = true;
        }
        Ok(index)
    }

    /// Whether entries at its end cannot be read, or all are gone.
    pub(super) const fn is_damaged(&self) -> bool {
        self.damaged
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The entry with this place; `None` where it is damaged.
    pub(super) fn entry(&self, place: u64) -> io::Result<Option<Entry>> {
        let mut bytes = [0; ENTRY_BYTES];
        let Some(file) = &self.file else { return Ok(None) };
        file.read_exact_at(&mut bytes, place * ENTRY_BYTES as u64)?;
        Ok(Entry::decode(&bytes))
    }

    pub(super) fn last(&self) -> io::Result<Option<Entry>> {
        self.count.checked_sub(1).map_or(Ok(None), |place| self.entry(place))
    }

    /// The next [`ENTRIES`] from a place on, with their places; damaged ones are left out and show as missing numbers.
    pub(super) fn entries(&self, place: u64) -> io::Result<Vec<(u64, Entry)>> {
        let count = self.count.saturating_sub(place).min(ENTRIES);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * ENTRY_BYTES];
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        file.read_exact_at(&mut bytes, place * ENTRY_BYTES as u64)?;
        let entries = bytes.chunks_exact(ENTRY_BYTES).map(Entry::decode);
        Ok((place..).zip(entries).filter_map(|(place, entry)| Some((place, entry?))).collect())
    }

    /// The place of the first entry that ends at or after a number.
    pub(super) fn find(&self, number: LineNumber) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.is_some_and(|entry| entry.range().last < number) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use super::{ENTRY_BYTES, Entry};
    use proptest::prelude::{prop_assert_eq, proptest};
    use pubsub_core::{LineEnd, LineNumber, Stream, Timestamp};

    proptest! {
        #[test]
        fn an_entry_reads_back_and_a_changed_one_does_not(
            first in 1..u64::MAX - 1, offset in 0..1u64 << 62, micros in 0i64..1 << 50, at in 0..ENTRY_BYTES, flip in 1u8..,
        ) {
            let entry = Entry {
                first: LineNumber::new(first).unwrap(),
                offset,
                time: Timestamp::from_micros(micros),
                bytes: 7,
                lines: 2,
                stream: Stream::Stderr,
                tail: LineEnd::Part,
                recovered: true,
                no_nul: true,
            };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), ENTRY_BYTES);
            prop_assert_eq!(Entry::decode(&bytes), Some(entry));
            bytes[at] ^= flip;
            prop_assert_eq!(Entry::decode(&bytes), None);
        }

        #[test]
        fn numbers_and_places_that_no_run_has_are_damage(past in 0u64..2, far in 0u64..2) {
            let entry = Entry {
                first: LineNumber::new(u64::MAX - past).unwrap(),
                offset: (1 << 63) - far,
                time: Timestamp::EPOCH,
                bytes: 7,
                lines: 2,
                stream: Stream::Stdout,
                tail: LineEnd::Lf,
                recovered: false,
                no_nul: true,
            };
            for entry in [Entry { first: LineNumber::FIRST, ..entry }, Entry { offset: 0, ..entry }] {
                let mut bytes = Vec::new();
                entry.encode(&mut bytes);
                prop_assert_eq!(Entry::decode(&bytes), None);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..90)) {
            let _ = Entry::decode(&bytes);
        }
    }
}
