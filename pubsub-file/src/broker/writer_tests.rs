//! The writing thread and who calls it: one case by hand, then many schedules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use pubsub_core::{Error, ErrorKind};
use tokio::sync::watch;

use super::{Loop, Queue, Signals, Writer};
use crate::broker::config::FileBrokerConfig;
use crate::broker::session::Session;
use crate::broker::wake::WakeFile;

/// What a call took; dropped, it is given back.
struct Taken(Arc<Queue>, Arc<AtomicBool>);

impl Drop for Taken {
    fn drop(&mut self) {
        let given_back = Arc::clone(&self.1);
        self.0.leave(move |_| {
            given_back.store(true, Ordering::Release);
            Ok(())
        });
    }
}

#[tokio::test]
async fn what_the_last_call_took_for_nobody_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::open(&dir.path().join("db"), &FileBrokerConfig::new(dir.path())).unwrap();
    let (queue, given_back) = (Queue::new(), Arc::new(AtomicBool::new(false)));
    let (events, cancels) = (watch::Sender::new(0), watch::Sender::new(0));
    let signals = Signals { events, cancels, wake: WakeFile::open(&dir.path().join("wake")).unwrap() };
    let times = (Duration::from_secs(60), Duration::from_secs(60));
    let writer = Writer::start(session, &queue, Arc::new(signals), times, |_| Ok(false)).unwrap();

    let (began, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let taken = (Arc::clone(&queue), Arc::clone(&given_back));
    let take = queue.call(0, move |_| {
        began.send(()).unwrap();
        may_go_on.recv().unwrap();
        Ok(Taken(Arc::clone(&taken.0), Arc::clone(&taken.1)))
    });
    // It is asked for, and then nobody waits for it any more.
    assert!(futures::FutureExt::now_or_never(take).is_none());
    has_begun.recv().unwrap();
    let ending = std::thread::spawn(move || drop(writer));
    while !queue.lock().stopped {
        std::thread::yield_now();
    }
    go_on.send(()).unwrap();
    ending.join().unwrap();
    assert!(given_back.load(Ordering::Acquire));
}

/// Starts the thread over a database of its own.
fn start(queue: &Arc<Queue>) -> (tempfile::TempDir, schedules::Thread) {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::open(&dir.path().join("db"), &FileBrokerConfig::new(dir.path())).unwrap();
    let (events, cancels) = (watch::Sender::new(0), watch::Sender::new(0));
    let signals = Signals { events, cancels, wake: WakeFile::open(&dir.path().join("wake")).unwrap() };
    let minute = Duration::from_secs(60);
    let work =
        Loop { session, queue: Arc::clone(queue), signals: Arc::new(signals), scan: minute, every: minute };
    (dir, schedules::thread(move || work.run(|_| Ok(false))))
}

/// Work that was done, in order; what is undone may be done again.
type Did = Arc<std::sync::Mutex<Vec<u32>>>;

async fn call(queue: &Queue, did: &Did, n: u32) -> pubsub_core::Result<u32> {
    let did = Arc::clone(did);
    let work = move |_: &mut Session| {
        did.lock().unwrap().push(n);
        match n {
            // A failure of the database, for this one alone, and an answer that is none.
            13 => Err(Error::new(ErrorKind::Unavailable, "busy")),
            14 => Err(Error::new(ErrorKind::NotFound, "no such group")),
            _ => Ok(n),
        }
    };
    queue.call(0, work).await
}

/// Several call at once, one of them gives up waiting, one fails: each of the others gets its own answer, and what one
/// caller asked for first is done first.
async fn each_call_is_answered_by_itself() {
    let (queue, did) = (Queue::new(), Did::default());
    let (_dir, thread) = start(&queue);
    let callers: Vec<_> = [1, 3, 5]
        .into_iter()
        .map(|n| {
            let (queue, did) = (Arc::clone(&queue), Arc::clone(&did));
            schedules::spawn(async move {
                assert_eq!(call(&queue, &did, n).await.unwrap(), n);
                assert_eq!(call(&queue, &did, n + 1).await.unwrap(), n + 1);
            })
        })
        .collect();
    let (fickle, his) = (Arc::clone(&queue), Arc::clone(&did));
    let fickle = schedules::spawn(async move {
        let _ = schedules::dropped_somewhere(3, call(&fickle, &his, 12)).await;
        assert_eq!(call(&fickle, &his, 13).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(call(&fickle, &his, 14).await.unwrap_err().kind(), ErrorKind::NotFound);
    });
    for caller in callers {
        caller.await.unwrap();
    }
    fickle.await.unwrap();
    queue.stop();
    thread.join().unwrap();
    let did = did.lock().unwrap();
    for n in [1, 3, 5] {
        let first = |n: u32| did.iter().position(|done| *done == n);
        assert!(first(n) < first(n + 1), "{did:?}");
    }
}

/// The broker closes while some call: everybody gets an answer or is told, and what was left to be done is done.
async fn closing_ends_everybody() {
    let (queue, did) = (Queue::new(), Did::default());
    let (_dir, thread) = start(&queue);
    let callers: Vec<_> = [1, 2, 3]
        .into_iter()
        .map(|n| {
            let (queue, did) = (Arc::clone(&queue), Arc::clone(&did));
            schedules::spawn(async move {
                match call(&queue, &did, n).await {
                    Ok(answer) => assert_eq!(answer, n),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Closed);
                        assert!(!did.lock().unwrap().contains(&n), "done, and told that it was not");
                    }
                }
            })
        })
        .collect();
    let left = Arc::new(AtomicBool::new(false));
    let leaving = Arc::clone(&left);
    queue.leave(move |_| {
        leaving.store(true, Ordering::SeqCst);
        Ok(())
    });
    schedules::pause().await;
    queue.stop();
    for caller in callers {
        caller.await.unwrap();
    }
    thread.join().unwrap();
    assert!(left.load(Ordering::SeqCst));
    assert_eq!(call(&queue, &did, 4).await.unwrap_err().kind(), ErrorKind::Closed);
}

const QUICK: usize = 60;
const LONG: usize = 3_000;

#[test]
fn under_any_schedule_each_call_is_answered_by_itself() {
    schedules::check(QUICK, each_call_is_answered_by_itself);
}

#[test]
fn under_any_schedule_closing_ends_everybody() {
    schedules::check(QUICK, closing_ends_everybody);
}

#[test]
#[ignore = "long: many schedules"]
fn the_writing_thread_holds_under_many_schedules() {
    schedules::check(LONG, each_call_is_answered_by_itself);
    schedules::check(LONG, closing_ends_everybody);
}

#[test]
fn a_call_that_nobody_hears_of_is_caught() {
    schedules::catches_flaw(schedules::Flaw::LateCondvar, LONG, each_call_is_answered_by_itself);
}
