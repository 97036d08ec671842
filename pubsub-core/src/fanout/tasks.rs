//! The tasks of a fan-out, and the word that they are given up.

use std::sync::{Arc, PoisonError};
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::sync::{AbortHandle, JoinSet, Mutex, MutexGuard, Notify};

/// One task at most for each sink and run; they end with the run, or after it where a best-effort sink is behind.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    all: Mutex<All>,
    /// Changes under the lock, so that no task begins behind it.
    given_up: watch::Sender<bool>,
    /// Nobody is without a task any more.
    none_without: Notify,
}

#[derive(Debug, Default)]
struct All {
    set: JoinSet<()>,
    /// Those that are without a task as yet.
    without: usize,
}

impl Tasks {
    /// Starts a task; once all are given up, drops it as it is. To start and abort it would be too late: another thread
    /// may have taken its first steps by then.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        self.spawn_on(task, &Handle::current())
    }

    fn spawn_on(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) -> Option<AbortHandle> {
        let mut all = self.lock();
        while all.set.try_join_next().is_some() {}
        if *self.given_up.borrow() { None } else { Some(all.set.spawn_on(task, runtime)) }
    }

    /// For one that may start its task later, and counts as a task until then; `None` once all are given up.
    pub(super) fn later(self: &Arc<Self>) -> Option<Later> {
        let mut all = self.lock();
        if *self.given_up.borrow() {
            return None;
        }
        all.without += 1;
        drop(all);
        Some(Later { tasks: Arc::clone(self), runtime: Handle::current() })
    }

    /// Waits until all have ended, also those that begin meanwhile.
    pub(super) async fn ended(&self) {
        loop {
            std::future::poll_fn(|context| {
                let mut all = self.lock();
                loop {
                    match all.set.poll_join_next(context) {
                        Poll::Ready(Some(_)) => {}
                        Poll::Ready(None) => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            })
            .await;
            // Made before the look: it hears of every change after that.
            let changed = self.none_without.notified();
            let (tasks, without) = {
                let all = self.lock();
                (all.set.len(), all.without)
            };
            // Who was given up without a task finds that out where it would start one.
            if tasks == 0 && (without == 0 || *self.given_up.borrow()) {
                return;
            }
            if tasks == 0 {
                changed.await;
            }
        }
    }

    /// Ends all, and all that would begin later. Answers how many there were.
    pub(super) fn give_up(&self) -> usize {
        let mut all = self.lock();
        self.given_up.send_replace(true);
        all.set.abort_all();
        all.set.len() + all.without
    }

    /// Returns once all were given up.
    pub(super) async fn given_up(&self) {
        // The sender lives in `self`, so this ends only when it is so.
        let _ = self.given_up.subscribe().wait_for(|given_up| *given_up).await;
    }

    /// Tasks that have not ended, as far as it is known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let mut all = self.lock();
        while all.set.try_join_next().is_some() {}
        all.set.len() + all.without
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task may be started with later, from wherever: in the runtime in which this was made.
#[derive(Debug)]
pub(super) struct Later {
    tasks: Arc<Tasks>,
    runtime: Handle,
}

impl Later {
    /// Starts it now; drops it where all were given up meanwhile.
    pub(super) fn spawn(self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// As long as that takes; `None` where all are given up first.
    pub(super) async fn unless_given_up<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.tasks.given_up() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let mut all = self.tasks.lock();
        all.without = all.without.saturating_sub(1);
        let none = all.without == 0;
        drop(all);
        if none {
            self.tasks.none_without.notify_waiters();
        }
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
