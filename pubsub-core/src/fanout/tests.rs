//! Tests of the fan-out with sinks that misbehave.

#[path = "tests/bounds.rs"]
mod bounds;
#[path = "tests/ending.rs"]
mod ending;
#[path = "tests/faults.rs"]
mod faults;
#[path = "tests/limits.rs"]
mod limits;
#[path = "tests/metrics.rs"]
mod metrics_tests;
#[path = "tests/printing.rs"]
mod printing;
#[path = "tests/refusing.rs"]
mod refusing;
#[path = "tests/schedules.rs"]
mod schedules_tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::{FanOut, SinkConfig};
use crate::{
    ActionId, Appended, Backoff, Error, ErrorKind, EventId, Gap, LineBatch, LineEnd, LineNumber, LineRange,
    Masker, OutputSink, Result, RunId, RunKey, RunOutput, RunRecord, Stage, Stream, Timestamp,
};

type Answer = Box<dyn Fn(u32, &[LineBatch]) -> Result<Appended> + Send + Sync>;

/// Keeps the numbers that its answers say are stored.
struct Fake {
    answer: Answer,
    calls: AtomicU32,
    probing: AtomicUsize,
    most_probing: AtomicUsize,
    numbers: Mutex<Vec<(RunId, u64)>>,
    records: Mutex<Vec<RunRecord>>,
    /// Answers `begin` with these first, the last one first.
    begin: Mutex<Vec<Error>>,
    /// What one line costs.
    slow: Duration,
    hang: bool,
    /// Out of reach for every call until this is set.
    up: Arc<AtomicBool>,
}

impl Fake {
    fn new(answer: impl Fn(u32, &[LineBatch]) -> Result<Appended> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            answer: Box::new(answer),
            calls: AtomicU32::new(0),
            probing: AtomicUsize::new(0),
            most_probing: AtomicUsize::new(0),
            numbers: Mutex::default(),
            records: Mutex::default(),
            begin: Mutex::default(),
            slow: Duration::ZERO,
            hang: false,
            up: Arc::new(AtomicBool::new(true)),
        })
    }

    fn good() -> Arc<Self> {
        Self::new(|_, _| Ok(Appended::all()))
    }

    /// Accepts calls and never answers, but for `begin`.
    fn hanging() -> Arc<Self> {
        Arc::new(Self { hang: true, ..Arc::into_inner(Self::good()).unwrap() })
    }

    fn numbers(&self) -> Vec<u64> {
        self.numbers.lock().unwrap().iter().map(|(_, number)| *number).collect()
    }

    fn reach(&self) -> Result<()> {
        let up = self.up.load(Ordering::SeqCst);
        if up { Ok(()) } else { Err(Error::new(ErrorKind::Unavailable, "connection refused")) }
    }

    fn runs_are_in_order(&self) -> bool {
        let mut last: BTreeMap<RunId, u64> = BTreeMap::new();
        let numbers = self.numbers.lock().unwrap();
        numbers
            .iter()
            .all(|(run, number)| last.insert(run.clone(), *number).is_none_or(|last| last < *number))
    }

    fn last_record(&self) -> RunRecord {
        self.records.lock().unwrap().last().unwrap().clone()
    }
}

#[async_trait]
impl OutputSink for Fake {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.reach()?;
        if let Some(error) = self.begin.lock().unwrap().pop() {
            return Err(error);
        }
        self.records.lock().unwrap().push(record.clone());
        Ok(())
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if self.hang {
            return std::future::pending().await;
        }
        self.reach()?;
        let probing = self.probing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_probing.fetch_max(probing, Ordering::SeqCst);
        tokio::task::yield_now().await;
        if !self.slow.is_zero() {
            let lines: usize = batches.iter().map(LineBatch::len).sum();
            tokio::time::sleep(self.slow * u32::try_from(lines).unwrap()).await;
        }
        let answer = (self.answer)(self.calls.fetch_add(1, Ordering::SeqCst), batches);
        self.probing.fetch_sub(1, Ordering::SeqCst);
        let appended = answer?;
        let not = |n: LineNumber| {
            appended.again.iter().any(|r| r.contains(n))
                || appended.refused.iter().any(|g| g.range.contains(n))
        };
        let lines = batches
            .iter()
            .flat_map(LineBatch::lines)
            .filter(|l| !not(l.number))
            .map(|l| (run.run_id.clone(), l.number.get()));
        self.numbers.lock().unwrap().extend(lines);
        Ok(appended)
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        if self.hang {
            return std::future::pending().await;
        }
        self.reach()?;
        self.records.lock().unwrap().push(record.clone());
        Ok(())
    }
}

