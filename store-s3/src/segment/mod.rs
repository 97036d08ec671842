//! Segments: consecutive lines of a run in one immutable object, of which a reader fetches what it needs.
//!
//! A segment is a file of zstd frames (RFC 8878), so that `zstdcat` of a run's segments in the order of their names is the
//! log; what is not output lies in skippable frames, which every decoder passes over:
//!
//! ```text
//! skippable   the filters of all blocks, one after the other
//! of each block:
//!   skippable the entries of the block, compressed: what each batch of lines was (see `entries`)
//!   frame     the bytes of the lines, as printed
//! skippable   the index: a fixed record for each block, and at the very end how long it is
//! ```
//!
//! The index lies at the end, beside the newest lines, so that one read brings both. A search reads the index and the
//! filters, then only blocks that may match. Where within a block an unfinished line is followed by the other stream, a
//! line feed stands between them that was not printed; the entry says so.

mod entries;
mod filter;
mod index;
mod read;
mod write;

pub(crate) use filter::{Filter, position};
pub(crate) use index::{BlockAt, Index, MIN_BYTES};
pub(crate) use read::{Block, BlockLines, Decoder};
pub(crate) use write::{Maker, Written, segments_of};

/// The version of this format.
pub(crate) const FORMAT: u32 = 1;

/// RFC 8878, section 3.1.2: any of sixteen numbers begins a frame that decoders pass over; this is the first.
const SKIPPABLE: u32 = 0x184D_2A50;

/// What stands before the content of a skippable frame.
const SKIPPABLE_HEAD: usize = 8;

/// A skippable frame with this content.
fn skippable(content: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&SKIPPABLE.to_le_bytes());
    // No part of a segment comes near 4 GiB: a segment is a few MiB.
    into.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(content);
}

/// The content of a skippable frame that is all of `bytes`.
fn skipped(bytes: &[u8]) -> Option<&[u8]> {
    let (head, content) = bytes.split_at_checked(SKIPPABLE_HEAD)?;
    let (magic, length) = head.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    (magic == SKIPPABLE.to_le_bytes() && usize::try_from(length) == Ok(content.len())).then_some(content)
}
