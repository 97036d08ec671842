//! A spool in front of a store that is away, refuses or is slow, and a spool whose files a crash or a disk damaged.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::conformance::store::{SampleRun, lines, read, shape};
use pubsub_core::{
    Appended, Backoff, Durability, Error, ErrorKind, FanOut, Gap, LineBatch, LineEnd, LineNumber, LineRange,
    Lines, MemoryStore, OutputReader, OutputSink, Result, Retention, Retrying, RunKey, RunQuery, RunRecord,
    RunStatus, SinkConfig, Stream, Timestamp, WhenFull, verify,
};
use pubsub_file::{FileStore, FileStoreConfig, SpoolConfig, Spooled, verify_spool};
use tempfile::TempDir;
use tokio::sync::{Notify, Semaphore};

const LONG: Duration = Duration::from_secs(30);

/// A store that is away, refuses one line, or takes it only later.
#[derive(Clone, Default)]
struct Sick {
    store: MemoryStore,
    away: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    refuses: Option<LineRange>,
    later: Option<LineRange>,
    says: Option<ErrorKind>,
}

impl Sick {
    fn answers(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.away.load(Ordering::SeqCst) {
            true => Err(Error::new(self.says.unwrap_or(ErrorKind::Unavailable), "not now")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl OutputSink for Sick {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.answers()?;
        self.store.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.answers()?;
        let first = self.calls.load(Ordering::SeqCst) < 4;
        let odd = self.refuses.or(self.later.filter(|_| first));
        let Some(odd) = odd else { return self.store.append(run, batches).await };
        let before = LineRange::new(LineNumber::FIRST, LineNumber::new(odd.first.get() - 1).unwrap());
        let after = LineRange::new(odd.last.plus(1), LineNumber::MAX);
        let taken =
            [before, after].into_iter().flat_map(|part| batches.iter().filter_map(move |b| b.slice(part)));
        self.store.append(run, &taken.collect::<Vec<_>>()).await?;
        Ok(match self.refuses {
            Some(range) => Appended::all().with_refused(Gap {
                range,
                bytes: None,
                reason: "the mapping forbids it".to_owned(),
            }),
            None => Appended::all().with_again(odd),
        })
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.answers()?;
        self.store.finish(record).await
    }
}

/// One that is out of reach.
fn away() -> Sick {
    Sick { away: Arc::new(AtomicBool::new(true)), ..Sick::default() }
}

fn config(dir: &TempDir) -> SpoolConfig {
    SpoolConfig::new(dir.path()).with_backoff(Backoff::fixed(Duration::from_millis(10)))
}

async fn open<S: OutputSink + 'static>(sink: S, dir: &TempDir) -> Spooled<S> {
    Spooled::open(sink, config(dir)).await.unwrap()
}

fn numbered(first: u64, last: u64) -> Vec<LineBatch> {
    (first..=last).map(|n| lines(n, [format!("line {n}").as_str()])).collect()
}

async fn shipped<S: OutputSink + 'static>(spooled: &Spooled<S>) {
    tokio::time::timeout(LONG, spooled.shipped()).await.expect("everything is shipped");
}

/// How many runs have something in the spool.
fn runs_in(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

/// The files of the spool that end in this.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_str().unwrap().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_store_that_is_away_holds_up_nobody_and_gets_everything_in_order() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), Sick::default());
    sick.away.store(true, Ordering::SeqCst);
    let spooled = open(sick.clone(), &dir).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    for part in 0..20 {
        run.append(&spooled, &numbered(part * 100 + 1, part * 100 + 100)).await;
    }
    run.finish(&spooled).await;
    assert!(sick.store.runs(&RunQuery::all()).await.unwrap().is_empty());
    assert!(spooled.depth().bytes > 2000 * 8 && spooled.depth().runs == 1, "{:?}", spooled.depth());
    sick.away.store(false, Ordering::SeqCst);
    shipped(&spooled).await;
    assert_eq!(shape(&read(&sick.store, run.id(), Lines::ALL).await), "1-2000");
    assert!(verify(&sick.store, run.id()).await.unwrap().agrees());
    assert_eq!((spooled.depth().bytes, spooled.depth().runs), (0, 0), "what was shipped is freed");
    assert_eq!(runs_in(dir.path()), 0);
}

#[tokio::test]
async fn a_wrong_password_is_waited_out_as_well() {
    for says in [ErrorKind::Refused, ErrorKind::Internal, ErrorKind::Corrupt] {
        let (dir, sick) = (tempfile::tempdir().unwrap(), Sick { says: Some(says), ..Sick::default() });
        sick.away.store(true, Ordering::SeqCst);
        let spooled = open(sick.clone(), &dir).await;
        let mut run = SampleRun::new();
        run.begin(&spooled).await;
        run.append(&spooled, &numbered(1, 10)).await;
        run.finish(&spooled).await;
        while sick.calls.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sick.away.store(false, Ordering::SeqCst);
        shipped(&spooled).await;
        assert!(verify(&sick.store, run.id()).await.unwrap().agrees(), "{says:?}");
    }
}

#[tokio::test]
async fn what_one_process_left_another_ships() {
    let dir = tempfile::tempdir().unwrap();
    let away = away();
    let (mut ended, mut running) = (SampleRun::new(), SampleRun::new());
    {
        let spooled = open(away, &dir).await;
        for run in [&mut ended, &mut running] {
            run.begin(&spooled).await;
            run.append(&spooled, &numbered(1, 500)).await;
        }
        ended.finish(&spooled).await;
        let error = spooled.close(Duration::ZERO).await.unwrap_err();
        assert!(error.kind() == ErrorKind::TimedOut && error.to_string().contains("runs=2"), "{error}");
    }
    let store = MemoryStore::new();
    let spooled = open(store.clone(), &dir).await;
    shipped(&spooled).await;
    for run in [&ended, &running] {
        assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), "1-500");
    }
    assert!(verify(&store, ended.id()).await.unwrap().agrees());
    // The one whose worker died goes on where it was.
    running.append(&spooled, &numbered(501, 600)).await;
    running.finish(&spooled).await;
    shipped(&spooled).await;
    assert!(verify(&store, running.id()).await.unwrap().agrees());
}

