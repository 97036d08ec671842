//! The task that brings what is in a spool to its sink.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pubsub_core::{
    Error, ErrorKind, Gap, Judgement, LineBatch, OutputSink, Result, RunKey, RunRecord, RunStatus, Timestamp,
};
use tokio::time::{sleep, timeout};

use super::log::{Chunk, hole};
use super::{Run, Shared, lock};
use crate::files::blocking;

/// Most bytes of one append to the sink.
const CHUNK_BYTES: usize = 1 << 20;

/// How often the folder is looked through for what dead processes left.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What a run has to ship.
struct Due {
    chunk: Chunk,
    record: Option<RunRecord>,
    /// The highest revision that the sink took; 0 before the run began there.
    revision: u64,
    /// The chunk is the last one.
    is_read: bool,
    /// Nobody will write to it any more.
    left: bool,
}

/// What became of it.
enum Step {
    Nothing,
    Some,
    /// The sink is out of reach.
    Failed(Error),
}

/// Ships, one call at a time: runs take turns, so that none waits for another's output, and a sink that fails is asked
/// by one call.
pub(super) async fn ship<S: OutputSink + 'static>(shared: Arc<Shared<S>>) {
    let mut tries = 0;
    loop {
        let before = shared.changes.load(Ordering::Acquire);
        let runs: Vec<Run> = shared.runs().values().cloned().collect();
        let mut idle = true;
        for run in runs {
            let step = {
                let _turn = shared.turn.lock().await;
                shared.ship_some(&run).await
            };
            match step {
                Ok(Step::Nothing) => {}
                Ok(Step::Some) => {
                    idle = false;
                    if std::mem::take(&mut tries) > 0 {
                        tracing::info!(spool = %shared.config.dir.display(), "the sink of a spool answers again");
                    }
                }
                Ok(Step::Failed(error)) => {
                    idle = false;
                    if tries == 0 {
                        tracing::warn!(spool = %shared.config.dir.display(), error = %error.chain(), "the sink of a spool fails; it is tried again");
                    }
                    shared.pause(tries).await;
                    tries = tries.saturating_add(1);
                    break;
                }
                // Its files cannot be read or written just now; the others go on.
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "a run in a spool cannot be shipped now")
                }
            }
        }
        if *shared.stop.borrow() {
            return;
        }
        if !idle {
            continue;
        }
        shared.settled.send_replace(before);
        let looks = tokio::select! {
            () = shared.stopped() => return,
            () = shared.work.notified() => false,
            () = sleep(LOOK_AGAIN) => true,
        };
        if looks {
            let adopting = Arc::clone(&shared);
            if let Err(error) = blocking(move || adopting.adopt()).await {
                tracing::warn!(error = %error.chain(), "a spool cannot be looked through");
            }
        }
    }
}

