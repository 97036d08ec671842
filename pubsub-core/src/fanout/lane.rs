//! The way of one run to one sink: a bounded queue and a task that empties it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;

use super::account::SinkAccount;
use super::append::append;
use super::gate::Gate;
use super::{Need, SinkConfig, WhenFull};
use crate::{Error, ErrorKind, LineBatch, LineRange, Result, RunKey, RunRecord};

/// Most bytes of one append.
const APPEND_BYTES: usize = 1 << 20;

/// How many times its bound a queue may hold once nobody waits for room any more.
const UNBLOCKED: usize = 4;

pub(super) struct Lane {
    pub(super) config: SinkConfig,
    pub(super) gate: Arc<Gate>,
    pub(super) key: RunKey,
    state: Mutex<State>,
    /// For the task: there is something to do.
    work: Notify,
    /// Bytes that wait for this sink, over all runs.
    lag: metrics::Gauge,
    /// For everybody else: something was done. Counts nothing; who waits looks at the state again.
    done: watch::Sender<()>,
}

struct State {
    queue: VecDeque<LineBatch>,
    queued_bytes: usize,
    /// When the oldest queued batch came.
    since: Option<Instant>,
    /// The record with which the run begins, until the task takes it.
    first: Option<RunRecord>,
    /// A record to be brought to the sink as a sign of life.
    update: Option<RunRecord>,
    /// A record that ends the run, or makes it final.
    finish: Option<RunRecord>,
    /// The highest revision that the sink took as an end.
    finished: u64,
    begun: Begun,
    account: SinkAccount,
    blocking: bool,
    closed: bool,
}

enum Begun {
    Not,
    Yes,
    /// Refused for good; the message of the error.
    Refused(ErrorKind, String),
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.lag.decrement(gauged(self.lock().queued_bytes));
    }
}

