//! From one run's output to every sink: each has its own queue, and none slows another.
//!
//! Memory is bounded for each run and sink, and over all runs where a sink drops. A queue on disk is a wrapper around the
//! sink: to the fan-out it is a sink that is never out of reach, so that its own queue hardly fills.
//!
//! Of each run one append at a time is under way to a sink, whether or not that sink needs order: nothing ever passes a
//! line that is to be tried again.

mod account;
mod append;
mod config;
mod cost;
mod gate;
mod lane;
mod meters;
mod sink;
mod task;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

pub use account::SinkAccount;
pub use config::{DEFAULT_QUEUE_BYTES, DEFAULT_SINK_DELAY, Need, SinkConfig, WhenFull};
use futures::future::{join_all, try_join_all};
use lane::Lane;
use sink::Sink;
use task::Turn;
use tasks::{Beginning, Tasks};

use crate::{Error, ErrorKind, LineBatch, Result, RunRecord};

/// The sinks of a process, shared by all its runs.
#[derive(Debug)]
pub struct FanOut {
    sinks: Vec<Arc<Sink>>,
    tasks: Arc<Tasks>,
}

impl FanOut {
    /// Of these sinks.
    #[must_use]
    pub fn new(sinks: Vec<SinkConfig>) -> Self {
        Self { sinks: sinks.into_iter().map(Sink::new).collect(), tasks: Arc::default() }
    }

    /// Begins a run in every sink. Returns once the required ones have it; while one is out of reach, it waits and tries
    /// again. The others begin by themselves.
    ///
    /// # Errors
    /// Where a required sink refuses the run for good; [`Closed`](ErrorKind::Closed) once the sinks were given up.
    ///
    /// # Cancel safety
    /// Dropped, as after an error, it leaves nothing under way and nothing in memory. Sinks that were in reach have the
    /// record of a run without an end; begin it again.
    pub async fn begin(&self, record: &RunRecord) -> Result<FanOutRun> {
        self.begin_in(record, Err).await
    }

    /// As [`begin`](Self::begin), but a required sink that refuses the run for good holds nothing up: the run goes on
    /// without it, and its record says that the output is incomplete.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the sinks were given up; [`Corrupt`](ErrorKind::Corrupt) where a required store is
    /// damaged.
    ///
    /// # Cancel safety
    /// As for [`begin`](Self::begin).
    pub async fn begin_where_taken(&self, record: &RunRecord) -> Result<FanOutRun> {
        self.begin_in(record, |error| match error.kind() {
            // What is damaged can be mended; output that goes nowhere cannot.
            ErrorKind::Closed | ErrorKind::Corrupt => Err(error),
            _ => Ok(()),
        })
        .await
    }

    async fn begin_in(&self, record: &RunRecord, refused: impl Fn(Error) -> Result<()>) -> Result<FanOutRun> {
        let lanes = self.sinks.iter().map(|sink| Lane::new(Arc::clone(sink), record.clone())).collect();
        let run = FanOutRun { lanes: Arc::new(Lanes(lanes)) };
        let work = |lane: &Arc<Lane>| self.tasks.spawn(task::work(Arc::clone(lane)));
        let beginning = Beginning::new(run.best_effort().filter_map(work));
        let refused = &refused;
        let begins = run.required().map(|lane| async move {
            match self.tasks.later() {
                Some(later) => Turn::new(Arc::clone(lane), later).begin().await,
                None => lane.end(),
            }
            lane.begun().await.or_else(refused)
        });
        try_join_all(begins).await?;
        beginning.done();
        Ok(run)
    }

    /// Brings the record of a run that ended to every sink, also where it is not there yet. Returns once the required ones
    /// have it; the others take it by themselves.
    ///
    /// # Errors
    /// Where a required sink refuses it for good; [`Closed`](ErrorKind::Closed) once the sinks were given up. While one is
    /// out of reach, it waits and tries again.
    ///
    /// # Cancel safety
    /// Dropped, some sinks may have it; call it again.
    pub async fn finish_record(&self, record: &RunRecord) -> Result<()> {
        self.bring(record, true).await
    }

    /// As [`finish_record`](Self::finish_record), of a run that another worker made, as when its outcome is final. A sink that
    /// does not have the run does not get it: somebody removed it there.
    ///
    /// # Errors
    /// As for [`finish_record`](Self::finish_record).
    ///
    /// # Cancel safety
    /// As for [`finish_record`](Self::finish_record).
    pub async fn update_record(&self, record: &RunRecord) -> Result<()> {
        self.bring(record, false).await
    }

    async fn bring(&self, record: &RunRecord, everywhere: bool) -> Result<()> {
        for sink in self.sinks.iter().filter(|sink| sink.config.need == Need::BestEffort) {
            self.bring_later(Arc::clone(sink), record.clone(), everywhere);
        }
        for sink in self.sinks.iter().filter(|sink| sink.config.need == Need::Required) {
            tokio::select! {
                answer = sink.bring(record, everywhere) => answer?,
                () = self.tasks.given_up() => return Err(closed().with("sink", &sink.config.name)),
            }
        }
        Ok(())
    }

    fn bring_later(&self, sink: Arc<Sink>, record: RunRecord, everywhere: bool) {
        if sink.is_overrun() {
            tracing::warn!(sink = sink.config.name, "too many runs wait for a sink; a record is left out");
            return;
        }
        let behind = sink.wait();
        self.tasks.spawn(async move {
            if let Err(error) = sink.bring(&record, everywhere).await {
                tracing::warn!(sink = sink.config.name, error = %error.chain(), "a record was not brought up to date");
            }
            drop(behind);
        });
    }

