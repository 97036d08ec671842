//! Where things lie in the store's folder.
//!
//! ```text
//! format.json                          the version of the layout
//! runs/<action>/<stage>/<run>/
//!     output.log                       what was printed, in number order
//!     index                            one entry for each batch of lines
//!     record.json                      the record
//!     late                             lines that came after the seal, until they are merged
//!     merged/                          the output and its index while lines are merged into them
//! ids/<two digits>/<run>               the folder of a run, by its id alone
//! catalog                              which runs there are; made again from the records where it is lost
//! wakes/<part>                         written to after each change
//! lock                                 held by who writes the catalog
//! trash/                               what is being removed
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pubsub_core::{Durability, Error, ErrorKind, Result, RunId, RunKey, RunRecord, name};

use crate::error::{folder_error, io_error};
use crate::files::{Sync, below, check_folder, make_folder, read, replace, sync_folder, unique, unless_gone};
use crate::format;
use crate::watch::Part;

const VERSION: u32 = 1;

const FOLDERS: [&str; 4] = ["runs", "ids", "trash", "wakes"];

/// How often a folder is made anew that others take away meanwhile.
const MAX_TRIES: u32 = 100;

/// The store's folder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
    sync: Sync,
    /// Whether this handle saw to it that the folders are there.
    made: Arc<AtomicBool>,
    /// Whether it has seen a version that it knows.
    known: Arc<AtomicBool>,
}

/// The folder of one run.
#[derive(Clone, Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    sync: Sync,
}

impl Layout {
    /// Looks at the folder, where it is in reach; nothing is made. What cannot be looked at now is found by who uses it.
    pub(super) fn open(root: PathBuf, durability: Durability) -> Result<Self> {
        let layout = Self { root, sync: durability.into(), made: Arc::default(), known: Arc::default() };
        match layout.check_version() {
            Ok(()) => layout.empty_trash(),
            // Wrong for good, whatever becomes of the folder.
            Err(error)
                if matches!(error.kind(), ErrorKind::TooNew | ErrorKind::Invalid | ErrorKind::Corrupt) =>
            {
                return Err(error);
            }
            Err(error) => tracing::debug!(error = %error.chain(), "a store is out of reach"),
        }
        Ok(layout)
    }

