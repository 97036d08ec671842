//! The task that empties a lane, and what is done without one.

use std::sync::Arc;

use super::append::append;
use super::lane::{Begun, Lane, Next};
use super::tasks::Later;
use crate::RunRecord;

/// Empties a lane until its run has ended.
pub(super) fn work(lane: Arc<Lane>) -> impl Future<Output = ()> + Send {
    // Made here and not in the future, for one that is given up before its first step has to say so as well.
    let task = Task(lane);
    async move { task.run().await }
}

/// Says when it ends, however it ends: whoever waits for the lane would wait for ever.
struct Task(Arc<Lane>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Task {
    async fn run(&self) {
        let lane = &*self.0;
        begin(lane).await;
        loop {
            match lane.next() {
                Next::Wait => lane.work.notified().await,
                Next::Gather(until) => {
                    // Woken by more lines, by the end, or by time.
                    let _ = tokio::time::timeout_at(until, lane.work.notified()).await;
                }
                Next::Append(batches) => append(lane, batches).await,
                Next::Update(record) => update(lane, record).await,
                Next::Finish(record) => finish(lane, record).await,
                Next::End => break,
            }
        }
    }
}

/// A lane that has no task: whoever begins or ends its run does that, and nobody has to be woken for it.
pub(super) struct Turn {
    lane: Arc<Lane>,
    /// There until it is dropped.
    later: Option<Later>,
    /// What is not done yet.
    finish: Option<RunRecord>,
}

impl Turn {
    pub(super) const fn new(lane: Arc<Lane>, later: Later) -> Self {
        Self { lane, later: Some(later), finish: None }
    }

    /// Begins the run at the sink.
    ///
    /// # Cancel safety
    /// Dropped, the run may have begun there, and no more is done.
    pub(super) async fn begin(self) {
        self.unless_given_up(begin(&self.lane)).await;
    }

    /// Brings the record that ends the run to the sink, where nothing has to go before it.
    ///
    /// # Cancel safety
    /// Dropped, a task does that.
    pub(super) async fn finish(mut self) {
        self.finish = self.lane.take_finish();
        if let Some(record) = self.finish.clone() {
            self.unless_given_up(finish(&self.lane, record)).await;
            self.finish = None;
        }
    }

    async fn unless_given_up(&self, work: impl Future<Output = ()>) {
        if let Some(later) = &self.later
            && later.unless_given_up(work).await.is_none()
        {
            self.lane.end();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(record) = self.finish.take() {
            self.lane.put_back(record);
        }
        if let Some(later) = self.later.take() {
            self.lane.leave(later);
        }
    }
}

async fn begin(lane: &Lane) {
    let Some(record) = lane.take_first() else { return };
    let config = &lane.sink.config;
    if lane.is_skipped() {
        tracing::warn!(sink = config.name, run = %lane.key.run_id, "too many runs wait for a sink; this one is left out");
        return;
    }
    match lane.sink.gate.call(|| config.sink.begin(&record)).await {
        Ok(()) => lane.set_begun(Begun::Yes),
        Err(error) => {
            tracing::warn!(sink = config.name, error = %error.chain(), "a sink refused a run");
            lane.set_begun(Begun::Refused(error.kind(), error.chain()));
        }
    }
}

/// Whether somebody removed the run at the sink since it began there: a later record would bring it back.
async fn was_removed(lane: &Lane) -> bool {
    if lane.has_begun() && lane.sink.lacks(&lane.key).await {
        lane.set_gone();
    }
    lane.is_removed()
}

async fn update(lane: &Lane, record: RunRecord) {
    if lane.refusal().is_some() || was_removed(lane).await {
        return;
    }
    // Through the gate as well: a sign of life is no second probe of a sink that fails.
    let own = lane.own(record);
    if let Err(error) = lane.sink.gate.call(|| lane.sink.config.sink.begin(&own)).await {
        tracing::debug!(sink = lane.sink.config.name, error = %error.chain(), "a sign of life was not taken");
    }
}

async fn finish(lane: &Lane, record: RunRecord) {
    let revision = record.revision;
    if lane.is_skipped() || was_removed(lane).await {
        return lane.set_finished(revision, true);
    }
    // Also where the begin was refused: a store that takes the end at least says that the run was there.
    let own = lane.own(record);
    let answer = lane.sink.gate.call(|| lane.sink.config.sink.finish(&own)).await;
    if let Err(error) = &answer {
        tracing::warn!(sink = lane.sink.config.name, error = %error.chain(), "a sink refused the end of a run");
    }
    lane.set_finished(revision, answer.is_err());
}
