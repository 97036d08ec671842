//! Lines that are held back, as they lie on the disk.

use bytes::Bytes;

use crate::{LineBatch, LineEnd, LineNumber, Stream, Timestamp};

/// Most bytes of a block: what is written at once, and in whose place a later one comes.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Before the bytes of each batch: their length 4, their time 8, stream and tail 1, all little-endian; and 4 bytes of a
/// hash over the number of their first line, these, and them. By the number, what an earlier block left in the same
/// place is none of this one.
const HEAD_BYTES: usize = 17;

/// Batches with consecutive numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    pub(super) frames: Vec<u8>,
    pub(super) held: Option<Held>,
    /// The bytes of all lines that were held back before these.
    pub(super) before: u64,
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
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let stderr = u8::from(batch.stream() == Stream::Stderr);
        let flags = stderr | u8::from(batch.tail() == LineEnd::Part) << 1;
        let mut head = [0; HEAD_BYTES - 4];
        let fields = length.to_le_bytes().into_iter().chain(batch.time().as_micros().to_le_bytes());
        head.iter_mut().zip(fields.chain([flags])).for_each(|(to, from)| *to = from);
        self.frames.extend_from_slice(&head);
        self.frames.extend_from_slice(&check(batch.first(), &head, bytes));
        self.frames.extend_from_slice(bytes);
        let before = self.held.map_or((batch.first(), 0), |held| (held.first, held.bytes));
        let bytes = before.1.saturating_add(bytes.len() as u64);
        self.held = Some(Held { first: before.0, last: batch.last(), bytes });
    }
}

fn check(first: LineNumber, head: &[u8], bytes: &[u8]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&first.get().to_le_bytes()).update(head).update(bytes);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d]
}

/// The batches of a block, the first line of which has this number, up to where something else follows; and how many
/// bytes they take.
pub(super) fn decode(mut frames: Bytes, mut first: LineNumber) -> (Vec<LineBatch>, usize) {
    let (mut batches, mut taken) = (Vec::new(), 0);
    while let Some(batch) = next(&mut frames, first) {
        first = batch.last().plus(1);
        taken += HEAD_BYTES + batch.bytes().len();
        batches.push(batch);
    }
    (batches, taken)
}

fn next(frames: &mut Bytes, first: LineNumber) -> Option<LineBatch> {
    let whole = (frames.len() >= HEAD_BYTES).then(|| frames.split_to(HEAD_BYTES))?;
    let (head, told) = whole.split_at_checked(HEAD_BYTES - 4)?;
    let length = usize::try_from(u32::from_le_bytes(head.get(..4)?.try_into().ok()?)).ok()?;
    let time = Timestamp::from_micros(i64::from_le_bytes(head.get(4..12)?.try_into().ok()?));
    let flags = *head.get(12)?;
    let lines = (frames.len() >= length).then(|| frames.split_to(length))?;
    if told != check(first, head, &lines) {
        return None;
    }
    let stream = if flags & 1 == 0 { Stream::Stdout } else { Stream::Stderr };
    let tail = if flags & 2 == 0 { LineEnd::None } else { LineEnd::Part };
    LineBatch::split(first, time, stream, lines, tail).ok()
}
