//! Ten runs of 20,000 lines a second each, through one fan-out, into a store that misbehaves beside one that does not.
//!
//! Each case is a process of its own, so that its memory can be measured. In the short form a store misbehaves for a few
//! seconds, in the long form for ten minutes. Lines are allocated one batch at a time, so that whatever keeps them is seen.
#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::cast_precision_loss, reason = "what is measured is rounded")]
#![expect(clippy::print_stdout, reason = "what is measured is shown")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use pubsub_core::{
    ActionId, Appended, Backoff, Counts, Error, ErrorKind, EventId, FanOut, FanOutRun, Gap, LineBatch,
    LineEnd, LineNumber, Lines, OutputItem, OutputReader, OutputSink, RefusedLines as _, Result, RunId,
    RunKey, RunRecord, RunStatus, SinkAccount, SinkConfig, Stage, Stream, Timestamp,
};
use pubsub_file::{FileRefusedLines, FileStore, FileStoreConfig, SpoolConfig, Spooled};
use tokio::sync::watch;
use tokio::time::Instant;

const CASE: &str = "FANOUT_STRESS_CASE";
const RUNS: u64 = 10;
/// Lines of one batch, of which each run prints one every ten milliseconds.
const LINES: u64 = 200;
const TICK: Duration = Duration::from_millis(10);
/// How many bytes of refused lines are kept: less than are refused.
const REFUSED_BYTES: u64 = 1 << 20;
/// What all of it may take.
const MEMORY: f64 = 256e6;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Answers at once that it is away.
    Away,
    /// Takes calls and never answers.
    Deaf,
    /// Refuses all lines for good.
    Refuses,
    /// Takes 2,000 lines a second of each call.
    Slow,
}

const FAULTS: [(&str, Fault); 4] =
    [("away", Fault::Away), ("deaf", Fault::Deaf), ("refuses", Fault::Refuses), ("slow", Fault::Slow)];

/// Misbehaves until it is told otherwise. It keeps which lines it took, and none of them.
struct Faulty {
    fault: Fault,
    well: watch::Sender<bool>,
    taken: Mutex<BTreeMap<RunId, Taken>>,
    ended: Mutex<BTreeMap<RunId, RunRecord>>,
}

#[derive(Clone, Debug, Default)]
struct Taken {
    last: u64,
    lines: u64,
    /// Numbers that were passed by.
    missing: Vec<(u64, u64)>,
    out_of_order: u64,
}