#[tokio::test]
async fn what_a_dead_process_left_without_an_end_goes_once_it_is_shipped_and_lost() {
    let dir = tempfile::tempdir().unwrap();
    let away = away();
    let mut run = SampleRun::new();
    // Its beats were due a moment after it began, so readers judge it lost at once.
    run.record.beat_every_ms = 0;
    {
        let spooled = open(away, &dir).await;
        run.begin(&spooled).await;
        run.append(&spooled, &numbered(1, 500)).await;
        spooled.close(Duration::ZERO).await.unwrap_err();
    }
    // Of another one there is no more than the folder: it died while it began.
    let begun = pubsub_core::name::encode(SampleRun::new().id().as_str());
    std::fs::create_dir(dir.path().join(begun)).unwrap();
    let store = MemoryStore::new();
    let spooled = open(store.clone(), &dir).await;
    shipped(&spooled).await;
    assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), "1-500");
    assert_eq!(runs_in(dir.path()), 0, "nothing is left of it in the spool");
    assert_eq!((spooled.depth().runs, spooled.depth().bytes), (0, 0));
}

#[tokio::test]
async fn a_segment_that_a_full_disk_left_empty_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let away = away();
    let mut run = SampleRun::new();
    {
        let spooled = open(away, &dir).await;
        run.begin(&spooled).await;
        run.append(&spooled, &numbered(1, 50)).await;
        run.finish(&spooled).await;
        spooled.close(Duration::ZERO).await.unwrap_err();
    }
    let [segment] = files(dir.path(), ".segment").try_into().unwrap();
    std::fs::write(segment.with_file_name("000000000001.segment"), "").unwrap();
    let store = MemoryStore::new();
    let spooled = open(store.clone(), &dir).await;
    shipped(&spooled).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
    assert_eq!(runs_in(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_opens_while_runs_of_another_process_come_and_go() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let first = Arc::new(open(store.clone(), &dir).await);
    // Another one that opens may hold a run for a moment that is just being made.
    let writer = Retrying::new(Arc::clone(&first), Backoff::fixed(Duration::from_millis(5)), 1000);
    let writing = tokio::spawn(async move {
        for _ in 0..150 {
            SampleRun::written(&writer, &numbered(1, 2)).await;
        }
    });
    while !writing.is_finished() {
        // With an error only where something is left, which is then the first one's.
        let _ = open(store.clone(), &dir).await.close(Duration::ZERO).await;
    }
    writing.await.unwrap();
    shipped(&first).await;
    shipped(&open(store.clone(), &dir).await).await;
    assert_eq!(store.runs(&RunQuery::all().with_limit(1000)).await.unwrap().len(), 150);
    assert_eq!(runs_in(dir.path()), 0);
}

#[tokio::test]
async fn lines_that_come_again_after_all_was_shipped_change_nothing() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let spooled = open(store.clone(), &dir).await;
    let run = SampleRun::written(&spooled, &numbered(1, 5)).await;
    shipped(&spooled).await;
    assert_eq!(spooled.append(run.key(), &numbered(1, 5)).await.unwrap(), Appended::all());
    assert!(verify(&store, run.id()).await.unwrap().agrees());
    let unknown = spooled.append(SampleRun::new().key(), &numbered(1, 1)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(runs_in(dir.path()), 0);
    assert_eq!(spooled.depth().runs, 0);
}

/// A store that waits to be told before it takes the end of a run.
#[derive(Clone)]
struct Hesitant {
    store: MemoryStore,
    asked: Arc<Notify>,
    may: Arc<Semaphore>,
}

#[async_trait]
impl OutputSink for Hesitant {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.store.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.store.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.asked.notify_one();
        self.may.acquire().await.unwrap().forget();
        self.store.finish(record).await
    }
}

