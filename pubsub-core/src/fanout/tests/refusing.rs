//! Lines that a sink refuses for good are kept, and a sink that fails is probed by one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Fake, Said, batch, config, ended, range, record};
use crate::{
    Appended, Backoff, Error, ErrorKind, FanOut, Gap, LineBatch, MemoryRefusedLines, MemoryStore,
    OutputReader, OutputSink, Refused, RefusedLines, Result, Retention, RunId, RunKey, RunQuery, RunRecord,
    SinkConfig,
};

fn refuses(lines: crate::LineRange, reason: &'static str) -> Arc<Fake> {
    Fake::new(move |_, batches| {
        let hit = batches.iter().filter_map(|b| b.slice(lines)).map(|b| b.gap(reason));
        Ok(hit.fold(Appended::all(), Appended::with_refused))
    })
}

fn kept_in(sink: SinkConfig, lines: &MemoryRefusedLines) -> SinkConfig {
    sink.with_refused_lines(Arc::new(lines.clone()))
}

#[tokio::test(start_paused = true)]
async fn what_one_sink_refuses_is_kept_with_its_bytes_and_the_reason() {
    let (bad, good) = (refuses(range(601, 700), "mapping"), Fake::good());
    let kept = MemoryRefusedLines::new(1 << 20);
    let fan_out =
        FanOut::new(vec![kept_in(config("bad", &bad), &kept), kept_in(config("good", &good), &kept)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..10 {
        run.append(&[batch(n * 100 + 1, 100)]);
    }
    let report = run.finish(ended(record.clone())).await.unwrap();
    let refused = kept.list(None, 100).await.unwrap();
    let told: Vec<_> = refused.iter().map(|r| (r.sink.as_str(), r.run.clone(), r.reason.as_str())).collect();
    assert_eq!(told, [("bad", record.key, "mapping")]);
    assert_eq!(refused[0].lines, batch(601, 100));
    assert_eq!(report.sinks[0].holes, [batch(601, 100).gap("mapping")]);
    assert!(report.sinks.iter().all(super::super::SinkAccount::balances));
}

#[tokio::test(start_paused = true)]
async fn the_lines_of_a_run_that_was_removed_are_dropped_and_kept_nowhere() {
    let removed = |_: u32, batches: &[LineBatch]| match batches[0].first().get() {
        1 => Ok(Appended::all()),
        _ => Err(Error::new(ErrorKind::NotFound, "the run was removed")),
    };
    let kept = MemoryRefusedLines::new(1 << 20);
    let fan_out = FanOut::new(vec![kept_in(config("far", &Fake::new(removed)), &kept)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 10)]);
    run.drained().await;
    run.append(&[batch(11, 10)]);
    let report = run.finish(ended(record)).await.unwrap();
    let account = &report.sinks[0];
    assert_eq!((account.stored, account.dropped, account.dead_lettered), (10, 10, 0));
    assert!(report.record.output_incomplete && account.balances());
    assert_eq!(account.holes, [batch(11, 10).gap("dropped: the run was removed here")]);
    assert_eq!(kept.list(None, 1).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_removed_is_brought_back_by_no_sign_of_life_and_no_end() {
    let store = MemoryStore::new();
    let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(store.clone()))]);
    let mut record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 10)]);
    run.drained().await;
    assert!(store.remove(&record.key.run_id).await.unwrap());
    record.beat(record.counts);
    run.update(&record);
    run.append(&[batch(11, 10)]);
    run.drained().await;
    let report = run.finish(ended(record.clone())).await.unwrap();
    assert_eq!((report.sinks[0].stored, report.sinks[0].dropped), (10, 10));
    record.conclude();
    run.finish(record).await.unwrap();
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_lines_of_a_run_that_a_sink_refuses_as_a_whole_are_kept() {
    let begin = std::sync::Mutex::new(vec![Error::new(ErrorKind::Invalid, "no such index")]);
    let sink = Arc::new(Fake { begin, ..Arc::into_inner(Fake::good()).unwrap() });
    let kept = MemoryRefusedLines::new(1 << 20);
    let fan_out = FanOut::new(vec![kept_in(config("bad", &sink), &kept)]);
    let record = record();
    let run = fan_out.begin_where_taken(&record).await.unwrap();
    run.append(&[batch(1, 10)]);
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!((report.sinks[0].dead_lettered, report.sinks[0].waiting), (10, 0));
    let refused = kept.list(None, 9).await.unwrap();
    assert_eq!((&refused[0].lines, refused[0].reason.as_str()), (&batch(1, 10), "no such index: invalid"));
}

