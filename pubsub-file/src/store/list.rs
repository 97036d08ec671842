//! Finds the runs that a query means.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pubsub_core::{Error, Result, RunId, RunQuery, RunRecord, name};

use super::catalog;
use super::layout::{Layout, RunFolder, is_of_one_record};
use crate::watch::Part;

/// Entries of removed runs that a question may meet before the catalog is tidied up.
const MAX_REMOVED: usize = 1_000;

/// Most records that were told to be unreadable and are remembered, so that each is told once.
const MAX_SKIPPED: usize = 10_000;

/// The records that were left out of an answer.
#[derive(Debug, Default)]
pub(super) struct Skipped(Mutex<HashSet<PathBuf>>);

impl Skipped {
    /// The answer, or `None` where a record cannot be read: one must not hide the others.
    fn pass<T>(&self, path: &Path, answer: Result<Option<T>>) -> Result<Option<T>> {
        match answer {
            Err(error) if is_of_one_record(&error) => {
                self.tell(path, &error);
                Ok(None)
            }
            answer => answer,
        }
    }

    fn tell(&self, path: &Path, error: &Error) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_SKIPPED {
            told.clear();
        }
        if told.insert(path.to_owned()) {
            let error = error.chain();
            tracing::warn!(path = %path.display(), error, "a run is left out: its record cannot be read");
        }
    }
}

type Found = Vec<(RunRecord, RunFolder)>;

/// The records that fit, newest first, with their folders. One that cannot be read is an error only where the query
/// names its run.
pub(super) fn matching(layout: &Layout, skipped: &Skipped, query: &RunQuery) -> Result<Found> {
    layout.check_version()?;
    if let Some(run) = &query.run {
        let Some(folder) = layout.find(run)? else { return Ok(Vec::new()) };
        let record = folder.record()?.filter(|record| query.matches(record));
        return Ok(record.map(|record| (record, folder)).into_iter().take(limit(query)).collect());
    }
    let action = query.action.as_ref().map(|id| name::encode(id.as_str()));
    let stage = query.stage.as_ref().map(|id| name::encode(id.as_str()));
    let names_few = query.limit.is_some() || query.event.is_some() || query.since.or(query.until).is_some();
    if names_few || (action.is_none() && stage.is_some()) {
        return by_catalog(layout, skipped, query, action.as_deref(), stage.as_deref());
    }
    let mut found = Vec::new();
    for folder in layout.folders(action.as_deref(), stage.as_deref())? {
        let record = skipped.pass(folder.path(), folder.record())?;
        found.extend(record.filter(|record| query.matches(record)).map(|record| (record, folder)));
    }
    sort(&mut found);
    Ok(found)
}

/// What tells of changes of the runs that a query means; `None` where anything may.
pub(super) fn part(layout: &Layout, query: &RunQuery) -> Result<Option<Part>> {
    if let Some(run) = &query.run {
        return Ok(layout.find(run)?.and_then(|folder| folder.part()));
    }
    Ok(query.action.as_ref().zip(query.stage.as_ref()).map(|(action, stage)| {
        Part::of(&[name::encode(action.as_str()).as_str(), name::encode(stage.as_str()).as_str()])
    }))
}

fn limit(query: &RunQuery) -> usize {
    query.limit.unwrap_or(usize::MAX)
}

fn sort(found: &mut Found) {
    found.sort_by(|(a, _), (b, _)| (b.started_at, &b.key.run_id).cmp(&(a.started_at, &a.key.run_id)));
}

/// Opens the records from the newest on, until there are enough.
fn by_catalog(
    layout: &Layout,
    skipped: &Skipped,
    query: &RunQuery,
    action: Option<&str>,
    stage: Option<&str>,
) -> Result<Found> {
    let event = query.event.as_ref().map(|event| catalog::sum(event.as_str()));
    let (action, stage) = (action.map(catalog::sum), stage.map(catalog::sum));
    let begun = catalog::begun(layout, |entry| {
        entry.may_be_of(action, stage, event) && entry.began_in(query.since, query.until)
    })?;
    let (mut found, mut seen, mut removed) = (Found::new(), HashSet::new(), 0);
    // When the newest so many began.
    let mut newest = BinaryHeap::new();
    for entry in begun {
        // Those that began at the same time are sorted by their whole ids, so all of them are looked at.
        if newest.len() >= limit(query) && newest.peek().is_none_or(|Reverse(oldest)| entry.at < *oldest) {
            break;
        }
        let Some(run) = entry.run().filter(|run| seen.insert(run.clone())) else { continue };
        match look(layout, skipped, &run)? {
            Some((record, folder)) if query.matches(&record) => {
                newest.push(Reverse(record.started_at));
                if newest.len() > limit(query) {
                    newest.pop();
                }
                found.push((record, folder));
            }
            Some(_) => {}
            None => removed += usize::from(!layout.has_id(&run)),
        }
    }
    tidy_up(layout, removed);
    sort(&mut found);
    found.truncate(limit(query));
    Ok(found)
}

/// Takes removed runs out of the catalog, where so many were met that it is worth it.
pub(super) fn tidy_up(layout: &Layout, removed: usize) {
    if removed > MAX_REMOVED
        && let Err(error) = catalog::compact(layout)
    {
        tracing::debug!(error = %error.chain(), "the catalog of runs keeps those that were removed");
    }
}

pub(super) fn look(
    layout: &Layout,
    skipped: &Skipped,
    run: &RunId,
) -> Result<Option<(RunRecord, RunFolder)>> {
    let Some(folder) = skipped.pass(Path::new(run.as_str()), layout.find(run))? else { return Ok(None) };
    let record = skipped.pass(folder.path(), folder.record())?;
    Ok(record.map(|record| (record, folder)))
}
