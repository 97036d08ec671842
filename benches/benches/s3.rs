//! The store in a bucket beside what it is made of: bare zstd, bare puts, gets and loops over the same blocks.
//!
//! What is about requests goes to a server on the machine's own cores; what is about bytes to a bucket in memory. Limits
//! and ours have the same.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

#[path = "s3/counted.rs"]
mod counted;
#[path = "s3/raw.rs"]
mod raw;

use std::sync::Arc;
use std::time::{Duration, Instant};

use counted::Counted;
use criterion::{Criterion, criterion_group, criterion_main};
use futures::StreamExt as _;
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use pubsub_pipeline::{
    ActionId, EventId, LineBatch, LineEnd, LineNumber, LineRange, Lines, OutputReader as _, OutputSink as _,
    RunId, RunKey, RunQuery, RunRecord, S3Store, S3StoreConfig, Search, Stage, Stream, Timestamp,
};
use pubsub_pipeline_benches::{Awaited, Curve, Row, Target, are_curves, runtime, sizes};
use services::S3;
use tokio::runtime::Runtime;

/// As a build prints: one line in a thousand has an error, and one in all is rare.
const LINE_BYTES: u64 = 121;

/// As capture hands lines on.
const BATCH: u64 = 500;

/// Of one append: a mebibyte.
const APPEND_BATCHES: usize = 17;

/// What is written in one pass, in bytes.
const WRITTEN: u64 = 64 << 20;

/// What is searched, in bytes.
const SEARCHED: u64 = 1 << 30;

/// How many appends of several runs, and how many bare puts, are under way at once.
const AT_ONCE: usize = 4;

fn line(n: u64, of: u64) -> String {
    let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let what = match n {
        n if n == of / 2 => "the needle of all",
        n if n.is_multiple_of(1000) => "error: it does not",
        _ => "compiled in time",
    };
    let unit = hash >> 32;
    let line = format!("[{n:>9}] unit {unit:08x} of target {}: {what}, {} ms", hash % 977, hash % 4999);
    let width = usize::try_from(LINE_BYTES - 1).unwrap();
    format!("{line:.<width$}\n")
}

fn batches(bytes: u64) -> Vec<LineBatch> {
    let lines = bytes / LINE_BYTES;
    let batch = |first: u64| {
        let text: String = (first..(first + BATCH).min(lines + 1)).map(|n| line(n, lines)).collect();
        let time = Timestamp::EPOCH.plus(Duration::from_micros(first * 37));
        LineBatch::split(LineNumber::new(first).unwrap(), time, Stream::Stdout, text.into(), LineEnd::None)
            .unwrap()
    };
    (1..=lines).step_by(500).map(batch).collect()
}

fn record() -> RunRecord {
    let key = RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
    RunRecord::begun(key, "bench")
}

async fn append_all(store: &S3Store, record: &RunRecord, batches: &[LineBatch]) {
    store.begin(record).await.unwrap();
    append_begun(store, record, batches).await;
}

async fn append_begun(store: &S3Store, record: &RunRecord, batches: &[LineBatch]) {
    for append in batches.chunks(APPEND_BATCHES) {
        store.append(&record.key, append).await.unwrap();
    }
}

fn in_memory(bucket: &Arc<InMemory>) -> S3Store {
    S3Store::on(Arc::clone(bucket) as Arc<dyn ObjectStore>, "", S3StoreConfig::new("memory:///")).unwrap()
}

/// What a segment costs beside the compression.
fn compressing(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for bytes in sizes(WRITTEN, [WRITTEN / 8, WRITTEN * 4]) {
        let batches = batches(bytes);
        let (id, target) = ("s3-compression", Target::Speed(0.6));
        Row { id, size: bytes, unit: "bytes", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| {
                let begun = Instant::now();
                batches.chunks(APPEND_BATCHES).for_each(|append| drop(raw::compressed(append)));
                begun.elapsed()
            })
            .ours(|| {
                let store = in_memory(&Arc::default());
                let begun = Instant::now();
                runtime.block_on(append_all(&store, &record(), &batches));
                begun.elapsed()
            });
    }
}

/// Output into a bucket, several runs at once, beside bare puts of the same bytes.
fn writing(criterion: &mut Criterion) {
    let (runtime, server) = (runtime(), S3::start().unwrap());
    let config = S3StoreConfig::from_url(&server.url()).unwrap();
    let store = runtime.block_on(S3Store::connect(config)).unwrap();
    let bare = raw::bucket(&server);
    for bytes in sizes(WRITTEN, [WRITTEN / 8, WRITTEN * 2]) {
        let batches = Arc::new(batches(bytes / AT_ONCE as u64));
        let (id, target) = ("s3-output-bytes", Target::Speed(0.85));
        let of_raw = |run: usize| {
            let (bare, batches) = (Arc::clone(&bare), Arc::clone(&batches));
            async move { raw::put_all(&*bare, run, batches.chunks(APPEND_BATCHES)).await }
        };
        let of_ours = |_| {
            let (store, batches, record) = (store.clone(), Arc::clone(&batches), record());
            runtime.block_on(store.begin(&record)).unwrap();
            async move { append_begun(&store, &record, &batches).await }
        };
        Row { id, size: bytes, unit: "bytes", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| timed(&runtime, (0..AT_ONCE).map(of_raw)))
            .ours(|| timed(&runtime, (0..AT_ONCE).map(of_ours)));
    }
}