/// Keeps nothing.
#[derive(Debug)]
struct Useless {
    answers: bool,
}

#[async_trait]
impl RefusedLines for Useless {
    async fn keep(&self, _: &[Refused]) -> Result<()> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Err(Error::new(ErrorKind::Refused, "keep refused lines"))
    }

    async fn list(&self, _: Option<&RunId>, _: usize) -> Result<Vec<Refused>> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &RunId) -> Result<bool> {
        Ok(false)
    }
}

/// All lines of a run are refused one batch after the other; answers the reason of the one hole, and the warnings.
async fn unkept(lines: Arc<dyn RefusedLines>) -> (String, usize) {
    let said = Said::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    let sink = Fake::new(|_, _| Err(Error::new(ErrorKind::Invalid, "odd")));
    let fan_out = FanOut::new(vec![config("bad", &sink).with_refused_lines(lines)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    for n in 0..5 {
        run.append(&[batch(n * 100 + 1, 100)]);
        run.drained().await;
    }
    let report = run.finish(ended(record)).await.unwrap();
    let account = &report.sinks[0];
    assert!(account.balances() && account.dead_lettered == 500, "{account:?}");
    assert_eq!(sink.last_record().holes, account.holes);
    assert_eq!(account.holes.len(), 1, "{account:?}");
    let reason = account.holes[0].reason.clone();
    drop(run);
    fan_out.close(Duration::from_secs(1)).await.unwrap();
    drop(fan_out);
    (reason, said.count(tracing::Level::WARN))
}

#[tokio::test(start_paused = true)]
async fn where_refused_lines_cannot_be_kept_it_is_said_once_and_in_the_record() {
    let (reason, warnings) = unkept(Arc::new(MemoryRefusedLines::new(100))).await;
    assert_eq!(
        (reason.as_str(), warnings),
        ("odd: invalid; not kept: keep refused lines: full", 3),
        "refused, not kept, the rest"
    );
    let (reason, warnings) = unkept(Arc::new(Useless { answers: true })).await;
    assert_eq!(
        (reason.as_str(), warnings),
        ("odd: invalid; not kept: keep refused lines: refused", 3),
        "refused, not kept, the rest"
    );
    let (reason, warnings) = unkept(Arc::new(Useless { answers: false })).await;
    assert!(reason.starts_with("odd: invalid; not kept: ") && reason.ends_with("timed out"), "{reason}");
    // Each of five batches waits longer than the log is silent about refused lines.
    assert_eq!(warnings, 6);
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_has_no_room_for_is_dropped_and_not_dead_lettered() {
    let sink = Fake::new(|_, batches| {
        let gap = |range, reason: &str| Gap { range, bytes: None, reason: reason.into() };
        let _ = batches;
        Ok(Appended::all().with_dropped(gap(range(3, 5), "full")).with_refused(gap(range(5, 6), "odd")))
    });
    let kept = MemoryRefusedLines::new(1 << 20);
    let fan_out = FanOut::new(vec![kept_in(config("small", &sink), &kept)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 10)]);
    let report = run.finish(ended(record)).await.unwrap();
    let account = &report.sinks[0];
    assert!(account.balances() && report.record.output_incomplete, "{account:?}");
    assert_eq!((account.stored, account.dropped, account.dead_lettered), (6, 3, 1));
    let told: Vec<_> = account.holes.iter().map(|hole| (hole.range, hole.reason.as_str())).collect();
    assert_eq!(told, [(range(3, 5), "full"), (range(6, 6), "odd")]);
    assert_eq!(kept.list(None, 9).await.unwrap()[0].lines.range(), range(6, 6));
}

/// How a sink fails while it is down.
#[derive(Clone, Copy, Debug)]
enum Down {
    Refused,
    Deaf,
    WantsAllAgain,
}

/// Counts the calls of all kinds that are under way.
struct Counting {
    inner: Arc<Fake>,
    down: Down,
    up: Arc<AtomicBool>,
    under_way: AtomicUsize,
    most: AtomicUsize,
    calls: AtomicUsize,
}

impl Counting {
    async fn pass(&self) -> Result<()> {
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        // Also where the call is dropped.
        let _done = scopeguard(&self.under_way);
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(under_way, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if self.up.load(Ordering::SeqCst) {
            return Ok(());
        }
        match self.down {
            Down::Deaf => std::future::pending().await,
            _ => Err(Error::new(ErrorKind::Unavailable, "503")),
        }
    }
}

fn scopeguard(count: &AtomicUsize) -> impl Drop + '_ {
    struct Done<'a>(&'a AtomicUsize);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Done(count)
}

#[async_trait]
impl OutputSink for Counting {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.pass().await?;
        self.inner.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        match self.pass().await {
            Err(_) if matches!(self.down, Down::WantsAllAgain) => {
                Ok(batches.iter().fold(Appended::all(), |all, batch| all.with_again(batch.range())))
            }
            passed => {
                passed?;
                self.inner.append(run, batches).await
            }
        }
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.pass().await?;
        self.inner.finish(record).await
    }
}

