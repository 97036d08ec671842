//! The task that brings what is in a spool to its sink.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pubsub_core::{
    Appended, Error, ErrorKind, Gap, LineBatch, OutputSink, Result, RunId, RunKey, RunRecord, RunStatus,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::cursor::Chunk;
use super::due::{Due, Look, due};
use super::log::{hole, missing_end};
use super::{Run, Shared, lock};
use crate::files::blocking;

/// How often the folder is looked through for what dead processes left.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What became of it.
enum Step {
    Nothing,
    /// Lines are gathered until then.
    Gathers(Instant),
    Some,
    /// The sink is out of reach.
    Failed(Error),
}

/// Ships, one call at a time: runs take turns, so that none waits for another's output, and a sink that fails is asked
/// by one call.
pub(super) async fn ship<S: OutputSink + 'static>(shared: Arc<Shared<S>>) {
    let mut tries = 0;
    let mut look_at = Instant::now() + LOOK_AGAIN;
    loop {
        let before = shared.changes.load(Ordering::Acquire);
        let runs: Vec<(RunId, Run)> =
            shared.runs().iter().map(|(id, run)| (id.clone(), Arc::clone(run))).collect();
        let (mut idle, mut whole, mut next) = (true, true, look_at);
        for (id, run) in runs {
            match shared.ship_some(&id, &run).await {
                Ok(Step::Nothing) => {}
                Ok(Step::Gathers(until)) => {
                    whole = false;
                    next = next.min(until);
                }
                Ok(Step::Some) => {
                    idle = false;
                    tries = 0;
                    shared.answers();
                }
                Ok(Step::Failed(error)) => {
                    idle = false;
                    shared.fails(&error);
                    shared.pause(tries).await;
                    tries = tries.saturating_add(1);
                    break;
                }
                // Its files cannot be read or written just now; the others go on.
                Err(error) => {
                    whole = false;
                    shared.files_fail(&error);
                }
            }
        }
        if *shared.stop.borrow() {
            return;
        }
        // Also where there is always something to ship, and while the sink fails.
        if Instant::now() >= look_at {
            look_at = Instant::now() + LOOK_AGAIN;
            let adopting = Arc::clone(&shared);
            if let Err(error) = blocking(move || adopting.adopt()).await {
                shared.files_fail(&error);
            }
        }
        if !idle {
            continue;
        }
        if whole {
            shared.settled.send_replace(before);
        }
        tokio::select! {
            () = shared.stopped() => return,
            () = shared.work.notified() => {}
            () = sleep_until(next.min(look_at)) => {}
        }
    }
}

