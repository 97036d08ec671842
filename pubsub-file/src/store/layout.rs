//! Where things lie in the store's folder.
//!
//! ```text
//! format.json                          the version of the layout
//! wake                                 written to after each change
//! runs/<action>/<stage>/<run>/
//!     output.log                       what was printed, in number order
//!     index                            one entry for each batch of lines
//!     record.json                      the record
//! ids/<two digits>/<run>               the folder of a run, by its id alone
//! trash/                               what is being removed
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use pubsub_core::{Error, ErrorKind, Result, RunId, RunKey, RunRecord, name};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::io_error;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
}

/// The store's folder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

/// The folder of one run.
#[derive(Clone, Debug)]
pub(super) struct RunFolder(PathBuf);

impl Layout {
    /// Makes the folder where it is not there, and checks its version.
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        for folder in ["runs", "ids", "trash"] {
            fs::create_dir_all(root.join(folder)).map_err(io_error("make the store's folder"))?;
        }
        let layout = Self { root };
        let path = layout.root.join("format.json");
        match read(&path).map_err(io_error("read the store's version"))? {
            Some(bytes) => {
                let format: Format = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::new(ErrorKind::Corrupt, "read the store's version").with_source(e))?;
                if format.version > VERSION {
                    return Err(Error::new(ErrorKind::TooNew, "open the store")
                        .with("version", format.version)
                        .with("newest known", VERSION));
                }
            }
            None => replace(&path, format!("{{\"version\":{VERSION}}}\n").as_bytes())
                .map_err(io_error("write the store's version"))?,
        }
        open_for_writing(&layout.wake_file()).map_err(io_error("make the store's wake file"))?;
        Ok(layout)
    }

    pub(super) fn wake_file(&self) -> PathBuf {
        self.root.join("wake")
    }

    fn folder_of(&self, key: &RunKey) -> RunFolder {
        let path = self.root.join("runs").join(name::encode(key.action_id.as_str()));
        RunFolder(path.join(name::encode(key.stage.as_str())).join(key.run_id.as_str()))
    }

    fn id_file(&self, run: &RunId) -> PathBuf {
        let id = run.as_str();
        self.root.join("ids").join(id.get(..2).unwrap_or("__")).join(id)
    }

    /// Makes the folder of a run, and the way to it from its id.
    pub(super) fn make(&self, key: &RunKey) -> Result<RunFolder> {
        let folder = self.folder_of(key);
        // One by one, each looked at before the next: nothing is made behind a link.
        let mut parts: Vec<&Path> = folder.0.ancestors().take_while(|part| *part != self.root).collect();
        parts.reverse();
        for part in parts {
            match fs::create_dir(part) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("make the folder of a run")(error));
                }
                _ => check_folder(part)?,
            }
        }
        let id_file = self.id_file(&key.run_id);
        if read(&id_file).map_err(io_error("read where a run lies"))?.is_none() {
            let relative = folder.0.strip_prefix(&self.root).unwrap_or(&folder.0);
            let parent = id_file.parent().unwrap_or(&self.root);
            fs::create_dir_all(parent).map_err(io_error("make the folder of ids"))?;
            replace(&id_file, relative.as_os_str().as_encoded_bytes())
                .map_err(io_error("write where a run lies"))?;
        }
        Ok(folder)
    }

    /// The folder of a run that is there.
    pub(super) fn find(&self, run: &RunId) -> Result<Option<RunFolder>> {
        let Some(bytes) = read(&self.id_file(run)).map_err(io_error("read where a run lies"))? else {
            return Ok(None);
        };
        let relative = String::from_utf8(bytes)
            .map_err(|e| Error::new(ErrorKind::Corrupt, "read where a run lies").with_source(e))?;
        let parts: Vec<&str> = relative.split('/').collect();
        // Exactly what `make` writes: nothing that a foreign file says leads out of the folder.
        let fits = matches!(parts.as_slice(), ["runs", action, stage, id]
            if [action, stage].iter().all(|part| !part.is_empty() && !part.starts_with('.')) && *id == run.as_str());
        if !fits {
            return Err(Error::new(ErrorKind::Corrupt, "read where a run lies").with("run", run));
        }
        let folder = RunFolder(self.root.join(relative));
        if !folder.0.exists() {
            return Ok(None);
        }
        self.check(&folder)?;
        Ok(Some(folder))
    }

    /// Refuses a folder with a symbolic link on its way.
    fn check(&self, folder: &RunFolder) -> Result<()> {
        folder.0.ancestors().take_while(|part| *part != self.root).try_for_each(check_folder)
    }

    /// The folders of all runs of these; encoded names.
    pub(super) fn folders(&self, action: Option<&str>, stage: Option<&str>) -> Result<Vec<RunFolder>> {
        let runs = self.root.join("runs");
        let mut found = Vec::new();
        for action in below(&runs, action)? {
            for stage in below(&action, stage)? {
                found.extend(below(&stage, None)?.into_iter().map(RunFolder));
            }
        }
        Ok(found)
    }

    /// Takes a run out of sight at once, then deletes it. `false` where it was gone.
    pub(super) fn remove(&self, run: &RunId, folder: &RunFolder) -> Result<bool> {
        let trash = self.root.join("trash").join(format!("{run}-{}", unique()));
        match fs::rename(&folder.0, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_error("remove a run")(error)),
        }
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove a run")(error)),
            _ => Ok(()),
        };
        gone(fs::remove_file(self.id_file(run)))?;
        gone(fs::remove_dir_all(&trash))?;
        // The folders above go where this was their last run; otherwise the system refuses.
        for parent in folder.0.ancestors().skip(1).take(2) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(true)
    }
}

impl RunFolder {
    pub(super) fn log(&self) -> PathBuf {
        self.0.join("output.log")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// The record, where there is one.
    pub(super) fn record(&self) -> Result<Option<RunRecord>> {
        let bytes = read(&self.0.join("record.json")).map_err(io_error("read the record of a run"))?;
        bytes.map(|bytes| RunRecord::from_json(&bytes)).transpose()
    }

    pub(super) fn write_record(&self, record: &RunRecord) -> Result<()> {
        replace(&self.0.join("record.json"), &record.to_json()?)
            .map_err(io_error("write the record of a run"))
    }
}

fn check_folder(folder: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(folder).map_err(io_error("look at the folder of a run"))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, "a folder of a run is a link or a file")
        .with("path", folder.display()))
}

/// The folder with this name below another, or all.
fn below(folder: &Path, only: Option<&str>) -> Result<Vec<PathBuf>> {
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
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
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

fn no_follow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(no_follow()).open(path)
}

pub(super) fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(no_follow())
        .open(path)
}

/// Replaces a file as a whole: readers see the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", unique()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).custom_flags(no_follow()).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing half written stays behind; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A text that no other call in any process on this machine makes at the same time.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