#[tokio::test]
async fn lines_that_come_while_the_end_is_shipped_are_followed_by_the_end_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let (asked, may) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let store = MemoryStore::new();
    let sink = Hesitant { store: store.clone(), asked: Arc::clone(&asked), may: Arc::clone(&may) };
    let spooled = open(sink, &dir).await;
    let run = SampleRun::written(&spooled, &numbered(1, 5)).await;
    asked.notified().await;
    // As who brings what a killed process had held back.
    assert_eq!(spooled.append(run.key(), &numbered(4, 5)).await.unwrap(), Appended::all());
    may.add_permits(1);
    tokio::time::timeout(LONG, asked.notified()).await.expect("the end is told again behind them");
    may.add_permits(1);
    shipped(&spooled).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
    assert_eq!((runs_in(dir.path()), spooled.depth().runs), (0, 0));
}

#[tokio::test]
async fn what_was_shipped_to_its_end_by_a_process_that_is_gone_does_not_stay() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), away());
    let spooled = open(sick.clone(), &dir).await;
    let run = SampleRun::written(&spooled, &numbered(1, 5)).await;
    spooled.close(Duration::ZERO).await.unwrap_err();
    // The last that it did was to note that the end was taken.
    let revision = run.record.revision;
    let cursor =
        format!(r#"{{"segment":1,"offset":0,"last":5,"damaged":false,"revision":{revision},"refused":[]}}"#);
    for segment in files(dir.path(), ".segment") {
        std::fs::remove_file(segment).unwrap();
    }
    let record = files(dir.path(), "record.json").pop().unwrap();
    std::fs::write(record.with_file_name("shipped.json"), cursor).unwrap();
    let next = open(sick, &dir).await;
    shipped(&next).await;
    assert_eq!(runs_in(dir.path()), 0);
}

#[tokio::test]
async fn a_record_that_a_power_loss_emptied_holds_up_no_other_run() {
    let dir = tempfile::tempdir().unwrap();
    let away = away();
    let (mut run, mut other) = (SampleRun::new(), SampleRun::new());
    {
        let spooled = open(away, &dir).await;
        for run in [&mut run, &mut other] {
            run.begin(&spooled).await;
            run.append(&spooled, &numbered(1, 5)).await;
            run.finish(&spooled).await;
        }
        spooled.close(Duration::ZERO).await.unwrap_err();
    }
    let emptied = dir.path().join(pubsub_core::name::encode(other.id().as_str())).join("record.json");
    std::fs::write(&emptied, "").unwrap();
    let store = MemoryStore::new();
    let spooled = open(store.clone(), &dir).await;
    shipped(&spooled).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
    assert!(emptied.exists(), "what cannot be read is kept");
}

#[tokio::test(start_paused = true)]
async fn a_run_is_shipped_by_one_process_at_a_time_and_taken_over_when_that_ends() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let away = away();
    let first = open(away.clone(), &dir).await;
    let mut run = SampleRun::new();
    run.begin(&first).await;
    let second = open(store.clone(), &dir).await;
    let error = second.append(run.key(), &numbered(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    run.append(&first, &numbered(1, 10)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(store.runs(&RunQuery::all()).await.unwrap().is_empty());
    drop(first);
    while store.runs(&RunQuery::all()).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    shipped(&second).await;
    assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), "1-10");
}

