//! Stores that are refused, away, deaf or slow while runs go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Fake, batch, config, down_until, ended, range, record};
use crate::{
    Appended, Cause, Error, ErrorKind, Event, Execution, Exit, FanOut, FanOutRun, Finality, Finished, Gap,
    LineBatch, Masker, Need, OutputSink, Result, RunContext, RunKey, RunOutput, RunRecord, SinkConfig, Stop,
    Stream, WhenFull, handler_fn,
};

/// Takes lines and never answers, until this is set. What it took it has.
struct Deaf {
    inner: Arc<Fake>,
    up: Arc<AtomicBool>,
}

#[async_trait]
impl OutputSink for Deaf {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.inner.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if !self.up.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.inner.finish(record).await
    }
}

fn deaf_until(up: &Arc<AtomicBool>) -> (Arc<Fake>, Arc<dyn OutputSink>) {
    let inner = Fake::good();
    (Arc::clone(&inner), Arc::new(Deaf { inner, up: Arc::clone(up) }))
}

const QUEUE: usize = 64 * 1024;
const LINES: u64 = 12_000;

/// Ten jobs print for ten minutes while a required store is away; then it is there again.
async fn ten_jobs_are_held_up(up: &AtomicBool, fake: &Fake, sink: Arc<dyn OutputSink>) {
    let good = Fake::good();
    let away = SinkConfig::required("away", sink).with_delay(Duration::ZERO).with_queue_bytes(QUEUE);
    let fan_out = FanOut::new(vec![away, config("good", &good)]);
    let mut jobs = tokio::task::JoinSet::new();
    let mut runs = Vec::new();
    for _ in 0..10 {
        let record = record();
        let run = fan_out.begin(&record).await.unwrap();
        runs.push((run.clone(), record));
        jobs.spawn(async move {
            for n in 0..LINES / 200 {
                run.append(&[batch(n * 200 + 1, 200)]);
                run.room().await;
            }
        });
    }
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (run, _) in &runs {
            let account = &run.accounts()[0];
            // At least 7 bytes a line: a full queue, one append under way, and what one read brought.
            assert!(account.balances() && account.waiting * 7 <= 2 * QUEUE as u64 + 4000, "{account:?}");
        }
    }
    assert_eq!(jobs.len(), 10, "the commands are held up");
    up.store(true, Ordering::SeqCst);
    while let Some(job) = jobs.join_next().await {
        job.unwrap();
    }
    for (run, record) in &runs {
        let report = run.finish(ended(record.clone())).await.unwrap();
        assert!(!report.record.output_incomplete);
        assert_eq!((report.sinks[0].stored, report.sinks[1].stored), (LINES, LINES));
    }
    assert_eq!(fake.numbers().len() as u64, 10 * LINES);
    assert!(fake.runs_are_in_order());
}

#[tokio::test(start_paused = true)]
async fn memory_stays_flat_while_a_store_is_down_and_all_of_it_is_there_in_order_afterwards() {
    let up = Arc::new(AtomicBool::new(false));
    let down = down_until(&up);
    ten_jobs_are_held_up(&up, &down, Arc::clone(&down) as Arc<dyn OutputSink>).await;
}

#[tokio::test(start_paused = true)]
async fn memory_stays_flat_while_a_store_never_answers_and_all_of_it_is_there_in_order_afterwards() {
    let up = Arc::new(AtomicBool::new(false));
    let (fake, sink) = deaf_until(&up);
    ten_jobs_are_held_up(&up, &fake, sink).await;
}

/// A best-effort store is away for a while; neither the command nor another store notices, and its seal names the holes.
async fn a_hole_is_named(up: &AtomicBool, fake: &Fake, sink: Arc<dyn OutputSink>) {
    let good = Fake::good();
    let away = SinkConfig::best_effort("away", sink).with_delay(Duration::ZERO).with_queue_bytes(4000);
    let fan_out = FanOut::new(vec![away, config("good", &good)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let started = Instant::now();
    for n in 0..1000 {
        up.store(!(200..700).contains(&n), Ordering::SeqCst);
        run.append(&[batch(n * 10 + 1, 10)]);
        run.room().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(run.accounts()[0].waiting <= 500, "{:?}", run.accounts());
    }
    assert_eq!(started.elapsed().as_secs(), 100, "nothing held up the command");
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!((good.numbers().len(), report.record.output_incomplete), (10_000, false));
    drop(run);
    fan_out.close(Duration::from_secs(120)).await.unwrap();
    let sealed = fake.last_record();
    assert_eq!((sealed.revision, sealed.holes.is_empty()), (2, false));
    assert!(fake.runs_are_in_order());
    let named = sealed.holes.iter().flat_map(|hole| hole.range.first.get()..=hole.range.last.get());
    let stored: BTreeSet<u64> = fake.numbers().into_iter().collect();
    let mut all: Vec<u64> = stored.into_iter().chain(named).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=10_000).collect::<Vec<_>>(), "each line is there or in a hole that is named");
}

