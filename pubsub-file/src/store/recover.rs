//! Finds lines in an output that no entry of the index knows.
//!
//! A killed writer leaves at most one piece behind the index, and nothing but a part of an entry at its end. Where more
//! is there, an entry at the end is damaged, or not even the mark is there that comes before the first byte, the index
//! was lost: by a power loss, or by somebody's hand.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::Bytes;
use pubsub_core::{LineBatch, LineEnd, LineNumber, MAX_BATCH_BYTES, MAX_LINE_BYTES, Stream, Timestamp};

use super::index::{Entry, Index};
use super::writer::PIECE_BYTES;

/// Most bytes that a killed writer leaves behind the index.
const TORN_BYTES: u64 = (PIECE_BYTES + MAX_BATCH_BYTES + 1) as u64;

/// Whether the index lost lines that were stored, in an output of this length.
pub(super) fn is_lost(index: &Index, length: u64) -> io::Result<bool> {
    let end = index.last()?.map_or(0, |entry| entry.end());
    Ok(length > end && (index.is_damaged() || length - end > TORN_BYTES))
}

/// An entry for each batch of lines between the last one and `length`. Their time is that of the last write, their
/// stream that of the last line known.
pub(super) fn find(index: &Index, log: &File, length: u64) -> io::Result<Vec<Entry>> {
    let last = index.last()?;
    let stream = last.map_or(Stream::Stdout, |entry| entry.stream);
    let mut at = last.map_or(0, |entry| entry.end());
    let mut next = last.map_or(LineNumber::FIRST, |entry| entry.range().last.plus(1));
    let meta = log.metadata()?;
    let time = Timestamp::from_micros(meta.mtime().saturating_mul(1_000_000) + meta.mtime_nsec() / 1_000);
    let mut entries = Vec::new();
    let mut buffer = vec![0; MAX_BATCH_BYTES];
    while at < length {
        let rest = usize::try_from(length - at).unwrap_or(usize::MAX).min(MAX_BATCH_BYTES);
        let Some(window) = buffer.get_mut(..rest) else { break };
        log.read_exact_at(window, at)?;
        let cut = memchr::memrchr(b'\n', window).map_or(rest.min(MAX_LINE_BYTES), |at| at + 1);
        let bytes = Bytes::copy_from_slice(window.get(..cut).unwrap_or_default());
        let tail = if at + cut as u64 == length { LineEnd::None } else { LineEnd::Part };
        let batch = LineBatch::split(next, time, stream, bytes, tail).map_err(io::Error::other)?;
        entries.push(Entry { recovered: true, ..Entry::new(&batch, at) });
        next = batch.last().plus(1);
        at += cut as u64;
    }
    Ok(entries)
}
