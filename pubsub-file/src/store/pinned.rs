//! Whether files that were opened one after the other are of one run.

use std::fs::File;
use std::io;

use pubsub_core::Result;

use super::layout::RunFolder;
use crate::error::io_error;
use crate::files::{is_still, open_for_reading};

/// A run's folder that is held open.
#[derive(Debug)]
pub(super) struct Pinned<'a> {
    folder: &'a RunFolder,
    open: File,
}

impl<'a> Pinned<'a> {
    /// `None` where it is not there.
    pub(super) fn new(folder: &'a RunFolder) -> Result<Option<Self>> {
        match open_for_reading(folder.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            open => {
                open.map(|open| Some(Self { folder, open })).map_err(io_error("open the folder of a run"))
            }
        }
    }

    pub(super) const fn folder(&self) -> &RunFolder {
        self.folder
    }

    /// Whether the run was neither removed nor removed and made again.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        is_still(self.folder.path(), &self.open)
    }
}
