//! Deaths in and around a commit.

use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;

use pubsub_core::fault;
use rusqlite::Connection;
use rustix::process::{Resource, Rlimit, setrlimit};

/// How the process dies at the commit that comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    Torn,
    Committed,
}

static NEXT: Mutex<Option<Death>> = Mutex::new(None);

/// The transaction that is open did this.
pub(super) fn changed(what: &str) {
    fault::point(&format!("broker.{what}.changed"));
    for (death, when) in [(Death::Torn, "torn"), (Death::Committed, "committed")] {
        if fault::is_due(&format!("broker.{what}.{when}")) {
            *NEXT.lock().unwrap_or_else(PoisonError::into_inner) = Some(death);
        }
    }
}

/// A commit follows. A torn one dies by the system's limit on the size of files, in the middle of a write to the log;
/// where that does not grow because it begins anew, it dies right after the commit.
pub(super) fn committing(db: &Connection) {
    if *NEXT.lock().unwrap_or_else(PoisonError::into_inner) == Some(Death::Torn)
        && let Some(length) = db.path().and_then(|path| fs::metadata(format!("{path}-wal")).ok())
    {
        let limit = Some(length.len() + fastrand::u64(1..6000));
        // Where it cannot be set, the commit is whole.
        let _ = setrlimit(Resource::Fsize, Rlimit { current: limit, maximum: limit });
    }
}

/// It is committed.
pub(super) fn committed() {
    if NEXT.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
        fault::die();
    }
}
