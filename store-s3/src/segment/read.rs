//! Gives the lines of a block back.

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, LineBatch, LineEnd, LineNumber, Result};
use zstd::bulk::Decompressor;

use super::entries::{self, Entry};
use super::index::{BlockAt, bytes_of};
use super::skipped;

/// What a block turned out to be.
#[derive(Debug)]
pub(crate) enum Block {
    /// Its lines, in number order.
    Lines(BlockLines),
    /// Its bytes were changed after they were stored, or are not all there.
    Damaged,
}

/// The lines of a block. Batches are made of them when they are asked for: a search needs few.
#[derive(Debug)]
pub(crate) struct BlockLines {
    raw: Bytes,
    batches: Vec<Place>,
}

/// A batch in a block.
#[derive(Debug)]
struct Place {
    entry: Entry,
    first: LineNumber,
    /// Where its bytes begin.
    at: usize,
}

/// Reads one block after the other: making what decompresses costs as much as a part of a block.
pub(crate) struct Decoder(Decompressor<'static>);

impl Decoder {
    pub(crate) fn new() -> Result<Self> {
        let cannot = |e| Error::new(ErrorKind::Internal, "decompress lines").with_source(e);
        Decompressor::new().map(Self).map_err(cannot)
    }

    /// Reads a block of these bytes, which begin at `begins` in the segment.
    pub(crate) fn decode(&mut self, block: &BlockAt, bytes: &Bytes, begins: u64) -> Block {
        let lines = bytes_of(block, bytes, begins).and_then(|bytes| lines_of(block, &bytes, &mut self.0));
        lines.map_or(Block::Damaged, Block::Lines)
    }
}

/// `None` where they are damaged.
fn lines_of(block: &BlockAt, bytes: &[u8], decompressor: &mut Decompressor<'_>) -> Option<BlockLines> {
    if crc32fast::hash(bytes) != block.check {
        return None;
    }
    let (packed, frame) = bytes.split_at_checked(usize::try_from(block.entries).ok()?)?;
    let (length, packed) = skipped(packed)?.split_at_checked(4)?;
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    let entries = entries::decode(&decompressor.decompress(packed, length).ok()?)?;
    let length = entries.iter().map(|entry| entry.bytes + usize::from(entry.added)).sum();
    let raw = Bytes::from(decompressor.decompress(frame, length).ok()?);
    let (mut batches, mut first, mut at) = (Vec::with_capacity(entries.len()), block.first, 0);
    for entry in entries {
        let next = LineNumber::new(first.get().checked_add(entry.lines)?)?;
        let after = at + entry.bytes + usize::from(entry.added);
        batches.push(Place { entry, first, at });
        (first, at) = (next, after);
    }
    let whole = first == block.range().last.plus(1) && at == raw.len();
    whole.then_some(BlockLines { raw, batches })
}

impl BlockLines {
    /// The bytes of all its lines; between two of them may stand a line feed that was not printed.
    pub(crate) const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whether a line feed stands between any two lines.
    pub(crate) fn are_apart(&self) -> bool {
        let before_the_last = self.batches.split_last().map_or(&[][..], |(_, before)| before);
        before_the_last.iter().all(|place| place.entry.tail == LineEnd::Lf || place.entry.added)
    }

    /// Its batches, in number order.
    pub(crate) fn batches(&self) -> impl Iterator<Item = LineBatch> + '_ {
        self.batches.iter().filter_map(|place| self.batch(place))
    }

    /// The batch that has the byte at this place, and where it begins; `None` for a line feed that was not printed.
    pub(crate) fn batch_at(&self, at: usize) -> Option<(usize, LineBatch)> {
        let index = self.batches.partition_point(|place| place.at <= at).checked_sub(1)?;
        let place = self.batches.get(index)?;
        (at < place.at + place.entry.bytes).then_some(())?;
        Some((place.at, self.batch(place)?))
    }

    /// `None` where its entry is not what its bytes are, which no writer of ours leads to: its numbers are missing then.
    fn batch(&self, Place { entry, first, at }: &Place) -> Option<LineBatch> {
        let end = at.checked_add(entry.bytes).filter(|end| *end <= self.raw.len())?;
        let batch =
            LineBatch::split(*first, entry.time, entry.stream, self.raw.slice(*at..end), entry.tail).ok()?;
        (batch.len() as u64 == entry.lines).then(|| batch.with_recovered(entry.recovered))
    }
}
