//! Thin ways in for the fuzz targets.

use std::path::{Path, PathBuf};

use pubsub_core::{Appended, Durability, LineBatch, Lines, OutputItem, Result, RunKey, RunRecord};

use super::index::ENTRY_BYTES;
use super::layout::{Layout, RunFolder};
use super::pinned::Pinned;
use super::read::Reader;
use super::writer::Writer;

/// The files of one run in a store's folder.
#[derive(Debug)]
pub struct StoredRun(RunFolder);

impl StoredRun {
    /// Makes the folder of a run.
    ///
    /// # Errors
    /// As the store says.
    pub fn make(root: &Path, key: &RunKey) -> Result<Self> {
        Layout::open(root.to_owned(), Durability::ProcessCrash)?.make(key).map(Self)
    }

    /// Where its output lies.
    pub fn log(&self) -> PathBuf {
        self.0.log()
    }

    /// Where its index lies.
    pub fn index(&self) -> PathBuf {
        self.0.index()
    }

    /// Reads lines: the number through which all is known, and the items.
    ///
    /// # Errors
    /// As the store says.
    pub fn read(&self, record: RunRecord, lines: Lines) -> Result<(u64, Vec<OutputItem>)> {
        let Some(pinned) = Pinned::new(&self.0)? else { return Ok((0, Vec::new())) };
        let mut reader = Reader::open(&pinned, record, lines)?;
        let through = reader.through();
        let mut all = Vec::new();
        while let Some(items) = reader.step()? {
            all.extend(items);
        }
        Ok((through, all))
    }

    /// Appends lines.
    ///
    /// # Errors
    /// As the store says.
    pub fn append(&self, batches: &[LineBatch]) -> Result<Appended> {
        Writer::open(self.0.clone())?.append(batches, Durability::ProcessCrash)
    }
}

/// Makes the bytes of an index entries that were written as a whole, whatever they say.
pub fn check_entries(index: &mut [u8]) {
    for entry in index.chunks_exact_mut(ENTRY_BYTES) {
        let (body, check) = entry.split_at_mut(ENTRY_BYTES - 4);
        check.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
}
