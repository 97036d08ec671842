//! Appends lines to the files of a run.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use pubsub_core::{Appended, Gap, LineBatch, LineEnd, LineNumber, LineRange, Result, RunRecord, Stream};

use super::Durability;
use super::index::{ENTRY_BYTES, Entry, Index};
use super::layout::{RunFolder, open_for_writing};
use crate::error::io_error;

/// The open files of a run.
#[derive(Debug)]
pub(super) struct Writer {
    folder: RunFolder,
    log: File,
    index: Arc<File>,
    known: Known,
}

/// What the files hold, as of the last look.
#[derive(Debug, Default)]
struct Known {
    /// Whole entries.
    entries: u64,
    /// Where the last entry's bytes end.
    end: u64,
    /// The last number stored, 0 before the first.
    last: u64,
    /// The stream whose last line goes on.
    open: Option<Stream>,
    /// Numbers that were passed by.
    passed: Vec<LineRange>,
}

impl Writer {
    pub(super) fn open(folder: RunFolder) -> Result<Self> {
        let log = open_for_writing(&folder.log()).map_err(io_error("open the output of a run"))?;
        let index = open_for_writing(&folder.index()).map_err(io_error("open the index of a run"))?;
        Ok(Self { folder, log, index: Arc::new(index), known: Known::default() })
    }

    /// Whether its files still lie in the run's folder: another process may have removed the run, and this one made it
    /// again.
    pub(super) fn is_current(&self) -> bool {
        let inode = |meta: io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let there = inode(std::fs::symlink_metadata(self.folder.index()));
        there.is_some() && there == inode(self.index.metadata())
    }

    /// Takes the record where it moves forward; answers whether it did.
    pub(super) fn put(&mut self, record: &RunRecord) -> Result<bool> {
        let _lock = Locked::new(Arc::clone(&self.index)).map_err(io_error("lock the index of a run"))?;
        let next = match self.folder.record()? {
            Some(stored) => stored.followed_by(record),
            None => Some(record.clone()),
        };
        match next {
            Some(next) => self.folder.write_record(&next).map(|()| true),
            None => Ok(false),
        }
    }

    /// Appends the lines that are not there yet. The index is written after the bytes, so what a crash leaves half
    /// written was never acknowledged, and the next append writes over it.
    pub(super) fn append(&mut self, batches: &[LineBatch], durability: Durability) -> Result<Appended> {
        let _lock = Locked::new(Arc::clone(&self.index)).map_err(io_error("lock the index of a run"))?;
        self.look().map_err(io_error("read the index of a run"))?;
        let mut appended = Appended::all();
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        let start = self.known.end;
        let mut next = Known { passed: Vec::new(), ..self.known };
        for batch in batches {
            self.late(batch, &mut appended);
            let fresh = LineNumber::new(next.last + 1).unwrap_or(LineNumber::FIRST);
            let Some(batch) = batch.slice(LineRange::new(fresh, LineNumber::MAX)) else { continue };
            if batch.first() > fresh
                && let Some(last) = LineNumber::new(batch.first().before())
            {
                next.passed.push(LineRange::new(fresh, last));
            }
            // One line of one stream goes on in the file; anything else begins on a line of its own.
            if next.open.is_some_and(|stream| stream != batch.stream() || batch.first() > fresh) {
                bytes.push(b'\n');
                next.end += 1;
            }
            Entry::new(&batch, next.end).encode(&mut entries);
            bytes.extend_from_slice(batch.bytes());
            next.end += batch.bytes().len() as u64;
            next.last = batch.last().get();
            next.open =
                (batch.tail() == LineEnd::Part || batch.tail() == LineEnd::None).then(|| batch.stream());
            next.entries += 1;
        }
        if !entries.is_empty() {
            self.write(start, &bytes, &entries, durability).map_err(io_error("append lines"))?;
            self.known.passed.append(&mut next.passed);
            self.known = Known { passed: std::mem::take(&mut self.known.passed), ..next };
        }
        Ok(appended)
    }

    fn write(&self, at: u64, bytes: &[u8], entries: &[u8], durability: Durability) -> io::Result<()> {
        self.log.write_all_at(bytes, at)?;
        if durability == Durability::PowerLoss {
            self.log.sync_data()?;
        }
        self.index.write_all_at(entries, self.known.entries * ENTRY_BYTES as u64)?;
        if durability == Durability::PowerLoss {
            self.index.sync_data()?;
        }
        Ok(())
    }

    /// Numbers that come after later ones: those that are there are stored, the others have lost their place.
    fn late(&self, batch: &LineBatch, appended: &mut Appended) {
        for passed in &self.known.passed {
            if let Some(part) = batch.slice(*passed) {
                appended.refused.push(Gap {
                    range: part.range(),
                    bytes: Some(part.bytes().len() as u64),
                    reason: "came after later lines".to_owned(),
                });
            }
        }
    }

    /// Takes in what another handle or an earlier process wrote.
    fn look(&mut self) -> io::Result<()> {
        let index = Index::open(self.index.try_clone()?)?;
        let whole = index.count() * ENTRY_BYTES as u64;
        if self.index.metadata()?.len() > whole {
            self.index.set_len(whole)?;
        }
        for entry in index.entries(self.known.entries, u64::MAX)? {
            if entry.first.get() > self.known.last + 1
                && let (Some(first), Some(last)) =
                    (LineNumber::new(self.known.last + 1), LineNumber::new(entry.first.before()))
            {
                self.known.passed.push(LineRange::new(first, last));
            }
            self.known.last = entry.range().last.get();
            self.known.end = entry.end();
            self.known.open = (entry.tail != LineEnd::Lf).then_some(entry.stream);
        }
        self.known.entries = index.count();
        // What lies behind the last entry was never acknowledged.
        if self.log.metadata()?.len() > self.known.end {
            self.log.set_len(self.known.end)?;
        }
        Ok(())
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