#[tokio::test]
async fn a_torn_end_is_cut_and_damage_costs_its_segment_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let away = away();
    let mut run = SampleRun::new();
    {
        let spooled = open(away, &dir).await;
        run.begin(&spooled).await;
        let wide = "x".repeat(60_000);
        let wide = |n: u64| lines(n, [wide.as_str()]);
        for part in 0..200 {
            run.append(&spooled, &[wide(part + 1)]).await;
        }
        run.finish(&spooled).await;
        spooled.close(Duration::ZERO).await.unwrap_err();
    }
    let segments = files(dir.path(), ".segment");
    assert_eq!(segments.len(), 3, "{segments:?}");
    let write = |path: &Path| OpenOptions::new().write(true).open(path).unwrap();
    write(&segments[0]).write_all_at(&[7; 50], 30 * 60_028 + 100).unwrap();
    let last = write(&segments[2]);
    last.set_len(last.metadata().unwrap().len() - 7).unwrap();
    let store = MemoryStore::new();
    let spooled = open(store.clone(), &dir).await;
    shipped(&spooled).await;
    let record = store.lines(run.id(), Lines::ALL).await.unwrap().record;
    let told = shape(&read(&store, run.id(), Lines::ALL).await);
    assert_eq!(told, "1-30 gap 31-70 damaged in the spool; 71-199 gap 200-200 damaged in the spool");
    assert_eq!(record.holes.len(), 2, "{:?}", record.holes);
}