impl<S: OutputSink + 'static> Shared<S> {
    /// Ships a part of a run.
    async fn ship_some(self: &Arc<Self>, run: &Run) -> Result<Step> {
        let Some(due) = due(run).await? else { return Ok(Step::Nothing) };
        // A process that died before the run began leaves no record: nothing of it was acknowledged.
        let Some(record) = due.record else { return self.freed_if(due.left, run).await };
        let key = record.key.clone();
        let running = record.status == RunStatus::Running;
        if due.revision == 0 || (running && record.revision > due.revision) {
            // A run that has ended begins as what it was: it has not ended there before its lines are.
            let begun = if running { own(run, record.clone()).await? } else { record.as_begun() };
            if let Err(error) = self.call(self.sink.begin(&begun)).await {
                return Ok(Step::Failed(error));
            }
            self.took(run, begun.revision).await?;
        }
        if !due.chunk.batches.is_empty() || due.chunk.damaged {
            let refused = match self.bring(&key, &due.chunk.batches).await {
                Ok(refused) => refused,
                Err(error) => return Ok(Step::Failed(error)),
            };
            #[cfg(feature = "fault-points")]
            pubsub_core::fault::point("spool.shipped");
            self.shipped(run, due.chunk, refused).await?;
            return Ok(Step::Some);
        }
        if running && due.is_read {
            // One that readers judge lost is ended by nobody.
            let lost = record.judge(Timestamp::now()) == Judgement::Lost;
            return self.freed_if(due.left && lost, run).await;
        }
        if !due.is_read || record.revision <= due.revision {
            return Ok(Step::Nothing);
        }
        let ended = own(run, record).await?;
        if let Err(error) = self.call(self.sink.finish(&ended)).await {
            return Ok(Step::Failed(error));
        }
        self.done(run, &ended).await?;
        Ok(Step::Some)
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
                Err(error) if !is_for_good(error.kind()) => return Err(error),
                Err(error) => {
                    tracing::warn!(run = %key.run_id, error = %error.chain(), "the sink of a spool refuses lines for good");
                    refused.extend(left.iter().map(|batch| batch.gap(error.chain())));
                    break;
                }
            };
            left = appended.left_of(&left);
            refused.extend(appended.refused);
            if !left.is_empty() {
                self.pause(tries).await;
                tries = tries.saturating_add(1);
            }
        }
        Ok(refused)
    }

    /// A call about a record. What is refused for good is told, and counts as taken: it would be refused again.
    async fn call(&self, call: impl Future<Output = Result<()>>) -> Result<()> {
        match self.limited(call).await {
            Err(error) if is_for_good(error.kind()) => {
                tracing::warn!(spool = %self.config.dir.display(), error = %error.chain(), "the sink of a spool refuses a record for good");
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
                    cursor.refused.extend(hole(cursor.last, first.first()));
                }
                cursor.last = cursor.last.max(Some(last.last()));
            }
            log.cursor.refused.extend(refused);
            shared.freed(log.move_to(chunk.segment, chunk.offset)?);
            Ok(())
        })
        .await
    }

    /// Removes what a dead process left, once there is nothing more to ship of it.
    async fn freed_if(self: &Arc<Self>, left: bool, run: &Run) -> Result<Step> {
        if !left {
            return Ok(Step::Nothing);
        }
        let (entry, shared) = (Arc::clone(run), Arc::clone(self));
        blocking(move || {
            let mut log = lock(&entry);
            // Somebody here may have gone on with it meanwhile.
            if let Some(done) = log.take_if(|log| log.left) {
                shared.freed(done.remove()?);
                shared.runs().retain(|_, run| !Arc::ptr_eq(run, &entry));
            }
            Ok(Step::Some)
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
            open.cursor.revision = revision;
            if open.record().is_some_and(|record| record.revision > revision) || !open.is_read() {
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

async fn due(run: &Run) -> Result<Option<Due>> {
    let run = Arc::clone(run);
    blocking(move || {
        let log = lock(&run);
        let Some(log) = log.as_ref() else { return Ok(None) };
        let chunk = log.read(CHUNK_BYTES)?;
        let is_read = log.is_read();
        let (record, left) = (log.record().cloned(), log.left);
        Ok(Some(Due { chunk, record, revision: log.cursor.revision, is_read, left }))
    })
    .await
}

/// The record with the holes of this sink.
async fn own(run: &Run, mut record: RunRecord) -> Result<RunRecord> {
    let run = Arc::clone(run);
    blocking(move || {
        if let Some(log) = lock(&run).as_ref() {
            record.holes.extend(log.cursor.refused.iter().cloned());
            // What the end of a damaged spool had.
            if log.has_lines()
                && let Some(end) = record.last_number().filter(|end| Some(*end) > log.cursor.last)
            {
                let known = |gap: &Gap| gap.range.contains(end);
                if !record.holes.iter().chain(&record.gaps).any(known) {
                    record.holes.extend(hole(log.cursor.last, end.plus(1)));
                }
            }
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
