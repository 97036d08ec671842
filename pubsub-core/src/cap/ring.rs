//! The blocks on the disk, of which the oldest make room for new ones.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::Cap;
use super::block::{BLOCK_BYTES, Block, Held};

/// A file without a name, which the system frees with the process however that ends. Its calls block.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(super) cap: Cap,
    file: Option<Arc<File>>,
    /// Oldest first, with consecutive numbers.
    blocks: VecDeque<Stored>,
    /// The bytes of their lines.
    pub(super) bytes: u64,
    /// How many places for a block the file has, and may have.
    places: u64,
    most: u64,
    /// Places whose block was dropped.
    free: Vec<u64>,
    failed: bool,
}

/// A block on the disk.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) held: Held,
    place: u64,
    length: usize,
    file: Arc<File>,
}

impl Stored {
    /// Its frames.
    pub(super) fn read(&self) -> io::Result<Bytes> {
        let mut frames = vec![0; self.length];
        self.file.read_exact_at(&mut frames, offset(self.place))?;
        Ok(frames.into())
    }
}

const fn offset(place: u64) -> u64 {
    place.saturating_mul(BLOCK_BYTES as u64)
}

impl Ring {
    pub(crate) fn new(cap: Cap) -> Self {
        // Twice, for blocks of short lines hold more than their bytes; and the oldest and the newest are never full.
        let most = cap.tail.saturating_mul(2) / BLOCK_BYTES as u64 + 3;
        let (blocks, free) = (VecDeque::new(), Vec::new());
        Self { cap, file: None, blocks, bytes: 0, places: 0, most, free, failed: false }
    }

    /// Takes a block, and drops those that the tail will not reach back to. Where it cannot be written, it is dropped
    /// with all before it: what is left out is one gap.
    pub(crate) fn push(&mut self, block: &Block) {
        let Some(held) = block.held else { return };
        self.make_room(held.bytes);
        while let Some(place) = self.place() {
            match self.write(place, &block.frames) {
                Ok(file) => {
                    self.places = self.places.max(place + 1);
                    self.bytes = self.bytes.saturating_add(held.bytes);
                    return self.blocks.push_back(Stored { held, place, length: block.frames.len(), file });
                }
                Err(error) => self.failed(&error),
            }
            if place < self.places {
                self.free.push(place);
                break;
            }
            // A full disk still has the places that were written; no further one is tried.
            self.most = self.places;
        }
        while self.take_oldest().is_some() {}
    }

    /// Drops blocks as long as those after them, with so many bytes that follow, are a whole tail.
    pub(super) fn make_room(&mut self, following: u64) {
        let enough = |ring: &Self, oldest: &Stored| {
            (ring.bytes - oldest.held.bytes).saturating_add(following) >= ring.cap.tail
        };
        while self.blocks.front().is_some_and(|oldest| enough(self, oldest)) {
            self.take_oldest();
        }
    }

    /// Takes the oldest block out, and leaves its place to another.
    pub(super) fn take_oldest(&mut self) -> Option<Stored> {
        let oldest = self.blocks.pop_front()?;
        self.bytes = self.bytes.saturating_sub(oldest.held.bytes);
        self.free.push(oldest.place);
        Some(oldest)
    }

    /// Where the next block is written; `None` where there is no place for any.
    fn place(&mut self) -> Option<u64> {
        if self.free.is_empty() && self.places >= self.most {
            self.take_oldest();
        }
        self.free.pop().or_else(|| (self.places < self.most).then_some(self.places))
    }

    fn write(&mut self, place: u64, frames: &[u8]) -> io::Result<Arc<File>> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(Arc::new(match &self.cap.dir {
                Some(dir) => tempfile::tempfile_in(dir)?,
                None => tempfile::tempfile()?,
            })),
        };
        #[cfg(feature = "fault-points")]
        if crate::fault::is_due("cap.ring") {
            file.write_all_at(frames.get(..frames.len() / 2).unwrap_or_default(), offset(place))?;
            crate::fault::die();
        }
        file.write_all_at(frames, offset(place))?;
        Ok(Arc::clone(file))
    }

    #[cfg(test)]
    pub(super) fn disk_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.metadata().unwrap().len())
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(%error, dir = ?self.cap.dir, "output that is over its limit cannot be held back; less of its end is kept");
        }
    }
}
