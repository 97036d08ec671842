//! The tasks of a fan-out, and the word that they are given up.

use std::sync::PoisonError;
use std::task::Poll;

use tokio::sync::watch;

use crate::sync::{AbortHandle, JoinSet, Mutex, MutexGuard};

/// One task for each sink and run; they end with the run, or after it where a best-effort sink is behind.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    set: Mutex<JoinSet<()>>,
    /// Changes under the lock of the set, so that no task begins behind it.
    given_up: watch::Sender<bool>,
}

impl Tasks {
    /// Starts a task; once all are given up, drops it as it is. To start and abort it would be too late: another thread
    /// may have taken its first steps by then.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut set = self.lock();
        while set.try_join_next().is_some() {}
        if *self.given_up.borrow() { None } else { Some(set.spawn(task)) }
    }

    /// Waits until all have ended, also those that begin meanwhile.
    pub(super) async fn ended(&self) {
        std::future::poll_fn(|context| {
            let mut set = self.lock();
            loop {
                match set.poll_join_next(context) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// Ends all, and all that would begin later. Answers how many there were.
    pub(super) fn give_up(&self) -> usize {
        let mut set = self.lock();
        self.given_up.send_replace(true);
        set.abort_all();
        set.len()
    }

    /// Returns once all were given up.
    pub(super) async fn given_up(&self) {
        // The sender lives in `self`, so this ends only when it is so.
        let _ = self.given_up.subscribe().wait_for(|given_up| *given_up).await;
    }

    /// Tasks that have not ended, as far as it is known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let mut set = self.lock();
        while set.try_join_next().is_some() {}
        set.len()
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks of a run that has not begun everywhere: dropped, they are given up.
pub(super) struct Beginning(Vec<AbortHandle>);

impl Beginning {
    pub(super) fn new(tasks: impl IntoIterator<Item = AbortHandle>) -> Self {
        Self(tasks.into_iter().collect())
    }

    /// The run has begun.
    pub(super) fn done(mut self) {
        self.0.clear();
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
