//! The fan-out under many schedules of whoever prints, its tasks, and whoever ends it.

use std::sync::Arc;
use std::time::Duration;

use schedules::{Flaw, catches_flaw, check, drawn, dropped_somewhere, pause, spawn};

use super::{Fake, batch, config, ended, record};
use crate::fanout::{FanOut, FanOutRun, SinkConfig};
use crate::schedule_tests::{BROKEN, LONG, QUICK};
use crate::{Appended, Backoff, Error, ErrorKind, OutputSink};

/// Room for about two of the batches here.
const QUEUE: usize = 300;
const BATCHES: u64 = 4;

fn narrow(name: &str, sink: &Arc<Fake>) -> SinkConfig {
    config(name, sink).with_queue_bytes(QUEUE).with_backoff(Backoff::fixed(Duration::ZERO))
}

/// Prints in pieces, waiting for room; now and then a wait is dropped and made again.
async fn print(fan_out: Arc<FanOut>, run: FanOutRun) {
    for n in 0..BATCHES {
        run.append(&[batch(n * 2 + 1, 2)]);
        if drawn(3) == 0 {
            let _ = dropped_somewhere(3, run.room()).await;
        }
        run.room().await;
        let queued = fan_out.sinks[0].queued();
        assert!(queued < QUEUE, "{queued} bytes wait, though there was room");
    }
}

/// Nothing waits in the end, and nobody is counted any more.
async fn is_over(fan_out: &FanOut) {
    fan_out.close(Duration::from_secs(3600)).await.unwrap();
    for sink in &fan_out.sinks {
        assert_eq!((sink.queued(), sink.behind()), (0, 0), "{}", sink.config.name);
    }
    assert_eq!(fan_out.tasks.len(), 0);
}

/// A store that takes everything, one that is away at first, and one that drops: the lines come once and in order, the
/// accounts balance, and all tasks end, though no time passes.
async fn every_line_comes_once_and_in_order() {
    let (good, dropping) = (Fake::good(), Fake::good());
    let flaky = Fake::new(|call, _| {
        if call < 2 { Err(Error::new(ErrorKind::Unavailable, "away")) } else { Ok(Appended::all()) }
    });
    let best = SinkConfig::best_effort("best", Arc::clone(&dropping) as Arc<dyn OutputSink>)
        .with_queue_bytes(QUEUE)
        .with_delay(Duration::ZERO);
    let fan_out = Arc::new(FanOut::new(vec![narrow("good", &good), narrow("flaky", &flaky), best]));
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let printing = spawn(print(Arc::clone(&fan_out), run.clone()));
    let (beating, alive) = (run.clone(), record.clone());
    let beats = spawn(async move {
        beating.update(&alive);
        let _ = dropped_somewhere(2, beating.drained()).await;
    });
    printing.await.unwrap();
    beats.await.unwrap();
    let report = run.finish(ended(record)).await.unwrap();
    assert!(!report.record.output_incomplete);
    for sink in [&good, &flaky] {
        assert_eq!(sink.numbers(), (1..=BATCHES * 2).collect::<Vec<_>>());
        assert_eq!(sink.last_record().revision, report.record.revision);
    }
    let accounts = run.clone();
    drop(run);
    pause().await;
    assert!(accounts.accounts().iter().all(super::super::SinkAccount::balances));
    drop(accounts);
    is_over(&fan_out).await;
    assert!(dropping.runs_are_in_order());
}

