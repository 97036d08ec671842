//! Wake-ups between processes: a small file that whoever commits writes to, in a folder that the others watch.
//!
//! Watching the database itself would report every acknowledgement; this file moves only when somebody may have
//! something to do. A watch that cannot be had (they run out) is replaced by looking more often.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use pubsub_core::{Error, ErrorKind, Result};

use super::writer::Queue;

/// The file that wakes other processes.
pub(super) struct WakeFile(File);

impl WakeFile {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .and_then(|()| {
                OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("wake"))
            })
            .map(Self)
            .map_err(|e| Error::new(ErrorKind::Unavailable, "open the broker's wake file").with_source(e))
    }

    /// Wakes all who watch.
    pub(super) fn touch(&self) {
        if let Err(error) = self.0.write_all_at(b"w", 0) {
            tracing::debug!(%error, "the broker could not wake other processes; they look by themselves");
        }
    }
}

/// Watches the folder as long as it is kept; `None` where that cannot be had.
pub(super) fn watch(folder: &Path, queue: &Arc<Queue>) -> Option<RecommendedWatcher> {
    let queue = Arc::clone(queue);
    let heard = move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            queue.look();
        }
    };
    let watching = notify::recommended_watcher(heard).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(
            |error| tracing::warn!(%error, "the broker's folder cannot be watched; it looks more often"),
        )
        .ok()
}
