//! How far a run was shipped, and what is shipped next.

use std::io;
use std::path::Path;

use pubsub_core::{Gap, LineBatch, LineNumber};
use serde::{Deserialize, Serialize};

use crate::files;

/// The file that says how far a run was shipped.
pub(super) const CURSOR: &str = "shipped.json";

/// How far a run was shipped. It may be older than the truth: lines that are shipped again change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The segment that is read next.
    pub(super) segment: u64,
    /// Where in it.
    pub(super) offset: u64,
    /// The last line that was read.
    pub(super) last: Option<LineNumber>,
    /// Damage was passed by since then.
    pub(super) damaged: bool,
    /// The highest revision of the record that the sink took, or refused for good; 0 before the run began there.
    pub(super) revision: u64,
    /// What the sink refused for good, or was damaged here.
    pub(super) refused: Vec<Gap>,
}

impl Cursor {
    /// The one in the folder of a run, where that has none the first; `None` where it cannot be read.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let bytes = files::read(&folder.join(CURSOR))?;
        Ok(bytes.map_or_else(|| Some(Self::default()), |bytes| serde_json::from_slice(&bytes).ok()))
    }
}

/// What was read to be shipped.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) batches: Vec<LineBatch>,
    /// Where the next one begins.
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Damage was passed by before the batches.
    pub(super) damaged: bool,
}

impl Chunk {
    /// Whether there is nothing to bring or to pass by.
    pub(super) const fn is_empty(&self) -> bool {
        self.batches.is_empty() && !self.damaged
    }
}
