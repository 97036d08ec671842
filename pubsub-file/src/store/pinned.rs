//! Whether files that were opened one after the other are of one run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use pubsub_core::Result;

use super::layout::RunFolder;
use crate::error::io_error;
use crate::files::open_for_reading;

/// A run's folder that is held open: as long as it is, no other has its inode.
#[derive(Debug)]
pub(super) struct Pinned<'a> {
    folder: &'a RunFolder,
    held: fs::Metadata,
    _open: fs::File,
}

impl<'a> Pinned<'a> {
    /// `None` where it is not there.
    pub(super) fn new(folder: &'a RunFolder) -> Result<Option<Self>> {
        let pinned = |open: fs::File| Ok(Some(Self { folder, held: open.metadata()?, _open: open }));
        match open_for_reading(folder.path()).and_then(pinned) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            pinned => pinned.map_err(io_error("open the folder of a run")),
        }
    }

    pub(super) const fn folder(&self) -> &RunFolder {
        self.folder
    }

    /// Whether the run was neither removed nor removed and made again.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        let place = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        match fs::symlink_metadata(self.folder.path()) {
            Ok(there) => Ok(place(&there) == place(&self.held)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