impl Faulty {
    async fn pass(&self, lines: u64) -> Result<()> {
        let mut well = self.well.subscribe();
        if *well.borrow() {
            return Ok(());
        }
        match self.fault {
            Fault::Away => Err(Error::new(ErrorKind::Unavailable, "503")),
            Fault::Deaf => std::future::pending().await,
            Fault::Refuses if lines > 0 => Err(Error::new(ErrorKind::Invalid, "no such field")),
            Fault::Refuses => Ok(()),
            Fault::Slow => {
                let takes = Duration::from_micros(500 * lines);
                let _ = tokio::time::timeout(takes, well.wait_for(|well| *well)).await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl OutputSink for Faulty {
    async fn begin(&self, _: &RunRecord) -> Result<()> {
        self.pass(0).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.pass(batches.iter().map(|batch| batch.len() as u64).sum()).await?;
        let mut taken = self.taken.lock().unwrap();
        let run = taken.entry(run.run_id.clone()).or_default();
        for batch in batches {
            let (first, last) = (batch.first().get(), batch.last().get());
            run.out_of_order += u64::from(first <= run.last);
            if first > run.last + 1 {
                run.missing.push((run.last + 1, first - 1));
            }
            run.last = last;
            run.lines += batch.len() as u64;
        }
        Ok(Appended::all())
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.pass(0).await?;
        self.ended.lock().unwrap().insert(record.key.run_id.clone(), record.clone());
        Ok(())
    }
}

/// A good store, and how late lines were in it.
struct Measured {
    store: FileStore,
    most_micros: AtomicU64,
}

impl Measured {
    /// The longest since it was asked last, in seconds.
    fn lag(&self) -> f64 {
        self.most_micros.swap(0, Ordering::Relaxed) as f64 / 1e6
    }
}

#[async_trait]
impl OutputSink for Measured {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.store.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let appended = self.store.append(run, batches).await;
        let lag = batches.first().map(|batch| Timestamp::now().since(batch.time())).unwrap_or_default();
        self.most_micros.fetch_max(u64::try_from(lag.as_micros()).unwrap(), Ordering::Relaxed);
        appended
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.store.finish(record).await
    }
}

/// The memory of this process, in bytes.
fn memory() -> f64 {
    // In pages (proc(5)); elsewhere `ps` tells it in kilobytes.
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.map(|pages| pages * 4096.0).unwrap_or_else(|| {
        let ps =
            Command::new("ps").args(["-o", "rss=", "-p", &std::process::id().to_string()]).output().unwrap();
        String::from_utf8(ps.stdout).unwrap().trim().parse::<f64>().unwrap() * 1024.0
    })
}

/// Memory over time: (seconds, bytes).
#[derive(Default)]
struct Samples(Vec<(f64, f64)>);

impl Samples {
    /// Bytes a second, by least squares over the second half: in the first one queues and the allocator fill.
    fn slope(&self) -> f64 {
        let samples = self.0.get(self.0.len() / 2..).unwrap_or_default();
        let count = samples.len() as f64;
        let (x, y) = samples.iter().fold((0.0, 0.0), |(x, y), sample| (x + sample.0, y + sample.1));
        let (x, y) = (x / count, y / count);
        let (over, under) = samples.iter().fold((0.0, 0.0), |(over, under), sample| {
            (over + (sample.0 - x) * (sample.1 - y), under + (sample.0 - x) * (sample.0 - x))
        });
        over / under
    }

    fn most(&self) -> f64 {
        self.0.iter().map(|sample| sample.1).fold(0.0, f64::max)
    }

    fn told(&self, rate: f64) -> String {
        let some = self.0.iter().step_by((self.0.len() / 8).max(1));
        let course: Vec<String> = some.map(|sample| format!("{:.1}", sample.1 / 1e6)).collect();
        let (slope, rate) = (self.slope() / 1e6, rate / 1e6);
        format!("memory {} MB: {slope:+.3} MB/s (all lines {rate:.1} MB/s)", course.join(" "))
    }

    fn are_flat(&self, seconds: u64, rate: f64) {
        assert!(self.0.len() > 20, "{} samples", self.0.len());
        // In the short form they may still fill. In the long form a step is left where a disk stood still and the queues,
        // 4 MiB for each run and store, were full for a while: less than a fiftieth of what is printed.
        let bound = if seconds < 60 { rate / 2.0 } else { rate / 50.0 };
        assert!(self.slope() < bound, "memory grows by {} bytes a second", self.slope());
        assert!(self.most() < MEMORY, "{} bytes of memory", self.most());
    }
}

/// Prints at the pace of the runs, in all of them at once; answers how long it took.
struct Printer {
    runs: Vec<(FanOutRun, RunRecord)>,
    printed: u64,
    text: Bytes,
}

impl Printer {
    async fn print(&mut self, how_long: Duration, samples: Option<&mut Samples>) -> Duration {
        let ticks = u64::try_from(how_long.as_millis() / TICK.as_millis()).unwrap();
        let started = Instant::now();
        let mut jobs = tokio::task::JoinSet::new();
        for (run, _) in &self.runs {
            let (run, text, before) = (run.clone(), self.text.clone(), self.printed);
            jobs.spawn(async move {
                for tick in 0..ticks {
                    tokio::time::sleep_until(started + TICK * u32::try_from(tick).unwrap()).await;
                    let first = LineNumber::new(before + tick * LINES + 1).unwrap();
                    let bytes = Bytes::copy_from_slice(&text);
                    let (now, out) = (Timestamp::now(), Stream::Stdout);
                    run.append(&[LineBatch::split(first, now, out, bytes, LineEnd::None).unwrap()]);
                    run.room().await;
                    assert!(run.accounts().iter().all(SinkAccount::balances), "{:?}", run.accounts());
                }
            });
        }
        self.printed += ticks * LINES;
        let joined = async { while jobs.join_next().await.transpose().unwrap().is_some() {} };
        match samples {
            None => joined.await,
            Some(samples) => {
                let sampling = async {
                    // Queues fill first.
                    tokio::time::sleep(how_long / 4).await;
                    loop {
                        samples.0.push((started.elapsed().as_secs_f64(), memory()));
                        tokio::time::sleep((how_long / 100).max(TICK)).await;
                    }
                };
                tokio::select! { () = joined => {}, () = sampling => {} }
            }
        }
        started.elapsed()
    }

    async fn begin(&mut self, fan_out: &FanOut) {
        self.printed = 0;
        self.runs.clear();
        for _ in 0..RUNS {
            let (action, stage) = (ActionId::new("a").unwrap(), Stage::new("s").unwrap());
            let record = RunRecord::begun(RunKey::new(action, stage, EventId::generate(), 1), "w");
            self.runs.push((fan_out.begin(&record).await.unwrap(), record));
        }
    }

    /// Ends the runs, and waits until nothing of them waits; answers the accounts of each.
    async fn finish(&mut self) -> Vec<(RunId, Vec<SinkAccount>)> {
        let mut ended = Vec::new();
        for (run, mut record) in self.runs.drain(..) {
            record.revision += 1;
            record.status = RunStatus::Completed;
            record.counts = Counts { lines: self.printed, ..Counts::default() };
            let id = record.key.run_id.clone();
            run.finish(record).await.unwrap();
            while run.accounts().iter().any(|account| account.waiting > 0) {
                tokio::time::sleep(TICK).await;
            }
            ended.push((id, run.accounts()));
        }
        ended
    }
}

/// Every line, once, in order.
async fn is_whole(store: &FileStore, run: &RunId, lines: u64) {
    let mut items = store.lines(run, Lines::ALL).await.unwrap().items;
    let mut next = 1;
    while let Some(item) = items.next().await {
        let OutputItem::Lines(batch) = item.unwrap() else { unreachable!("the good store lacks lines") };
        assert_eq!(batch.first().get(), next);
        next = batch.last().get() + 1;
    }
    assert_eq!(next - 1, lines);
}

/// What is there of the misbehaving store, in either way to it.
struct Bad {
    sink: Arc<Faulty>,
    spool: Option<Arc<Spooled<Arc<Faulty>>>>,
    refused: FileRefusedLines,
}

impl Bad {
    async fn new(fault: Fault, spooled: bool, dir: &std::path::Path, backoff: Backoff) -> (Self, SinkConfig) {
        let sink = Arc::new(Faulty {
            fault,
            well: watch::Sender::new(true),
            taken: Mutex::default(),
            ended: Mutex::default(),
        });
        let refused = FileRefusedLines::new(dir.join("refused")).with_max_bytes(REFUSED_BYTES);
        let keep = Arc::new(refused.clone());
        let limit = if fault == Fault::Deaf { Duration::from_millis(300) } else { Duration::from_secs(30) };
        if !spooled {
            let config = SinkConfig::best_effort("bad", Arc::clone(&sink) as Arc<dyn OutputSink>)
                .with_queue_bytes(512 << 10)
                .with_backoff(backoff)
                .with_call_limit(limit)
                .with_refused_lines(keep);
            return (Self { sink, spool: None, refused }, config);
        }
        let mut config = SpoolConfig::new(dir.join("spool"))
            .with_max_bytes(16 << 30)
            .with_backoff(backoff)
            .with_refused_lines("bad", keep);
        config.call_limit = limit;
        let spool = Arc::new(Spooled::open(Arc::clone(&sink), config).await.unwrap());
        // Required: it holds the command up where it is slow.
        let config = SinkConfig::required("bad", Arc::clone(&spool) as Arc<dyn OutputSink>);
        (Self { sink, spool: Some(spool), refused }, config)
    }

    /// Each line is there, in order, or in a hole that the record names.
    fn check(&self, run: &RunId, account: &SinkAccount, lines: u64) -> u64 {
        let taken = self.sink.taken.lock().unwrap().get(run).cloned().unwrap_or_default();
        let record = self.sink.ended.lock().unwrap().get(run).cloned().unwrap();
        assert_eq!(taken.out_of_order, 0);
        let mut missing = taken.missing.clone();
        if taken.last < lines {
            missing.push((taken.last + 1, lines));
        }
        let mut named: Vec<(u64, u64)> = Vec::new();
        for Gap { range, .. } in &record.holes {
            match named.last_mut() {
                Some((_, last)) if *last + 1 == range.first.get() => *last = range.last.get(),
                _ => named.push((range.first.get(), range.last.get())),
            }
        }
        assert_eq!(missing, named, "what is missing is what the record names");
        let missing: u64 = missing.iter().map(|(first, last)| last - first + 1).sum();
        assert_eq!(taken.lines + missing, lines);
        assert!(account.balances() && account.captured == lines, "{account:?}");
        if self.spool.is_some() {
            assert_eq!(account.stored, lines, "all of it is in the spool");
        }
        missing
    }
}

/// The good store, and a fan-out's configuration of it.
async fn good_store(dir: &std::path::Path) -> (Arc<Measured>, impl Fn() -> SinkConfig) {
    let store = FileStore::connect(FileStoreConfig::new(dir.join("good"))).await.unwrap();
    let good = Arc::new(Measured { store, most_micros: AtomicU64::new(0) });
    let sink = Arc::clone(&good);
    (good, move || SinkConfig::required("good", Arc::clone(&sink) as Arc<dyn OutputSink>))
}

/// What was measured in one print: how many times as long as it should take, and how far the good store was behind.
struct Paced {
    slower: f64,
    lag: f64,
}

/// Without the other store.
async fn alone(printer: &mut Printer, good: &Measured, config: SinkConfig, how_long: Duration) -> Paced {
    let fan_out = FanOut::new(vec![config]);
    printer.begin(&fan_out).await;
    let took = printer.print(how_long, None).await;
    let lag = good.lag();
    printer.finish().await;
    fan_out.close(Duration::from_secs(60)).await.unwrap();
    Paced { slower: took.as_secs_f64() / how_long.as_secs_f64(), lag }
}

/// One case; `seconds` is how long the store misbehaves, `bytes` how long a line is.
async fn case(fault: Fault, spooled: bool, seconds: u64, bytes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let backoff = Backoff { cap: Duration::from_millis(200), ..Backoff::default() };
    let (good, good_config) = good_store(dir.path()).await;
    let text = format!("{}\n", "x".repeat(bytes - 1)).repeat(usize::try_from(LINES).unwrap());
    let mut printer = Printer { runs: Vec::new(), printed: 0, text: text.into() };
    let outage = Duration::from_secs(seconds);
    let before = alone(&mut printer, &good, good_config(), (outage / 4).min(Duration::from_secs(10))).await;

    let (bad, config) = Bad::new(fault, spooled, dir.path(), backoff).await;
    let fan_out = FanOut::new(vec![config, good_config()]);
    printer.begin(&fan_out).await;
    bad.sink.well.send_replace(false);
    let mut samples = Samples::default();
    let took = printer.print(outage, Some(&mut samples)).await;
    let during = Paced { slower: took.as_secs_f64() / outage.as_secs_f64(), lag: good.lag() };
    let waited = bad.spool.as_ref().map_or(0, |spool| spool.depth().bytes);
    bad.sink.well.send_replace(true);
    let recovering = Instant::now();
    printer.print(Duration::from_millis(500), None).await;
    let ended = printer.finish().await;
    fan_out.close(Duration::from_secs(60)).await.unwrap();
    if let Some(spool) = &bad.spool {
        tokio::time::timeout(outage + Duration::from_secs(60), spool.shipped()).await.unwrap();
    }
    let recovered = recovering.elapsed().as_secs_f64();
    let (lines, mut missing) = (printer.printed, 0);
    for (run, accounts) in &ended {
        let [at_bad, at_good] = accounts.as_slice() else { unreachable!("two sinks") };
        missing += bad.check(run, at_bad, lines);
        assert!(at_good.balances() && at_good.stored == lines, "{at_good:?}");
        is_whole(&good.store, run, lines).await;
    }
    let kept = bad.refused.list(None, usize::MAX).await.unwrap();
    let kept: u64 = kept.iter().map(|refused| refused.lines.len() as u64).sum();
    // What it would be if all of it were kept.
    let rate = (RUNS * LINES) as f64 / TICK.as_secs_f64() * bytes as f64;
    println!(
        "@@{fault:?}{}: {} lines in {:.1} s, time x{:.3} (alone x{:.3}), the good store at most {:.3} s behind (alone \
         {:.3} s), {}; {waited} bytes spooled, {missing} lines missing and named, {kept} refused ones kept, recovered \
         in {recovered:.1} s",
        if spooled { " behind a spool" } else { "" },
        RUNS * lines,
        took.as_secs_f64(),
        during.slower,
        before.slower,
        during.lag,
        before.lag,
        samples.told(rate),
    );
    samples.are_flat(seconds, rate);
    // In seconds a machine that has other work shows; then half as long again is no sign of waiting for a store.
    let slower = if seconds < 60 { 0.5 } else { 0.1 };
    assert!(during.slower < before.slower.max(1.0) * 1.1 + slower, "the commands were slowed");
    // Far less than for how long the other one misbehaved; in ten minutes a disk has its own moods.
    let behind = if seconds < 60 { 1.5 } else { 30.0 };
    assert!(during.lag < before.lag + behind, "the good store was delayed");
    assert_eq!(missing == 0, spooled && fault != Fault::Refuses, "{missing} lines are missing");
    assert_eq!(kept > 0, fault == Fault::Refuses, "{kept} refused lines are kept");
}

/// Not a test of its own: what the process of a case runs.
#[test]
fn one_case_in_a_process() {
    let Ok(wanted) = std::env::var(CASE) else { return };
    let parts: Vec<&str> = wanted.split(':').collect();
    let [fault, way, seconds, bytes] = parts.as_slice() else { panic!("{wanted}") };
    let fault = FAULTS.iter().find(|(name, _)| name == fault).unwrap().1;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(case(fault, *way == "spooled", seconds.parse().unwrap(), bytes.parse().unwrap()));
}

/// One short case at a time: each is measured.
static ALONE: Mutex<()> = Mutex::new(());

fn run(fault: &str, way: &str, seconds: u64, bytes: usize) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_case_in_a_process", "--nocapture", "--test-threads=1"])
        // What each thread's own part of the allocator keeps would look as if it grew (mallopt(3)).
        .env("MALLOC_ARENA_MAX", "1")
        .env(CASE, format!("{fault}:{way}:{seconds}:{bytes}"))
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    for said in out.lines().filter_map(|line| line.split_once("@@")) {
        println!("{}", said.1);
    }
    assert!(output.status.success(), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
}

macro_rules! cases {
    ($($short:ident, $long:ident: $fault:literal $way:literal;)+) => {
        $(
            #[test]
            fn $short() {
                let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                run($fault, $way, 4, 50);
            }

            #[test]
            #[ignore = "long: ten minutes"]
            fn $long() {
                run($fault, $way, 600, 20);
            }
        )+
    };
}

cases! {
    a_store_that_is_away_harms_nobody, a_store_that_is_away_for_ten_minutes_harms_nobody: "away" "direct";
    a_store_that_never_answers_harms_nobody, a_store_that_never_answers_for_ten_minutes_harms_nobody: "deaf" "direct";
    a_store_that_refuses_harms_nobody, a_store_that_refuses_for_ten_minutes_harms_nobody: "refuses" "direct";
    a_store_that_is_slow_harms_nobody, a_store_that_is_slow_for_ten_minutes_harms_nobody: "slow" "direct";
    a_store_that_is_away_gets_all_from_the_spool,
        a_store_that_is_away_for_ten_minutes_gets_all_from_the_spool: "away" "spooled";
    a_store_that_never_answers_gets_all_from_the_spool,
        a_store_that_never_answers_for_ten_minutes_gets_all_from_the_spool: "deaf" "spooled";
    a_store_that_refuses_behind_a_spool_harms_nobody,
        a_store_that_refuses_behind_a_spool_for_ten_minutes_harms_nobody: "refuses" "spooled";
    a_store_that_is_slow_gets_all_from_the_spool,
        a_store_that_is_slow_for_ten_minutes_gets_all_from_the_spool: "slow" "spooled";
}
