//! Tells when another process changed something in a folder.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

/// How often who waits looks by itself where the folder cannot be watched.
pub(crate) const POLL: Duration = Duration::from_millis(500);

/// One watch on one file, shared by all who wait: thousands of followers need one system watch.
pub(crate) struct FileWatch {
    changed: watch::Sender<()>,
    /// Dropped, it stops watching. `None` where the system has no watch left.
    watcher: Option<RecommendedWatcher>,
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").field("watches", &self.watcher.is_some()).finish_non_exhaustive()
    }
}

impl FileWatch {
    /// Watches a file that is there.
    pub(crate) fn new(file: &Path) -> Self {
        let changed = watch::Sender::new(());
        let tell = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reads are no change; an error may hide one.
            if event.as_ref().map_or(true, |event| !event.kind.is_access()) {
                tell.send_replace(());
            }
        })
        .and_then(|mut watcher| watcher.watch(file, RecursiveMode::NonRecursive).map(|()| watcher))
        .inspect_err(
            |error| tracing::warn!(%error, "the folder cannot be watched; it is looked at every half second"),
        )
        .ok();
        Self { changed, watcher }
    }

    /// Who waits for changes; sees those from now on.
    pub(crate) fn subscribe(&self) -> Changes {
        Changes { changed: self.changed.subscribe(), polls: self.watcher.is_none() }
    }
}

/// Waits for changes.
pub(crate) struct Changes {
    changed: watch::Receiver<()>,
    polls: bool,
}

impl Changes {
    /// Returns after a change, or when it is time to look; `false` once the watch is gone.
    pub(crate) async fn next(&mut self) -> bool {
        if self.polls {
            return tokio::time::timeout(POLL, self.changed.changed())
                .await
                .map_or(true, |told| told.is_ok());
        }
        self.changed.changed().await.is_ok()
    }
}
