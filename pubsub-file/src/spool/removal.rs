//! Removing a run from the spool and from its sink, as one.
//!
//! A file in the run's folder says that the run is removed; from then on nobody ships it. Then its turn is waited for, so
//! that no call about the run is under way, in whatever process. Then it is removed at the sink, and its folder goes. Who
//! is killed in between leaves the mark, and the next one that ships the spool goes on.
//!
//! Who writes the run meanwhile, in whatever process, sees the mark, and remembers the run once its folder is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use pubsub_core::{Error, ErrorKind, Keep, OutputSink, Result, Retention, RunId, RunRecord, RunStatus};
use tokio::time::{Instant, sleep};

use super::folder::Missing;
use super::folder::{self, Turn};
use super::log::Log;
use super::{Shared, Spooled, lock};
use crate::files::blocking;

/// How a run is removed at a sink.
pub(super) type RemoveAt<S> = for<'a> fn(&'a S, &'a RunId) -> BoxFuture<'a, Result<bool>>;

/// How often a turn that another process has is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Most runs that are remembered as removed.
const MAX_GONE: usize = 10_000;

/// Runs that were removed, with the last revision that the spool had of each.
pub(super) type Gone = BTreeMap<RunId, u64>;

/// For who writes a run that was removed.
pub(super) fn is_removed(run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, "the run was removed").with("run", run)
}

#[async_trait]
impl<S: OutputSink + Retention + 'static> Retention for Spooled<S> {
    /// Also where another process ships it. What waits is gone once this is called; where the store is out of reach, the
    /// error says so, and a spool that was opened by [`open_store`](Spooled::open_store) removes it there later.
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let (shared, id) = (Arc::clone(&self.shared), run.clone());
        if !blocking(move || folder::mark_removed(&shared.folder(&id))).await? {
            return self.shared.sink.remove(run).await;
        }
        let turn = self.shared.turn(run).await?;
        self.shared.drop_lines(run).await?;
        self.shared.sink.remove(run).await?;
        let (shared, id) = (Arc::clone(&self.shared), run.clone());
        blocking(move || {
            shared.clear(&id)?;
            drop(turn);
            Ok(true)
        })
        .await
    }

    /// What expires at the store although something waits for it is shipped no further.
    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.shared.sink.expire(keep).await
    }
}

impl<S: Send + Sync + 'static> Shared<S> {
    /// Waits until no call about the run is under way; `None` where its folder is gone.
    async fn turn(self: &Arc<Self>, run: &RunId) -> Result<Option<Turn>> {
        // A step is a few calls.
        let deadline = Instant::now() + self.config.call_limit.saturating_mul(2);
        loop {
            let folder = self.folder(run);
            match blocking(move || Turn::of_folder(&folder)).await {
                Ok(Some(turn)) => return Ok(Some(turn)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
                Ok(None) if Instant::now() < deadline => sleep(ASK_AGAIN).await,
                Ok(None) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "a run is still being shipped; it is removed here and not yet at the sink",
                    )
                    .with("run", run));
                }
            }
        }
    }

    /// Removes what waits of a run that is marked, also while the sink is out of reach; where another process has it open,
    /// that one does it.
    pub(super) async fn drop_lines(self: &Arc<Self>, run: &RunId) -> Result<()> {
        let Some(entry) = self.runs().get(run).cloned() else { return Ok(()) };
        let shared = Arc::clone(self);
        blocking(move || {
            if let Some(log) = lock(&entry).as_mut() {
                shared.freed(log.drop_lines()?);
            }
            Ok(())
        })
        .await
    }
}

impl<S> Shared<S> {
    /// Whether a run was removed and has not begun anew.
    pub(super) fn is_gone(&self, log: &Log, run: &RunId) -> bool {
        log.is_removed() || (log.record().is_none() && self.gone().contains_key(run))
    }

    /// Refuses a sign of life and the end of a run that was removed; one that begins anew is another.
    pub(super) fn not_removed(&self, log: &Log, record: &RunRecord) -> Result<()> {
        let run = &record.key.run_id;
        if !self.is_gone(log, run) {
            return Ok(());
        }
        let last = log.record().map(|last| last.revision).or_else(|| self.gone().get(run).copied());
        if record.status != RunStatus::Running || record.revision > last.unwrap_or(1) {
            return Err(is_removed(run));
        }
        if log.is_removed() {
            return Err(Error::new(ErrorKind::Unavailable, "the run is being removed").with("run", run));
        }
        self.gone().remove(run);
        Ok(())
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a run for removed.
    pub(super) fn remember(&self, run: &RunId) {
        let entry = self.runs().get(run).cloned();
        if let Some(log) = entry.as_ref().map(lock).as_deref().and_then(Option::as_ref) {
            self.remember_log(run, log);
        }
    }

    fn remember_log(&self, run: &RunId, log: &Log) {
        let mut gone = self.gone();
        gone.insert(run.clone(), log.record().map_or(1, |record| record.revision));
        if gone.len() > MAX_GONE {
            // Any one: ids are in no order.
            gone.pop_first();
        }
    }

    /// Removes the folder of a run that is marked, unless another process has it open: that one does it.
    pub(super) fn clear(&self, run: &RunId) -> Result<()> {
        let entry = self.runs().get(run).cloned();
        let Some(entry) = entry else {
            // Not counted here.
            let log = if folder::is_removed(&self.folder(run)) {
                Log::open(self.folder(run), Missing::Leave)?
            } else {
                None
            };
            return log.map_or(Ok(0), Log::remove).map(drop);
        };
        let mut open = lock(&entry);
        if let Some(log) = open.take() {
            // While the entry is held, so that who writes the run finds either.
            if log.is_removed() {
                self.remember_log(run, &log);
            }
            self.freed(log.remove()?);
        }
        drop(open);
        // Not what was begun anew meanwhile.
        let mut runs = self.runs();
        if runs.get(run).is_some_and(|now| Arc::ptr_eq(now, &entry)) {
            runs.remove(run);
        }
        Ok(())
    }
}
