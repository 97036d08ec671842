//! The writing thread: whatever waits goes into one transaction, then everybody is answered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pubsub_core::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::session::{Effects, Session};
use super::wake::WakeFile;
use crate::sync::{Condvar, Mutex, MutexGuard, oneshot};

/// Most calls of one transaction.
const MAX_GROUP: usize = 1024;

/// What all waiting calls may weigh together, in units of 1 KiB: 128 MiB. A call weighs at least one unit.
const MAX_WAITING_KIB: u32 = 128 * 1024;

/// How soon the next step of an upkeep comes that has more to do: whoever waits comes first.
const NEXT_STEP: Duration = Duration::from_millis(5);

/// One call that waits for its turn.
trait Job: Send {
    /// Does the work. An error undoes the transaction; the work may be asked for again.
    fn run(&mut self, session: &mut Session) -> Result<()>;

    /// Answers, with the result of the work or with what kept it from counting.
    fn answer(self: Box<Self>, failed: Option<&Error>);
}

struct Call<T, F> {
    work: F,
    outcome: Option<Result<T>>,
    reply: Option<oneshot::Sender<Result<T>>>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Answers that are no failure of the database: the work changed nothing before it gave one, so that the transaction
/// goes on.
const fn is_answer(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::LeaseLost
            | ErrorKind::Conflict
            | ErrorKind::NotFound
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
    )
}

impl<T: Send, F: FnMut(&mut Session) -> Result<T> + Send> Job for Call<T, F> {
    fn run(&mut self, session: &mut Session) -> Result<()> {
        match (self.work)(session) {
            Err(error) if !is_answer(error.kind()) => Err(error),
            outcome => {
                self.outcome = Some(outcome);
                Ok(())
            }
        }
    }

    fn answer(self: Box<Self>, failed: Option<&Error>) {
        let outcome = match (failed, self.outcome) {
            (Some(error), _) => Err(error.again()),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(Error::new(ErrorKind::Internal, "the broker did not do the work")),
        };
        if let Some(reply) = self.reply {
            // Who no longer waits gets no answer; what it would have held is released where it is dropped.
            let _ = reply.send(outcome);
        }
    }
}

/// Where calls wait for the writing thread.
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    room: Arc<Semaphore>,
    /// A call met damage in the database.
    damaged: AtomicBool,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<dyn Job>>,
    look: bool,
    /// No more calls are taken.
    stopped: bool,
    /// The thread will do nothing more.
    ended: bool,
}

impl Queue {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            room: Arc::new(Semaphore::new(MAX_WAITING_KIB as usize)),
            damaged: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the writing thread do this work, in a transaction that it shares with others, and waits for the commit.
    pub(super) async fn call<T, F>(&self, bytes: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Session) -> Result<T> + Send + 'static,
    {
        let weight = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(MAX_WAITING_KIB);
        let closed = || Error::new(ErrorKind::Closed, "the broker is closed");
        let room = Arc::clone(&self.room).acquire_many_owned(weight).await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        self.push(Call { work, outcome: None, reply: Some(reply), _room: Some(room) })?;
        self.noted(answer.await.map_err(|_| closed())?)
    }

