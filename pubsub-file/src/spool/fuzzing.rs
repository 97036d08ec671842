//! Thin ways in for the fuzz targets.

use std::path::{Path, PathBuf};

use pubsub_core::{LineBatch, Result};

use super::folder::Missing;
use super::log::{Log, segment_in, segments};
use crate::files::Sync;

/// The segments of one run in a spool.
#[derive(Debug)]
pub struct Segments(Log);

impl Segments {
    /// Opens them, and cuts a torn end; `None` where another has them.
    ///
    /// # Errors
    /// As the spool says.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        Log::open(folder.to_owned(), Missing::Make).map(|log| log.map(Self))
    }

    /// Appends lines.
    ///
    /// # Errors
    /// As the spool says.
    pub fn append(&mut self, batches: &[LineBatch]) -> Result<u64> {
        self.0.append(batches, Sync::No)
    }

    /// The next lines, which are shipped by that, and whether damage lies before them; `None` after the last.
    ///
    /// # Errors
    /// As the spool says.
    pub fn take(&mut self, most: usize) -> Result<Option<(Vec<LineBatch>, bool)>> {
        let chunk = self.0.read(most)?;
        if chunk.is_empty() {
            return Ok(None);
        }
        self.0.move_to(chunk.segment, chunk.offset)?;
        Ok(Some((chunk.batches, chunk.damaged)))
    }

    /// Whether all was taken.
    pub fn is_read(&self) -> bool {
        self.0.is_read()
    }

    /// Where the first or the last segment lies that is left.
    pub fn file(folder: &Path, last: bool) -> Option<PathBuf> {
        let numbers = segments(folder).ok()?;
        let number = if last { numbers.last() } else { numbers.first() };
        number.map(|number| segment_in(folder, *number))
    }
}