#[tokio::test(start_paused = true)]
async fn ten_runs_probe_a_sink_that_is_down_with_one_call_at_a_time() {
    for down in [Down::Refused, Down::Deaf, Down::WantsAllAgain] {
        let up = Arc::new(AtomicBool::new(true));
        let sink = Arc::new(Counting {
            inner: Fake::good(),
            down,
            up: Arc::clone(&up),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
        });
        let backoff = Backoff { cap: Duration::from_secs(1), ..Backoff::default() };
        let config = SinkConfig::required("down", Arc::clone(&sink) as Arc<dyn OutputSink>);
        let config = config.with_backoff(backoff).with_call_limit(Duration::from_secs(2));
        let fan_out = FanOut::new(vec![config]);
        let mut runs = Vec::new();
        for _ in 0..10 {
            let record = record();
            runs.push((fan_out.begin(&record).await.unwrap(), record));
        }
        up.store(false, Ordering::SeqCst);
        // The calls that meet before the first of them has failed are one for each run.
        let print = |from: u64| runs.iter().for_each(|(run, _)| run.append(&[batch(from, 50)]));
        print(1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (calls, waited) = (sink.calls.load(Ordering::SeqCst), Duration::from_secs(60));
        sink.most.store(0, Ordering::SeqCst);
        for (n, (run, record)) in (0..).zip(&runs) {
            if n % 2 == 0 {
                run.update(&ended(record.clone()));
            }
        }
        print(51);
        tokio::time::sleep(waited).await;
        assert_eq!(sink.most.load(Ordering::SeqCst), 1, "{down:?}: one probe for all runs");
        let probes = sink.calls.load(Ordering::SeqCst) - calls;
        assert!((15..=130).contains(&probes), "{down:?}: {probes} probes in {waited:?}");
        up.store(true, Ordering::SeqCst);
        for (run, record) in &runs {
            let mut record = record.clone();
            record.revision += 2;
            let report = run.finish(record).await.unwrap();
            assert_eq!(report.sinks[0].stored, 100, "{down:?}");
        }
        assert!(sink.inner.runs_are_in_order());
    }
}
