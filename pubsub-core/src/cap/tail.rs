//! What is left of the lines that were held back, once the run has ended.

use std::io;

use bytes::Bytes;

use super::Over;
use super::block::{Block, Held, decode};
use super::ring::Ring;
use crate::{Gap, LineBatch, LineNumber, LineRange};

/// The last lines, read block by block. Its calls block.
#[derive(Debug)]
pub(crate) struct Tail {
    ring: Ring,
    /// The lines of its oldest block, where that was looked at already.
    read: Option<Vec<LineBatch>>,
    /// The newest lines, which never came to the disk.
    newest: Block,
    gap: Option<Gap>,
}

impl Tail {
    /// Leaves out what is over the tail; `None` where the head has everything.
    pub(crate) fn new(mut ring: Ring, mut over: Over) -> Option<Self> {
        while let Some(block) = over.next() {
            ring.push(&block);
        }
        let first = over.first?;
        let last = over.filling.held?.last;
        let mut tail = Self { ring, read: None, newest: over.filling, gap: None };
        let kept = tail.cut(last);
        let from = kept.first().map_or(last, LineBatch::first);
        if let Some(before) = LineNumber::new(from.before()).filter(|before| *before >= first) {
            let cut: u64 = kept.iter().map(|batch| batch.bytes().len() as u64).sum();
            let bytes = over.bytes.saturating_sub(cut.saturating_add(tail.bytes()));
            let reason = format!("over the limit of the output ({})", tail.ring.cap.limit());
            tail.gap = Some(Gap { range: LineRange::new(first, before), bytes: Some(bytes), reason });
        }
        tail.read = Some(kept);
        Some(tail)
    }

    /// The lines between the head and the tail.
    pub(crate) const fn gap(&self) -> Option<&Gap> {
        self.gap.as_ref()
    }

    /// The next lines, `None` after the last; a gap where they can be read no more.
    pub(crate) fn next(&mut self) -> Option<Result<Vec<LineBatch>, Gap>> {
        if let Some(batches) = self.read.take() {
            return Some(Ok(batches));
        }
        let (held, read) = self.take()?;
        Some(read.map_err(|error| {
            let range = LineRange::new(held.first, held.last);
            let reason = format!("held back, and could not be read again: {error}");
            Gap { range, bytes: Some(held.bytes), reason }
        }))
    }

    /// Takes out the oldest block that is left, and cuts off its front what is over the tail, but not the last line.
    fn cut(&mut self, last: LineNumber) -> Vec<LineBatch> {
        self.ring.make_room(self.newest.held.map_or(0, |held| held.bytes));
        while let Some((held, read)) = self.take() {
            match read {
                Ok(batches) => {
                    let over = held.bytes.saturating_add(self.bytes()).saturating_sub(self.ring.cap.tail);
                    return without_front(batches, over, last);
                }
                Err(error) => tracing::warn!(%error, "lines that were held back cannot be read again"),
            }
        }
        Vec::new()
    }

    /// The bytes of the lines that were not taken out.
    fn bytes(&self) -> u64 {
        self.ring.bytes.saturating_add(self.newest.held.map_or(0, |held| held.bytes))
    }

    /// Takes out the oldest block.
    fn take(&mut self) -> Option<(Held, io::Result<Vec<LineBatch>>)> {
        let (held, frames) = match self.ring.take_oldest() {
            Some(stored) => (stored.held, stored.read()),
            None => {
                let newest = std::mem::take(&mut self.newest);
                (newest.held?, Ok(Bytes::from(newest.frames)))
            }
        };
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let batches = frames.and_then(|frames| decode(frames, held.first).ok_or_else(damaged));
        Some((held, batches))
    }
}

/// Leaves out whole lines from the front: so many bytes, or just over; but not the line `last`.
fn without_front(batches: Vec<LineBatch>, mut bytes: u64, last: LineNumber) -> Vec<LineBatch> {
    let rest = batches.into_iter().filter_map(|batch| {
        if bytes == 0 {
            return Some(batch);
        }
        let within = batch.ends().partition_point(|end| u64::from(*end) < bytes) as u64;
        bytes = bytes.saturating_sub(batch.bytes().len() as u64);
        let from = batch.first().plus(within + 1).min(last);
        batch.slice(LineRange::new(from, LineNumber::MAX))
    });
    rest.collect()
}
