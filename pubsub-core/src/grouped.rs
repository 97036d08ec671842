//! The first who comes does the call for all that wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Groups items of many callers into calls that take many: without a task of its own, and without a delay.
///
/// A caller that is dropped while it does the call leaves the others to ask again, so the call must be safe to repeat.
pub(crate) struct Grouped<T, R> {
    queue: Mutex<VecDeque<Waiting<T, R>>>,
    /// Held by whoever does the call.
    turn: tokio::sync::Mutex<()>,
    most: usize,
}

struct Waiting<T, R> {
    item: T,
    answer: oneshot::Sender<R>,
}

impl<T, R> std::fmt::Debug for Grouped<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grouped").field("most", &self.most).finish_non_exhaustive()
    }
}

impl<T: Clone, R> Grouped<T, R> {
    /// At most so many items in one call.
    pub(crate) fn new(most: usize) -> Self {
        Self { queue: Mutex::default(), turn: tokio::sync::Mutex::new(()), most }
    }

    /// The answer for one item. `call` answers for each item it is given, in order.
    pub(crate) async fn call<F>(&self, item: T, call: impl Fn(Vec<T>) -> F) -> R
    where
        F: Future<Output = Vec<R>>,
    {
        loop {
            let (answer, mut mine) = oneshot::channel();
            self.lock().push_back(Waiting { item: item.clone(), answer });
            // Left when whoever had our item was dropped, or answered too few: then it is asked again.
            loop {
                tokio::select! {
                    biased;
                    answered = &mut mine => match answered {
                        Ok(answer) => return answer,
                        Err(_) => break,
                    },
                    turn = self.turn.lock() => {
                        let batch: Vec<Waiting<T, R>> = {
                            let mut queue = self.lock();
                            let count = queue.len().min(self.most);
                            queue.drain(..count).collect()
                        };
                        let (items, answers): (Vec<T>, Vec<_>) =
                            batch.into_iter().map(|waiting| (waiting.item, waiting.answer)).unzip();
                        if !items.is_empty() {
                            for (sender, answer) in answers.into_iter().zip(call(items).await) {
                                // Who does not wait any more needs no answer.
                                let _ = sender.send(answer);
                            }
                        }
                        drop(turn);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<T, R>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::Grouped;

    #[tokio::test]
    async fn many_callers_share_a_few_calls_and_each_gets_its_own_answer() {
        let grouped = Arc::new(Grouped::new(1000));
        let calls = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..500u64)
            .map(|n| {
                let (grouped, calls) = (Arc::clone(&grouped), Arc::clone(&calls));
                tokio::spawn(async move {
                    let double = |items: Vec<u64>| {
                        calls.fetch_add(1, Ordering::SeqCst);
                        async move {
                            tokio::task::yield_now().await;
                            items.into_iter().map(|n| n * 2).collect()
                        }
                    };
                    assert_eq!(grouped.call(n, double).await, n * 2);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(calls.load(Ordering::SeqCst) < 20, "{calls:?}");
    }

    #[tokio::test]
    async fn who_is_dropped_in_the_middle_leaves_the_others_to_ask_again() {
        let grouped = Arc::new(Grouped::new(10));
        let gate = Arc::new(Semaphore::new(0));
        let ask = |n: u32| {
            let (grouped, gate) = (Arc::clone(&grouped), Arc::clone(&gate));
            tokio::spawn(async move {
                grouped
                    .call(n, |items| {
                        let gate = Arc::clone(&gate);
                        async move {
                            gate.acquire().await.unwrap().forget();
                            items
                        }
                    })
                    .await
            })
        };
        let first = ask(1);
        tokio::task::yield_now().await;
        let second = ask(2);
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        gate.add_permits(1);
        assert_eq!(second.await.unwrap(), 2);
    }
}