#[tokio::test(start_paused = true)]
async fn a_seal_names_what_was_dropped_while_a_best_effort_store_was_down() {
    let up = Arc::new(AtomicBool::new(true));
    let down = down_until(&up);
    a_hole_is_named(&up, &down, Arc::clone(&down) as Arc<dyn OutputSink>).await;
}

#[tokio::test(start_paused = true)]
async fn a_seal_names_what_was_dropped_while_a_best_effort_store_never_answered() {
    let up = Arc::new(AtomicBool::new(true));
    let (fake, sink) = deaf_until(&up);
    a_hole_is_named(&up, &fake, sink).await;
}

#[test]
fn by_default_a_required_store_holds_up_the_command_and_a_best_effort_store_drops() {
    let sink = || Fake::good() as Arc<dyn OutputSink>;
    let (required, best) = (SinkConfig::required("r", sink()), SinkConfig::best_effort("b", sink()));
    assert_eq!((required.need, required.when_full), (Need::Required, WhenFull::Block));
    assert_eq!((best.need, best.when_full), (Need::BestEffort, WhenFull::Drop));
    assert_eq!(best.with_when_full(WhenFull::Block).when_full, WhenFull::Block);
}

/// Runs a handler that prints without end into a store that never answers, and stops it after five seconds. Answers when
/// the handler had ended.
async fn stopped_after(execution: &Execution, listens: bool) -> Duration {
    let hanging = Fake::hanging();
    let fan_out = FanOut::new(vec![config("hanging", &hanging).with_queue_bytes(10_000)]);
    let key = record().key;
    let event = Event::new("t".parse().unwrap(), key.action_id.clone());
    let (stopper, stop) = Stop::pair();
    let (held, ended) = tokio::sync::oneshot::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(Some(held)));
    let prints = handler_fn(move |context: RunContext| {
        // Dropped with the handler, or where it ends.
        let held = held.lock().unwrap().take();
        async move {
            let mut stop = context.stop.clone();
            let print = async {
                loop {
                    context.output.line("on and on").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            if listens {
                tokio::select! { () = print => {}, _ = stop.requested() => {} }
            } else {
                let () = print.await;
            }
            drop(held);
            Finished::from(Exit::code(0))
        }
    });
    let started = Instant::now();
    let run = execution.run(&fan_out, &prints, Arc::new(event), key, stop, Finality::Final);
    let watch = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stopper.stop(Cause::Cancelled);
        assert!(ended.await.is_err(), "nothing is sent, it is dropped");
        let stopped = started.elapsed();
        assert!(fan_out.sinks[0].queued() < 100_000, "{} bytes wait", fan_out.sinks[0].queued());
        fan_out.close(Duration::from_secs(2)).await.unwrap_err();
        stopped
    };
    let (executed, stopped) = tokio::join!(run, watch);
    assert_eq!(executed.unwrap_err().kind(), ErrorKind::Closed, "its end is in no store, and it says so");
    assert!(started.elapsed() < stopped + Duration::from_secs(3), "{:?}", started.elapsed());
    stopped
}

