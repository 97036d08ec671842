//! Appends lines to the files of a run.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use pubsub_core::{
    Appended, ErrorKind, LineBatch, LineEnd, LineNumber, LineRange, Result, RunRecord, RunStatus, Seldom,
    Stream,
};

use super::Durability;
use super::index::{ENTRIES, ENTRY_BYTES, Entry, Index};
use super::layout::{Layout, RunFolder};
use super::{catalog, late, recover};
use crate::error::io_error;
use crate::files::{self, open_for_writing};

/// About how many bytes are written before their entries are.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// The open files of a run.
#[derive(Debug)]
pub(super) struct Writer {
    folder: RunFolder,
    log: File,
    index: Arc<File>,
    known: Known,
    /// Numbers that were passed by.
    passed: Vec<LineRange>,
    /// How much of the late lines is known to be whole.
    late: u64,
    /// When to log that the output was cut by another hand.
    shorter: Seldom,
}

/// What the files hold, as of the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whole entries.
    entries: u64,
    /// Where the last entry's bytes end.
    end: u64,
    /// The last number stored, 0 before the first.
    last: u64,
    /// The stream whose last line goes on.
    open: Option<Stream>,
}

/// What one write brings: bytes, their entries, and what is known after it.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    entries: Vec<u8>,
    passed: Vec<LineRange>,
    next: Known,
}

impl Known {
    /// With one more entry.
    fn take(&mut self, entry: &Entry) {
        self.entries += 1;
        self.end = entry.end();
        self.last = entry.range().last.get();
        self.open = (entry.tail != LineEnd::Lf).then_some(entry.stream);
    }

    /// The numbers between the last one and `first`.
    fn passed_by(&self, first: LineNumber) -> Option<LineRange> {
        let start = LineNumber::new(self.last + 1)?;
        LineNumber::new(first.before()).filter(|last| *last >= start).map(|last| LineRange::new(start, last))
    }
}

impl Piece {
    fn after(next: Known) -> Self {
        Self { bytes: Vec::new(), entries: Vec::new(), passed: Vec::new(), next }
    }

    /// Adds the lines that are not there yet.
    fn add(&mut self, batch: &LineBatch) {
        let next = &mut self.next;
        let fresh = LineNumber::new(next.last + 1).unwrap_or(LineNumber::FIRST);
        let Some(batch) = batch.slice(LineRange::new(fresh, LineNumber::MAX)) else { return };
        self.passed.extend(next.passed_by(batch.first()));
        // One line of one stream goes on in the file; anything else begins on a line of its own.
        if next.open.is_some_and(|stream| stream != batch.stream() || batch.first() > fresh) {
            self.bytes.push(b'\n');
            next.end += 1;
        }
        let entry = Entry::new(&batch, next.end);
        entry.encode(&mut self.entries);
        self.bytes.extend_from_slice(batch.bytes());
        next.take(&entry);
    }
}

impl Writer {
    pub(super) fn open(folder: RunFolder) -> Result<Self> {
        late::finish(&folder).map_err(io_error("put a merged output in place"))?;
        let log = open_for_writing(&folder.log()).map_err(io_error("open the output of a run"))?;
        let index = open_for_writing(&folder.index()).map_err(io_error("open the index of a run"))?;
        let (known, passed, shorter) = (Known::default(), Vec::new(), Seldom::default());
        Ok(Self { folder, log, index: Arc::new(index), known, passed, late: 0, shorter })
    }

    /// Takes the run's lock; the files are opened again where they are not the run's any more.
    fn locked(&mut self) -> Result<Locked> {
        loop {
            let lock = Locked::new(Arc::clone(&self.index)).map_err(io_error("lock the index of a run"))?;
            if self.is_current() {
                return Ok(lock);
            }
            *self = Self::open(self.folder.clone())?;
        }
    }

