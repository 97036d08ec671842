//! Files and folders that are never looked up behind a symbolic link.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pubsub_core::{Durability, Error, ErrorKind, Result};
use rustix::fs::OFlags;

use crate::error::io_error;

/// Whether files and their names are on the disk before a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Yes,
    No,
}

impl From<Durability> for Sync {
    fn from(durability: Durability) -> Self {
        if durability == Durability::PowerLoss { Self::Yes } else { Self::No }
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, "work on files").with_source(e)))
}

/// Makes a folder where it is not there; a link in its place is refused.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io_error("make the folder of a run")(error))
        }
        _ => check_folder(folder),
    }
}

/// Waits until the names in a folder are on the disk ("fsync(2)": syncing a file does not sync its name).
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(folder).map_err(io_error("look at the folder of a run"))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "a folder of a run is a link or a file")
        .with("path", folder.display()))
}

/// The folder with this name below another, or all.
pub(crate) fn below(folder: &Path, only: Option<&str>) -> Result<Vec<PathBuf>> {
    if let Some(only) = only {
        let path = folder.join(only);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        return Ok(is_dir.then_some(path).into_iter().collect());
    }
    let doing = "list the runs";
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(doing))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error(doing))?;
        // A link is no folder here.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A file's bytes, `None` where it is not there; a symbolic link is an error.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match open_for_reading(path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn no_follow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

pub(crate) fn open_for_reading(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(no_follow()).open(path)
}

/// Whether a name still leads to this file or folder: as long as that is open, no other has its inode.
pub(crate) fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    let place = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(place(&there) == place(&file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What became of a name that is taken away, which another may have done meanwhile.
pub(crate) fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// At most so many bytes from an offset on; fewer at the end of the file.
pub(crate) fn read_at(file: &File, offset: u64, most: usize) -> io::Result<Bytes> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(most)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

pub(crate) fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(no_follow())
        .open(path)
}

/// Replaces a file as a whole: readers see the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], sync: Sync) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", unique()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).custom_flags(no_follow()).open(&temporary)?;
    let mut write = || {
        file.write_all(bytes)?;
        if sync == Sync::Yes {
            // Before the rename, or a power loss leaves the new name on an empty file.
            file.sync_all()?;
        }
        #[cfg(feature = "fault-points")]
        at_replacing(path, "written");
        fs::rename(&temporary, path)?;
        #[cfg(feature = "fault-points")]
        at_replacing(path, "renamed");
        match path.parent() {
            Some(parent) if sync == Sync::Yes => sync_folder(parent),
            _ => Ok(()),
        }
    };
    let written = write();
    if written.is_err() {
        // Nothing half written stays behind; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Where a file that is replaced has fault points of its own, one of them.
#[cfg(feature = "fault-points")]
fn at_replacing(path: &Path, when: &str) {
    let above = |n| path.ancestors().nth(n).and_then(Path::file_name).and_then(|name| name.to_str());
    let what = match above(0) {
        Some("record.json") if path.with_file_name("lock").exists() => "spool.record",
        Some("record.json") => "store.record",
        Some("shipped.json") => "spool.cursor",
        _ if above(2) == Some("ids") => "store.id",
        _ => return,
    };
    pubsub_core::fault::point(&format!("{what}.{when}"));
}

/// Where this fault point is due, only half of the bytes are written, and the process dies.
#[cfg(feature = "fault-points")]
pub(crate) fn torn(point: &str, file: &File, bytes: &[u8], at: u64) {
    if pubsub_core::fault::is_due(point) {
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
        // Where even that fails, it dies all the same.
        let _ = file.write_all_at(half, at);
        pubsub_core::fault::die();
    }
}

/// A text that no other call makes: also not in another container, where process ids are the same, nor one that was
/// killed and left its file behind.
pub(crate) fn unique() -> String {
    format!("{}-{:016x}", std::process::id(), fastrand::u64(..))
}
