//! Removes the oldest runs, by the catalog: of those that stay no record is read.

use std::collections::HashMap;
use std::sync::Arc;

use pubsub_core::{Error, ErrorKind, Judgement, Keep, Result, RunId, RunRecord, Timestamp};

use super::layout::RunFolder;
use super::{Inner, catalog, list};
use crate::watch::Part;

/// How many runs are looked at before the thread is given back: whoever is dropped stops there.
const STEP_RUNS: usize = 500;

/// How many runs are removed at once.
const REMOVERS: usize = 8;

/// What is left to do.
#[derive(Debug)]
pub(super) struct Expiry {
    inner: Arc<Inner>,
    keep: Keep,
    /// When runs began, the latest first.
    oldest_last: Vec<(Timestamp, RunId)>,
    /// The bytes of each run that is there; empty where only age counts.
    there: HashMap<RunId, u64>,
    bytes: u64,
    removed: u64,
    /// Entries of the catalog without a run.
    stale: usize,
}

impl Expiry {
    pub(super) fn new(inner: Arc<Inner>, keep: Keep) -> Result<Self> {
        let mut expiry = Self {
            inner,
            keep,
            oldest_last: Vec::new(),
            there: HashMap::new(),
            bytes: 0,
            removed: 0,
            stale: 0,
        };
        let only_age = keep.runs.is_none() && keep.bytes.is_none();
        if only_age && keep.since.is_none() {
            return Ok(expiry);
        }
        if !only_age {
            expiry.count()?;
        }
        let until = keep.since.filter(|_| only_age);
        let mut begun = catalog::begun(&expiry.inner.layout, |entry| entry.began_in(None, until))?;
        begun.dedup();
        let mut entries = HashMap::with_capacity(begun.len());
        for entry in &begun {
            let Some(run) = entry.run() else { continue };
            // Entered twice, or before its record could be read.
            let unsure = !entry.is_read() || entries.contains_key(&run);
            entries.insert(run, (!unsure).then_some(entry.at));
        }
        for (run, at) in entries {
            let at = match at {
                Some(at) => Some(at),
                None => expiry.look(&run)?.map(|(record, _)| record.started_at),
            };
            expiry.oldest_last.extend(at.map(|at| (at, run)));
        }
        expiry.oldest_last.sort_unstable_by(|a, b| b.cmp(a));
        Ok(expiry)
    }

    /// Looks which runs are there: the catalog may still have those that were removed.
    fn count(&mut self) -> Result<()> {
        for folder in self.inner.layout.folders(None, None)? {
            let Some(run) = folder.names().and_then(|[.., run]| RunId::new(run).ok()) else { continue };
            let bytes = if self.keep.bytes.is_some() { folder.bytes() } else { 0 };
            self.bytes += bytes;
            self.there.insert(run, bytes);
        }
        Ok(())
    }

    /// Removes some; answers how many went in all, once nothing more has to go.
    pub(super) fn step(&mut self) -> Result<Option<u64>> {
        let (goes, more) = self.choose()?;
        let (removed, done) = remove(&self.inner, &goes);
        self.removed += removed;
        let parts: HashMap<Option<Part>, &RunFolder> =
            goes.iter().map(|(_, folder)| (folder.part(), folder)).collect();
        // Once for each part, also where one could not be removed.
        parts.values().for_each(|folder| self.inner.layout.tell(folder));
        done?;
        if more {
            return Ok(None);
        }
        list::tidy_up(&self.inner.layout, self.stale);
        Ok(Some(self.removed))
    }

    /// The next that go, and whether there may be more.
    fn choose(&mut self) -> Result<(Vec<(RunId, RunFolder)>, bool)> {
        let now = Timestamp::now();
        let mut goes = Vec::new();
        for _ in 0..STEP_RUNS {
            let Some((began, run)) = self.oldest_last.pop() else { return Ok((goes, false)) };
            if !self.is_exceeded(began) {
                return Ok((goes, false));
            }
            let Some((record, folder)) = self.look(&run)? else { continue };
            if self.is_exceeded(record.started_at) && record.judge(now) != Judgement::Running {
                self.forget(&run);
                goes.push((run, folder));
            }
        }
        Ok((goes, true))
    }

    fn is_exceeded(&self, began: Timestamp) -> bool {
        self.keep.is_exceeded(began, self.there.len() as u64, self.bytes)
    }

    /// A run with its record; `None` where that cannot be read. What went by another hand counts no more.
    fn look(&mut self, run: &RunId) -> Result<Option<(RunRecord, RunFolder)>> {
        let Inner { layout, skipped, .. } = &*self.inner;
        let found = list::look(layout, skipped, run)?;
        if found.is_none() && !layout.is_there(run) {
            self.forget(run);
        }
        Ok(found)
    }

    fn forget(&mut self, run: &RunId) {
        self.bytes -= self.there.remove(run).unwrap_or(0);
        self.stale += 1;
    }
}

/// Removes these; answers how many were there, and the first error. Whoever deletes a file waits for the file system and
/// not for a core, so several do at once.
fn remove(inner: &Inner, runs: &[(RunId, RunFolder)]) -> (u64, Result<()>) {
    let some = |part: &[(RunId, RunFolder)]| {
        let mut removed = 0;
        for (run, folder) in part {
            inner.forget(run);
            match inner.layout.remove(run, folder) {
                Ok(was_there) => removed += u64::from(was_there),
                Err(error) => return (removed, Err(error)),
            }
        }
        (removed, Ok(()))
    };
    let lost = |_| (0, Err(Error::new(ErrorKind::Internal, "a thread that removes runs panicked")));
    std::thread::scope(|scope| {
        let parts = runs.chunks(runs.len().div_ceil(REMOVERS).max(1));
        let removers: Vec<_> = parts.map(|part| scope.spawn(move || some(part))).collect();
        let parts = removers.into_iter().map(|remover| remover.join().unwrap_or_else(lost));
        parts.fold((0, Ok(())), |(all, done), (removed, result)| (all + removed, done.and(result)))
    })
}
