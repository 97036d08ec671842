//! Grouping in the caller: the first who comes does the call for all that wait.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::PoisonError;

use futures::future::{Either, select};
use tokio::sync::oneshot::error::TryRecvError;

use crate::sync::{AsyncMutex, Mutex, MutexGuard, oneshot};

/// Most items that one call takes along.
pub const MAX_GROUPED: usize = 1000;

/// Makes one call out of many that come at the same time: a queue, and a lock for whose turn it is. No task stands
/// between the caller and the call, so that a lone caller waits for nothing.
///
/// The queue holds one item of each caller that waits, so the callers bound it.
///
/// ```
/// use pubsub_core::Grouped;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let grouped = Grouped::new();
/// let double = |items: Vec<u32>| async move { items.into_iter().map(|item| item * 2).collect() };
/// assert_eq!(grouped.call(21, double).await, Some(42));
/// # });
/// ```
pub struct Grouped<T, R> {
    waiting: Mutex<VecDeque<Waiting<T, R>>>,
    turn: AsyncMutex<()>,
    gathers: bool,
}

struct Waiting<T, R> {
    item: T,
    answer: oneshot::Sender<R>,
}

impl<T: Clone, R> Grouped<T, R> {
    /// Nobody waits yet.
    #[must_use]
    pub fn new() -> Self {
        Self { waiting: Mutex::new(VecDeque::new()), turn: AsyncMutex::new(()), gathers: false }
    }

    /// As [`new`](Self::new), for calls that one task makes many of at once: the first of them lets those come that are ready
    /// as well, which would have to wait for a second call otherwise.
    #[must_use]
    pub fn gathering() -> Self {
        Self { gathers: true, ..Self::new() }
    }

    /// Has `run` called with this item among others, by this caller or another one, and hands back its answer; `None`
    /// where `run` answered fewer items than it was given. All callers pass the same `run`.
    ///
    /// # Cancel safety
    /// A caller that is dropped while it makes the call for others leaves them to make it again: `run` must be safe to
    /// repeat. The item of a dropped caller may or may not have been passed on.
    pub async fn call<F, Fut>(&self, item: T, run: F) -> Option<R>
    where
        F: Fn(Vec<T>) -> Fut,
        Fut: Future<Output = Vec<R>>,
    {
        // The usual case: nobody is at it.
        if let Ok(turn) = self.turn.try_lock() {
            if self.gathers {
                tokio::task::yield_now().await;
            }
            let answer = self.call_for_all(Some(item), &run).await;
            drop(turn);
            return answer;
        }
        let (sender, mut answer) = oneshot::channel();
        self.waiting().push_back(Waiting { item, answer: sender });
        let turn = match select(&mut answer, pin!(self.turn.lock())).await {
            Either::Left((answer, _)) => return answer.ok(),
            Either::Right((turn, _)) => turn,
        };
        // Another may have answered before the turn came, and many may stand in the queue before the own item.
        let answer = loop {
            match answer.try_recv() {
                Ok(answer) => break Some(answer),
                Err(TryRecvError::Closed) => break None,
                Err(TryRecvError::Empty) => {}
            }
            self.call_for_all(None, &run).await;
        };
        drop(turn);
        answer
    }

    /// Calls with what waits and the caller's own item, and hands out the answers; the caller has the turn.
    async fn call_for_all<F, Fut>(&self, own: Option<T>, run: &F) -> Option<R>
    where
        F: Fn(Vec<T>) -> Fut,
        Fut: Future<Output = Vec<R>>,
    {
        let mut taken = Taken { grouped: self, waiting: self.take() };
        let mut items: Vec<T> = taken.waiting.iter().map(|waiting| waiting.item.clone()).collect();
        items.extend(own);
        let mut answers = run(items).await.into_iter();
        for waiting in taken.waiting.drain(..) {
            let Some(answer) = answers.next() else { break };
            // Whoever waited for it may have been dropped.
            let _ = waiting.answer.send(answer);
        }
        answers.next()
    }

    fn take(&self) -> VecDeque<Waiting<T, R>> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(MAX_GROUPED - 1);
        let mut taken: VecDeque<_> = waiting.drain(..count).collect();
        taken.retain(|waiting| !waiting.answer.is_closed());
        taken
    }
}

impl<T, R> Grouped<T, R> {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting<T, R>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone, R> Default for Grouped<T, R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, R> fmt::Debug for Grouped<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grouped").finish_non_exhaustive()
    }
}

/// What a call has taken along; put back where the call is dropped before its answers.
struct Taken<'a, T, R> {
    grouped: &'a Grouped<T, R>,
    waiting: VecDeque<Waiting<T, R>>,
}

impl<T, R> Drop for Taken<'_, T, R> {
    fn drop(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = self.grouped.waiting();
        while let Some(one) = self.waiting.pop_back() {
            waiting.push_front(one);
        }
    }
}
