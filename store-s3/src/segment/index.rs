//! The index of a segment: where its blocks are, and what lines they have.

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, LineNumber, LineRange, Result};

use super::{FORMAT, SKIPPABLE_HEAD, skippable, skipped};

/// Bytes of one block's record: first number 8, lines 4, then lengths of 4 each: of the printed bytes, of the entries, of
/// the frame, of the filter; at last the CRC-32 of entries and frame. All little-endian.
const RECORD_BYTES: usize = 32;

/// Ends a segment, after the length of the index.
const MARK: &[u8; 8] = b"pp-lines";

/// The length of the index and the mark.
const TAIL_BYTES: usize = 4 + MARK.len();

/// No segment is shorter.
pub(crate) const MIN_BYTES: u64 = (2 * SKIPPABLE_HEAD + TAIL_BYTES) as u64;

/// What the index says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub(crate) first: LineNumber,
    pub(crate) lines: u32,
    /// Bytes of its lines.
    pub(crate) printed: u32,
    pub(super) entries: u32,
    pub(super) frame: u32,
    pub(super) filter: u32,
    pub(super) check: u32,
    /// Where its entries begin in the segment; not stored, for blocks lie one after the other.
    pub(crate) offset: u64,
    /// Where its filter begins; not stored.
    pub(crate) filter_offset: u64,
}

impl BlockAt {
    pub(crate) fn range(&self) -> LineRange {
        LineRange::new(self.first, self.first.plus(u64::from(self.lines).saturating_sub(1)))
    }

    /// Where its frame ends in the segment.
    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.entries as u64 + self.frame as u64
    }

    /// Where its filter lies in the segment.
    pub(crate) const fn filter_range(&self) -> std::ops::Range<u64> {
        self.filter_offset..self.filter_offset + self.filter as u64
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.first.get().to_le_bytes());
        for field in [self.lines, self.printed, self.entries, self.frame, self.filter, self.check] {
            into.extend_from_slice(&field.to_le_bytes());
        }
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let (first, rest) = record.split_at_checked(8)?;
        let mut fields = rest.chunks_exact(4).map(|field| field.try_into().map(u32::from_le_bytes));
        let mut next = || fields.next()?.ok();
        let first = LineNumber::new(u64::from_le_bytes(first.try_into().ok()?))?;
        let lines = next().filter(|lines| *lines > 0)?;
        first.get().checked_add(u64::from(lines))?;
        let (printed, entries, frame, filter, check) = (next()?, next()?, next()?, next()?, next()?);
        Some(Self { first, lines, printed, entries, frame, filter, check, offset: 0, filter_offset: 0 })
    }
}

/// The index of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) blocks: Vec<BlockAt>,
    /// Where the index begins in the segment.
    begins: u64,
    /// The CRC-32 of all filters.
    filters_check: u32,
}

/// The skippable frame that ends a segment.
pub(super) fn encode(blocks: &[BlockAt], filters: &[u8], into: &mut Vec<u8>) {
    let mut content = Vec::with_capacity(12 + blocks.len() * RECORD_BYTES + TAIL_BYTES);
    content.extend_from_slice(&FORMAT.to_le_bytes());
    content.extend_from_slice(&crc32fast::hash(filters).to_le_bytes());
    blocks.iter().for_each(|block| block.encode(&mut content));
    content.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    let length = u32::try_from(content.len() + SKIPPABLE_HEAD + TAIL_BYTES).unwrap_or(u32::MAX);
    content.extend_from_slice(&length.to_le_bytes());
    content.extend_from_slice(MARK);
    skippable(&content, into);
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("read the index of a segment: {what}"))
}

impl Index {
    /// How many bytes at the end of the segment are the index, by the last bytes of the segment.
    pub(crate) fn length(end: &[u8]) -> Result<u64> {
        let tail = end.len().checked_sub(TAIL_BYTES).and_then(|at| end.get(at..));
        let (length, mark) = tail.and_then(|tail| tail.split_at_checked(4)).unwrap_or_default();
        let length = length.try_into().map(u32::from_le_bytes).unwrap_or_default();
        if mark != MARK {
            return Err(damaged("it does not end as one"));
        }
        Ok(u64::from(length))
    }

