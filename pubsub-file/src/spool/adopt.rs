//! What earlier processes left in a spool's folder: taken over, or removed where nobody can ship it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use pubsub_core::{Error, ErrorKind, Result, RunId, RunRecord};

use super::Shared;
use super::folder;
use super::log::{Log, Missing};

/// Most runs that are remembered as told.
const MAX_TOLD: usize = 10_000;

impl<S> Shared<S> {
    /// Takes over the runs in the folder that no living process has.
    pub(super) fn adopt(&self) -> Result<()> {
        folder::empty_trash(&self.config.dir);
        for (run, folder) in folder::runs(&self.config.dir)? {
            if self.runs().contains_key(&run) {
                continue;
            }
            match Log::open(folder, Missing::Leave) {
                Ok(Some(log)) => self.take_over(run, log)?,
                Ok(None) => {}
                // A later version may ship it.
                Err(error) if error.kind() == ErrorKind::TooNew => self.tell(&run, &error),
                // Removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_over(&self, run: RunId, mut log: Log) -> Result<()> {
        if log.record().is_some() {
            log.adopted = true;
            self.bytes.fetch_add(log.bytes(), Ordering::Relaxed);
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