impl<S: OutputSink + 'static> Shared<S> {
    /// Ships a part of a run.
    async fn ship_some(self: &Arc<Self>, id: &RunId, run: &Run) -> Result<Step> {
        let delay = if self.is_hurried() { Duration::ZERO } else { self.config.delay };
        let Due { chunk, record, revision, is_read, gathers, turn: _turn } =
            match due(run, delay, self.config.keep_damaged).await? {
                Look::Nothing => return Ok(Step::Nothing),
                Look::Left => return self.drop_run(id, None).await,
                Look::Removed => return self.remove_at_sink(id).await,
                Look::Due(due) => *due,
            };
        let key = record.key.clone();
        let running = record.status == RunStatus::Running;
        let begins = revision == 0 || (running && record.revision > revision);
        let ends = !running && chunk.is_empty() && is_read && record.revision > revision;
        if revision > 0 && (begins || ends) {
            // A record would make a run anew that was removed at the sink.
            match self.limited(self.sink.append(&key, &[])).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return self.drop_run(id, Some(error)).await;
                }
                Err(error) if !is_for_good(error.kind()) => return Ok(Step::Failed(error)),
                _ => {}
            }
        }
        if begins {
            // A run that has ended begins as what it was: it has not ended there before its lines are.
            let begun = if running { own(run, record.clone()).await? } else { record.as_begun() };
            if let Err(error) = self.call(self.sink.begin(&begun)).await {
                return Ok(Step::Failed(error));
            }
            self.took(run, begun.revision).await?;
        }
        if !chunk.is_empty() {
            return match self.bring(&key, &chunk.batches).await {
                Ok(refused) => {
                    #[cfg(feature = "fault-points")]
                    pubsub_core::fault::point("spool.shipped");
                    self.shipped(run, chunk, refused).await.map(|()| Step::Some)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => self.drop_run(id, Some(error)).await,
                Err(error) => Ok(Step::Failed(error)),
            };
        }
        if !ends {
            return Ok(if begins { Step::Some } else { gathers.map_or(Step::Nothing, Step::Gathers) });
        }
        let ended = own(run, record).await?;
        if let Err(error) = self.call(self.sink.finish(&ended)).await {
            return Ok(Step::Failed(error));
        }
        self.done(run, &ended).await?;
        Ok(Step::Some)
    }

    /// What waits of a run goes: there is nothing left to ship, or nobody can.
    async fn drop_run(self: &Arc<Self>, id: &RunId, why: Option<Error>) -> Result<Step> {
        if let Some(error) = why {
            tracing::warn!(run = %id, error = %error.chain(), "a run is not at the sink of a spool any more; what waits for it is dropped");
            // Who writes it is to hear of it as well.
            self.remember(id);
        }
        let (shared, id) = (Arc::clone(self), id.clone());
        blocking(move || shared.clear(&id)).await?;
        Ok(Step::Some)
    }

    /// Brings a removal to its end that another process began, or that the sink could not do.
    async fn remove_at_sink(self: &Arc<Self>, id: &RunId) -> Result<Step> {
        self.drop_lines(id).await?;
        if let Some(remove) = self.remove_at {
            match self.limited(remove(&self.sink, id)).await {
                Err(error) if !is_for_good(error.kind()) => return Ok(Step::Failed(error)),
                Err(error) => {
                    tracing::warn!(run = %id, error = %error.chain(), "a removed run stays at the sink of a spool");
                }
                Ok(_) => {}
            }
        }
        self.drop_run(id, None).await
    }

    /// Appends all of it; answers what was refused for good.
    async fn bring(&self, key: &RunKey, batches: &[LineBatch]) -> Result<Vec<Gap>> {
        let mut refused = Vec::new();
        let mut left = batches.to_vec();
        let mut tries = 0;
        while !left.is_empty() {
            if *self.stop.borrow() {
                return Err(Error::new(ErrorKind::Closed, "the spool is closed"));
            }
            let appended = match self.limited(self.sink.append(key, &left)).await {
                Ok(appended) => appended,
                Err(error) if !is_for_good(error.kind()) || error.kind() == ErrorKind::NotFound => {
                    return Err(error);
                }
                Err(error) => {
                    let whole = |all: Appended, batch: &LineBatch| all.with_refused(batch.gap(error.chain()));
                    refused.extend(self.refuse(key, &left, left.iter().fold(Appended::all(), whole)).await);
                    break;
                }
            };
            let again = appended.left_of(&left);
            refused.extend(self.refuse(key, &left, appended).await);
            left = again;
            if !left.is_empty() {
                self.pause(tries).await;
                tries = tries.saturating_add(1);
            }
        }
        Ok(refused)
    }

    /// Keeps what the sink refuses of these batches; answers the holes.
    async fn refuse(&self, key: &RunKey, batches: &[LineBatch], appended: Appended) -> Vec<Gap> {
        let Appended { refused, dropped, .. } = appended;
        match refused.first() {
            Some(gap) => {
                let lines = refused.iter().map(|gap| gap.range.lines()).sum();
                self.logs.refusing.refused(&key.run_id, gap.range.first, lines, &gap.reason);
            }
            None => self.logs.refusing.took_all(),
        }
        let mut holes = match &self.config.refusals {
            Some(refusals) if !refused.is_empty() => {
                let parts = |gap: Gap| {
                    let part = move |batch: &LineBatch| Some((batch.slice(gap.range)?, gap.reason.clone()));
                    batches.iter().filter_map(part).collect::<Vec<_>>()
                };
                refusals.keep(key, refused.into_iter().flat_map(parts).collect()).await
            }
            _ => refused,
        };
        holes.extend(dropped);
        holes
    }

    /// A call about a record. What is refused for good is told, and counts as taken: it would be refused again.
    async fn call(&self, call: impl Future<Output = Result<()>>) -> Result<()> {
        match self.limited(call).await {
            Err(error) if is_for_good(error.kind()) => {
                if let Some(records) = self.logs.records.happened(1) {
                    tracing::warn!(spool = %self.config.dir.display(), records, error = %error.chain(), "the sink of a spool refuses a record for good");
                }
                Ok(())
            }
            answer => answer,
        }
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| Err(Error::new(ErrorKind::TimedOut, "the sink did not answer"));
        tokio::select! {
            answer = timeout(self.config.call_limit, call) => answer.unwrap_or_else(late),
            () = self.stopped() => Err(Error::new(ErrorKind::Closed, "the spool is closed")),
        }
    }

    /// Waits before the next try, unless it is to end.
    async fn pause(&self, tries: u32) {
        tokio::select! {
            () = sleep(self.config.backoff.delay(tries)) => {}
            () = self.stopped() => {}
        }
    }

    async fn stopped(&self) {
        // The sender lives as long as this.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    async fn took(&self, run: &Run, revision: u64) -> Result<()> {
        let run = Arc::clone(run);
        blocking(move || {
            let mut log = lock(&run);
            let Some(log) = log.as_mut() else { return Ok(()) };
            log.cursor.revision = revision;
            log.save()
        })
        .await
    }

    async fn shipped(self: &Arc<Self>, run: &Run, chunk: Chunk, refused: Vec<Gap>) -> Result<()> {
        let (run, shared) = (Arc::clone(run), Arc::clone(self));
        blocking(move || {
            let mut log = lock(&run);
            let Some(log) = log.as_mut() else { return Ok(()) };
            let cursor = &mut log.cursor;
            cursor.damaged |= chunk.damaged;
            if let (Some(first), Some(last)) = (chunk.batches.first(), chunk.batches.last()) {
                if std::mem::take(&mut cursor.damaged) {
                    hole(cursor.last, first.first())
                        .into_iter()
                        .for_each(|gap| gap.enter(&mut cursor.refused));
                }
                cursor.last = cursor.last.max(Some(last.last()));
            }
            refused.into_iter().for_each(|gap| gap.enter(&mut log.cursor.refused));
            shared.freed(log.move_to(chunk.segment, chunk.offset)?);
            Ok(())
        })
        .await
    }

    /// The sink has all of it: its files go, unless something came meanwhile.
    async fn done(self: &Arc<Self>, run: &Run, ended: &RunRecord) -> Result<()> {
        let (entry, shared) = (Arc::clone(run), Arc::clone(self));
        let (id, revision) = (ended.key.run_id.clone(), ended.revision);
        blocking(move || {
            let mut log = lock(&entry);
            let Some(open) = log.as_mut() else { return Ok(()) };
            if !open.is_read() {
                // What came meanwhile is in the store only once the end is told behind it.
                open.cursor.revision = revision.saturating_sub(1);
                return open.save();
            }
            open.cursor.revision = revision;
            if open.record().is_some_and(|record| record.revision > revision) {
                return open.save();
            }
            if let Some(done) = log.take() {
                shared.freed(done.remove()?);
            }
            shared.runs().remove(&id);
            Ok(())
        })
        .await
    }
}

/// The record with the holes of this sink.
async fn own(run: &Run, mut record: RunRecord) -> Result<RunRecord> {
    let run = Arc::clone(run);
    blocking(move || {
        if let Some(log) = lock(&run).as_ref() {
            log.cursor.refused.iter().for_each(|gap| gap.clone().enter(&mut record.holes));
            // What the end of a damaged spool had.
            let missing = log.has_lines().then(|| missing_end(&record, log.cursor.last)).flatten();
            record.holes.extend(missing);
            record.holes.sort_by_key(|gap| gap.range.first);
        }
        Ok(record)
    })
    .await
}

/// Whether trying again can never help, whoever mends what. No permission, a wrong password, a broken disk can be mended,
/// and what is in the spool waits for that.
const fn is_for_good(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Invalid
            | ErrorKind::TooLarge
            | ErrorKind::TooNew
            | ErrorKind::Unsupported
            | ErrorKind::Conflict
            | ErrorKind::NotFound
    )
}
