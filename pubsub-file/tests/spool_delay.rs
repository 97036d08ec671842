//! A spool that gathers lines for a sink that is billed by its calls.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pubsub_core::conformance::store::{SampleRun, lines};
use pubsub_core::{Appended, LineBatch, MemoryStore, OutputSink, Result, RunKey, RunRecord};
use pubsub_file::{SpoolConfig, Spooled};
use tempfile::TempDir;
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// Notes how many bytes each append brings, and when.
#[derive(Clone, Default)]
struct Noted {
    store: MemoryStore,
    appends: Arc<Mutex<Vec<(usize, Instant)>>>,
    told: Arc<Notify>,
}

impl Noted {
    fn sizes(&self) -> Vec<usize> {
        self.appends.lock().unwrap().iter().map(|(bytes, _)| *bytes).collect()
    }

    /// When the first one came.
    async fn first(&self) -> Instant {
        let first = async {
            loop {
                let told = self.told.notified();
                let first = self.appends.lock().unwrap().first().map(|(_, at)| *at);
                match first {
                    Some(at) => return at,
                    None => told.await,
                }
            }
        };
        tokio::time::timeout(LONG, first).await.expect("lines are shipped")
    }
}

#[async_trait]
impl OutputSink for Noted {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.store.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if !batches.is_empty() {
            let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
            self.appends.lock().unwrap().push((bytes, Instant::now()));
            self.told.notify_waiters();
        }
        self.store.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.store.finish(record).await
    }
}

async fn open(sink: &Noted, dir: &TempDir, delay: Duration) -> Spooled<Noted> {
    Spooled::open(sink.clone(), SpoolConfig::new(dir.path()).with_delay(delay)).await.unwrap()
}

async fn shipped(spooled: &Spooled<Noted>) {
    tokio::time::timeout(LONG, spooled.shipped()).await.expect("everything is shipped");
}

#[tokio::test]
async fn a_sink_that_asks_for_a_delay_gets_large_appends_and_the_rest_at_the_end() {
    let (dir, sink) = (tempfile::tempdir().unwrap(), Noted::default());
    let spooled = open(&sink, &dir, HOUR).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    let text = "x".repeat(8 << 10);
    for n in 1..=300 {
        run.append(&spooled, &[lines(n, [text.as_str()])]).await;
    }
    run.finish(&spooled).await;
    shipped(&spooled).await;
    let sizes = sink.sizes();
    let (last, whole) = sizes.split_last().unwrap();
    assert!(whole.iter().all(|bytes| *bytes > 900 << 10), "{sizes:?}");
    assert!(*last > 0 && sizes.len() <= 4, "{sizes:?}");
}

#[tokio::test]
async fn lines_that_are_gathered_go_once_their_time_is_over() {
    const DELAY: Duration = Duration::from_millis(300);
    let (dir, sink) = (tempfile::tempdir().unwrap(), Noted::default());
    let spooled = open(&sink, &dir, DELAY).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    let begun = Instant::now();
    run.append(&spooled, &[lines(1, ["one"])]).await;
    run.append(&spooled, &[lines(2, ["two"])]).await;
    assert!(sink.first().await.duration_since(begun) >= DELAY);
    shipped(&spooled).await;
    assert_eq!(sink.sizes(), [8]);
}

#[tokio::test]
async fn who_waits_for_what_is_gathered_has_it_shipped_at_once() {
    let (dir, sink) = (tempfile::tempdir().unwrap(), Noted::default());
    let spooled = open(&sink, &dir, HOUR).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    run.append(&spooled, &[lines(1, ["one"])]).await;
    shipped(&spooled).await;
    assert_eq!(sink.sizes(), [4]);
    run.append(&spooled, &[lines(2, ["two"])]).await;
    spooled.close(LONG).await.unwrap();
    assert_eq!(sink.sizes(), [4, 4]);
}

#[tokio::test]
async fn what_is_gathered_makes_room_where_the_spool_is_full() {
    let (dir, sink) = (tempfile::tempdir().unwrap(), Noted::default());
    let config = SpoolConfig::new(dir.path()).with_delay(HOUR).with_max_bytes(300 << 10);
    let spooled = Spooled::open(sink.clone(), config).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    let text = "x".repeat(60 << 10);
    for n in 1..=20 {
        run.append(&spooled, &[lines(n, [text.as_str()])]).await;
    }
    shipped(&spooled).await;
    assert_eq!(sink.sizes().iter().sum::<usize>(), 20 * (text.len() + 1));
}