#[tokio::test(start_paused = true)]
async fn a_job_that_a_dead_store_holds_up_ends_when_it_is_stopped() {
    let stopped = stopped_after(&Execution::new(), true).await;
    assert!(stopped < Duration::from_secs(6), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_prints_on_into_a_dead_store_is_dropped_at_its_limit() {
    let execution = Execution::new().with_stop_limit(Duration::from_secs(10));
    let stopped = stopped_after(&execution, false).await;
    assert!((15..30).contains(&stopped.as_secs()), "{stopped:?}");
}

/// 50,000 lines for a best-effort store that takes 2,000 a second.
async fn slow() -> (Arc<Fake>, FanOut, crate::FanOutRun) {
    let sink = Arc::new(Fake { slow: Duration::from_micros(500), ..Arc::into_inner(Fake::good()).unwrap() });
    let best = SinkConfig::best_effort("slow", Arc::clone(&sink) as Arc<dyn OutputSink>)
        .with_queue_bytes(64 << 20)
        .with_delay(Duration::ZERO);
    let fan_out = FanOut::new(vec![best]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..500 {
        run.append(&[batch(n * 100 + 1, 100)]);
    }
    run.finish(ended(record)).await.unwrap();
    (sink, fan_out, run)
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_until_a_slow_store_has_the_last_line_and_the_seal() {
    let (sink, fan_out, run) = slow().await;
    drop(run);
    fan_out.close(Duration::from_secs(30)).await.unwrap();
    assert_eq!(sink.numbers(), (1..=50_000).collect::<Vec<_>>());
    assert_eq!(sink.last_record().revision, 2);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_cut_counts_what_is_missing_and_shows_no_end() {
    let (sink, fan_out, run) = slow().await;
    let started = Instant::now();
    assert!(fan_out.close(Duration::from_secs(1)).await.is_err());
    assert_eq!(started.elapsed().as_secs(), 1);
    let account = &run.accounts()[0];
    assert!(account.balances() && account.waiting > 0 && account.captured == 50_000, "{account:?}");
    assert_eq!(account.stored, sink.numbers().len() as u64);
    assert_eq!(sink.last_record().revision, 1, "no store says that it has ended");
}

fn revoked() -> Error {
    let cause = std::io::Error::other("the token was revoked");
    Error::new(ErrorKind::Refused, "append lines").with_source(cause)
}

/// Takes the first 100 lines, and no further ones while its access is revoked.
async fn revoked_after_100(need: Need, gone: &Arc<AtomicBool>) -> (Arc<Fake>, FanOut, FanOutRun, RunRecord) {
    let told = Arc::clone(gone);
    let good = Fake::good();
    let sink =
        Fake::new(move |_, _| if told.load(Ordering::SeqCst) { Err(revoked()) } else { Ok(Appended::all()) });
    let mut first = config("revoked", &sink);
    first.need = need;
    let fan_out = FanOut::new(vec![first, config("good", &good)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 100)]);
    while run.accounts()[0].stored < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    gone.store(true, Ordering::SeqCst);
    run.append(&[batch(101, 100)]);
    (good, fan_out, run, ended(record))
}

#[tokio::test(start_paused = true)]
async fn a_best_effort_store_that_revokes_its_access_at_the_end_has_a_hole_that_says_so() {
    let gone = Arc::default();
    let (good, fan_out, run, end) = revoked_after_100(Need::BestEffort, &gone).await;
    run.finish(end).await.unwrap();
    let lanes = run.clone();
    drop(run);
    while lanes.accounts()[0].dead_lettered < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let account = &lanes.accounts()[0];
    assert!(account.balances() && account.stored == 100, "{account:?}");
    let hole = &account.holes[0];
    assert_eq!(
        (hole.range, hole.reason.as_str()),
        (range(101, 200), "append lines: refused: the token was revoked")
    );
    assert!(good.last_record().holes.is_empty(), "the store that has all of it lacks nothing");
    drop(lanes);
    fan_out.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_required_store_whose_access_is_revoked_for_a_while_gets_all_of_it() {
    let gone = Arc::default();
    let (good, _fan_out, run, end) = revoked_after_100(Need::Required, &gone).await;
    let finish = run.finish(end);
    let mut finish = std::pin::pin!(finish);
    assert!(tokio::time::timeout(Duration::from_secs(600), &mut finish).await.is_err(), "it waits");
    assert_eq!(run.accounts()[0].waiting, 100);
    gone.store(false, Ordering::SeqCst);
    let report = finish.await.unwrap();
    assert!(!report.record.output_incomplete && report.sinks[0].balances());
    assert_eq!((report.sinks[0].stored, report.sinks[0].dead_lettered), (200, 0));
    assert!(good.last_record().holes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_required_store_whose_access_stays_revoked_is_given_up_with_what_it_lacks() {
    let gone = Arc::default();
    let (_good, fan_out, run, end) = revoked_after_100(Need::Required, &gone).await;
    let close = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        fan_out.close(Duration::from_secs(10)).await
    };
    let (finished, closed) = tokio::join!(run.finish(end), close);
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::TimedOut);
    let error = finished.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.to_string().contains("sink=revoked, waiting=100"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn lines_that_a_store_took_without_an_answer_come_again_and_count_once() {
    let taken = Fake::good();
    let twice = Arc::clone(&taken);
    let hole = Gap { range: range(7, 7), bytes: None, reason: "mapping".into() };
    // It takes all of the first call and loses its answer.
    let sink = Fake::new(move |call, batches| {
        let numbers = batches.iter().flat_map(LineBatch::lines).map(|line| line.number.get());
        let run = record().key.run_id;
        twice.numbers.lock().unwrap().extend(numbers.map(|number| (run.clone(), number)));
        if call == 0 {
            Err(Error::new(ErrorKind::Unavailable, "reset by peer"))
        } else {
            Ok(Appended::all().with_refused(hole.clone()))
        }
    });
    let fan_out = FanOut::new(vec![config("forgets", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 10)]);
    let account = run.finish(ended(record)).await.unwrap().sinks.remove(0);
    assert_eq!(taken.numbers(), (1..=10).chain(1..=10).collect::<Vec<_>>());
    assert!(account.balances(), "{account:?}");
    assert_eq!((account.captured, account.stored, account.dead_lettered), (10, 9, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_many_threads_print_reach_a_store_in_number_order() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![config("good", &sink).with_queue_bytes(20_000)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let output = RunOutput::new(Arc::new(Masker::default()), run.clone());
    let mut printers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let output = output.clone();
        let stream = if n % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
        printers.spawn(async move {
            for _ in 0..500 {
                output.write(stream, "a\nb\n".into()).await.unwrap();
            }
        });
    }
    while let Some(printer) = printers.join_next().await {
        printer.unwrap();
    }
    run.finish(ended(record)).await.unwrap();
    assert_eq!(sink.numbers(), (1..=8000).collect::<Vec<_>>());
}