#[tokio::test]
async fn a_lost_cursor_ships_again_and_changes_nothing() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), Sick::default());
    let mut run = SampleRun::new();
    {
        let spooled = open(sick.clone(), &dir).await;
        run.begin(&spooled).await;
        run.append(&spooled, &numbered(1, 100)).await;
        shipped(&spooled).await;
        sick.away.store(true, Ordering::SeqCst);
        run.append(&spooled, &numbered(101, 200)).await;
        run.finish(&spooled).await;
        spooled.close(Duration::ZERO).await.unwrap_err();
    }
    for cursor in files(dir.path(), "shipped.json") {
        std::fs::write(cursor, b"").unwrap();
    }
    sick.away.store(false, Ordering::SeqCst);
    let spooled = open(sick.clone(), &dir).await;
    shipped(&spooled).await;
    assert_eq!(shape(&read(&sick.store, run.id(), Lines::ALL).await), "1-200");
    assert!(verify(&sick.store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
async fn a_full_spool_drops_and_says_which_or_makes_wait() {
    let dir = tempfile::tempdir().unwrap();
    let sick = away();
    let spooled = Spooled::open(sick.clone(), config(&dir).with_max_bytes(2000)).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    let (mut taken, mut dropped) = (0, Vec::new());
    for n in 1..=100 {
        let batch = lines(n, ["a line"]);
        let answer = spooled.append(run.key(), std::slice::from_ref(&batch)).await.unwrap();
        run.print(&[batch]);
        match answer.dropped.as_slice() {
            [] => taken += 1,
            [gap] => {
                assert!(gap.reason.contains("the spool is full"), "{gap:?}");
                dropped.push(gap.clone());
            }
            more => panic!("{more:?}"),
        }
    }
    assert!(taken > 10 && dropped.len() as u64 == 100 - taken, "{taken}");
    run.record.holes = dropped;
    run.finish(&spooled).await;
    sick.away.store(false, Ordering::SeqCst);
    shipped(&spooled).await;
    let told = shape(&read(&sick.store, run.id(), Lines::ALL).await);
    assert!(told.starts_with(&format!("1-{taken} gap {}-", taken + 1)), "{told}");

    let dir = tempfile::tempdir().unwrap();
    sick.away.store(true, Ordering::SeqCst);
    let mut blocks = config(&dir).with_max_bytes(10).with_when_full(WhenFull::Block);
    blocks.call_limit = Duration::from_millis(300);
    let spooled = Spooled::open(sick.clone(), blocks).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    run.append(&spooled, &[lines(1, ["a line"])]).await;
    let error = spooled.append(run.key(), &[lines(2, ["a line"])]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Full && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn refused_lines_are_holes_and_those_to_come_later_come() {
    for refuses in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let odd = Some(LineRange::new(LineNumber::new(3).unwrap(), LineNumber::new(4).unwrap()));
        let sick =
            Sick { refuses: odd.filter(|_| refuses), later: odd.filter(|_| !refuses), ..Sick::default() };
        let spooled = open(sick.clone(), &dir).await;
        let mut run = SampleRun::new();
        run.begin(&spooled).await;
        run.append(&spooled, &[lines(1, ["a", "b", "c", "d", "e"])]).await;
        run.finish(&spooled).await;
        shipped(&spooled).await;
        let told = shape(&read(&sick.store, run.id(), Lines::ALL).await);
        let expected = if refuses { "1-2 gap 3-4 the mapping forbids it; 5-5" } else { "1-5" };
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn a_removed_run_is_shipped_no_more() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), Sick::default());
    sick.away.store(true, Ordering::SeqCst);
    let spooled = Spooled::open(sick.store.clone(), config(&dir)).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    run.append(&spooled, &numbered(1, 10)).await;
    assert!(spooled.remove(run.id()).await.unwrap());
    shipped(&spooled).await;
    assert!(spooled.runs(&RunQuery::all()).await.unwrap().is_empty());
    assert_eq!(runs_in(dir.path()), 0);
}

/// Takes 2,000 lines a second while this is set.
#[derive(Clone)]
struct Slow(MemoryStore, Arc<AtomicBool>);

#[async_trait]
impl OutputSink for Slow {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        for batch in batches {
            if self.1.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_micros(500) * u32::try_from(batch.len()).unwrap()).await;
            }
            self.0.append(run, std::slice::from_ref(batch)).await?;
        }
        Ok(Appended::all())
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[tokio::test]
async fn a_fast_shutdown_leaves_what_was_not_sent_on_the_disk_and_the_next_start_sends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, slow) = (MemoryStore::new(), Arc::new(AtomicBool::new(true)));
    let spooled = Arc::new(open(Slow(store.clone(), Arc::clone(&slow)), &dir).await);
    let fan_out =
        FanOut::new(vec![SinkConfig::required("slow", Arc::clone(&spooled) as Arc<dyn OutputSink>)]);
    let mut sample = SampleRun::new();
    let run = fan_out.begin(&sample.record).await.unwrap();
    for first in (1..=50_000).step_by(500) {
        let batch = lines(first, (first..first + 500).map(|n| format!("line {n}")));
        sample.print(std::slice::from_ref(&batch));
        run.append(&[batch]);
    }
    sample.complete();
    // The job has ended for good: the spool has all of it.
    let report = run.finish(sample.record.clone()).await.unwrap();
    assert!(!report.record.output_incomplete && report.sinks[0].stored == 50_000, "{report:?}");
    drop(run);
    fan_out.close(Duration::from_secs(10)).await.unwrap();
    let started = std::time::Instant::now();
    assert_eq!(spooled.close(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // Never an end with a hole that is not marked: the store says that it runs.
    let there = store.runs(&sample.query()).await.unwrap();
    assert!(there.iter().all(|record| record.status == RunStatus::Running), "{there:?}");
    drop(spooled);
    slow.store(false, Ordering::SeqCst);
    let next = open(Slow(store.clone(), slow), &dir).await;
    shipped(&next).await;
    assert_eq!(shape(&read(&store, sample.id(), Lines::ALL).await), "1-50000");
    assert!(verify(&store, sample.id()).await.unwrap().agrees());
}

#[tokio::test]
async fn what_waits_is_counted_and_damage_is_told_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(verify_spool(dir.path().join("nowhere")).await.unwrap(), []);
    let mut ids = Vec::new();
    {
        let spooled = open(Sick { away: Arc::new(AtomicBool::new(true)), ..Sick::default() }, &dir).await;
        for _ in 0..4 {
            let mut run = SampleRun::new();
            run.begin(&spooled).await;
            run.append(&spooled, &numbered(1, 100)).await;
            ids.push((run.id().clone(), dir.path().join(run.id().as_str())));
        }
        let depth = spooled.depth();
        let waits = verify_spool(dir.path()).await.unwrap();
        assert!(waits.iter().all(|run| run.lines == 100 && run.damage.is_empty() && run.record.is_some()));
        assert_eq!(waits.iter().map(|run| run.bytes).sum::<u64>(), depth.bytes);
    }
    let segment = |at: usize| ids[at].1.join("000000000000.segment");
    let mut damaged = std::fs::read(segment(0)).unwrap();
    damaged[28] ^= 1;
    std::fs::write(segment(0), damaged).unwrap();
    let whole = std::fs::metadata(segment(1)).unwrap().len();
    std::fs::File::options().write(true).open(segment(1)).unwrap().set_len(whole - 1).unwrap();
    std::fs::write(ids[2].1.join("record.json"), "").unwrap();
    let found = verify_spool(dir.path()).await.unwrap();
    let of = |at: usize| found.iter().find(|run| run.run == ids[at].0).unwrap();
    assert_eq!((of(0).lines, of(3).lines, of(3).damage.len()), (0, 100, 0));
    assert!(of(0).damage[0].contains("from 0 on cannot be read"), "{:?}", of(0));
    assert!(of(1).damage[0].contains("are torn"), "{:?}", of(1));
    assert!(of(2).record.is_none() && of(2).damage[0].contains("record"), "{:?}", of(2));
}