fn gauged(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("config", &self.config).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Lane {
    pub(super) fn new(config: SinkConfig, gate: Arc<Gate>, record: RunRecord) -> Arc<Self> {
        let account = SinkAccount { name: config.name.clone(), ..SinkAccount::default() };
        Arc::new(Self {
            key: record.key.clone(),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queued_bytes: 0,
                since: None,
                first: Some(record),
                update: None,
                finish: None,
                finished: 0,
                begun: Begun::Not,
                account,
                blocking: config.when_full == WhenFull::Block,
                closed: false,
            }),
            lag: metrics::gauge!("pipeline_sink_queued_bytes", "sink" => config.name.clone()),
            config,
            gate,
            work: Notify::new(),
            done: watch::Sender::new(()),
        })
    }

    pub(super) const fn need(&self) -> Need {
        self.config.need
    }

    pub(super) fn push(&self, batches: &[LineBatch]) {
        let mut state = self.lock();
        let before = state.queued_bytes;
        let limit = match self.config.when_full {
            WhenFull::Drop => self.config.queue_bytes,
            WhenFull::Block if state.blocking => usize::MAX,
            // A command that goes on printing while it is being stopped must not fill the memory.
            WhenFull::Block => self.config.queue_bytes.saturating_mul(UNBLOCKED),
        };
        for batch in batches {
            let lines = batch.len() as u64;
            let bytes = batch.bytes().len();
            state.account.captured += lines;
            if state.queued_bytes >= limit {
                if state.account.dropped == 0 {
                    tracing::warn!(sink = self.config.name, "a sink does not keep up; lines are dropped");
                }
                state.account.dropped += lines;
                state.account.hole(batch.range(), Some(bytes as u64), "dropped: the store did not keep up");
                self.count("dropped", lines);
            } else {
                state.account.waiting += lines;
                state.queued_bytes += bytes;
                state.since.get_or_insert_with(Instant::now);
                state.queue.push_back(batch.clone());
            }
        }
        let after = state.queued_bytes;
        drop(state);
        self.lag.increment(gauged(after.saturating_sub(before)));
        // Only for the first bytes and for enough of them: a wake for every write would cost more than the write.
        if before == 0 || (before < self.enough() && after >= self.enough()) {
            self.work.notify_one();
        }
    }

    /// So many bytes are appended without gathering further ones.
    fn enough(&self) -> usize {
        APPEND_BYTES.min(self.config.queue_bytes / 2)
    }

    pub(super) fn update(&self, record: &RunRecord) {
        self.lock().update = Some(record.clone());
        self.work.notify_one();
    }

    pub(super) fn finish(&self, record: &RunRecord) {
        let mut state = self.lock();
        state.update = None;
        state.finish = Some(record.clone());
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    pub(super) fn unblock(&self) {
        self.lock().blocking = false;
        self.done.send_replace(());
    }

    pub(super) fn account(&self) -> SinkAccount {
        self.lock().account.clone()
    }

    pub(super) fn lacks_lines(&self) -> bool {
        let state = self.lock();
        state.account.dead_lettered + state.account.dropped > 0
    }

    pub(super) async fn room(&self) {
        self.until(|state| !state.blocking || state.queued_bytes < self.config.queue_bytes).await;
    }

    pub(super) async fn drained(&self) {
        self.until(|state| state.account.waiting == 0).await;
    }

    pub(super) async fn finished(&self, revision: u64) {
        self.until(|state| state.finished >= revision).await;
    }

    pub(super) async fn begun(&self) -> Result<()> {
        self.until(|state| !matches!(state.begun, Begun::Not)).await;
        match &self.lock().begun {
            Begun::Refused(kind, message) => {
                Err(Error::new(*kind, message.clone()).with("sink", &self.config.name))
            }
            Begun::Not | Begun::Yes => Ok(()),
        }
    }

    async fn until(&self, mut fits: impl FnMut(&State) -> bool) {
        if fits(&self.lock()) {
            return;
        }
        let mut done = self.done.subscribe();
        while !fits(&self.lock()) {
            // The sender lives in `self`.
            if done.changed().await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.done.send_replace(());
    }

    fn count(&self, result: &'static str, lines: u64) {
        metrics::counter!("pipeline_sink_lines_total", "sink" => self.config.name.clone(), "result" => result)
            .increment(lines);
    }

    /// This sink's record: with its own holes.
    fn own(&self, mut record: RunRecord) -> RunRecord {
        record.holes.clone_from(&self.lock().account.holes);
        record
    }

    /// Why the sink refused the run, where it did.
    pub(super) fn refusal(&self) -> Option<String> {
        match &self.lock().begun {
            Begun::Refused(_, message) => Some(message.clone()),
            Begun::Not | Begun::Yes => None,
        }
    }

    pub(super) fn stored(&self, lines: u64) {
        self.count("stored", lines);
        self.change(|state| {
            state.account.waiting = state.account.waiting.saturating_sub(lines);
            state.account.stored += lines;
        });
    }

    pub(super) fn refused(&self, range: LineRange, bytes: Option<u64>, reason: &str) {
        self.count("dead_lettered", range.lines());
        self.change(|state| {
            state.account.waiting = state.account.waiting.saturating_sub(range.lines());
            state.account.dead_lettered += range.lines();
            state.account.hole(range, bytes, reason);
        });
    }
}

/// What the task does next.
enum Next {
    Wait,
    Gather(Instant),
    Append(Vec<LineBatch>),
    Update(RunRecord),
    Finish(RunRecord),
    End,
}

/// Empties a lane until its run has ended.
pub(super) async fn work(lane: Arc<Lane>) {
    begin(&lane).await;
    loop {
        match next(&lane) {
            Next::Wait => lane.work.notified().await,
            Next::Gather(until) => {
                // Woken by more lines, by the end, or by time.
                let _ = tokio::time::timeout_at(until, lane.work.notified()).await;
            }
            Next::Append(batches) => append(&lane, batches).await,
            Next::Update(record) => update(&lane, record).await,
            Next::Finish(record) => finish(&lane, record).await,
            Next::End => break,
        }
    }
}

async fn begin(lane: &Lane) {
    let Some(record) = lane.lock().first.take() else { return };
    let answer = lane.gate.call(|| lane.config.sink.begin(&record)).await;
    lane.change(|state| {
        state.begun = match answer {
            Ok(()) => Begun::Yes,
            Err(error) => {
                tracing::warn!(sink = lane.config.name, error = %error.chain(), "a sink refused a run");
                Begun::Refused(error.kind(), error.message().to_owned())
            }
        };
    });
}

async fn update(lane: &Lane, record: RunRecord) {
    if lane.refusal().is_some() {
        return;
    }
    // Through the gate as well: a sign of life is no second probe of a sink that fails.
    let own = lane.own(record);
    if let Err(error) = lane.gate.call(|| lane.config.sink.begin(&own)).await {
        tracing::debug!(sink = lane.config.name, error = %error.chain(), "a sign of life was not taken");
    }
}

fn next(lane: &Lane) -> Next {
    let mut state = lane.lock();
    let gathering = state.finish.is_none() && !state.closed && state.queued_bytes < lane.enough();
    if let Some(since) = state.since {
        let until = since + lane.config.delay;
        if gathering && Instant::now() < until {
            return state.update.take().map_or(Next::Gather(until), Next::Update);
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < APPEND_BYTES
            && let Some(batch) = state.queue.pop_front()
        {
            bytes += batch.bytes().len();
            taken.push(batch);
        }
        state.queued_bytes = state.queued_bytes.saturating_sub(bytes);
        state.since = state.queue.front().map(|_| since);
        lane.lag.decrement(gauged(bytes));
        return Next::Append(taken);
    }
    if let Some(record) = state.finish.take() {
        return Next::Finish(record);
    }
    if let Some(record) = state.update.take() {
        return Next::Update(record);
    }
    if state.closed { Next::End } else { Next::Wait }
}

async fn finish(lane: &Lane, record: RunRecord) {
    let revision = record.revision;
    let own = lane.own(record);
    if let Err(error) = lane.gate.call(|| lane.config.sink.finish(&own)).await {
        tracing::warn!(sink = lane.config.name, error = %error.chain(), "a sink refused the end of a run");
    }
    lane.change(|state| state.finished = state.finished.max(revision));
}
