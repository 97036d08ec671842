//! What earlier processes left in a spool's folder: taken over, or removed where nobody can ship it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pubsub_core::{Error, ErrorKind, Result, RunId, RunRecord};

use super::Shared;
use super::folder;
use super::folder::Missing;
use super::log::{Log, bytes_in};

/// How often a full spool is counted anew.
pub(super) const COUNT_AGAIN: Duration = Duration::from_millis(100);

/// Most runs that are remembered as told.
const MAX_TOLD: usize = 10_000;

impl<S> Shared<S> {
    /// Takes over the runs in the folder that no living process has. One whose files cannot be read or written now is
    /// tried again the next time, and keeps no other from being shipped.
    pub(super) fn adopt(&self) -> Result<()> {
        folder::check_version(&self.config.dir)?;
        folder::empty_trash(&self.config.dir);
        let folders = folder::runs(&self.config.dir)?;
        self.count(&folders);
        for (run, folder) in folders {
            if self.runs().contains_key(&run) {
                continue;
            }
            let opened = Log::open(folder, Missing::Leave);
            match opened.and_then(|log| log.map_or(Ok(()), |log| self.take_over(run.clone(), log))) {
                Ok(()) => {}
                // Removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // One of a later version, too: that may ship it.
                Err(error) => self.tell(&run, &error),
            }
        }
        Ok(())
    }

    /// Counts the bytes of all processes: the bound is the folder's.
    fn count(&self, folders: &BTreeMap<RunId, PathBuf>) {
        let bytes = folders.values().map(|folder| bytes_in(folder)).sum();
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether so many bytes more are within the bound, also by what others have freed meanwhile.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let fits = || self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.config.max_bytes;
        if fits() {
            return true;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.is_none_or(|counted| counted.elapsed() >= COUNT_AGAIN)
            && let Ok(folders) = folder::runs(&self.config.dir)
        {
            self.count(&folders);
            *counted = Some(Instant::now());
        }
        fits()
    }

    fn take_over(&self, run: RunId, mut log: Log) -> Result<()> {
        if log.record().is_some() {
            log.adopted = true;
            self.runs().entry(run).or_insert_with(|| Arc::new(Mutex::new(Some(log))));
            self.changed();
            return Ok(());
        }
        let damaged =
            Error::new(ErrorKind::Corrupt, "the record of a run in the spool is missing or damaged");
        if log.has_lines() && !log.is_removed() {
            self.tell(&run, &damaged);
            if folder::unchanged_for(log.path()) < self.config.keep_damaged {
                return Ok(());
            }
            tracing::warn!(%run, bytes = log.bytes(), "lines in a spool that nobody can ship are removed");
        }
        // Whoever was killed while it began left nothing that was acknowledged.
        log.remove().map(drop)
    }

    /// Says that a run cannot be shipped, once.
    fn tell(&self, run: &RunId, error: &Error) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        if told.insert(run.clone()) {
            tracing::warn!(%run, error = %error.chain(), "a run in a spool cannot be shipped");
        }
    }

    /// The records in the folder, but those of runs that are removed.
    pub(super) fn waiting(&self) -> Result<Vec<RunRecord>> {
        let mut records = Vec::new();
        for (run, path) in folder::runs(&self.config.dir)? {
            // First: what is removed meanwhile has no record.
            if folder::is_removed(&path) {
                continue;
            }
            match folder::record(&path) {
                Ok(record) => records.extend(record),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew) => {
                    self.tell(&run, &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }
}