    /// Waits until every sink has what was given to it, at most so long. What is left then is given up for good: whoever
    /// waits for a required sink is told [`Closed`](ErrorKind::Closed), and no run begins any more. Runs that have not
    /// been dropped count as not yet done.
    ///
    /// # Cancel safety
    /// Dropped, the sinks go on; call it again.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) where sinks were still behind.
    pub async fn close(&self, limit: Duration) -> Result<()> {
        if tokio::time::timeout(limit, self.tasks.ended()).await.is_ok() {
            return Ok(());
        }
        let behind = self.tasks.give_up();
        self.tasks.ended().await;
        Err(Error::new(ErrorKind::TimedOut, "sinks were still behind").with("tasks", behind))
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the sinks were given up before they had everything")
}

/// Refused where there is any: each with how many lines it lacks.
fn given_up<'a>(lanes: impl Iterator<Item = &'a Arc<Lane>>) -> Result<()> {
    let lanes: Vec<_> = lanes.collect();
    if lanes.is_empty() {
        return Ok(());
    }
    Err(lanes.into_iter().fold(closed(), |error, lane| {
        error.with("sink", &lane.sink.config.name).with("waiting", lane.account().waiting)
    }))
}

/// One run on its way to every sink. The last clone that is dropped lets the sinks drain and end.
#[derive(Clone, Debug)]
pub struct FanOutRun {
    lanes: Arc<Lanes>,
}

/// What the handles of a run share; the tasks hold the lanes one by one.
#[derive(Debug)]
struct Lanes(Vec<Arc<Lane>>);

/// What became of a run's output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FinishReport {
    /// The record as the sinks have it, holes aside.
    pub record: RunRecord,
    /// For each sink.
    pub sinks: Vec<SinkAccount>,
}

impl FanOutRun {
    /// Queues lines for every sink, in the order of the calls. Never waits: whoever prints waits in [`room`](Self::room)
    /// before it goes on, so that a queue holds its bound and what one read brought.
    pub fn append(&self, batches: &[LineBatch]) {
        self.lanes.0.iter().for_each(|lane| lane.push(batches));
    }

    /// Waits until no queue of a sink that may hold up the command is over its bound.
    pub async fn room(&self) {
        for lane in self.lanes.0.iter() {
            lane.room().await;
        }
    }

    /// Waits until no queue is over its bound, whatever becomes of a full one. A sink that nobody needs is waited for only
    /// as long as it takes something now and then, or may hold up the command.
    pub(crate) async fn caught_up(&self) {
        for lane in self.lanes.0.iter() {
            lane.caught_up().await;
        }
    }

    /// From now on nobody waits for room: the command is being stopped.
    pub fn unblock(&self) {
        self.lanes.0.iter().for_each(|lane| lane.unblock());
    }

    /// A later record, as a sign of life; the latest wins where a sink is slow.
    pub fn update(&self, record: &RunRecord) {
        self.lanes.0.iter().for_each(|lane| lane.update(record));
    }

    /// Waits until the required sinks have, or have refused, all lines that they were given; or were given up. What they
    /// gather is sent at once.
    pub async fn drained(&self) {
        for lane in self.required() {
            lane.drained().await;
        }
    }

    /// As [`drained`](Self::drained), but with an error where required sinks were given up before they had all of it.
    pub(crate) async fn given(&self) -> Result<()> {
        self.drained().await;
        given_up(self.required().filter(|lane| lane.account().waiting > 0))
    }

    /// Ends the run: drains, says in the record whether a required sink lacks lines, and seals. Returns once the required
    /// sinks have all of it; the others go on by themselves. May be called again with a later revision.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) where required sinks were given up by [`FanOut::close`] before they had all of it:
    /// with the name of each and how many of its lines waited. [`accounts`](Self::accounts) says the rest.
    ///
    /// # Cancel safety
    /// Dropped, the sinks go on with what they were given; call it again.
    pub async fn finish(&self, mut record: RunRecord) -> Result<FinishReport> {
        self.drained().await;
        record.output_incomplete |= self.required().any(|lane| lane.is_incomplete());
        // Before they have it, or a task would begin; and all at once, for each that is dropped leaves it to a task.
        let turns: Vec<_> = self.required().filter_map(Lane::turn).collect();
        self.lanes.0.iter().for_each(|lane| lane.finish(&record));
        join_all(turns.into_iter().map(Turn::finish)).await;
        for lane in self.required() {
            lane.finished(record.revision).await;
        }
        given_up(self.required().filter(|lane| !lane.has_finished(record.revision)))?;
        // A seal that was refused is known only now; the stores hear of it with the next revision.
        record.output_incomplete |= self.required().any(|lane| lane.is_incomplete());
        Ok(FinishReport { record, sinks: self.accounts() })
    }

    /// What became of the lines so far, for each sink.
    #[must_use]
    pub fn accounts(&self) -> Vec<SinkAccount> {
        self.lanes.0.iter().map(|lane| lane.account()).collect()
    }

    fn required(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.0.iter().filter(|lane| lane.need() == Need::Required)
    }

    fn best_effort(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.0.iter().filter(|lane| lane.need() == Need::BestEffort)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.0.iter().for_each(|lane| lane.close());
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
