//! Tests of the fan-out with sinks that misbehave.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::{FanOut, SinkConfig};
use crate::{
    ActionId, Appended, Backoff, Error, ErrorKind, EventId, Gap, LineBatch, LineEnd, LineNumber, LineRange,
    Masker, OutputSink, Result, RunKey, RunOutput, RunRecord, Stage, Stream, Timestamp,
};

type Answer = Box<dyn Fn(u32, &[LineBatch]) -> Result<Appended> + Send + Sync>;

/// Keeps the numbers that its answers say are stored.
struct Fake {
    answer: Answer,
    calls: AtomicU32,
    probing: AtomicUsize,
    most_probing: AtomicUsize,
    numbers: Mutex<Vec<u64>>,
    records: Mutex<Vec<RunRecord>>,
    hang: bool,
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
            hang: false,
        })
    }

    fn good() -> Arc<Self> {
        Self::new(|_, _| Ok(Appended::all()))
    }

    fn numbers(&self) -> Vec<u64> {
        self.numbers.lock().unwrap().clone()
    }

    fn last_record(&self) -> RunRecord {
        self.records.lock().unwrap().last().unwrap().clone()
    }
}

#[async_trait]
impl OutputSink for Fake {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.records.lock().unwrap().push(record.clone());
        Ok(())
    }

    async fn append(&self, _run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if self.hang {
            return std::future::pending().await;
        }
        let probing = self.probing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_probing.fetch_max(probing, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let answer = (self.answer)(self.calls.fetch_add(1, Ordering::SeqCst), batches);
        self.probing.fetch_sub(1, Ordering::SeqCst);
        let appended = answer?;
        let not = |n: LineNumber| {
            appended.again.iter().any(|r| r.contains(n))
                || appended.refused.iter().any(|g| g.range.contains(n))
        };
        let lines =
            batches.iter().flat_map(LineBatch::lines).filter(|l| !not(l.number)).map(|l| l.number.get());
        self.numbers.lock().unwrap().extend(lines);
        Ok(appended)
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
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
    let report = run.finish(ended(record)).await;
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
    let report = run.finish(ended(record)).await;
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
    let report = run.finish(ended(record)).await;
    assert_eq!(sink.numbers(), (1..=6).chain(8..=21).collect::<Vec<_>>());
    assert_eq!(report.sinks[0].holes[0].range, range(7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_best_effort_sink_stops_neither_the_others_nor_the_end() {
    let good = Fake::good();
    let hanging = Arc::new(Fake { hang: true, ..Arc::into_inner(Fake::good()).unwrap() });
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
    let report = run.finish(ended(record)).await;
    assert_eq!(good.numbers().len(), 10_000);
    assert!(!report.record.output_incomplete, "a best-effort sink makes nothing incomplete");
    assert!(report.sinks[0].dropped > 9_000 && !report.sinks[0].holes.is_empty());
    drop(run);
    assert_eq!(fan_out.close(Duration::from_secs(5)).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_full_required_sink_holds_up_the_command_until_it_is_stopped() {
    let hanging = Arc::new(Fake { hang: true, ..Arc::into_inner(Fake::good()).unwrap() });
    let fan_out = FanOut::new(vec![config("hanging", &hanging).with_queue_bytes(1000)]);
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
    let (seal, _) = output.close();
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
    first.0.finish(ended(first.1.clone())).await;
    assert!(started.elapsed() > Duration::from_secs(10), "{:?}", started.elapsed());
    for (run, record) in &runs[1..] {
        run.finish(ended(record.clone())).await;
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
    let mut record = run.finish(ended(record)).await.record;
    record.conclude();
    run.finish(record).await;
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
    run.finish(ended(record)).await;
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
    let report =
        tokio::time::timeout(Duration::from_secs(60), run.finish(ended(record))).await.expect("it ends");
    assert!(report.record.output_incomplete && report.sinks[0].balances());
    assert_eq!(report.sinks[0].dead_lettered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_prints_on_while_it_is_stopped_does_not_fill_the_memory() {
    let hanging = Arc::new(Fake { hang: true, ..Arc::into_inner(Fake::good()).unwrap() });
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