/// How long all of these take, each in a task.
fn timed<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    works: impl Iterator<Item = F>,
) -> Duration {
    let works: Vec<F> = works.collect();
    runtime.block_on(async {
        let begun = Instant::now();
        join_all(works.into_iter().map(tokio::spawn)).await.into_iter().for_each(Result::unwrap);
        begun.elapsed()
    })
}

/// An archived run, beside a loop over its blocks.
fn searching(criterion: &mut Criterion) {
    let runtime = runtime();
    for bytes in sizes(SEARCHED, [16 << 20, 128 << 20]) {
        let (bucket, record) = (Arc::<InMemory>::default(), record());
        let store = in_memory(&bucket);
        let run = record.key.run_id.clone();
        runtime.block_on(async {
            append_all(&store, &record, &batches(bytes)).await;
            let mut ended = record.clone();
            ended.revision += 1;
            ended.status = pubsub_pipeline::RunStatus::Completed;
            store.finish(&ended).await.unwrap();
            store.compact(&run).await.unwrap();
        });
        let segments = runtime.block_on(raw::segments(&bucket));
        for (id, search) in [
            ("s3-search-alternatives", Search::regex("error|exception").unwrap()),
            ("s3-search-rare-literal", Search::literal("the needle of all").unwrap()),
        ] {
            let hits = found(&runtime, &store, &run, &search).0;
            Row { id, size: bytes, unit: "bytes", target: Target::Speed(0.7), curve: Curve::OverSize }
                .measure(criterion)
                .limit(|| raw::searched(&segments, search.as_regex().as_str(), hits))
                .ours(|| found(&runtime, &store, &run, &search).1);
        }
        if bytes == SEARCHED {
            bytes_read(criterion, &runtime, &bucket, &run);
        }
    }
}

/// How many bytes a search for a rare text reads, by a store that knows nothing of the run, of those that there are.
fn bytes_read(criterion: &mut Criterion, runtime: &Runtime, bucket: &Arc<InMemory>, run: &RunId) {
    let stored: usize = runtime.block_on(raw::segments(bucket)).iter().map(bytes::Bytes::len).sum();
    let (id, target) = ("s3-search-bytes-read", Target::Share(0.05));
    Row { id, size: SEARCHED, unit: "bytes", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| Duration::from_nanos(stored as u64))
        .ours(|| {
            let counted = Arc::new(Counted::new(Arc::clone(bucket)));
            let of_counted = Arc::clone(&counted) as Arc<dyn ObjectStore>;
            let store = S3Store::on(of_counted, "", S3StoreConfig::new("memory:///")).unwrap();
            let search = Search::literal("the needle of all").unwrap();
            assert_eq!(found(runtime, &store, run, &search).0, 1);
            Duration::from_nanos(counted.take())
        });
}

/// Hits, and how long all of them took.
fn found(runtime: &Runtime, store: &S3Store, run: &RunId, search: &Search) -> (u64, Duration) {
    let (store, run, search) = (store.clone(), run.clone(), search.clone());
    Awaited::InTask.run(runtime, async move {
        let begun = Instant::now();
        let mut hits = store.search(&RunQuery::of_run(run), &search).await.unwrap();
        let mut many = 0;
        while let Some(hit) = hits.next().await {
            hit.unwrap();
            many += 1;
        }
        (many, begun.elapsed())
    })
}

/// One line out of an archived run, beside a bare get of as many bytes.
fn one_line(criterion: &mut Criterion) {
    if are_curves() {
        return;
    }
    let (runtime, server) = (runtime(), S3::start().unwrap());
    let config = S3StoreConfig::from_url(&server.url()).unwrap();
    let store = runtime.block_on(S3Store::connect(config)).unwrap();
    let (record, bare) = (record(), raw::bucket(&server));
    let lines = WRITTEN / LINE_BYTES;
    let run = record.key.run_id.clone();
    runtime.block_on(async {
        append_all(&store, &record, &batches(WRITTEN)).await;
        let mut ended = record.clone();
        ended.revision += 1;
        ended.status = pubsub_pipeline::RunStatus::Completed;
        store.finish(&ended).await.unwrap();
        store.compact(&run).await.unwrap();
    });
    let (key, size) = runtime.block_on(raw::largest(&*bare, &run));
    let mut asked = 0_u64;
    let (id, target) = ("s3-one-line", Target::Cost(2.5));
    Row { id, size: 1, unit: "line", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| runtime.block_on(raw::ranged(&*bare, &key, size)))
        .ours(|| {
            asked = asked.wrapping_add(7_919);
            let number = LineNumber::new(asked % lines + 1).unwrap();
            runtime.block_on(async {
                let begun = Instant::now();
                let asked = Lines::Range(LineRange::new(number, number));
                let output = store.lines(&run, asked).await.unwrap();
                assert_eq!(output.items.count().await, 1);
                begun.elapsed()
            })
        });
}

criterion_group!(benches, compressing, writing, searching, one_line);
criterion_main!(benches);
