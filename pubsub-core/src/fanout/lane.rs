//! The way of one run to one sink: a bounded queue, and the account of what became of its lines.

mod emptying;

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::account::SinkAccount;
use super::cost::cost;
use super::meters::{Meters, gauged};
use super::sink::{Behind, Sink};
use super::task::{self, Turn};
use super::tasks::Later;
use super::{Need, WhenFull};
use crate::sync::{Mutex, MutexGuard, Notify};
use crate::{Error, ErrorKind, LineBatch, Result, RunKey, RunRecord};

/// Most bytes of one append, as they are counted in the queue.
const APPEND_BYTES: usize = 1 << 20;

/// How long lines that were held back wait for a sink that nobody needs and whose queue stays full.
const STALLED: Duration = Duration::from_secs(5);

/// How many times its bound a queue may hold once nobody waits for room any more.
const UNBLOCKED: usize = 4;

pub(super) struct Lane {
    pub(super) sink: Arc<Sink>,
    pub(super) key: RunKey,
    state: Mutex<State>,
    meters: Meters,
    /// For the task: there is something to do.
    pub(super) work: Notify,
    /// For everybody else: something was done. Counts nothing; who waits looks at the state again.
    done: Notify,
}

struct State {
    queue: VecDeque<LineBatch>,
    /// What the queue costs.
    queued_bytes: usize,
    /// When the oldest queued batch came.
    since: Option<Instant>,
    /// Somebody waits until all of it is stored: nothing is gathered until the queue is empty.
    hurried: bool,
    /// The record with which the run begins, until the task takes it.
    first: Option<RunRecord>,
    /// A record to be brought to the sink as a sign of life.
    update: Option<RunRecord>,
    /// A record that ends the run, or makes it final.
    finish: Option<RunRecord>,
    /// The highest revision that the sink took, or refused, as an end.
    finished: u64,
    end_refused: bool,
    begun: Begun,
    account: SinkAccount,
    blocking: bool,
    /// Lines that were held back wait for it no longer.
    stalled: bool,
    /// Set once nobody can give it more.
    closed: Option<Behind>,
    /// Its task has ended: nothing more will reach the sink.
    ended: bool,
    /// Where it has no task as yet: until there is something that nobody waits for, who waits does it.
    later: Option<Later>,
}

pub(super) enum Begun {
    Not,
    Yes,
    /// Refused for good; the message of the error.
    Refused(ErrorKind, String),
    /// Not even tried: too many runs wait for the sink.
    Skipped,
    /// It was removed at the sink since, and is not to come back.
    Removed,
}

/// What the task does next.
pub(super) enum Next {
    Wait,
    Gather(Instant),
    Append(Vec<LineBatch>),
    Update(RunRecord),
    Finish(RunRecord),
    End,
}

impl State {
    fn has_work(&self) -> bool {
        self.since.is_some() || self.update.is_some() || self.finish.is_some()
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("sink", &self.sink).field("key", &self.key).finish_non_exhaustive()
    }
}

