//! Tells when another process changed something in a folder.
//!
//! Whoever changes something writes to one of a few small files, chosen by what was changed; the others watch the
//! folder of these files. So who waits for one thing sleeps through most other changes, and thousands that wait need
//! one system watch. The files are made as they are needed: to delete them harms nobody.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

use crate::files::no_follow;

/// How often who waits looks by itself where the folder cannot be watched, such as while it is not there.
pub(crate) const POLL: Duration = Duration::from_millis(500);

/// How often who waits looks by itself although the folder is watched: a watch may be lost without a word.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// How many files there are.
const PARTS: u32 = 64;

/// Which of the files tells of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Part(u32);

impl Part {
    /// The one for changes of what these names name.
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut sum = crc32fast::Hasher::new();
        for name in names {
            sum.update(name.as_bytes());
            sum.update(b"/");
        }
        Self(sum.finalize() % PARTS)
    }

    fn file(self, folder: &Path) -> PathBuf {
        folder.join(self.0.to_string())
    }

    fn of_file(path: &Path) -> Option<Self> {
        path.file_name()?.to_str()?.parse().ok().filter(|part| *part < PARTS).map(Self)
    }

    /// Wakes who waits for it, in every process.
    pub(crate) fn tell(self, folder: &Path) -> io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).custom_flags(no_follow());
        options.open(self.file(folder))?.write_all_at(b"\n", 0)
    }
}

/// One watch on a folder, shared by all who wait.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    folder: PathBuf,
    told: Arc<Told>,
    /// Dropped, it stops watching. `None` until somebody waits, and where the system has no watch left.
    watcher: Mutex<Option<RecommendedWatcher>>,
}

/// What the watch passes on.
struct Told {
    parts: Vec<watch::Sender<()>>,
    any: watch::Sender<()>,
    watches: AtomicBool,
    /// Whether it was said that the folder cannot be watched.
    warned: AtomicBool,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("watches", &self.watches).finish_non_exhaustive()
    }
}

impl Told {
    fn part(&self, part: Part) -> Option<&watch::Sender<()>> {
        self.parts.get(usize::try_from(part.0).ok()?)
    }

    fn hear(&self, event: notify::Result<notify::Event>, folder: &Path) {
        match event {
            // Our own reads are no change.
            Ok(event) if event.kind.is_access() => return,
            Ok(event) if !event.need_rescan() && !event.paths.iter().any(|path| path == folder) => {
                let parts = event.paths.iter().filter_map(|path| Part::of_file(path));
                parts.filter_map(|part| self.part(part)).for_each(|told| told.send_replace(()));
            }
            // The folder itself goes, or changes were missed.
            _ => {
                self.watches.store(false, Ordering::SeqCst);
                self.parts.iter().for_each(|told| told.send_replace(()));
            }
        }
        self.any.send_replace(());
    }
}

impl FolderWatch {
    /// For a folder that need not be there yet.
    pub(crate) fn new(folder: PathBuf) -> Self {
        let told = Told {
            parts: (0..PARTS).map(|_| watch::Sender::new(())).collect(),
            any: watch::Sender::new(()),
            watches: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        };
        Self { folder, told: Arc::new(told), watcher: Mutex::new(None) }
    }

    /// Watches the folder where it is there and not watched yet. Blocks for a moment.
    pub(crate) fn start(&self) {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if self.told.watches.load(Ordering::SeqCst) || !self.folder.is_dir() {
            return;
        }
        let (told, folder) = (Arc::clone(&self.told), self.folder.clone());
        let started = notify::recommended_watcher(move |event| told.hear(event, &folder))
            .and_then(|mut new| new.watch(&self.folder, RecursiveMode::NonRecursive).map(|()| new));
        match started {
            Ok(new) => {
                self.told.watches.store(true, Ordering::SeqCst);
                *watcher = Some(new);
            }
            Err(error) if !self.told.warned.swap(true, Ordering::SeqCst) => {
                tracing::warn!(%error, "the folder cannot be watched; it is looked at every half second");
            }
            Err(_) => {}
        }
    }

    /// Who waits for changes of a part, or of all; sees those from now on.
    pub(crate) fn subscribe(&self, part: Option<Part>) -> Changes {
        let told = part.and_then(|part| self.told.part(part)).unwrap_or(&self.told.any);
        Changes { changed: told.subscribe(), told: Arc::clone(&self.told) }
    }
}

/// Waits for changes.
pub(crate) struct Changes {
    changed: watch::Receiver<()>,
    told: Arc<Told>,
}

/// Why somebody who waited was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something changed.
    Change,
    /// It is time to look; the folder is watched.
    Look,
    /// It is time to look; the folder is not watched.
    Unwatched,
}

impl Changes {
    /// Returns after a change, or when it is time to look; `None` once the watch is gone.
    pub(crate) async fn next(&mut self) -> Option<Woken> {
        let watches = self.told.watches.load(Ordering::SeqCst);
        let (wait, otherwise) = if watches { (LOOK, Woken::Look) } else { (POLL, Woken::Unwatched) };
        match tokio::time::timeout(wait, self.changed.changed()).await {
            Ok(changed) => changed.ok().map(|()| Woken::Change),
            Err(_) => Some(otherwise),
        }
    }
}