#[tokio::test]
async fn what_is_missing_at_the_end_of_a_run_that_has_ended_is_told_and_becomes_a_hole() {
    // Nothing is left; the end is; all is there, and was not stored for want of room.
    for (left, told) in [(0, "1"), (2, "3"), (3, "")] {
        let (dir, sick) = (tempfile::tempdir().unwrap(), away());
        let spooled = open(sick.clone(), &dir).await;
        let mut run = SampleRun::new();
        run.begin(&spooled).await;
        let segment = dir.path().join(run.id().as_str()).join("000000000000.segment");
        let mut ends = vec![0];
        for n in 1..=3 {
            run.append(&spooled, &[lines(n, ["a line"])]).await;
            ends.push(std::fs::metadata(&segment).unwrap().len());
        }
        if left == 3 {
            run.print(&[lines(4, ["dropped"])]);
            run.record.holes = vec![lines(4, ["dropped"]).gap("the spool is full")];
        }
        run.finish(&spooled).await;
        // Once it is closed nobody holds its folder; the store is away, so all of it is left.
        assert!(spooled.close(Duration::ZERO).await.is_err());
        std::fs::File::options().write(true).open(&segment).unwrap().set_len(ends[left]).unwrap();
        let found = verify_spool(dir.path()).await.unwrap().remove(0);
        assert_eq!(found.lines, left as u64);
        match told {
            "" => assert_eq!(found.damage, Vec::<String>::new()),
            first => assert_eq!(
                found.damage,
                [format!("lines {first} to 3, the end of the output, are missing; they become a hole")]
            ),
        }
        sick.away.store(false, Ordering::SeqCst);
        let next = open(sick.clone(), &dir).await;
        shipped(&next).await;
        let record = sick.store.runs(&run.query()).await.unwrap().remove(0);
        let holes: Vec<_> =
            record.holes.iter().map(|hole| (hole.range.first.get(), hole.range.last.get())).collect();
        assert_eq!(holes, [[(1, 3)], [(0, 0)], [(3, 3)], [(4, 4)]][left]);
    }
}

/// Appends lines of 1000 bytes through a spool of 200 kB, as a command prints them; answers how many are stored.
async fn through_a_small_spool(when_full: WhenFull, lines: u64) -> u64 {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let small = config(&dir).with_max_bytes(200_000).with_when_full(when_full);
    let spooled = Arc::new(Spooled::open(store.clone(), small).await.unwrap());
    let sink = Arc::clone(&spooled) as Arc<dyn OutputSink>;
    let fan_out = FanOut::new(vec![SinkConfig::required("small", sink)]);
    let mut run = SampleRun::new();
    let sinks = fan_out.begin(&run.record).await.unwrap();
    for n in 1..=lines {
        let batch = long_line(n, 1000);
        run.print(std::slice::from_ref(&batch));
        sinks.append(&[batch]);
        sinks.room().await;
    }
    sinks.drained().await;
    let account = sinks.accounts().pop().unwrap();
    assert_eq!(account.stored + account.dropped, lines, "{account:?}");
    assert!(spooled.depth().bytes <= 201_000, "{:?}", spooled.depth());
    account.stored
}

#[tokio::test]
async fn a_spool_that_is_full_loses_no_line_of_a_store_that_takes_them() {
    for when_full in [WhenFull::Block, WhenFull::Drop] {
        assert_eq!(through_a_small_spool(when_full, 2_000).await, 2_000, "{when_full:?}");
    }
}