    /// Makes the folder where it is not there: who only reads changes nothing.
    pub(super) fn prepare(&self) -> Result<()> {
        if self.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        fs::create_dir_all(&self.root).map_err(folder_error("make the store's folder", &self.root))?;
        // First: nothing is made in a folder that a newer version wrote.
        self.check_version()?;
        FOLDERS.iter().try_for_each(|folder| make_folder(&self.root.join(folder)))?;
        format::make_versioned(&self.root, VERSION, self.sync)?;
        self.made.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses what a newer version wrote. Looked at until a version is there: the folder may come into reach at any time.
    pub(super) fn check_version(&self) -> Result<()> {
        if !self.known.load(Ordering::Relaxed) && format::is_versioned(&self.root, VERSION)? {
            self.known.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Why a run is not here: the store does not have it, or the store itself is away, as where nothing is mounted.
    pub(super) fn not_there(&self, doing: &str, run: &RunId) -> Result<Error> {
        if format::is_versioned(&self.root, VERSION)? {
            return Ok(super::missing(doing, run));
        }
        Ok(Error::new(ErrorKind::Unavailable, format!("{doing}: there is no store in the folder"))
            .with("folder", self.root.display())
            .with("run", run))
    }

    /// As [`not_there`](Self::not_there), for who only reads: a store that was never seen has no runs.
    pub(super) fn not_there_to_read(&self, doing: &str, run: &RunId) -> Error {
        if !self.known.load(Ordering::Relaxed) {
            return super::missing(doing, run);
        }
        self.not_there(doing, run).unwrap_or_else(|error| error)
    }

    pub(super) fn wakes(&self) -> PathBuf {
        self.root.join("wakes")
    }

    /// Wakes who waits for changes of this run, in every process. Where that fails they look by themselves.
    pub(super) fn tell(&self, folder: &RunFolder) {
        let Some(part) = folder.part() else { return };
        let wakes = self.wakes();
        // Made again where it was deleted; never looked up behind a link.
        let there = check_folder(&wakes).or_else(|_| make_folder(&wakes));
        let told = there.and_then(|()| part.tell(&wakes).map_err(io_error("wake the readers of a store")));
        if let Err(error) = told {
            tracing::debug!(error = %error.chain(), "the readers of a store could not be woken; they look by themselves");
        }
    }

    fn folder_of(&self, key: &RunKey) -> RunFolder {
        let path = self.root.join("runs").join(name::encode(key.action_id.as_str()));
        let path = path.join(name::encode(key.stage.as_str())).join(key.run_id.as_str());
        RunFolder { path, sync: self.sync }
    }

    fn id_file(&self, run: &RunId) -> PathBuf {
        let id = run.as_str();
        self.root.join("ids").join(id.get(..2).unwrap_or("__")).join(id)
    }

    /// Makes the folder of a run, and the way to it from its id.
    pub(super) fn make(&self, key: &RunKey) -> Result<RunFolder> {
        self.prepare()?;
        let folder = self.folder_of(key);
        let mut tries = 0;
        // Whoever removes the last run of a stage takes its folder away, perhaps while this run is made in it; and the
        // whole store may go, as where it is unmounted.
        while let Err(error) = self.make_folders(&folder.path) {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            tries += 1;
            if tries == MAX_TRIES {
                return Err(Error::new(ErrorKind::Unavailable, "make the folder of a run").with_source(error));
            }
            self.made.store(false, Ordering::Relaxed);
            self.prepare()?;
        }
        let id_file = self.id_file(&key.run_id);
        if let Some(parent) = id_file.parent() {
            make_folder(parent)?;
        }
        if read(&id_file).map_err(io_error("read where a run lies"))?.is_none() {
            // Synced before the file that leads there: where that one is, all is.
            if self.sync == Sync::Yes {
                let parents = folder.path.ancestors().skip(1).take_while(|part| part.starts_with(&self.root));
                parents
                    .chain([self.root.join("ids").as_path()])
                    .try_for_each(sync_folder)
                    .map_err(io_error("sync the folder of a run"))?;
            }
            self.write_way(&id_file, &folder)?;
        }
        Ok(folder)
    }

    fn write_way(&self, id_file: &Path, folder: &RunFolder) -> Result<()> {
        let relative = folder.path.strip_prefix(&self.root).unwrap_or(&folder.path);
        replace(id_file, relative.as_os_str().as_encoded_bytes(), self.sync)
            .map_err(io_error("write where a run lies"))
    }

    /// Takes away the way to the folder of a run that was removed.
    fn forget_way(&self, run: &RunId, folder: &RunFolder) -> Result<()> {
        let id_file = self.id_file(run);
        gone(fs::remove_file(&id_file))?;
        // Whoever begins the run again makes its folder first, and may have found this way still there.
        if check_folder(&folder.path).is_ok() { self.write_way(&id_file, folder) } else { Ok(()) }
    }

    /// One by one, each looked at before the next: nothing is made behind a link.
    fn make_folders(&self, folder: &Path) -> Result<()> {
        let mut parts: Vec<&Path> = folder.ancestors().take_while(|part| *part != self.root).collect();
        parts.reverse();
        parts.into_iter().try_for_each(make_folder)
    }

    /// The folder of a run that is there.
    pub(super) fn find(&self, run: &RunId) -> Result<Option<RunFolder>> {
        let Some(folder) = self.way(run)? else { return Ok(None) };
        // Nothing is looked up behind a symbolic link.
        match folder.path.ancestors().take_while(|part| *part != self.root).try_for_each(check_folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            checked => checked.map(|()| Some(folder)),
        }
    }

    /// The folder to which an id leads, whether it is there or not.
    fn way(&self, run: &RunId) -> Result<Option<RunFolder>> {
        self.check_version()?;
        let id_file = self.id_file(run);
        let ids = id_file.ancestors().skip(1).take_while(|part| *part != self.root);
        match ids.map(check_folder).find_map(Result::err) {
            Some(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Some(error) => return Err(error),
            None => {}
        }
        let Some(bytes) = read(&id_file).map_err(io_error("read where a run lies"))? else {
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
        Ok(Some(RunFolder { path: self.root.join(relative), sync: self.sync }))
    }

    /// Whether there is a way from this id to a folder.
    pub(super) fn has_id(&self, run: &RunId) -> bool {
        // What cannot be looked at may be there.
        fs::symlink_metadata(self.id_file(run)).map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |_| true)
    }

    /// Whether the folder of a run is there; what cannot be looked at may be.
    pub(super) fn is_there(&self, run: &RunId) -> bool {
        self.find(run).map_or(true, |folder| folder.is_some())
    }

    pub(super) fn catalog_file(&self) -> PathBuf {
        self.root.join("catalog")
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn replace_catalog(&self, bytes: &[u8]) -> Result<()> {
        replace(&self.catalog_file(), bytes, self.sync).map_err(io_error("write the catalog of runs"))
    }

    /// Whether what is written must be on the disk before a call returns.
    pub(super) fn syncs(&self) -> bool {
        self.sync == Sync::Yes
    }

    /// The folders of all runs of these; encoded names.
    pub(super) fn folders(&self, action: Option<&str>, stage: Option<&str>) -> Result<Vec<RunFolder>> {
        self.check_version()?;
        let runs = self.root.join("runs");
        match check_folder(&runs) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            checked => checked?,
        }
        let mut found = Vec::new();
        for action in below(&runs, action)? {
            for stage in below(&action, stage)? {
                let runs = below(&stage, None)?.into_iter();
                found.extend(runs.map(|path| RunFolder { path, sync: self.sync }));
            }
        }
        Ok(found)
    }

    /// Takes a run out of sight at once, then deletes it. `false` where it was gone.
    pub(super) fn remove(&self, run: &RunId, folder: &RunFolder) -> Result<bool> {
        self.prepare()?;
        check_folder(&self.root.join("trash"))?;
        let trash = self.root.join("trash").join(format!("{run}-{}", unique()));
        match fs::rename(&folder.path, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_error("remove a run")(error)),
        }
        self.forget_way(run, folder)?;
        gone(fs::remove_dir_all(&trash))?;
        // The folders above go where this was their last run; otherwise the system refuses.
        for parent in folder.path.ancestors().skip(1).take(2) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(true)
    }

    /// Deletes what a killed remover had taken out of sight. What cannot be deleted now, or goes by another hand,
    /// stands in nobody's way.
    fn empty_trash(&self) {
        let trash = self.root.join("trash");
        if check_folder(&trash).is_err() {
            return;
        }
        let left = fs::read_dir(trash).into_iter().flatten().flatten();
        for path in left.map(|entry| entry.path()) {
            if let Err(error) = self.finish_removal(&path) {
                tracing::debug!(error = %error.chain(), "a removed run is still in the trash");
            }
        }
    }

    fn finish_removal(&self, trash: &Path) -> Result<()> {
        let name = trash.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let run = name.match_indices('-').nth(1).and_then(|(end, _)| RunId::new(name.get(..end)?).ok());
        if let Some(run) = run
            && let Some(folder) = self.way(&run)?
        {
            self.forget_way(&run, &folder)?;
        }
        gone(fs::remove_dir_all(trash))
    }
}

impl RunFolder {
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("output.log")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, with files of the same names.
    pub(super) fn below(&self, name: &str) -> Self {
        Self { path: self.path.join(name), sync: self.sync }
    }

    /// The encoded names of its action and stage, and its run.
    pub(super) fn names(&self) -> Option<[&str; 3]> {
        let mut parts = self.path.iter().rev().map(|part| part.to_str());
        let (run, stage, action) = (parts.next()??, parts.next()??, parts.next()??);
        Some([action, stage, run])
    }

    /// Which part tells of its changes: that of its stage.
    pub(super) fn part(&self) -> Option<Part> {
        self.names().map(|[action, stage, _]| Part::of(&[action, stage]))
    }

    /// The record, where there is one.
    pub(super) fn record(&self) -> Result<Option<RunRecord>> {
        let path = self.path.join("record.json");
        let bytes = read(&path).map_err(io_error("read the record of a run"))?;
        let record = bytes.map(|bytes| RunRecord::from_json(&bytes)).transpose();
        record.map_err(|error| error.with("path", path.display()))
    }

    /// How many bytes of output it has.
    pub(super) fn bytes(&self) -> u64 {
        fs::symlink_metadata(self.log()).map_or(0, |meta| meta.len())
    }

    pub(super) fn write_record(&self, record: &RunRecord) -> Result<()> {
        replace(&self.path.join("record.json"), &record.to_json()?, self.sync)
            .map_err(io_error("write the record of a run"))
    }
}

/// What is gone already need not be removed.
fn gone(removed: io::Result<()>) -> Result<()> {
    unless_gone(removed).map_err(io_error("remove a run"))
}

/// Whether an error says something of one record alone: others can be read all the same.
pub(super) fn is_of_one_record(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew)
}
