//! How a lane is emptied: what its task does next, and what it says became of the lines.

use std::collections::VecDeque;

use metrics::Counter;
use tokio::time::Instant;

use super::super::account::SinkAccount;
use super::super::cost::cost;
use super::super::meters::gauged;
use super::{APPEND_BYTES, Begun, Lane, Next, State};
use crate::sync::MutexGuard;
use crate::{Gap, LineBatch, RunRecord};

/// For the task.
impl Lane {
    pub(in super::super) fn next(&self) -> Next {
        let mut state = self.lock();
        // First, or a sink that is always behind would never hear that the run is alive.
        if let Some(record) = state.update.take() {
            return Next::Update(record);
        }
        if let Some(since) = state.since {
            let until = since + self.sink.config.delay;
            let is_awaited = state.hurried || state.finish.is_some() || state.closed.is_some();
            let gathers = !is_awaited && state.queued_bytes < self.enough();
            return if gathers && Instant::now() < until {
                Next::Gather(until)
            } else {
                Next::Append(self.take(state, since))
            };
        }
        if let Some(record) = state.finish.take() {
            return Next::Finish(record);
        }
        if state.closed.is_some() { Next::End } else { Next::Wait }
    }

    /// Lines for one append.
    fn take(&self, mut state: MutexGuard<'_, State>, since: Instant) -> Vec<LineBatch> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < APPEND_BYTES
            && let Some(batch) = state.queue.pop_front()
        {
            bytes += cost(&batch);
            taken.push(batch);
        }
        let was_full = state.queued_bytes >= self.sink.config.queue_bytes;
        state.queued_bytes = state.queued_bytes.saturating_sub(bytes);
        state.since = state.queue.front().map(|_| since);
        state.hurried &= state.since.is_some();
        // Under the lock: whoever finds room finds it in what is counted over all runs as well.
        self.unqueued(bytes);
        drop(state);
        if was_full {
            // Whoever waits for room need not wait for the sink's answer as well.
            self.done.notify_waiters();
        }
        taken
    }

    /// Nothing more will reach the sink. What waits is told as waiting, and held no longer.
    pub(in super::super) fn end(&self) {
        let (mut bytes, mut queue, mut waiting) = (0, VecDeque::new(), 0);
        self.change(|state| {
            state.ended = true;
            waiting = state.account.waiting;
            state.since = None;
            std::mem::swap(&mut state.queued_bytes, &mut bytes);
            std::mem::swap(&mut state.queue, &mut queue);
        });
        self.unqueued(bytes);
        // The metrics go on after the run.
        self.meters.dropped.increment(waiting);
        self.meters.waiting.decrement(gauged(waiting));
    }

    /// The record that ends the run, where nothing has to go before it.
    pub(in super::super) fn take_finish(&self) -> Option<RunRecord> {
        let mut state = self.lock();
        if state.since.is_none() && state.update.is_none() { state.finish.take() } else { None }
    }

    /// One that was taken, and is still to be brought there, unless a later one is.
    pub(in super::super) fn put_back(&self, record: RunRecord) {
        self.lock().finish.get_or_insert(record);
    }

    pub(in super::super) fn take_first(&self) -> Option<RunRecord> {
        self.lock().first.take()
    }

    pub(in super::super) fn set_begun(&self, begun: Begun) {
        self.change(|state| state.begun = begun);
    }

    /// The run began there and is not there any more.
    pub(in super::super) fn set_gone(&self) {
        let (sink, run) = (&self.sink.config.name, &self.key.run_id);
        tracing::warn!(sink, %run, "a run is gone from a sink while it is written: somebody removed it, or the sink lost it");
        self.set_begun(Begun::Removed);
    }

    pub(in super::super) fn set_finished(&self, revision: u64, refused: bool) {
        self.change(|state| {
            state.end_refused = refused;
            state.finished = state.finished.max(revision);
        });
    }

    /// Why the sink takes nothing of the run, where it refused it.
    pub(in super::super) fn refusal(&self) -> Option<String> {
        match &self.lock().begun {
            Begun::Refused(_, reason) => Some(reason.clone()),
            Begun::Not | Begun::Yes | Begun::Skipped | Begun::Removed => None,
        }
    }

    pub(in super::super) fn is_skipped(&self) -> bool {
        matches!(self.lock().begun, Begun::Skipped)
    }

    pub(in super::super) fn is_removed(&self) -> bool {
        matches!(self.lock().begun, Begun::Removed)
    }

    pub(in super::super) fn has_begun(&self) -> bool {
        matches!(self.lock().begun, Begun::Yes)
    }

    /// This sink's record: with its own holes.
    pub(in super::super) fn own(&self, mut record: RunRecord) -> RunRecord {
        record.holes.clone_from(&self.lock().account.holes);
        record
    }

    pub(in super::super) fn stored(&self, lines: u64) {
        self.meters.stored.increment(lines);
        self.meters.waiting.decrement(gauged(lines));
        self.change(|state| {
            state.account.waiting = state.account.waiting.saturating_sub(lines);
            state.account.stored += lines;
        });
    }

    /// Keeps lines that the sink refused for good, each with the reason.
    pub(in super::super) async fn refused(&self, refused: Vec<(LineBatch, String)>) {
        let gaps = match &self.sink.refusals {
            Some(refusals) if !refused.is_empty() => refusals.keep(&self.key, refused).await,
            _ => refused.into_iter().map(|(batch, reason)| batch.gap(reason)).collect(),
        };
        let lines: u64 = gaps.iter().map(|gap| gap.range.lines()).sum();
        self.lost(&gaps, &self.meters.dead_lettered, |account| account.dead_lettered += lines);
    }

    /// These lines were not kept for want of room.
    pub(in super::super) fn dropped(&self, gaps: &[Gap]) {
        let lines: u64 = gaps.iter().map(|gap| gap.range.lines()).sum();
        self.lost(gaps, &self.meters.dropped, |account| account.dropped += lines);
    }

    fn lost(&self, gaps: &[Gap], meter: &Counter, count: impl FnOnce(&mut SinkAccount)) {
        let lines: u64 = gaps.iter().map(|gap| gap.range.lines()).sum();
        meter.increment(lines);
        self.meters.waiting.decrement(gauged(lines));
        self.change(|state| {
            state.account.waiting = state.account.waiting.saturating_sub(lines);
            count(&mut state.account);
            gaps.iter().for_each(|gap| gap.clone().enter(&mut state.account.holes));
        });
    }
}