    /// Remembers that damage was met, so that the next opening checks the database.
    pub(super) fn noted<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            self.damaged.store(true, Ordering::Relaxed);
        }
        answer
    }

    pub(super) fn met_damage(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Leaves work that nobody waits for, as when something is dropped; there is at most one for each thing dropped.
    pub(super) fn leave<F>(&self, work: F)
    where
        F: FnMut(&mut Session) -> Result<()> + Send + 'static,
    {
        let mut state = self.lock();
        // Also once no more calls are taken: what the last of them took for somebody who is gone is given back.
        if !state.ended {
            state.jobs.push_back(Box::new(Call { work, outcome: None, reply: None, _room: None }));
            self.ready.notify_one();
        }
    }

    fn push(&self, job: impl Job + 'static) -> Result<()> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Error::new(ErrorKind::Closed, "the broker is closed"));
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Has the writing thread look for what other processes changed.
    pub(super) fn look(&self) {
        self.lock().look = true;
        self.ready.notify_one();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.ready.notify_one();
    }

    /// Waits for work, at most so long.
    fn next(&self, wait: Duration) -> Next {
        let mut state = self.lock();
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !state.jobs.is_empty() || state.look || state.stopped || left.is_zero() {
                break;
            }
            state = self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let many = state.jobs.len().min(MAX_GROUP);
        let jobs: Vec<_> = state.jobs.drain(..many).collect();
        let look = std::mem::take(&mut state.look) || jobs.is_empty();
        state.ended = state.stopped && jobs.is_empty();
        Next { ended: state.ended, jobs, look }
    }
}

struct Next {
    jobs: Vec<Box<dyn Job>>,
    look: bool,
    ended: bool,
}

/// Who waits for what is committed, here and in other processes.
pub(super) struct Signals {
    /// Grows whenever there may be something to take.
    pub(super) events: watch::Sender<u64>,
    /// Grows whenever something was cancelled.
    pub(super) cancels: watch::Sender<u64>,
    /// Tells other processes.
    pub(super) wake: WakeFile,
}

impl Signals {
    fn tell(&self, effects: Effects) {
        if effects.events {
            self.events.send_modify(|count| *count = count.wrapping_add(1));
        }
        if effects.cancels {
            self.cancels.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn tell_all(&self, effects: Effects) {
        self.tell(effects);
        if effects.events || effects.cancels {
            self.wake.touch();
        }
    }
}

/// The writing thread; dropping it does what still waits and joins it.
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. It looks for what others changed and for upkeep so often; `upkeep` runs in a transaction of
    /// its own and answers whether it has more to do at once.
    pub(super) fn start(
        session: Session,
        queue: &Arc<Queue>,
        signals: Arc<Signals>,
        (scan, every): (Duration, Duration),
        upkeep: impl FnMut(&mut Session) -> Result<bool> + Send + 'static,
    ) -> Result<Self> {
        let work = Loop { session, queue: Arc::clone(queue), signals, scan, every };
        let thread = std::thread::Builder::new()
            .name("file-broker".to_owned())
            .spawn(move || work.run(upkeep))
            .map_err(|e| Error::new(ErrorKind::Unavailable, "start the broker's thread").with_source(e))?;
        Ok(Self { queue: Arc::clone(queue), thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the broker's thread panicked");
        }
    }
}

struct Loop {
    session: Session,
    queue: Arc<Queue>,
    signals: Arc<Signals>,
    scan: Duration,
    every: Duration,
}

/// Ends every wait if the thread ends, also by a panic.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.stopped, state.ended) = (true, true);
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.0.room.close();
        drop(jobs);
    }
}

impl Loop {
    fn run(mut self, mut upkeep: impl FnMut(&mut Session) -> Result<bool>) {
        let _ending = Ending(Arc::clone(&self.queue));
        let mut next_upkeep = Instant::now();
        loop {
            let wait = self.scan.min(next_upkeep.saturating_duration_since(Instant::now()));
            let next = self.queue.next(wait);
            if next.look {
                match self.session.look() {
                    Ok(effects) => self.signals.tell(effects),
                    Err(error) => tracing::debug!(%error, "the broker could not look for changes"),
                }
            }
            if !next.jobs.is_empty() {
                self.transact(next.jobs);
            } else if next.ended {
                return;
            }
            // Also while there is always something to do.
            if Instant::now() >= next_upkeep {
                let more = self.once(&mut upkeep).unwrap_or_else(|error| {
                    tracing::debug!(%error, "the broker's upkeep failed");
                    false
                });
                next_upkeep = Instant::now() + if more { NEXT_STEP.min(self.every) } else { self.every };
            }
        }
    }

    fn once(&mut self, work: &mut impl FnMut(&mut Session) -> Result<bool>) -> Result<bool> {
        self.session.begin()?;
        match work(&mut self.session) {
            Ok(more) => self.session.commit().map(|()| more),
            Err(error) => {
                self.session.rollback();
                Err(error)
            }
        }
    }

    fn transact(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        if let Err(error) = self.session.begin() {
            for job in jobs {
                job.answer(Some(&error));
            }
            return;
        }
        match self.finish(&mut jobs) {
            Ok(()) => jobs.into_iter().for_each(|job| job.answer(None)),
            // One that fails must not fail the others: each gets a transaction of its own.
            Err(_) if jobs.len() > 1 => {
                for mut job in jobs {
                    let done =
                        self.session.begin().and_then(|()| self.finish(std::slice::from_mut(&mut job)));
                    job.answer(done.err().as_ref());
                }
            }
            Err(error) => jobs.into_iter().for_each(|job| job.answer(Some(&error))),
        }
    }

    /// Does the jobs in the transaction that is open, and tells what they changed.
    fn finish(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<()> {
        for job in jobs {
            if let Err(error) = job.run(&mut self.session) {
                self.session.rollback();
                return Err(error);
            }
        }
        self.session.commit()?;
        self.signals.tell_all(self.session.effects);
        Ok(())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