fn record() -> RunRecord {
    let key = RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
    RunRecord::begun(key, "w")
}

fn batch(first: u64, lines: u64) -> LineBatch {
    let text: String = (first..first + lines).map(|n| format!("line {n}\n")).collect();
    let first = LineNumber::new(first).unwrap();
    LineBatch::split(first, Timestamp::EPOCH, Stream::Stdout, text.into(), LineEnd::None).unwrap()
}

fn range(first: u64, last: u64) -> LineRange {
    LineRange::new(LineNumber::new(first).unwrap(), LineNumber::new(last).unwrap())
}

fn ended(mut record: RunRecord) -> RunRecord {
    record.revision += 1;
    record
}

fn config(name: &str, sink: &Arc<Fake>) -> SinkConfig {
    SinkConfig::required(name, Arc::clone(sink) as Arc<dyn OutputSink>).with_delay(Duration::ZERO)
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_leaves_a_hole_in_its_place_and_the_rest_is_there() {
    let sink = Fake::new(|_, batches| {
        let hit = batches.iter().filter_map(|b| b.slice(range(601, 700))).map(|b| Gap {
            range: b.range(),
            bytes: None,
            reason: "mapping".into(),
        });
        Ok(hit.fold(Appended::all(), Appended::with_refused))
    });
    let fan_out = FanOut::new(vec![config("bad", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..10 {
        run.append(&[batch(n * 100 + 1, 100)]);
    }
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!(sink.numbers(), (1..=600).chain(701..=1000).collect::<Vec<_>>());
    let account = &report.sinks[0];
    assert!(account.balances() && report.record.output_incomplete, "{account:?}");
    assert_eq!((account.stored, account.dead_lettered, account.waiting), (900, 100, 0));
    assert_eq!(account.holes.iter().map(|g| g.range).collect::<Vec<_>>(), [range(601, 700)]);
    assert_eq!(sink.last_record().holes, account.holes);
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_repeated_and_nothing_passes_it() {
    let sink = Fake::new(|call, batches| match call {
        0 => Err(Error::new(ErrorKind::Unavailable, "away")),
        1 => Ok(Appended::all().with_again(range(3, 5))),
        _ => {
            assert!(
                call > 2 || batches.iter().all(|b| b.first().get() == 3),
                "the lines that failed, and nothing else"
            );
            Ok(Appended::all())
        }
    });
    let fan_out = FanOut::new(vec![config("flaky", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 5)]);
    // Longer than one append, so that these lines come in a later one.
    for n in 0..30 {
        run.append(&[batch(6 + n * 5000, 5000)]);
    }
    let report = run.finish(ended(record)).await.unwrap();
    assert!(report.sinks[0].balances() && !report.record.output_incomplete);
    assert_eq!(sink.numbers().len(), 150_005);
    assert_eq!(sink.numbers().last(), Some(&150_005));
}

#[tokio::test(start_paused = true)]
async fn of_lines_that_are_too_large_together_only_the_one_that_is_too_large_alone_is_refused() {
    let sink = Fake::new(|_, batches| {
        let lines: u64 = batches.iter().map(|b| b.len() as u64).sum();
        let has = batches.iter().any(|b| b.get(LineNumber::new(7).unwrap()).is_some());
        if lines > 3 || has {
            Err(Error::new(ErrorKind::TooLarge, "over 1 MiB"))
        } else {
            Ok(Appended::all())
        }
    });
    let fan_out = FanOut::new(vec![config("small", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 20), batch(21, 1)]);
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!(sink.numbers(), (1..=6).chain(8..=21).collect::<Vec<_>>());
    assert_eq!(report.sinks[0].holes[0].range, range(7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_best_effort_sink_stops_neither_the_others_nor_the_end() {
    let good = Fake::good();
    let hanging = Fake::hanging();
    let best = SinkConfig::best_effort("hanging", Arc::clone(&hanging) as Arc<dyn OutputSink>)
        .with_queue_bytes(1000)
        .with_delay(Duration::ZERO);
    let fan_out = FanOut::new(vec![best, config("good", &good)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..1000 {
        run.append(&[batch(n * 10 + 1, 10)]);
        run.room().await;
        let accounts = run.accounts();
        assert!(accounts.iter().all(super::SinkAccount::balances));
        // Ten lines in each batch of about 100 bytes: the queue, one batch under way, and no more.
        assert!(accounts[0].waiting <= 250, "{accounts:?}");
        tokio::task::yield_now().await;
    }
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!(good.numbers().len(), 10_000);
    assert!(!report.record.output_incomplete, "a best-effort sink makes nothing incomplete");
    assert!(report.sinks[0].dropped > 9_000 && !report.sinks[0].holes.is_empty());
    drop(run);
    assert_eq!(fan_out.close(Duration::from_secs(5)).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_full_required_sink_holds_up_the_command_until_it_is_stopped() {
    let hanging = Fake::hanging();
    let fan_out = FanOut::new(vec![config("hanging", &hanging).with_queue_bytes(30_000)]);
    let run = fan_out.begin(&record()).await.unwrap();
    let output = RunOutput::new(Arc::new(Masker::default()), run.clone());
    let mut written = 0;
    while tokio::time::timeout(Duration::from_secs(1), output.write(Stream::Stdout, "0123456789\n".into()))
        .await
        .is_ok()
    {
        written += 1;
    }
    assert!((90..300).contains(&written), "{written}");
    run.unblock();
    output.write(Stream::Stdout, "last".into()).await.unwrap();
    output.close();
    let seal = output.seal();
    assert_eq!(seal.counts.lines, written + 2);
    assert_eq!(output.write(Stream::Stdout, "x".into()).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn while_a_sink_fails_one_call_at_a_time_probes_it_for_all_runs() {
    let sink = Fake::new(|call, _| {
        if call < 60 { Err(Error::new(ErrorKind::Unavailable, "503")) } else { Ok(Appended::all()) }
    });
    let backoff = Backoff { cap: Duration::from_secs(1), ..Backoff::default() };
    let fan_out = FanOut::new(vec![config("down", &sink).with_backoff(backoff)]);
    let started = tokio::time::Instant::now();
    let mut runs = Vec::new();
    for _ in 0..10 {
        let record = record();
        let run = fan_out.begin(&record).await.unwrap();
        run.append(&[batch(1, 10)]);
        runs.push((run, record));
    }
    // The first calls may meet; once one has failed, they queue.
    let first = &runs[0];
    first.0.finish(ended(first.1.clone())).await.unwrap();
    assert!(started.elapsed() > Duration::from_secs(10), "{:?}", started.elapsed());
    for (run, record) in &runs[1..] {
        run.finish(ended(record.clone())).await.unwrap();
    }
    assert_eq!(sink.numbers().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_line_is_sent_after_two_seconds_while_the_handler_sleeps() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![config("good", &sink)]);
    let run = fan_out.begin(&record()).await.unwrap();
    let output = RunOutput::new(Arc::new(Masker::default()), run.clone());
    let handler = async {
        output.write(Stream::Stdout, "10%\r".into()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(sink.numbers(), [1]);
    };
    tokio::select! { () = handler => {}, () = output.drive() => {} }
}

#[tokio::test(start_paused = true)]
async fn a_later_revision_reaches_every_sink_after_its_seal() {
    let (one, two) = (Fake::good(), Fake::good());
    let fan_out = FanOut::new(vec![config("one", &one), config("two", &two)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let mut record = run.finish(ended(record)).await.unwrap().record;
    record.conclude();
    run.finish(record).await.unwrap();
    assert!(one.last_record().is_final && two.last_record().is_final);
    drop(run);
    fan_out.close(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_best_effort_sink_begins_even_where_the_run_ends_at_once() {
    let sink = Fake::good();
    let best = SinkConfig::best_effort("slow to start", Arc::clone(&sink) as Arc<dyn OutputSink>);
    let fan_out = FanOut::new(vec![best]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    run.finish(ended(record)).await.unwrap();
    drop(run);
    fan_out.close(Duration::from_secs(5)).await.unwrap();
    let revisions: Vec<u64> = sink.records.lock().unwrap().iter().map(|r| r.revision).collect();
    assert_eq!(revisions, [1, 2]);
    assert_eq!(sink.numbers(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_loses_its_lines_and_nobody_waits_for_ever() {
    let sink = Fake::new(|call, _| if call == 0 { panic!("no") } else { Ok(Appended::all()) });
    let fan_out = FanOut::new(vec![config("panics", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    let report = tokio::time::timeout(Duration::from_secs(60), run.finish(ended(record)))
        .await
        .expect("it ends")
        .unwrap();
    assert!(report.record.output_incomplete && report.sinks[0].balances());
    assert_eq!(report.sinks[0].dead_lettered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_prints_on_while_it_is_stopped_does_not_fill_the_memory() {
    let hanging = Fake::hanging();
    let fan_out = FanOut::new(vec![config("hanging", &hanging).with_queue_bytes(1000)]);
    let run = fan_out.begin(&record()).await.unwrap();
    run.unblock();
    for n in 0..1000 {
        run.append(&[batch(n * 10 + 1, 10)]);
        run.room().await;
    }
    let account = &run.accounts()[0];
    assert!(account.balances() && account.dropped > 9_000 && account.waiting < 1_000, "{account:?}");
    assert_eq!(account.holes.len(), 1);
}

/// A sink that is out of reach until this is set.
fn down_until(up: &Arc<AtomicBool>) -> Arc<Fake> {
    let up = Arc::clone(up);
    Fake::new(move |_, _| {
        if up.load(Ordering::SeqCst) {
            Ok(Appended::all())
        } else {
            Err(Error::new(ErrorKind::Unavailable, "503"))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_best_effort_store_that_is_down_fills_no_memory_however_many_runs_end() {
    let up = Arc::new(AtomicBool::new(false));
    let down = Arc::new(Fake { up: Arc::clone(&up), ..Arc::into_inner(Fake::good()).unwrap() });
    let best =
        SinkConfig::best_effort("down", Arc::clone(&down) as Arc<dyn OutputSink>).with_queue_bytes(1000);
    let fan_out = FanOut::new(vec![best]);
    let (mut kept, mut dropped) = (0, 0);
    for _ in 0..3000 {
        let record = record();
        let run = fan_out.begin(&record).await.unwrap();
        run.append(&[batch(1, 10)]);
        let report = run.finish(ended(record)).await.unwrap();
        kept += report.sinks[0].waiting;
        dropped += report.sinks[0].dropped;
        drop(run);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(fan_out.sinks[0].is_overrun());
    assert!(fan_out.tasks.len() <= 1002);
    // At least 7 bytes a line; what the queues of all runs hold together is bounded.
    assert!(dropped > 0 && kept * 7 <= 17 * 1000, "{kept} {dropped}");
    up.store(true, Ordering::SeqCst);
    fan_out.close(Duration::from_secs(120)).await.unwrap();
    assert!(!fan_out.sinks[0].is_overrun());
    let ends = down.records.lock().unwrap().iter().filter(|record| record.revision == 2).count();
    assert_eq!(ends, 1000, "those that waited were brought there");
}

#[tokio::test(start_paused = true)]
async fn everything_printed_is_stored_before_a_slow_sink_is_done() {
    // 2,000 lines a second: 100 lines cost 50 ms.
    let sink = Arc::new(Fake { slow: Duration::from_micros(500), ..Arc::into_inner(Fake::good()).unwrap() });
    let fan_out = FanOut::new(vec![config("slow", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..500 {
        run.append(&[batch(n * 100 + 1, 100)]);
        run.room().await;
    }
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!(report.sinks[0].stored, 50_000);
    assert_eq!(sink.numbers(), (1..=50_000).collect::<Vec<_>>());
    assert_eq!(sink.last_record().revision, 2, "the seal comes after the last line");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_dropped_while_the_store_was_down_can_be_asked_for_again() {
    let up = Arc::new(AtomicBool::new(false));
    let sink = down_until(&up);
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    let cut = tokio::time::timeout(Duration::from_secs(60), run.finish(ended(record.clone()))).await;
    assert!(cut.is_err(), "a required store that is away holds the end back");
    up.store(true, Ordering::SeqCst);
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!((report.sinks[0].stored, report.record.output_incomplete), (3, false));
    assert_eq!(sink.numbers(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_when_the_time_is_up_is_counted_as_waiting() {
    let sink = down_until(&Arc::new(AtomicBool::new(false)));
    let fan_out = FanOut::new(vec![config("down", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 3)]);
    let started = tokio::time::Instant::now();
    let error = fan_out.close(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed().as_secs()), (ErrorKind::TimedOut, 5));
    assert!(run.accounts()[0].balances() && run.accounts()[0].waiting == 3);
    assert!(sink.records.lock().unwrap().iter().all(|r| r.revision == 1), "it was never sealed");
}

#[tokio::test(start_paused = true)]
async fn lines_to_be_tried_again_go_in_order_also_where_the_sink_names_them_otherwise_or_twice() {
    let gap = |range| Gap { range, bytes: None, reason: "mapping".into() };
    let sink = Fake::new(move |call, batches| match call {
        0 => Ok(Appended::all()
            .with_again(range(8, 9))
            .with_again(range(3, 4))
            .with_again(range(4, 4))
            .with_refused(gap(range(9, 10)))
            .with_refused(gap(range(10, 10)))),
        1 => {
            let numbers: Vec<u64> =
                batches.iter().flat_map(LineBatch::lines).map(|line| line.number.get()).collect();
            assert_eq!(numbers, [3, 4, 8, 9]);
            Ok(Appended::all())
        }
        _ => panic!("nothing is left"),
    });
    let fan_out = FanOut::new(vec![config("untidy", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 12)]);
    let report = run.finish(ended(record)).await.unwrap();
    let account = &report.sinks[0];
    assert!(account.balances(), "{account:?}");
    assert_eq!((account.stored, account.dead_lettered, account.waiting), (11, 1, 0));
    assert_eq!(account.holes.iter().map(|hole| hole.range).collect::<Vec<_>>(), [range(10, 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_always_behind_still_hears_that_the_run_is_alive() {
    let sink = Arc::new(Fake { slow: Duration::from_millis(1), ..Arc::into_inner(Fake::good()).unwrap() });
    let fan_out = FanOut::new(vec![config("behind", &sink).with_queue_bytes(2000)]);
    let mut record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..100 {
        run.append(&[batch(n * 100 + 1, 100)]);
        run.room().await;
        if n % 20 == 10 {
            record.revision += 1;
            run.update(&record);
        }
    }
    let beats = sink.records.lock().unwrap().len();
    assert!(beats >= 5, "{beats} records while lines never stopped");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_best_effort_sink_does_not_hold_up_a_record_of_another_worker() {
    let good = Fake::good();
    let hanging = Fake::hanging();
    let best = SinkConfig::best_effort("hanging", hanging as Arc<dyn OutputSink>);
    let fan_out = FanOut::new(vec![best, config("good", &good)]);
    tokio::time::timeout(Duration::from_secs(60), fan_out.finish_record(&record())).await.unwrap().unwrap();
    assert_eq!(good.last_record().revision, 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_once_a_required_sink_takes_it_and_never_where_it_refuses() {
    let away = Error::new(ErrorKind::Unavailable, "away");
    let patient = Arc::new(Fake { begin: Mutex::new(vec![away]), ..Arc::into_inner(Fake::good()).unwrap() });
    let fan_out = FanOut::new(vec![config("patient", &patient)]);
    fan_out.begin(&record()).await.unwrap();
    assert_eq!(patient.records.lock().unwrap().len(), 1);

    let no = Error::new(ErrorKind::Refused, "read-only");
    let refuses = Arc::new(Fake { begin: Mutex::new(vec![no]), ..Arc::into_inner(Fake::good()).unwrap() });
    let fan_out = FanOut::new(vec![config("refuses", &refuses)]);
    let error = fan_out.begin(&record()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("sink=refuses"), "{error}");
    fan_out.close(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_waits_for_no_delay_in_which_lines_are_gathered() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![config("slow to gather", &sink).with_delay(Duration::from_secs(60))]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let began = tokio::time::Instant::now();
    for first in [1, 2] {
        run.append(&[batch(first, 1)]);
        run.drained().await;
    }
    run.append(&[batch(3, 1)]);
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!((report.sinks[0].stored, began.elapsed()), (3, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_run_does_not_go_on_without_a_required_store_that_is_damaged() {
    let torn = Error::new(ErrorKind::Corrupt, "read the version");
    let damaged = Arc::new(Fake { begin: Mutex::new(vec![torn]), ..Arc::into_inner(Fake::good()).unwrap() });
    let fan_out = FanOut::new(vec![config("damaged", &damaged)]);
    let error = fan_out.begin_where_taken(&record()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// The levels of what is logged on this thread, from information on.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<tracing::Level>>>);

impl Said {
    fn count(&self, level: tracing::Level) -> usize {
        self.0.lock().unwrap().iter().filter(|said| **said == level).count()
    }
}

impl tracing::Subscriber for Said {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().unwrap().push(*event.metadata().level());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_lines_are_all_refused_is_one_warning() {
    let said = Said::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    let sink = Fake::new(|_, _| Err(Error::new(ErrorKind::TooLarge, "over 1 byte")));
    let fan_out = FanOut::new(vec![config("tiny", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 100)]);
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!(report.sinks[0].dead_lettered, 100);
    assert_eq!(report.sinks[0].holes.len(), 1, "refused for one reason, side by side: one hole");
    assert_eq!(said.count(tracing::Level::WARN), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_refuses_lines_is_told_when_it_begins_every_ten_seconds_and_when_it_is_over() {
    let said = Said::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    let refuses = Arc::new(AtomicBool::new(true));
    let odd = Arc::clone(&refuses);
    let sink = Fake::new(move |_, lines| {
        let refused = Gap { range: lines[0].range(), bytes: None, reason: "mapping".into() };
        let refused = odd.load(Ordering::SeqCst).then_some(refused);
        Ok(refused.into_iter().fold(Appended::all(), Appended::with_refused))
    });
    let fan_out = FanOut::new(vec![config("odd", &sink).with_delay(Duration::ZERO)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let counts = || (said.count(tracing::Level::WARN), said.count(tracing::Level::INFO));
    let mut next = 1;
    // A batch every 100 ms, for so many seconds.
    let mut print = async |seconds: u64| {
        for _ in 0..seconds * 10 {
            run.append(&[batch(next, 20)]);
            next += 20;
            run.drained().await;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    print(9).await;
    assert_eq!(counts(), (1, 0));
    print(21).await;
    assert_eq!(counts(), (3, 0));
    refuses.store(false, Ordering::SeqCst);
    print(9).await;
    assert_eq!(counts(), (3, 0));
    print(21).await;
    assert_eq!(counts(), (3, 1));
    refuses.store(true, Ordering::SeqCst);
    print(1).await;
    assert_eq!(counts(), (4, 1));
    run.finish(ended(record)).await.unwrap();
    drop((run, fan_out));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_sink_answers_each_line_is_stored_once_in_order_or_counted(
        answers in proptest::collection::vec((0u8..6, 1u64..40, 0u64..6, 1u64..40, 0u64..6), 0..30),
        sizes in proptest::collection::vec(1u64..12, 1..8),
    ) {
        let gap = |range| Gap { range, bytes: None, reason: "mapping".into() };
        let sink = Fake::new(move |call, _| {
            let Some((kind, a, more, b, further)) = answers.get(call as usize).copied() else {
                return Ok(Appended::all());
            };
            match kind {
                0 => Err(Error::new(ErrorKind::Unavailable, "503")),
                1 => Err(Error::new(ErrorKind::TooLarge, "too large")),
                2 => Err(Error::new(ErrorKind::Refused, "no")),
                3 => Ok(Appended::all().with_again(range(a, a + more)).with_again(range(b, b + further))),
                4 => Ok(Appended::all()
                    .with_again(range(a, a + more))
                    .with_refused(gap(range(b, b + further)))
                    .with_refused(gap(range(a + 1, b + a + 1)))),
                _ => Ok(Appended::all()),
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fan_out = FanOut::new(vec![config("any", &sink)]);
            let record = record();
            let run = fan_out.begin(&record).await.unwrap();
            let mut next = 1;
            for lines in sizes {
                run.append(&[batch(next, lines)]);
                next += lines;
                tokio::task::yield_now().await;
                assert!(run.accounts()[0].balances());
            }
            let account = run.finish(ended(record)).await.unwrap().sinks.remove(0);
            assert!(account.balances() && account.waiting == 0, "{account:?}");
            let holes = account.holes.iter().flat_map(|h| h.range.first.get()..=h.range.last.get());
            let mut all: Vec<u64> = sink.numbers().into_iter().chain(holes).collect();
            assert_eq!(account.stored, sink.numbers().len() as u64);
            all.sort_unstable();
            assert_eq!(all, (1..next).collect::<Vec<_>>(), "stored once, or a hole, never both");
        });
    }
}
