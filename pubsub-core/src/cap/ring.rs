//! The blocks on the disk, of which the oldest make room for new ones.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Cap;
use super::block::{BLOCK_BYTES, Block, Held, decode};
use super::file::{Head, HeldFile};
use crate::RunKey;

/// The places of a file and what is in them. Its calls block.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(super) cap: Cap,
    run: RunKey,
    file: Option<Arc<HeldFile>>,
    /// Oldest first, with consecutive numbers.
    blocks: VecDeque<Stored>,
    /// The bytes of their lines.
    pub(super) bytes: u64,
    /// What of the block that still grows is on the disk.
    growing: Option<Growing>,
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
    file: Arc<HeldFile>,
}

impl Stored {
    /// Its frames.
    pub(super) fn read(&self) -> io::Result<Bytes> {
        Ok(self.file.read(self.place, self.length)?.into())
    }
}

#[derive(Clone, Copy, Debug)]
struct Growing {
    held: Held,
    place: u64,
    written: usize,
}

impl Ring {
    pub(crate) fn new(cap: Cap, run: RunKey) -> Self {
        // Twice, for blocks of short lines hold more than their bytes; and the oldest and the newest are never full.
        let most = cap.tail.saturating_mul(2) / BLOCK_BYTES as u64 + 3;
        let (file, growing, blocks, free) = (None, None, VecDeque::new(), Vec::new());
        Self { cap, run, file, blocks, bytes: 0, growing, places: 0, most, free, failed: false }
    }

    /// What is in a file that was left: its newest blocks with consecutive numbers; and the bytes of all lines that were
    /// held back up to the last of them.
    pub(super) fn left(file: Arc<HeldFile>, head: Head) -> io::Result<(Self, u64)> {
        let cap = Cap { head: head.head, tail: head.tail, dir: None };
        let mut ring = Self::new(cap, head.run);
        let (mut found, mut total) = (Vec::new(), 0);
        for place in 0..file.places()? {
            let Some((first, before, frames)) = file.look(place)? else { continue };
            let (batches, length) = decode(frames.into(), first);
            let Some(last) = batches.last().map(crate::LineBatch::last) else { continue };
            let bytes = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
            total = total.max(before.saturating_add(bytes));
            found.push(Stored { held: Held { first, last, bytes }, place, length, file: Arc::clone(&file) });
        }
        found.sort_unstable_by_key(|stored| stored.held.first);
        while let Some(stored) = found.pop() {
            if ring.blocks.front().is_some_and(|next| stored.held.last.plus(1) != next.held.first) {
                break;
            }
            ring.bytes = ring.bytes.saturating_add(stored.held.bytes);
            ring.blocks.push_front(stored);
        }
        ring.file = Some(file);
        Ok((ring, total))
    }

    /// Takes a block that is full, and drops those that the tail will not reach back to. Where it cannot be written, it
    /// is dropped with all before it: what is left out is one gap.
    pub(crate) fn push(&mut self, block: &Block) {
        let Some(held) = block.held else { return };
        self.make_room(held.bytes);
        let Some((place, file)) = self.store(block, held) else {
            while self.take_oldest().is_some() {}
            return;
        };
        self.growing = None;
        self.bytes = self.bytes.saturating_add(held.bytes);
        self.blocks.push_back(Stored { held, place, length: block.frames.len(), file });
    }

    /// Brings to the disk what a block that still grows has by now, for whoever comes after a crash. Only a file with a
    /// name is found then.
    pub(crate) fn keep(&mut self, block: &Block) {
        if let Some(held) = block.held.filter(|_| self.cap.dir.is_some()) {
            self.store(block, held);
        }
    }

    /// Where a block is, once all that it has is written.
    fn store(&mut self, block: &Block, held: Held) -> Option<(u64, Arc<HeldFile>)> {
        let grown = self.growing.take();
        if let Some(other) = grown.filter(|growing| growing.held.first != held.first) {
            self.free.push(other.place);
        }
        let mut grown = grown.filter(|growing| growing.held.first == held.first);
        loop {
            let (place, written) = match grown.take() {
                Some(growing) => (growing.place, growing.written),
                None => (self.place()?, 0),
            };
            match self.write(place, block, held, written) {
                Ok(file) => {
                    self.places = self.places.max(place + 1);
                    self.growing = Some(Growing { held, place, written: block.frames.len() });
                    return Some((place, file));
                }
                Err(error) => self.failed(&error),
            }
            self.free.push(place);
            self.give_back();
        }
    }

    /// Leaves half of the room that it has to others, above all to the store that the head goes to, and in the end what is
    /// held back here; and takes no more from now on.
    fn give_back(&mut self) {
        let kept = self.blocks.len() / 2;
        while self.blocks.len() > kept {
            self.take_oldest();
        }
        self.most = self.places;
        let free = std::mem::take(&mut self.free);
        if let Some(file) = &self.file {
            free.into_iter().for_each(|place| file.give_back(place));
        }
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

    /// The last line on the disk.
    pub(super) fn newest(&self) -> Option<Held> {
        self.blocks.back().map(|stored| stored.held)
    }

    /// The file, once there is one.
    pub(super) fn file(&self) -> Option<Arc<HeldFile>> {
        self.file.clone()
    }

    /// Where the next block is written; `None` where there is no place for any.
    fn place(&mut self) -> Option<u64> {
        if self.free.is_empty() && self.places >= self.most {
            self.take_oldest();
        }
        self.free.pop().or_else(|| (self.places < self.most).then_some(self.places))
    }

    fn write(&mut self, place: u64, block: &Block, held: Held, written: usize) -> io::Result<Arc<HeldFile>> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                // The file is made for the first block.
                let head = Head::new(self.run.clone(), held.first, &self.cap);
                self.file.insert(Arc::new(HeldFile::create(&self.cap, &head)?))
            }
        };
        #[cfg(feature = "fault-points")]
        if crate::fault::is_due("cap.ring") {
            let mut torn = block.clone();
            torn.frames.truncate(block.frames.len() / 2);
            file.write(place, &torn, written)?;
            crate::fault::die();
        }
        file.write(place, block, written)?;
        Ok(Arc::clone(file))
    }

    #[cfg(test)]
    pub(super) fn disk_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.disk_bytes())
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(%error, dir = ?self.cap.dir, "output that is over its limit cannot be held back; less of its end is kept");
        }
    }
}
