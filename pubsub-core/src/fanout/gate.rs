//! One probe at a time while a store fails, over all runs of the process.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::{Backoff, Result};

/// Lets calls through while the sink answers, and one at a time, ever later, while it fails.
#[derive(Debug)]
pub(super) struct Gate {
    name: String,
    backoff: Backoff,
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
    pub(super) fn new(name: String, backoff: Backoff) -> Self {
        Self { name, backoff, probe: Semaphore::new(1), failing: Mutex::default() }
    }

    /// Repeats a call until it succeeds or fails for good.
    pub(super) async fn call<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            // The semaphore is never closed, so an error is no permit and the call goes through.
            let permit = if self.waits_until().is_some() { self.probe.acquire().await.ok() } else { None };
            if let Some(until) = self.waits_until() {
                tokio::time::sleep_until(until).await;
            }
            let answer = call().await;
            drop(permit);
            match answer {
                Err(error) if error.is_retryable() => self.failed(&error),
                answer => {
                    self.answered();
                    return answer;
                }
            }
        }
    }

    fn waits_until(&self) -> Option<Instant> {
        self.lock().until
    }

    fn failed(&self, error: &crate::Error) {
        let mut failing = self.lock();
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
