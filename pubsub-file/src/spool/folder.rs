//! What processes tell each other in the folder of a run: whose turn it is, and that it is removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Error, ErrorKind, Result, RunId, RunRecord, name};

use crate::error::io_error;
use crate::files::{self, Sync};
use crate::format;

/// The file that says that a run is removed.
const REMOVED: &str = "removed";

/// The file whose lock is held while a call about the run is under way.
pub(super) const TURN: &str = "turn";

/// How the name of a folder begins that is being deleted; no run's does.
const TRASH: &str = ".gone-";

/// The version of all files in the folder of a spool but the records, which say their own.
const VERSION: u32 = 1;

/// Refuses a spool that a newer version wrote.
pub(super) fn check_version(dir: &Path) -> Result<()> {
    format::is_versioned(dir, VERSION).map(drop)
}

/// Makes the folder of a spool where it is not there, with its version.
pub(super) fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(io_error("make the folder of a spool"))?;
    format::make_versioned(dir, VERSION, Sync::Yes)
}

/// What is done where the folder of a run is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Leave,
}

/// How often the folder of a run is opened that others take away meanwhile.
const MAX_TRIES: u32 = 100;

/// Held while a call to the sink about a run is under way, so that a run is not removed there in the middle of it; the
/// system frees it where its holder dies.
#[derive(Debug)]
pub(super) struct Turn(Arc<File>);

impl Turn {
    /// `None` where another has it.
    pub(super) fn new(file: Arc<File>) -> Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(io_error("take a turn in the spool")(error)),
        }
    }

    /// The turn of a run that perhaps another process has open.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let file = files::open_for_writing(&folder.join(TURN));
        Self::new(Arc::new(file.map_err(io_error("take a turn in the spool"))?))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "a turn in the spool could not be given back");
        }
    }
}

/// The lock of a run's folder, held. Who has shipped the run removes it, perhaps just now: then it begins anew.
pub(super) fn locked(folder: &Path, missing: Missing) -> Result<Option<File>> {
    let doing = "open a run in the spool";
    let path = folder.join("lock");
    for _ in 0..MAX_TRIES {
        if missing == Missing::Make
            && let Err(error) = fs::create_dir(folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(io_error(doing)(error));
        }
        let opened = files::check_folder(folder)
            .and_then(|()| files::open_for_writing(&path).map_err(io_error(doing)));
        let lock = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound && missing == Missing::Make => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(io_error(doing)(error)),
        }
        // The one that was opened may lie in no folder any more.
        if files::is_still(&path, &lock).unwrap_or(false) {
            return Ok(Some(lock));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, doing).with("path", folder.display()))
}

/// The folders of runs, by the runs' ids.
pub(super) fn runs(dir: &Path) -> Result<BTreeMap<RunId, PathBuf>> {
    let id = |folder: &Path| {
        let id = name::decode(folder.file_name()?.to_str()?)?;
        RunId::new(id).ok()
    };
    let folders = files::below(dir, None)?.into_iter();
    Ok(folders.filter_map(|folder| Some((id(&folder)?, folder))).collect())
}

/// The record in the folder of a run.
pub(super) fn record(folder: &Path) -> Result<Option<RunRecord>> {
    let bytes = files::read(&folder.join("record.json")).map_err(io_error("read a record in the spool"))?;
    bytes.map(|bytes| RunRecord::from_json(&bytes)).transpose()
}

/// Says for good that a run is removed: nobody ships it any more. `false` where it has no folder.
pub(super) fn mark_removed(folder: &Path) -> Result<bool> {
    let doing = "remove a run from the spool";
    let mark = match files::open_for_writing(&folder.join(REMOVED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        mark => mark.map_err(io_error(doing))?,
    };
    match mark.sync_all().and_then(|()| files::sync_folder(folder)) {
        // Whoever ships it has seen the mark already.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        synced => synced.map(|()| true).map_err(io_error(doing)),
    }
}

pub(super) fn is_removed(folder: &Path) -> bool {
    folder.join(REMOVED).exists()
}

/// How long a file under a name of the moment may lie: nobody needs so long to write one.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// Deletes what a killed process had taken out of sight, and what it left half written.
pub(super) fn empty_trash(dir: &Path) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let is_left = path.extension().is_some_and(|extension| extension == "tmp")
            && unchanged_for(&path) >= WRITTEN_WITHIN;
        if is_left && let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, "a file that was never finished is still in a spool");
        }
    }
    for folder in files::below(dir, None).unwrap_or_default() {
        let is_trash =
            folder.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(TRASH));
        if is_trash && let Err(error) = fs::remove_dir_all(&folder) {
            tracing::debug!(%error, "a removed run is still in the spool's trash");
        }
    }
}

/// Takes the folder of a run out of sight at once, then deletes it.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let doing = "remove a run from the spool";
    let trash = folder.with_file_name(format!("{TRASH}{}", files::unique()));
    fs::rename(folder, &trash).map_err(io_error(doing))?;
    #[cfg(feature = "fault-points")]
    pubsub_core::fault::point("spool.remove");
    match fs::remove_dir_all(&trash) {
        // By another hand, which empties the trash.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(doing)(error)),
        _ => Ok(()),
    }
}

/// How long nothing in a folder was made or removed, or a file was not written.
pub(super) fn unchanged_for(folder: &Path) -> Duration {
    let changed = fs::metadata(folder).and_then(|meta| meta.modified()).ok();
    changed.and_then(|changed| changed.elapsed().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::empty_trash;

    #[test]
    fn what_a_killed_process_left_half_written_goes_and_what_is_just_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, age: u64| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        file("format.1-a.tmp", 60);
        file("format.2-b.tmp", 0);
        file("format.json", 60);
        empty_trash(dir.path());
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["format.2-b.tmp", "format.json"]);
    }
}
