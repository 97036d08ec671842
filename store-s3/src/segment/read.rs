//! Gives the lines of a block back.

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, LineBatch, LineNumber, Result};
use zstd::bulk::Decompressor;

use super::entries::{self, Entry};
use super::index::{BlockAt, bytes_of};
use super::skipped;

/// What a block turned out to be.
#[derive(Debug)]
pub(crate) enum Block {
    /// Its lines, in number order.
    Lines(Vec<LineBatch>),
    /// Its bytes were changed after they were stored, or are not all there.
    Damaged,
}

/// Reads a block of these bytes, which begin at `begins` in the segment.
///
/// # Errors
/// [`Internal`](ErrorKind::Internal) where the decoder cannot be made.
pub(crate) fn decode(block: &BlockAt, bytes: &Bytes, begins: u64) -> Result<Block> {
    let cannot = |e| Error::new(ErrorKind::Internal, "decompress lines").with_source(e);
    let mut decompressor = Decompressor::new().map_err(cannot)?;
    let lines = bytes_of(block, bytes, begins).and_then(|bytes| lines_of(block, &bytes, &mut decompressor));
    Ok(lines.map_or(Block::Damaged, Block::Lines))
}

/// `None` where they are damaged.
fn lines_of(block: &BlockAt, bytes: &[u8], decompressor: &mut Decompressor<'_>) -> Option<Vec<LineBatch>> {
    if crc32fast::hash(bytes) != block.check {
        return None;
    }
    let (packed, frame) = bytes.split_at_checked(usize::try_from(block.entries).ok()?)?;
    let (length, packed) = skipped(packed)?.split_at_checked(4)?;
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    let entries = entries::decode(&decompressor.decompress(packed, length).ok()?)?;
    let length = entries.iter().map(|entry| entry.bytes + usize::from(entry.added)).sum();
    let raw = Bytes::from(decompressor.decompress(frame, length).ok()?);
    let (mut batches, mut next, mut at) = (Vec::with_capacity(entries.len()), block.first, 0);
    for entry in entries {
        let end = at + entry.bytes;
        let batch = batch_of(&entry, next, (end <= raw.len()).then(|| raw.slice(at..end))?)?;
        at = end + usize::from(entry.added);
        next = batch.last().plus(1);
        batches.push(batch);
    }
    (next == block.range().last.plus(1)).then_some(batches)
}

fn batch_of(entry: &Entry, first: LineNumber, bytes: Bytes) -> Option<LineBatch> {
    let batch = LineBatch::split(first, entry.time, entry.stream, bytes, entry.tail).ok()?;
    Some(batch.with_recovered(entry.recovered))
}
