//! What this process knows of runs that it writes, so that it need not ask before each append.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pubsub_core::RunId;

/// For how many runs this is kept; past it, all is forgotten, and asked again.
const MOST: usize = 1_000;

/// Under which name a run was made. What is wrong here shows when lines are told, and is asked again.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<RunId, String>>);

impl Known {
    pub(crate) fn get(&self, run: &RunId) -> Option<String> {
        self.lock().get(run).cloned()
    }

    pub(crate) fn is(&self, run: &RunId, made: &str) {
        let mut known = self.lock();
        if known.len() >= MOST && !known.contains_key(run) {
            known.clear();
        }
        known.insert(run.clone(), made.to_owned());
    }

    pub(crate) fn forget(&self, run: &RunId) {
        self.lock().remove(run);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
