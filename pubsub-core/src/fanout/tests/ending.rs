//! Runs whose begin or end is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Fake, batch, config, down_until, ended, record};
use crate::{ErrorKind, FanOut, OutputSink, SinkConfig};

/// Out of reach for every call until this is set.
fn away(up: &Arc<AtomicBool>) -> Arc<Fake> {
    Arc::new(Fake { up: Arc::clone(up), ..Arc::into_inner(Fake::good()).unwrap() })
}

fn soon<F: Future>(future: F) -> tokio::time::Timeout<F> {
    tokio::time::timeout(Duration::from_secs(60), future)
}

#[tokio::test(start_paused = true)]
async fn an_end_that_waits_is_told_what_is_missing_when_the_sinks_are_given_up() {
    let (down, good) = (down_until(&Arc::default()), Fake::good());
    let best = SinkConfig::best_effort("best", down_until(&Arc::default()) as Arc<dyn OutputSink>);
    let fan_out = FanOut::new(vec![config("down", &down), config("good", &good), best]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    let (end, closed) =
        tokio::join!(run.finish(ended(record.clone())), fan_out.close(Duration::from_secs(5)));
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::TimedOut);
    let error = end.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.to_string().contains("sink=down, waiting=3") && !error.is_retryable(), "{error}");
    assert!(!error.to_string().contains("best"), "nobody waits for it: {error}");
    let waiting: Vec<_> = run.accounts().iter().map(|account| account.waiting).collect();
    assert_eq!(waiting, [3, 0, 3]);
    assert!(down.records.lock().unwrap().iter().all(|r| r.revision == 1), "it was never sealed");
    // Asked again it does not wait either.
    assert!(soon(run.finish(ended(record))).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_lines_are_stored_but_not_sealed_is_missing_as_well() {
    let up = Arc::new(AtomicBool::new(true));
    let sink = away(&up);
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    while run.accounts()[0].stored < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    up.store(false, Ordering::SeqCst);
    let (end, _) = tokio::join!(run.finish(ended(record)), fan_out.close(Duration::from_secs(5)));
    let error = end.unwrap_err();
    assert!(error.to_string().contains("sink=down, waiting=0"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn once_the_sinks_are_given_up_nothing_waits_and_nothing_fills_the_memory() {
    let fan_out = FanOut::new(vec![config("hanging", &Fake::hanging()).with_queue_bytes(1000)]);
    let run = fan_out.begin(&record()).await.unwrap();
    run.append(&[batch(1, 1000)]);
    fan_out.close(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(fan_out.sinks[0].queued(), 0);
    for n in 1..100 {
        run.append(&[batch(n * 1000 + 1, 1000)]);
        soon(run.room()).await.unwrap();
    }
    let account = &run.accounts()[0];
    assert!(account.balances(), "{account:?}");
    assert_eq!((account.waiting, account.dropped, account.holes.len()), (1000, 99_000, 1));
    assert_eq!(fan_out.sinks[0].queued(), 0);
    let begun = soon(fan_out.begin(&record())).await.unwrap();
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Closed);
    fan_out.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_begin_or_a_record_is_told_when_the_sinks_are_given_up() {
    let sink = away(&Arc::default());
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let first = record();
    let (begun, brought, closed) = tokio::join!(
        fan_out.begin(&first),
        fan_out.finish_record(&first),
        fan_out.close(Duration::from_secs(5))
    );
    closed.unwrap_err();
    for error in [begun.unwrap_err(), brought.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("sink=down"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_prints_nothing_needs_no_task() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![config("one", &sink), config("other", &sink)]);
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.finish(ended(record.clone())).await.unwrap();
    assert_eq!((tasks.num_alive_tasks(), fan_out.tasks.len()), (before, 2));
    // Who waits for all to end waits for it all the same.
    assert!(tokio::time::timeout(Duration::from_secs(5), fan_out.close(Duration::MAX)).await.is_err());
    drop(run);
    fan_out.close(Duration::ZERO).await.unwrap();
    assert_eq!(sink.records.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_dropped_comes_to_its_store_all_the_same() {
    let up = Arc::new(AtomicBool::new(true));
    let sink = away(&up);
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    up.store(false, Ordering::SeqCst);
    let end = ended(record);
    assert!(tokio::time::timeout(Duration::from_secs(5), run.finish(end.clone())).await.is_err());
    drop(run);
    up.store(true, Ordering::SeqCst);
    fan_out.close(Duration::from_secs(600)).await.unwrap();
    assert_eq!(sink.last_record(), end);
}

#[tokio::test(start_paused = true)]
async fn an_end_without_lines_that_waits_is_told_when_the_sinks_are_given_up() {
    let up = Arc::new(AtomicBool::new(true));
    let sink = away(&up);
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    up.store(false, Ordering::SeqCst);
    let (end, closed) = tokio::join!(run.finish(ended(record)), fan_out.close(Duration::from_secs(5)));
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::TimedOut);
    let error = end.unwrap_err();
    assert!(error.kind() == ErrorKind::Closed && error.to_string().contains("sink=down"), "{error}");
    run.append(&[batch(1, 3)]);
    let account = run.accounts().remove(0);
    assert!(account.balances() && account.dropped == 3, "{account:?}");
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_gives_nothing_up() {
    let up = Arc::new(AtomicBool::new(false));
    let sink = down_until(&up);
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    let close = fan_out.close(Duration::from_secs(600));
    assert!(tokio::time::timeout(Duration::from_secs(5), close).await.is_err());
    up.store(true, Ordering::SeqCst);
    assert_eq!(run.finish(ended(record)).await.unwrap().sinks[0].stored, 3);
    drop(run);
    fan_out.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_begin_that_is_dropped_while_a_store_is_away_leaves_nothing_behind() {
    let up = Arc::new(AtomicBool::new(false));
    let (down, other) = (away(&up), away(&up));
    let best = SinkConfig::best_effort("other", Arc::clone(&other) as Arc<dyn OutputSink>);
    let fan_out = FanOut::new(vec![config("down", &down), best]);
    for _ in 0..100 {
        let record = record();
        assert!(tokio::time::timeout(Duration::from_secs(5), fan_out.begin(&record)).await.is_err());
    }
    // What is left would begin the runs now.
    up.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(fan_out.tasks.len(), 0);
    assert!(down.records.lock().unwrap().is_empty() && other.records.lock().unwrap().is_empty());
    for sink in &fan_out.sinks {
        assert_eq!((sink.queued(), sink.behind(), Arc::strong_count(sink)), (0, 0, 1));
    }
    // Nor does it hold the place of a probe.
    let run = fan_out.begin(&record()).await.unwrap();
    run.append(&[batch(1, 1)]);
    assert_eq!(down.records.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_begin_that_one_store_refuses_does_not_go_on_in_another() {
    let no = crate::Error::new(ErrorKind::Refused, "read-only");
    let refuses =
        Arc::new(Fake { begin: std::sync::Mutex::new(vec![no]), ..Arc::into_inner(Fake::good()).unwrap() });
    let up = Arc::new(AtomicBool::new(false));
    let down = away(&up);
    let fan_out = FanOut::new(vec![config("refuses", &refuses), config("down", &down)]);
    fan_out.begin(&record()).await.unwrap_err();
    up.store(true, Ordering::SeqCst);
    fan_out.close(Duration::from_secs(60)).await.unwrap();
    assert!(down.records.lock().unwrap().is_empty());
}