#[tokio::test]
async fn a_spool_that_drops_takes_what_it_has_room_for() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), away());
    let spooled = Spooled::open(sick, config(&dir).with_max_bytes(4_500)).await.unwrap();
    let run = SampleRun::new();
    run.begin(&spooled).await;
    let batches: Vec<_> = (1..=10).map(|n| long_line(n, 1000)).collect();
    let answer = spooled.append(run.key(), &batches).await.unwrap();
    assert!(answer.again.is_empty() && answer.refused.is_empty());
    let dropped: Vec<_> = answer.dropped.iter().map(|gap| gap.range.first.get()).collect();
    assert_eq!(dropped, [5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn who_waits_for_room_in_a_spool_is_told_what_was_taken() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), away());
    let mut soon = config(&dir).with_max_bytes(4_500).with_when_full(WhenFull::Block);
    soon.call_limit = Duration::from_millis(300);
    let spooled = Spooled::open(sick, soon).await.unwrap();
    let run = SampleRun::new();
    run.begin(&spooled).await;
    let batches: Vec<_> = (1..=10).map(|n| long_line(n, 1000)).collect();
    let answer = spooled.append(run.key(), &batches).await.unwrap();
    assert_eq!(answer.left_of(&batches), batches[4..]);
    let error = spooled.append(run.key(), &batches[4..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
}

/// One line of so many bytes.
fn long_line(number: u64, bytes: usize) -> LineBatch {
    let text = format!("{}\n", "x".repeat(bytes - 1));
    let number = LineNumber::new(number).unwrap();
    LineBatch::split(number, Timestamp::now(), Stream::Stdout, text.into(), LineEnd::None).unwrap()
}

#[tokio::test]
async fn a_spool_whose_sink_has_everything_is_never_full_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let small = config(&dir).with_max_bytes(1 << 20).with_when_full(WhenFull::Block);
    let spooled = Spooled::open(MemoryStore::new(), small).await.unwrap();
    // Also of runs that go on, and print little by little.
    for _ in 0..5 {
        let run = SampleRun::new();
        run.begin(&spooled).await;
        for n in 1..=30 {
            while let Err(error) = spooled.append(run.key(), &[long_line(n, 50_000)]).await {
                assert_eq!(error.kind(), ErrorKind::Full);
                shipped(&spooled).await;
            }
        }
        shipped(&spooled).await;
    }
    assert!(spooled.depth().bytes < 1 << 20, "{:?}", spooled.depth());
}

#[tokio::test]
async fn all_that_share_a_spool_keep_to_its_bound_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut spools = Vec::new();
    for _ in 0..4 {
        let spooled = Spooled::open(away(), config(&dir).with_max_bytes(1 << 20)).await.unwrap();
        let run = SampleRun::new();
        run.begin(&spooled).await;
        for n in 1..=40 {
            spooled.append(run.key(), &[long_line(n, 50_000)]).await.unwrap();
        }
        spools.push(spooled);
    }
    let waits = verify_spool(dir.path()).await.unwrap();
    assert!(waits.iter().map(|run| run.bytes).sum::<u64>() <= 1 << 20, "{waits:?}");
}

