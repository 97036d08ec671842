//! One probe at a time while a store fails, over all runs of the process.

use std::panic::AssertUnwindSafe;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Need, SinkConfig};
use crate::retry::limited;
use crate::sync::{Mutex, MutexGuard};
use crate::{Backoff, Error, ErrorKind, Result};

/// Lets calls through while the sink answers, and one at a time, ever later, while it fails.
#[derive(Debug)]
pub(super) struct Gate {
    name: String,
    backoff: Backoff,
    /// How long one call may take.
    limit: Duration,
    /// Whether a right that is taken away for a while costs nothing.
    is_patient: bool,
    /// Whether a call ever succeeded.
    has_taken: AtomicBool,
    probe: Semaphore,
    failing: Mutex<Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    /// Failures in a row.
    tries: u32,
    /// When the next probe may start.
    until: Option<Instant>,
}

impl Gate {
    pub(super) fn new(config: &SinkConfig) -> Self {
        Self {
            name: config.name.clone(),
            backoff: config.backoff,
            limit: config.call_limit,
            is_patient: config.need == Need::Required,
            has_taken: AtomicBool::new(false),
            probe: Semaphore::new(1),
            failing: Mutex::default(),
        }
    }

    /// Whether the same call is to be made again. A required sink that took something and then says that it may not be
    /// asked lost a right or a password, which somebody will give back; one that never took anything is set up wrongly.
    pub(super) fn is_to_be_repeated(&self, error: &Error) -> bool {
        let is_denied = error.kind() == ErrorKind::Refused;
        error.is_retryable() || (is_denied && self.is_patient && self.has_taken.load(Ordering::Relaxed))
    }

    /// Repeats a call until it succeeds or fails for good.
    pub(super) async fn call<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match self.once(&mut call).await {
                Err(error) if self.is_to_be_repeated(&error) => {}
                answer => return answer,
            }
        }
    }

    /// Makes a call once it may be made. One that takes too long is dropped, and [`TimedOut`](ErrorKind::TimedOut).
    pub(super) async fn once<T, F>(&self, call: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        // The semaphore is never closed, so an error is no permit and the call goes through.
        let mut permit = if self.waits_until().is_some() { self.probe.acquire().await.ok() } else { None };
        match self.waits_until() {
            Some(until) => tokio::time::sleep_until(until).await,
            // Another's probe succeeded meanwhile: those that waited need no turn any more.
            None => permit = None,
        }
        let started = Instant::now();
        let limited = async { limited(self.limit, call()).await };
        let answer = AssertUnwindSafe(limited).catch_unwind().await.unwrap_or_else(|_| {
            // Whoever waits for this sink would wait for ever if its panic ended the task.
            Err(Error::new(ErrorKind::Internal, "the sink panicked"))
        });
        match &answer {
            Err(error) if self.is_to_be_repeated(error) => self.failed(started, error),
            answer => {
                self.has_taken.fetch_or(answer.is_ok(), Ordering::Relaxed);
                self.answered();
            }
        }
        // Only now, or whoever has the next turn would not know yet how long to wait.
        drop(permit);
        answer
    }

    fn waits_until(&self) -> Option<Instant> {
        self.lock().until
    }

    fn failed(&self, started: Instant, error: &Error) {
        let mut failing = self.lock();
        // Calls that were under way when the first one failed tell nothing new, so that many runs wait no longer than one.
        if failing.until.is_some_and(|until| started < until) {
            return;
        }
        if failing.tries == 0 {
            tracing::warn!(sink = self.name, error = %error.chain(), "a sink fails; it is tried again");
        }
        failing.until = Some(Instant::now() + self.backoff.delay(failing.tries));
        failing.tries = failing.tries.saturating_add(1);
    }

    fn answered(&self) {
        let mut failing = self.lock();
        if failing.tries > 0 {
            tracing::info!(sink = self.name, tries = failing.tries, "a sink answers again");
            *failing = Failing::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
