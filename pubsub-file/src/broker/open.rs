//! Opening the database, and what is done with a damaged one.
//!
//! Every process keeps a shared lock on the file `lock`. Who finds itself alone may check and repair; the file `clean`
//! says that the last one closed in order and met no damage, so that the check, which reads the whole database, runs only
//! after a crash where the database is large.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use pubsub_core::{Error, ErrorKind, Result, Timestamp};
use rusqlite::Connection;

use super::config::FileBrokerConfig;
use super::salvage;
use super::session::{SCHEMA_VERSION, Session};

/// What was found and done when a damaged database was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// Where the damaged database was put.
    pub set_aside: PathBuf,
    /// What the check said.
    pub damage: String,
    /// How many rows were copied into the new database.
    pub rows_kept: u64,
    /// How many rows could not be read, as far as that can be told.
    pub rows_lost: u64,
}

/// Up to this size the check takes milliseconds, and is always made.
const CHECK_ALWAYS_BYTES: u64 = 16 << 20;

/// The lock that says that this broker is open; dropping it gives it back.
pub(super) struct OpenLock {
    file: File,
    clean: PathBuf,
    damaged: bool,
}

impl OpenLock {
    /// Damage was met: the next opening is to check, however large the database is.
    pub(super) const fn doubt(&mut self) {
        self.damaged = true;
    }
}

impl Drop for OpenLock {
    fn drop(&mut self) {
        // Only the last one may say so; a crash in between leaves the mark away, which costs one check.
        if !self.damaged
            && self.file.try_lock().is_ok()
            && let Err(error) = File::create(&self.clean)
        {
            tracing::debug!(%error, "the broker could not mark its end");
        }
    }
}

fn unavailable(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Refused
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, what).with_source(error)
    }
}

/// Opens the database of this configuration, repairing it where it is damaged.
pub(super) fn open(config: &FileBrokerConfig) -> Result<(Session, OpenLock, Option<Repair>)> {
    let folder = config.folder();
    std::fs::create_dir_all(&folder).map_err(unavailable("make the broker's folder"))?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(unavailable("open the broker's lock"))?;
    let clean = folder.join("clean");
    let path = database(&folder);
    let mut repair = None;
    match file.try_lock() {
        Ok(()) => {
            let is_clean = clean.exists();
            if is_in_doubt(&path, is_clean) {
                repair = check_and_repair(&path, is_clean, config)?;
            }
        }
        // Another may be checking or repairing just now: its turn ends before ours begins.
        Err(TryLockError::WouldBlock) => file.lock_shared().map_err(unavailable("lock the broker"))?,
        Err(TryLockError::Error(error)) => return Err(unavailable("lock the broker")(error)),
    }
    let mut session = Session::open(&path, config);
    if repair.is_none()
        && let Err(error) = &session
        && error.kind() == ErrorKind::Corrupt
        && file.try_lock().is_ok()
    {
        repair = Some(salvage::set_aside(&path, &error.chain(), config)?);
        session = Session::open(&path, config);
    }
    let session = session?;
    match std::fs::remove_file(&clean) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(unavailable("mark the broker as open")(error));
        }
        _ => {}
    }
    file.lock_shared().map_err(unavailable("lock the broker"))?;
    Ok((session, OpenLock { file, clean, damaged: false }, repair))
}

pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join("events.db")
}

fn is_in_doubt(path: &Path, is_clean: bool) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => !is_clean || found.len() <= CHECK_ALWAYS_BYTES || !sound_length(path),
        Err(_) => false,
    }
}

/// SQLite rounds a torn last page up and would read zeros there.
fn sound_length(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.len().is_multiple_of(4096))
}

fn check_and_repair(path: &Path, is_clean: bool, config: &FileBrokerConfig) -> Result<Option<Repair>> {
    let damage = match check(path) {
        // SQLite takes an empty file for a new database; one that was closed in order is never empty.
        Ok(None) if is_clean && std::fs::metadata(path).is_ok_and(|found| found.len() == 0) => {
            "the database is empty".to_owned()
        }
        Ok(None) if sound_length(path) => return Ok(None),
        Ok(None) => "the last page is torn".to_owned(),
        Ok(Some(damage)) => damage,
        Err(error) if error.kind() == ErrorKind::Corrupt => error.chain(),
        Err(error) => return Err(error),
    };
    salvage::set_aside(path, &damage, config).map(Some)
}

/// What SQLite's quick check says, `None` where all is well.
fn check(path: &Path) -> Result<Option<String>> {
    let failed = crate::sqlite::failed;
    let db = Connection::open(path).map_err(failed("open the broker's database"))?;
    let version: i64 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed("read the version of the broker's database"))?;
    if version > SCHEMA_VERSION {
        // Not ours to judge; opening it refuses it by name.
        return Ok(None);
    }
    let said: String = db
        .pragma_query_value(None, "quick_check", |row| row.get(0))
        .map_err(failed("check the broker's database"))?;
    Ok((said != "ok").then_some(said))
}

/// The name that a damaged file gets.
pub(super) fn aside(path: &Path) -> PathBuf {
    let time = Timestamp::now().as_micros();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{time}"));
    PathBuf::from(name)
}
