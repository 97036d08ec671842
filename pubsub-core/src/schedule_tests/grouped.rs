use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicUsize, Ordering};

use schedules::{Flaw, catches, catches_flaw, check, drawn, dropped_somewhere, pause, spawn};

use super::{BROKEN, LONG, QUICK};
use crate::sync::{AsyncMutex, Mutex, oneshot};
use crate::{Grouped, MAX_GROUPED};

/// What the calls go to: doubles each item, one call at a time.
#[derive(Default)]
struct Server {
    calls: AtomicUsize,
    came: Plain<Vec<usize>>,
}

struct Call(Arc<Server>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    async fn call(self: Arc<Self>, items: Vec<usize>) -> Vec<usize> {
        assert_eq!(self.calls.fetch_add(1, Ordering::SeqCst), 0, "two calls at once");
        let _call = Call(Arc::clone(&self));
        assert!(items.len() <= MAX_GROUPED);
        pause().await;
        self.came.lock().unwrap().extend(&items);
        pause().await;
        items.into_iter().map(|item| item * 2).collect()
    }

    fn came(&self, item: usize) -> usize {
        self.came.lock().unwrap().iter().filter(|came| **came == item).count()
    }
}

/// What groups calls: ours, or a broken one.
trait Calls: Default + Send + Sync + 'static {
    fn call(&self, item: usize, server: &Arc<Server>) -> impl Future<Output = Option<usize>> + Send;
}

impl Calls for Grouped<usize, usize> {
    async fn call(&self, item: usize, server: &Arc<Server>) -> Option<usize> {
        Self::call(self, item, |items| Arc::clone(server).call(items)).await
    }
}

async fn all_are_answered<C: Calls>() {
    let (calls, server) = (Arc::new(C::default()), Arc::new(Server::default()));
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let (calls, server) = (Arc::clone(&calls), Arc::clone(&server));
            spawn(async move {
                for item in [n, n + 10] {
                    assert_eq!(calls.call(item, &server).await, Some(item * 2));
                    assert_eq!(server.came(item), 1, "lost, or sent twice");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(server.came.lock().unwrap().len(), 8);
}

async fn a_dropped_caller_harms_nobody<C: Calls>() {
    let (calls, server) = (Arc::new(C::default()), Arc::new(Server::default()));
    let dropped = drawn(4);
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let (calls, server) = (Arc::clone(&calls), Arc::clone(&server));
            spawn(async move {
                if n == dropped {
                    let answer = dropped_somewhere(6, calls.call(n, &server)).await;
                    assert!(answer.is_none_or(|answer| answer == Some(n * 2)));
                } else {
                    assert_eq!(calls.call(n, &server).await, Some(n * 2));
                    assert!(server.came(n) > 0);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    // Nobody left the lock behind, or an item that nobody waits for.
    assert_eq!(calls.call(99, &server).await, Some(198));
    let came = server.came.lock().unwrap().len();
    assert_eq!(calls.call(100, &server).await, Some(200));
    assert_eq!(server.came.lock().unwrap().len(), came + 1);
}

type Ours = Grouped<usize, usize>;

#[test]
fn each_caller_gets_its_answer_and_each_item_is_passed_on_once() {
    check(QUICK, all_are_answered::<Ours>);
}

#[test]
fn a_caller_that_is_dropped_anywhere_leaves_the_others_their_answers() {
    check(QUICK, a_dropped_caller_harms_nobody::<Ours>);
}

#[test]
#[ignore = "long: many schedules"]
fn grouped_calls_hold_under_many_schedules() {
    check(LONG, all_are_answered::<Ours>);
    check(LONG, a_dropped_caller_harms_nobody::<Ours>);
}

#[test]
fn a_turn_that_two_have_is_caught() {
    catches_flaw(Flaw::OpenLock, BROKEN, all_are_answered::<Ours>);
}

/// Groups as ours does, and forgets what it took where the call is dropped, or leaves the last word to who is gone.
#[derive(Default)]
struct Broken<const PUTS_BACK: bool> {
    waiting: Mutex<VecDeque<(usize, oneshot::Sender<usize>)>>,
    turn: Turn,
}

struct Turn(AsyncMutex<()>);

impl Default for Turn {
    fn default() -> Self {
        Self(AsyncMutex::new(()))
    }
}

impl<const PUTS_BACK: bool> Broken<PUTS_BACK> {
    async fn call_for_all(&self, server: &Arc<Server>) {
        let taken: Vec<_> = self.waiting.lock().unwrap().drain(..).collect();
        let items = taken.iter().map(|(item, _)| *item).collect();
        let answers = Arc::clone(server).call(items).await;
        for ((_, waiting), answer) in taken.into_iter().zip(answers) {
            let _ = waiting.send(answer);
        }
    }
}

impl<const PUTS_BACK: bool> Calls for Broken<PUTS_BACK> {
    async fn call(&self, item: usize, server: &Arc<Server>) -> Option<usize> {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().unwrap().push_back((item, sender));
        if PUTS_BACK {
            // Who finds somebody at it leaves it to them, though they may have looked into the queue already.
            if let Ok(turn) = self.turn.0.try_lock() {
                self.call_for_all(server).await;
                drop(turn);
            }
            return answer.await.ok();
        }
        let turn = self.turn.0.lock().await;
        self.call_for_all(server).await;
        drop(turn);
        answer.await.ok()
    }
}

#[test]
fn items_that_nobody_puts_back_are_caught() {
    catches(BROKEN, a_dropped_caller_harms_nobody::<Broken<false>>);
}

#[test]
fn a_caller_that_trusts_who_has_the_turn_is_caught() {
    catches(BROKEN, all_are_answered::<Broken<true>>);
}

#[tokio::test]
async fn those_that_one_task_makes_at_once_are_one_call() {
    let calls = Plain::new(Vec::new());
    let run = |items: Vec<usize>| {
        calls.lock().unwrap().push(items.len());
        std::future::ready(items)
    };
    let grouped = Grouped::gathering();
    let answers = futures::future::join_all((0..10).map(|item| grouped.call(item, run))).await;
    assert_eq!(answers, (0..10).map(Some).collect::<Vec<_>>());
    assert_eq!(*calls.lock().unwrap(), [10]);
}