#[tokio::test]
async fn a_process_that_always_has_something_to_ship_takes_over_what_another_left() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let busy = open(store.clone(), &dir).await;
    let dead = open(away(), &dir).await;
    let left = SampleRun::written(&dead, &numbered(1, 5)).await;
    drop(dead);
    let run = SampleRun::new();
    run.begin(&busy).await;
    let began = tokio::time::Instant::now();
    for n in 1.. {
        busy.append(run.key(), &numbered(n, n)).await.unwrap();
        if store.runs(&RunQuery::of_run(left.id().clone())).await.unwrap().len() == 1 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it is not shipped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_just_now_is_not_told_as_shipped() {
    let (dir, sick) = (tempfile::tempdir().unwrap(), away());
    let spooled = open(sick.clone(), &dir).await;
    let run = SampleRun::written(&spooled, &numbered(1, 5)).await;
    // A link is not followed.
    let segment = dir.path().join(run.id().as_str()).join("000000000000.segment");
    let aside = segment.with_file_name("aside");
    std::fs::rename(&segment, &aside).unwrap();
    std::os::unix::fs::symlink("aside", &segment).unwrap();
    sick.away.store(false, Ordering::SeqCst);
    let error = spooled.close(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    std::fs::rename(&aside, &segment).unwrap();
    let spooled = open(sick.clone(), &dir).await;
    shipped(&spooled).await;
    assert!(verify(&sick.store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
async fn a_begin_that_failed_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let spooled = open(away(), &dir).await;
    let run = SampleRun::new();
    std::fs::write(dir.path().join(run.id().as_str()), "in the way").unwrap();
    spooled.begin(&run.record).await.unwrap_err();
    assert_eq!(spooled.depth().runs, 0);
}

/// The folder of a store that is away, as where nothing is mounted, is not a store that has lost its runs.
#[tokio::test]
async fn what_waits_for_a_store_in_a_folder_that_is_away_stays_in_the_spool() {
    let (dir, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = FileStore::connect(FileStoreConfig::new(far.path())).await.unwrap();
    let mut run = SampleRun::new();
    {
        let spooled = open(store, &dir).await;
        run.begin(&spooled).await;
        run.append(&spooled, &numbered(1, 5)).await;
        shipped(&spooled).await;
    }
    let mounted = far.path().with_extension("mounted");
    std::fs::rename(far.path(), &mounted).unwrap();
    std::fs::create_dir(far.path()).unwrap();
    let connect = || FileStore::connect(FileStoreConfig::new(far.path()));
    {
        let spooled = open(connect().await.unwrap(), &dir).await;
        run.append(&spooled, &numbered(6, 10)).await;
        run.finish(&spooled).await;
        spooled.close(Duration::from_millis(300)).await.unwrap_err();
    }
    std::fs::remove_dir_all(far.path()).unwrap();
    std::fs::rename(&mounted, far.path()).unwrap();
    let spooled = open(connect().await.unwrap(), &dir).await;
    shipped(&spooled).await;
    assert!(verify(&connect().await.unwrap(), run.id()).await.unwrap().agrees());
}

#[tokio::test]
async fn a_spool_of_a_newer_version_is_refused_by_name_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let spooled = open(away(), &dir).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    run.append(&spooled, &numbered(1, 3)).await;
    drop(spooled);
    let format = dir.path().join("format.json");
    let ours = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, ours.replace("\"version\":1", "\"version\":2")).unwrap();
    // What a removal left is no less the newer version's.
    std::fs::create_dir(dir.path().join(".gone-1")).unwrap();
    let sink = Sick::default();
    let refused = [
        Spooled::open(sink.clone(), config(&dir)).await.unwrap_err(),
        Spooled::open_store(MemoryStore::new(), config(&dir)).await.unwrap_err(),
        verify_spool(dir.path()).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::TooNew, "{}", error.chain());
        assert!(error.to_string().contains("version=2"), "{error}");
    }
    assert_eq!((runs_in(dir.path()), files(dir.path(), ".segment").len()), (2, 1));
    assert_eq!(sink.calls.load(Ordering::SeqCst), 0);
    // One that says none is of the time before versions.
    std::fs::remove_file(&format).unwrap();
    let spooled = open(sink.clone(), &dir).await;
    shipped(&spooled).await;
    assert_eq!(shape(&read(&sink.store, run.id(), Lines::ALL).await), "1-3");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), ours);
}

#[tokio::test]
async fn the_end_of_a_run_puts_every_segment_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
        let spooled = Spooled::open(away(), config(&dir).with_durability(durability)).await.unwrap();
        let mut run = SampleRun::new();
        run.begin(&spooled).await;
        let long = "x".repeat(60_000);
        for n in 0..150 {
            run.append(&spooled, &[lines(n + 1, [long.as_str()])]).await;
        }
        let mut next = run.record.clone();
        next.revision += 1;
        let segments = files(dir.path(), ".segment");
        let segments: Vec<_> =
            segments.iter().filter(|path| path.to_str().unwrap().contains(run.id().as_str())).collect();
        assert!(segments.len() > 2, "{segments:?}");
        for segment in segments {
            // One that cannot be opened cannot be put on the disk, and then the run has not ended.
            let aside = segment.with_extension("aside");
            std::fs::rename(segment, &aside).unwrap();
            std::os::unix::fs::symlink(&aside, segment).unwrap();
            let error = spooled.finish(&next).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{segment:?}");
            std::fs::rename(&aside, segment).unwrap();
        }
        run.finish(&spooled).await;
    }
}
