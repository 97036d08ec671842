//! A handler that prints, and what holds it up.

use std::sync::Arc;
use std::time::Duration;

use super::{Fake, config, record};
use crate::{FanOut, Masker, RunOutput, Stream};

const QUEUE: usize = 30_000;

async fn output(sink: &Arc<Fake>) -> (FanOut, RunOutput, crate::FanOutRun) {
    let fan_out = FanOut::new(vec![config("sink", sink).with_queue_bytes(QUEUE)]);
    let run = fan_out.begin(&record()).await.unwrap();
    (fan_out, RunOutput::new(Arc::new(Masker::default()), run.clone()), run)
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_drops_its_write_in_the_middle_cannot_pass_the_bound() {
    let (fan_out, output, run) = output(&Fake::hanging()).await;
    let mut most = 0;
    for n in 0..2000 {
        let write = output.write(Stream::Stdout, format!("line {n}\n").into());
        let _ = tokio::time::timeout(Duration::from_millis(1), write).await;
        let _ = tokio::time::timeout(Duration::from_millis(1), output.line("more")).await;
        most = most.max(fan_out.sinks[0].queued());
    }
    assert!(most <= QUEUE + 1000, "{most} bytes wait");
    assert!(run.accounts()[0].balances());
    // What was not taken has no number, and is no hole.
    assert_eq!(output.last_line().unwrap().get(), run.accounts()[0].captured);
    assert_eq!(run.accounts()[0].dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_has_been_taken_unless_the_queue_was_full_before() {
    let (_fan_out, output, _run) = output(&Fake::hanging()).await;
    let mut taken = 0;
    loop {
        let write = output.line("line");
        taken += 1;
        if tokio::time::timeout(Duration::from_millis(1), write).await.is_err() {
            break;
        }
    }
    assert_eq!(output.last_line().unwrap().get(), taken, "the one that was dropped filled the queue");
    for _ in 0..10 {
        assert!(tokio::time::timeout(Duration::from_millis(1), output.line("line")).await.is_err());
    }
    assert_eq!(output.last_line().unwrap().get(), taken, "and none after it was taken");
}

#[tokio::test(start_paused = true)]
async fn many_that_print_at_once_wait_in_turn_and_lose_nothing() {
    let sink = Arc::new(Fake { slow: Duration::from_millis(1), ..Arc::into_inner(Fake::good()).unwrap() });
    let (fan_out, output, run) = output(&sink).await;
    let mut printers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let output = output.clone();
        printers.spawn(async move {
            for n in 0..50 {
                output.line(format!("line {n}")).await.unwrap();
            }
        });
    }
    let mut most = 0;
    while printers.try_join_next().is_some() || !printers.is_empty() {
        most = most.max(fan_out.sinks[0].queued());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Each brings one line at most after it saw room.
    assert!(most <= QUEUE + 100 * 500, "{most} bytes wait");
    output.close();
    let seal = output.seal();
    assert_eq!(seal.counts.lines, 5000);
    let report = run.finish(super::ended(record())).await.unwrap();
    assert_eq!(report.sinks[0].stored, 5000);
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_room_still_takes_one_piece_at_a_time() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![config("narrow", &sink).with_queue_bytes(0)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let output = RunOutput::new(Arc::new(Masker::default()), run.clone());
    for _ in 0..10 {
        tokio::time::timeout(Duration::from_secs(60), output.line("line")).await.unwrap().unwrap();
    }
    assert_eq!(run.finish(super::ended(record)).await.unwrap().sinks[0].stored, 10);
}