    /// Reads the bytes that are the index, of a segment that has so many bytes in all.
    pub(crate) fn decode(bytes: &[u8], segment_bytes: u64) -> Result<Self> {
        let content = skipped(bytes).ok_or_else(|| damaged("it is no skippable frame"))?;
        let body = content.len().checked_sub(TAIL_BYTES).and_then(|at| content.get(..at));
        let (version, _) = body.and_then(|body| body.split_at_checked(4)).unwrap_or_default();
        let version = version.try_into().map(u32::from_le_bytes).unwrap_or_default();
        if version > FORMAT {
            let error = Error::new(ErrorKind::TooNew, "read the index of a segment");
            return Err(error.with("version", version).with("newest known", FORMAT));
        }
        let checked = body.and_then(|body| body.split_at_checked(body.len().checked_sub(4)?));
        let (records, check) = checked.ok_or_else(|| damaged("it is too short"))?;
        if crc32fast::hash(records).to_le_bytes() != check {
            return Err(damaged("its check does not fit"));
        }
        let (filters_check, records) = records
            .get(4..)
            .and_then(|rest| rest.split_at_checked(4))
            .ok_or_else(|| damaged("it is too short"))?;
        let filters_check = filters_check.try_into().map(u32::from_le_bytes).unwrap_or_default();
        let blocks: Option<Vec<BlockAt>> = records.chunks_exact(RECORD_BYTES).map(BlockAt::decode).collect();
        let begins = segment_bytes.saturating_sub(bytes.len() as u64);
        let index =
            Self { blocks: blocks.ok_or_else(|| damaged("a block has no lines"))?, begins, filters_check };
        index.placed().ok_or_else(|| damaged("its blocks are not where they should be"))
    }

    /// Works out where everything lies; `None` where it does not fit.
    fn placed(mut self) -> Option<Self> {
        let filters: u64 = self.blocks.iter().map(|block| u64::from(block.filter)).sum();
        let (mut filter_at, mut at) = (SKIPPABLE_HEAD as u64, SKIPPABLE_HEAD as u64 + filters);
        let mut next = self.blocks.first()?.first;
        for block in &mut self.blocks {
            if block.first != next {
                return None;
            }
            next = block.range().last.plus(1);
            (block.offset, block.filter_offset) = (at, filter_at);
            at = block.end();
            filter_at += u64::from(block.filter);
        }
        (at == self.begins).then_some(self)
    }

    /// Where the filters lie in the segment.
    pub(crate) fn filters(&self) -> std::ops::Range<u64> {
        let end = self.blocks.last().map_or(0, |block| block.filter_range().end);
        SKIPPABLE_HEAD as u64..end.max(SKIPPABLE_HEAD as u64)
    }

    /// Whether these bytes are the filters as they were written.
    pub(crate) fn vouches_for(&self, filters: &[u8]) -> bool {
        crc32fast::hash(filters) == self.filters_check
    }

    /// The blocks that have lines of this range.
    pub(crate) fn blocks_of(&self, range: LineRange) -> &[BlockAt] {
        let from = self.blocks.partition_point(|block| block.range().last < range.first);
        let to = self.blocks.partition_point(|block| block.first <= range.last);
        self.blocks.get(from..to).unwrap_or_default()
    }
}

/// The bytes of a block, of bytes that begin at `begins` in the segment.
pub(crate) fn bytes_of(block: &BlockAt, bytes: &Bytes, begins: u64) -> Option<Bytes> {
    let at = |place: u64| usize::try_from(place.checked_sub(begins)?).ok();
    let (from, to) = (at(block.offset)?, at(block.end())?);
    (to <= bytes.len()).then(|| bytes.slice(from..to))
}
