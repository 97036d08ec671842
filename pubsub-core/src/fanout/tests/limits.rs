//! A store that takes a call and never answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Fake, batch, ended, record};
use crate::{
    Appended, Backoff, DEFAULT_CALL_LIMIT, FanOut, LineBatch, OutputSink, Result, RunKey, RunRecord,
    SinkConfig,
};

/// Leaves the first calls of each kind without an answer.
struct Deaf {
    inner: Arc<Fake>,
    unanswered: u32,
    begins: AtomicU32,
    appends: AtomicU32,
    finishes: AtomicU32,
}

impl Deaf {
    fn new(unanswered: u32) -> Arc<Self> {
        let calls = AtomicU32::default;
        Arc::new(Self {
            inner: Fake::good(),
            unanswered,
            begins: calls(),
            appends: calls(),
            finishes: calls(),
        })
    }

    async fn hear(&self, calls: &AtomicU32) {
        if calls.fetch_add(1, Ordering::SeqCst) < self.unanswered {
            std::future::pending::<()>().await;
        }
    }

    fn config(self: &Arc<Self>) -> SinkConfig {
        SinkConfig::required("deaf", Arc::clone(self) as Arc<dyn OutputSink>)
            .with_delay(Duration::ZERO)
            .with_backoff(Backoff::fixed(Duration::from_secs(1)))
    }
}

#[async_trait]
impl OutputSink for Deaf {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.hear(&self.begins).await;
        self.inner.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.hear(&self.appends).await;
        self.inner.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.hear(&self.finishes).await;
        self.inner.finish(record).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_is_given_up_and_repeated() {
    let sink = Deaf::new(1);
    let fan_out = FanOut::new(vec![sink.config()]);
    let (record, started) = (record(), Instant::now());
    let run = fan_out.begin(&record).await.unwrap();
    // Half of a back-off is by chance.
    let (least, most) =
        (DEFAULT_CALL_LIMIT + Duration::from_millis(500), DEFAULT_CALL_LIMIT + Duration::from_secs(2));
    assert!((least..most).contains(&started.elapsed()), "{:?}", started.elapsed());
    run.append(&[batch(1, 100)]);
    let report = run.finish(ended(record)).await.unwrap();
    assert_eq!((report.sinks[0].stored, report.record.output_incomplete), (100, false));
    assert_eq!(sink.inner.numbers(), (1..=100).collect::<Vec<_>>());
    assert_eq!(sink.finishes.load(Ordering::SeqCst), 2);
    assert!((3 * least..3 * most).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_record_of_another_worker_is_given_up_and_repeated_as_well() {
    let sink = Deaf::new(2);
    let fan_out = FanOut::new(vec![sink.config().with_call_limit(Duration::from_secs(5))]);
    let started = Instant::now();
    fan_out.finish_record(&record()).await.unwrap();
    assert_eq!(sink.finishes.load(Ordering::SeqCst), 3);
    assert!(started.elapsed() < Duration::from_secs(13), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_too_slow_for_what_an_append_brings_gets_less_at_a_time() {
    // 10 lines a second: 10,000 lines need much longer than one call may take.
    let sink = Arc::new(Fake { slow: Duration::from_millis(100), ..Arc::into_inner(Fake::good()).unwrap() });
    let config = SinkConfig::required("slow", Arc::clone(&sink) as Arc<dyn OutputSink>)
        .with_call_limit(Duration::from_secs(10));
    let fan_out = FanOut::new(vec![config]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 500), batch(501, 500)]);
    let report =
        tokio::time::timeout(Duration::from_secs(3600), run.finish(ended(record))).await.unwrap().unwrap();
    assert_eq!((report.sinks[0].stored, report.record.output_incomplete), (1000, false));
    assert_eq!(sink.numbers(), (1..=1000).collect::<Vec<_>>());
}
