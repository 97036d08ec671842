//! Lines that are held back, as they lie on the disk.

use bytes::Bytes;

use crate::{LineBatch, LineEnd, LineNumber, Stream, Timestamp};

/// Most bytes of a block: what is written at once, and in whose place a later one comes.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Before the bytes of each batch: their length 4, their time 8, stream and tail 1; all little-endian.
const HEAD_BYTES: usize = 13;

/// Batches with consecutive numbers.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(super) frames: Vec<u8>,
    pub(super) held: Option<Held>,
}

/// Which lines a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) first: LineNumber,
    pub(super) last: LineNumber,
    /// Theirs alone, ends included.
    pub(super) bytes: u64,
}

impl Block {
    pub(super) fn has_room(&self, batch: &LineBatch) -> bool {
        self.frames.len() + HEAD_BYTES + batch.bytes().len() <= BLOCK_BYTES
    }

    /// Adds the lines that follow.
    pub(super) fn add(&mut self, batch: &LineBatch) {
        let bytes = batch.bytes();
        // A batch is bounded far below what 32 bits hold.
        self.frames.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.frames.extend_from_slice(&batch.time().as_micros().to_le_bytes());
        let stderr = u8::from(batch.stream() == Stream::Stderr);
        self.frames.push(stderr | u8::from(batch.tail() == LineEnd::Part) << 1);
        self.frames.extend_from_slice(bytes);
        let before = self.held.map_or((batch.first(), 0), |held| (held.first, held.bytes));
        let bytes = before.1.saturating_add(bytes.len() as u64);
        self.held = Some(Held { first: before.0, last: batch.last(), bytes });
    }
}

/// The batches of a block, the first line of which has this number; `None` where it is not what was written.
pub(super) fn decode(mut frames: Bytes, mut first: LineNumber) -> Option<Vec<LineBatch>> {
    let mut batches = Vec::new();
    while !frames.is_empty() {
        let head = (frames.len() >= HEAD_BYTES).then(|| frames.split_to(HEAD_BYTES))?;
        let length = usize::try_from(u32::from_le_bytes(head.get(..4)?.try_into().ok()?)).ok()?;
        let time = Timestamp::from_micros(i64::from_le_bytes(head.get(4..12)?.try_into().ok()?));
        let flags = *head.get(12)?;
        let lines = (frames.len() >= length).then(|| frames.split_to(length))?;
        let stream = if flags & 1 == 0 { Stream::Stdout } else { Stream::Stderr };
        let tail = if flags & 2 == 0 { LineEnd::None } else { LineEnd::Part };
        let batch = LineBatch::split(first, time, stream, lines, tail).ok()?;
        first = batch.last().plus(1);
        batches.push(batch);
    }
    Some(batches)
}