    pub(super) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Whether its files still lie in the run's folder: another process may have removed the run, and this one made it
    /// again; or the output was renamed, and what follows belongs into a new one.
    pub(super) fn is_current(&self) -> bool {
        let files = [(self.folder.index(), &*self.index), (self.folder.log(), &self.log)];
        files.into_iter().all(|(path, file)| files::is_still(&path, file).unwrap_or(false))
    }

    /// Takes the record where it moves forward, and at the end of a run the lines that came late; answers whether that
    /// changed anything.
    pub(super) fn put(&mut self, record: &RunRecord, layout: &Layout) -> Result<bool> {
        let _lock = self.locked()?;
        let stored = match self.folder.record() {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(error = %error.chain(), "a record that cannot be read is written anew by its owner");
                None
            }
            stored => stored?,
        };
        let next = match &stored {
            Some(stored) => stored.followed_by(record).unwrap_or_else(|| stored.clone()),
            None => record.clone(),
        };
        // Held to the end: the lock is that of the index, and a merge brings another one.
        let (next, _lock) = self.complete(next)?;
        if stored.as_ref() == Some(&next) {
            return Ok(false);
        }
        // Before the record: a run that can be seen is in the catalog.
        if stored.is_none_or(|stored| stored.started_at != next.started_at) {
            catalog::enter(layout, &self.folder, &next)?;
        }
        self.folder.write_record(&next).map(|()| true)
    }

    /// What is known of an ended run once the lines that came late are in their places: a hole that they fill is none.
    fn complete(&mut self, mut record: RunRecord) -> Result<(RunRecord, Option<Locked>)> {
        if record.status == RunStatus::Running {
            return Ok((record, None));
        }
        let mut lock = None;
        if late::has(&self.folder) {
            late::merge(&self.folder, &record)?;
            *self = Self::open(self.folder.clone())?;
            lock = Some(self.locked()?);
        }
        let index = self.index.try_clone().and_then(|file| Index::open(Some(file)));
        let index = index.map_err(io_error("read the index of a run"))?;
        for hole in record.holes.clone() {
            let mut place = index.find(hole.range.first).map_err(io_error("read the index of a run"))?;
            while place < index.count() {
                let entries = index.entries(place).map_err(io_error("read the index of a run"))?;
                entries.iter().for_each(|(_, entry)| record.fill(entry.range()));
                if entries.last().is_some_and(|(_, entry)| entry.first > hole.range.last) {
                    break;
                }
                place = place.saturating_add(ENTRIES);
            }
        }
        Ok((record, lock))
    }

    /// Appends the lines that are not there yet, in pieces of about a megabyte. The index is written after the bytes,
    /// so what a crash leaves half written was never acknowledged, and the next append writes over it.
    pub(super) fn append(&mut self, batches: &[LineBatch], durability: Durability) -> Result<Appended> {
        let _lock = self.locked()?;
        self.look(durability).map_err(io_error("read the index of a run"))?;
        let mut late = Vec::new();
        let mut piece = Piece::after(self.known);
        for batch in batches {
            late.extend(self.passed.iter().filter_map(|passed| batch.slice(*passed)));
            piece.add(batch);
            if piece.bytes.len() >= PIECE_BYTES {
                piece = self.write(piece, durability).map_err(io_error("append lines"))?;
            }
        }
        self.write(piece, durability).map_err(io_error("append lines"))?;
        self.take_late(&late, durability)
    }

    /// Writes a piece and begins the next one.
    fn write(&mut self, piece: Piece, durability: Durability) -> io::Result<Piece> {
        if !piece.entries.is_empty() {
            #[cfg(feature = "fault-points")]
            crate::files::torn("store.output", &self.log, &piece.bytes, self.known.end);
            self.log.write_all_at(&piece.bytes, self.known.end)?;
            if durability == Durability::PowerLoss {
                self.log.sync_data()?;
            }
            let at = self.known.entries * ENTRY_BYTES as u64;
            #[cfg(feature = "fault-points")]
            crate::files::torn("store.index", &self.index, &piece.entries, at);
            self.index.write_all_at(&piece.entries, at)?;
            #[cfg(feature = "fault-points")]
            pubsub_core::fault::point("store.appended");
            if durability == Durability::PowerLoss {
                self.index.sync_data()?;
            }
            self.passed.extend(&piece.passed);
            self.known = piece.next;
        }
        Ok(Piece::after(self.known))
    }

    /// Lines that come after later ones. They have lost their place while the run goes on, for whoever follows it was told
    /// of a gap; of a run that has ended they are kept until its end comes again.
    fn take_late(&mut self, late: &[LineBatch], durability: Durability) -> Result<Appended> {
        if late.is_empty() {
            return Ok(Appended::all());
        }
        if self.folder.record()?.is_none_or(|record| record.status == RunStatus::Running) {
            let refused = late.iter().map(|part| part.gap("came after later lines"));
            return Ok(refused.fold(Appended::all(), Appended::with_refused));
        }
        late::keep(&self.folder, late, &mut self.late, durability).map_err(io_error("keep late lines"))?;
        Ok(Appended::all())
    }

    /// Takes in what another handle or an earlier process wrote.
    fn look(&mut self, durability: Durability) -> io::Result<()> {
        let length = self.log.metadata()?.len();
        let mut index = Index::open(Some(self.index.try_clone()?))?;
        if recover::is_lost(&index, length)? {
            index = self.repair(&index, length)?;
            (self.known, self.passed) = (Known::default(), Vec::new());
        } else {
            self.mark(&index, durability)?;
        }
        if index.count() < self.known.entries {
            // Not what this writer wrote any more.
            (self.known, self.passed) = (Known::default(), Vec::new());
        }
        while self.known.entries < index.count() {
            let through = (self.known.entries + ENTRIES).min(index.count());
            for (_, entry) in index.entries(self.known.entries)? {
                self.passed.extend(self.known.passed_by(entry.first));
                self.known.take(&entry);
            }
            self.known.entries = through;
        }
        // What lies behind the last entry was never acknowledged.
        if length > self.known.end {
            self.log.set_len(self.known.end)?;
        } else if length < self.known.end && self.shorter.happened(1).is_some() {
            tracing::warn!(run = ?self.folder, "the output of a run is shorter than what was written to it");
        }
        Ok(())
    }

    /// Cuts what is no whole entry, but leaves a byte in an index without entries: it tells one whose first append was
    /// cut short from one that was emptied.
    fn mark(&self, index: &Index, durability: Durability) -> io::Result<()> {
        let (length, whole) = (self.index.metadata()?.len(), index.count() * ENTRY_BYTES as u64);
        if length == whole.max(1) {
            return Ok(());
        }
        self.index.set_len(whole.max(1))?;
        if whole == 0 && durability == Durability::PowerLoss {
            self.index.sync_all()?;
        }
        Ok(())
    }

    /// Gives lines that the index lost their entries back.
    fn repair(&self, index: &Index, length: u64) -> io::Result<Index> {
        let found = recover::find(index, &self.log, length)?;
        let mut entries = Vec::new();
        found.iter().for_each(|entry| entry.encode(&mut entries));
        let end = index.count() * ENTRY_BYTES as u64;
        self.index.set_len(end)?;
        self.index.write_all_at(&entries, end)?;
        let lines: u64 = found.iter().map(|entry| u64::from(entry.lines)).sum();
        tracing::warn!(run = ?self.folder, lines, "lines that the index had lost were recovered from the output");
        Index::open(Some(self.index.try_clone()?))
    }
}

/// The lock of a run's files between processes; the system frees it when its holder dies.
struct Locked(Arc<File>);

impl Locked {
    fn new(file: Arc<File>) -> io::Result<Self> {
        file.lock()?;
        Ok(Self(file))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "the lock of a run could not be freed");
        }
    }
}