/// For whoever gives to it.
impl Lane {
    pub(super) fn new(sink: Arc<Sink>, record: RunRecord) -> Arc<Self> {
        let name = sink.config.name.clone();
        let meters = Meters::new(&name);
        let skipped = sink.config.need == Need::BestEffort && sink.is_overrun();
        Arc::new(Self {
            key: record.key.clone(),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queued_bytes: 0,
                since: None,
                hurried: false,
                first: Some(record),
                update: None,
                finish: None,
                finished: 0,
                end_refused: false,
                begun: if skipped { Begun::Skipped } else { Begun::Not },
                account: SinkAccount { name, ..SinkAccount::default() },
                blocking: sink.config.when_full == WhenFull::Block,
                stalled: false,
                closed: None,
                ended: false,
                later: None,
            }),
            sink,
            meters,
            work: Notify::new(),
            done: Notify::new(),
        })
    }

    pub(super) fn need(&self) -> Need {
        self.sink.config.need
    }

    pub(super) fn push(self: &Arc<Self>, batches: &[LineBatch]) {
        let config = &self.sink.config;
        let mut state = self.lock();
        let before = state.queued_bytes;
        let limit = match config.when_full {
            _ if state.ended => 0,
            WhenFull::Drop => config.queue_bytes,
            WhenFull::Block if state.blocking => usize::MAX,
            // A command that goes on printing while it is being stopped must not fill the memory.
            WhenFull::Block => config.queue_bytes.saturating_mul(UNBLOCKED),
        };
        let crowded = config.when_full == WhenFull::Drop && self.sink.is_full();
        let reason = if state.ended {
            "dropped: the store was given up"
        } else {
            "dropped: the store did not keep up"
        };
        let (mut captured, mut dropped) = (0, 0);
        for batch in batches {
            let lines = batch.len() as u64;
            captured += lines;
            if crowded || state.queued_bytes >= limit {
                dropped += lines;
                batch.gap(reason).enter(&mut state.account.holes);
            } else {
                state.account.waiting += lines;
                state.queued_bytes += cost(batch);
                state.since.get_or_insert_with(Instant::now);
                state.queue.push_back(batch.clone());
            }
        }
        let is_first_drop = dropped > 0 && state.account.dropped == 0;
        state.account.captured += captured;
        state.account.dropped += dropped;
        let after = state.queued_bytes;
        // Only for the first bytes and for enough of them: a wake for every write would cost more than the write.
        let wakes = after > before && (before == 0 || (before < self.enough() && after >= self.enough()));
        // Before the task can take it out again, or there would be less than nothing for a moment.
        self.sink.queue(after - before);
        drop(state);
        if is_first_drop {
            tracing::warn!(sink = config.name, reason, "lines are dropped for a sink");
        }
        self.meters.captured.increment(captured);
        self.meters.dropped.increment(dropped);
        self.meters.waiting.increment(gauged(captured - dropped));
        self.meters.lag.increment(gauged(after - before));
        if wakes {
            self.wake();
        }
    }

    pub(super) fn update(self: &Arc<Self>, record: &RunRecord) {
        self.lock().update = Some(record.clone());
        self.wake();
    }

    pub(super) fn finish(self: &Arc<Self>, record: &RunRecord) {
        let mut state = self.lock();
        state.update = None;
        state.finish = Some(record.clone());
        drop(state);
        self.wake();
    }

    pub(super) fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.closed = Some(self.sink.wait());
        let is_done = !state.has_work();
        let later = state.later.take_if(|_| is_done);
        drop(state);
        if later.is_none() {
            self.wake();
        }
    }

    /// There is something to do: for its task, which is started where there is none, or for whoever has its turn.
    fn wake(self: &Arc<Self>) {
        let later = self.lock().later.take();
        match later {
            Some(later) => later.spawn(task::work(Arc::clone(self))),
            None => self.work.notify_one(),
        }
    }

    /// Where it has no task: nobody starts one, until this is dropped.
    pub(super) fn turn(self: &Arc<Self>) -> Option<Turn> {
        let later = self.lock().later.take()?;
        Some(Turn::new(Arc::clone(self), later))
    }

    /// What is left to do is done by a task from now on; where that is nothing, there is none as yet.
    pub(super) fn leave(self: &Arc<Self>, later: Later) {
        let mut state = self.lock();
        if state.has_work() {
            drop(state);
            later.spawn(task::work(Arc::clone(self)));
        } else if state.closed.is_none() {
            state.later = Some(later);
        }
    }

    pub(super) fn unblock(&self) {
        self.change(|state| state.blocking = false);
    }

    pub(super) fn account(&self) -> SinkAccount {
        self.lock().account.clone()
    }

    /// Whether the sink lacks lines, or the end.
    pub(super) fn is_incomplete(&self) -> bool {
        let state = self.lock();
        state.end_refused || state.account.dead_lettered + state.account.dropped > 0
    }

    pub(super) async fn room(&self) {
        self.until(|state| !state.blocking || state.queued_bytes < self.sink.config.queue_bytes).await;
    }

    /// Waits until the queue is within its bound, or does not move any more and the sink is not needed.
    pub(super) async fn caught_up(&self) {
        let has_room = self.until(|state| state.stalled || state.queued_bytes < self.sink.config.queue_bytes);
        let stalls = async {
            if self.need() == Need::Required {
                std::future::pending::<()>().await;
            }
            self.until(|state| !state.blocking).await;
            tokio::time::sleep(STALLED).await;
        };
        tokio::select! {
            biased;
            () = has_room => {}
            () = stalls => self.change(|state| state.stalled = true),
        }
    }

    pub(super) async fn drained(&self) {
        let hurries = {
            let mut state = self.lock();
            state.account.waiting > 0 && !std::mem::replace(&mut state.hurried, true)
        };
        if hurries {
            self.work.notify_one();
        }
        self.until(|state| state.account.waiting == 0).await;
    }

    pub(super) async fn finished(&self, revision: u64) {
        self.until(|state| state.finished >= revision).await;
    }

    pub(super) fn has_finished(&self, revision: u64) -> bool {
        self.lock().finished >= revision
    }

    pub(super) async fn begun(&self) -> Result<()> {
        self.until(|state| !matches!(state.begun, Begun::Not)).await;
        match &self.lock().begun {
            Begun::Refused(kind, reason) => Err(Error::new(*kind, "a sink refused the run")
                .with("sink", &self.sink.config.name)
                .with_source(reason.clone())),
            Begun::Not => Err(super::closed().with("sink", &self.sink.config.name)),
            Begun::Yes | Begun::Skipped | Begun::Removed => Ok(()),
        }
    }

    pub(super) fn is_beginning(&self) -> bool {
        matches!(self.lock().begun, Begun::Not)
    }

    /// Waits until it is so, or never will be because the task has ended.
    async fn until(&self, fits: impl Fn(&State) -> bool) {
        let fits = |state: &State| state.ended || fits(state);
        loop {
            // Made before the look: it hears of every change after that.
            let changed = self.done.notified();
            if fits(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

/// For both.
impl Lane {
    /// So many bytes are appended without gathering further ones.
    fn enough(&self) -> usize {
        APPEND_BYTES.min(self.sink.config.queue_bytes / 2)
    }

    fn unqueued(&self, bytes: usize) {
        self.sink.unqueue(bytes);
        self.meters.lag.decrement(gauged(bytes));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.done.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
