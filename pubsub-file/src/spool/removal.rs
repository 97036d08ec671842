//! Removing a run from the spool and from its sink, as one.
//!
//! A file in the run's folder says that the run is removed; from then on nobody ships it. Then its turn is waited for, so
//! that no call about the run is under way, in whatever process. Then it is removed at the sink, and its folder goes. Who
//! is killed in between leaves the mark, and the next one that ships the spool goes on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use pubsub_core::{Error, ErrorKind, Keep, OutputSink, Result, Retention, RunId};
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

impl<S> Shared<S> {
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
        if let Some(log) = lock(&entry).take() {
            self.freed(log.remove()?);
        }
        // Not what was begun anew meanwhile.
        let mut runs = self.runs();
        if runs.get(run).is_some_and(|now| Arc::ptr_eq(now, &entry)) {
            runs.remove(run);
        }
        Ok(())
    }
}
