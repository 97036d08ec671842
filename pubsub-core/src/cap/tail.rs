//! What is left of the lines that were held back, once the run has ended.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Held, decode};
use super::file::{Head, HeldFile};
use super::ring::Ring;
use super::{Over, off_thread};
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
        // So that whoever brings it after a crash cuts it where it is cut here.
        ring.keep(&over.filling);
        let first = over.first?;
        Self::of(ring, over.filling, first, over.bytes)
    }

    /// What a process left that has died; `None` where nothing of it came to the disk.
    pub(super) fn left(file: Arc<HeldFile>, head: Head) -> io::Result<Option<Self>> {
        let first = head.first;
        let (ring, bytes) = Ring::left(file, head)?;
        Ok(Self::of(ring, Block::default(), first, bytes))
    }

    /// The end of so many bytes that were held back from this line on.
    fn of(ring: Ring, newest: Block, first: LineNumber, bytes: u64) -> Option<Self> {
        let last = newest.held.or(ring.newest())?.last;
        let mut tail = Self { ring, read: None, newest, gap: None };
        let kept = tail.cut(last);
        let from = kept.first().map_or(last, LineBatch::first);
        if let Some(before) = LineNumber::new(from.before()).filter(|before| *before >= first) {
            let cut: u64 = kept.iter().map(|batch| batch.bytes().len() as u64).sum();
            let bytes = bytes.saturating_sub(cut.saturating_add(tail.bytes()));
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

    /// The file that it is read from, where there is one.
    pub(crate) fn file(&self) -> Option<Arc<HeldFile>> {
        self.ring.file()
    }

    /// The next lines, `None` after the last; a gap where they can be read no more.
    fn next(&mut self) -> Option<Result<Vec<LineBatch>, Gap>> {
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

    /// The next lines, and the rest of it, read off the async threads.
    pub(crate) async fn next_off_thread(mut self) -> Option<(Self, Result<Vec<LineBatch>, Gap>)> {
        off_thread(move || {
            let next = self.next()?;
            Some((self, next))
        })
        .await?
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
        let batches = frames.and_then(|frames| {
            let (batches, _) = decode(frames, held.first);
            let whole = batches.last().is_some_and(|batch| batch.last() == held.last);
            whole.then_some(batches).ok_or_else(|| io::ErrorKind::InvalidData.into())
        });
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