/// Two runs that share a store: none waits for the other's end, and what is counted over both comes to nothing.
async fn two_runs_share_a_store() {
    let sink = Fake::new(|call, _| {
        if call == 1 { Err(Error::new(ErrorKind::Unavailable, "away")) } else { Ok(Appended::all()) }
    });
    let fan_out =
        Arc::new(FanOut::new(vec![config("shared", &sink).with_backoff(Backoff::fixed(Duration::ZERO))]));
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let fan_out = Arc::clone(&fan_out);
            spawn(async move {
                let record = record();
                let run = fan_out.begin(&record).await.unwrap();
                for n in 0..2 {
                    run.append(&[batch(n * 2 + 1, 2)]);
                    pause().await;
                }
                let report = run.finish(ended(record)).await.unwrap();
                assert_eq!((report.sinks[0].stored, report.sinks[0].waiting), (4, 0));
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
    is_over(&fan_out).await;
    assert_eq!(sink.numbers().len(), 8);
    assert!(sink.runs_are_in_order());
}

/// A store that never answers is given up while somebody prints and somebody waits for the end: everybody is told.
async fn giving_up_ends_everybody() {
    let sink = Fake::hanging();
    let fan_out = Arc::new(FanOut::new(vec![narrow("hanging", &sink)]));
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let printing = spawn({
        let run = run.clone();
        async move {
            for n in 0..BATCHES {
                run.append(&[batch(n * 2 + 1, 2)]);
                run.room().await;
            }
        }
    });
    let (finishing, last) = (run.clone(), ended(record.clone()));
    let finish = spawn(async move { finishing.finish(last).await });
    let beginning = spawn({
        let fan_out = Arc::clone(&fan_out);
        async move {
            if let Err(error) = fan_out.begin(&super::record()).await {
                assert_eq!(error.kind(), ErrorKind::Closed);
            }
        }
    });
    pause().await;
    assert_eq!(fan_out.close(Duration::ZERO).await.unwrap_err().kind(), ErrorKind::TimedOut);
    printing.await.unwrap();
    beginning.await.unwrap();
    assert_eq!(finish.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(fan_out.begin(&record).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(run.accounts()[0].balances());
    assert_eq!(fan_out.sinks[0].queued(), 0, "what is given up is held no longer");
    drop(run);
    is_over(&fan_out).await;
}

/// A begin that is dropped anywhere leaves no task and nothing in memory; the same run begins again.
async fn a_dropped_begin_leaves_nothing() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![narrow("one", &sink), narrow("other", &sink)]);
    let record = record();
    if let Some(begun) = dropped_somewhere(4, fan_out.begin(&record)).await {
        drop(begun.unwrap());
    }
    is_over(&fan_out).await;
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 2)]);
    run.finish(ended(record)).await.unwrap();
    drop(run);
    is_over(&fan_out).await;
}

/// A run that prints nothing or only late: its ends come, in whoever's hands, though one that waits for them is dropped.
async fn a_run_without_a_task_ends() {
    let flaky = Fake::new(|call, _| {
        if call < 2 { Err(Error::new(ErrorKind::Unavailable, "away")) } else { Ok(Appended::all()) }
    });
    let good = Fake::good();
    let fan_out = Arc::new(FanOut::new(vec![narrow("good", &good), narrow("flaky", &flaky)]));
    let first = record();
    let run = fan_out.begin(&first).await.unwrap();
    let (mut end, mut last) = (ended(first.clone()), ended(first.clone()));
    (end.revision, last.revision) = (first.revision + 1, first.revision + 2);
    let ending = spawn({
        let (run, end) = (run.clone(), end.clone());
        async move { drop(dropped_somewhere(4, run.finish(end)).await) }
    });
    let beating = spawn({
        let run = run.clone();
        async move {
            if drawn(2) == 0 {
                run.update(&first);
            }
        }
    });
    let printing = spawn({
        let (run, lines) = (run.clone(), drawn(2) as u64);
        async move {
            if lines > 0 {
                run.append(&[batch(1, 1)]);
            }
            lines
        }
    });
    ending.await.unwrap();
    beating.await.unwrap();
    let lines = printing.await.unwrap();
    let closing = spawn({
        let fan_out = Arc::clone(&fan_out);
        async move { fan_out.close(Duration::from_secs(3600)).await.unwrap() }
    });
    run.finish(last.clone()).await.unwrap();
    drop(run);
    closing.await.unwrap();
    for sink in [&good, &flaky] {
        assert_eq!(sink.last_record().revision, last.revision);
        assert_eq!(sink.numbers().len() as u64, lines);
    }
    is_over(&fan_out).await;
}

#[test]
fn under_any_schedule_every_line_comes_once_and_in_order() {
    check(QUICK, every_line_comes_once_and_in_order);
}

#[test]
fn under_any_schedule_two_runs_share_a_store() {
    check(QUICK, two_runs_share_a_store);
}

#[test]
fn under_any_schedule_giving_up_ends_everybody() {
    check(QUICK, giving_up_ends_everybody);
}

#[test]
fn under_any_schedule_a_dropped_begin_leaves_nothing() {
    check(QUICK, a_dropped_begin_leaves_nothing);
}

#[test]
fn under_any_schedule_a_run_without_a_task_ends() {
    check(QUICK, a_run_without_a_task_ends);
}

#[test]
#[ignore = "long: many schedules"]
fn the_fan_out_holds_under_many_schedules() {
    check(LONG, every_line_comes_once_and_in_order);
    check(LONG, two_runs_share_a_store);
    check(LONG, giving_up_ends_everybody);
    check(LONG, a_dropped_begin_leaves_nothing);
    check(LONG, a_run_without_a_task_ends);
}

#[test]
fn a_word_of_work_that_gets_lost_is_caught() {
    catches_flaw(Flaw::ForgetfulNotify, BROKEN, every_line_comes_once_and_in_order);
}

#[test]
fn counts_that_two_change_at_once_are_caught() {
    catches_flaw(Flaw::TornCounter, BROKEN, two_runs_share_a_store);
}
