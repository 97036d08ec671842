//! Lines into the store in OpenSearch beside bulk requests made by hand: the same server, documents, batches, compression.
//!
//! The server runs on the machine's own cores, for the limits as for ours.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

#[path = "elastic/raw.rs"]
mod raw;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use futures::StreamExt as _;
use pubsub_pipeline::{
    Appended, ElasticStore, ElasticStoreConfig, EventId, LineBatch, LineEnd, LineNumber, OutputReader as _,
    OutputSink as _, RunKey, RunQuery, RunRecord, RunStatus, Search, SearchIndex, Stage, Stream, Timestamp,
};
use pubsub_pipeline_benches::{Curve, Row, Target, are_curves, runtime, shipper, sizes};
use services::{OpenSearch, SearchEngine, ShipTo, Shipper};
use store_elastic::measuring;
use tokio::runtime::Runtime;

/// Of one pass, where the table has it: two appends.
const LINES: u64 = 30_720;

/// Of a run that is searched.
const SEARCHED: u64 = 100_000;

/// As capture hands lines on, and how many of those a fan-out gives at once: a mebibyte.
const BATCH: u64 = 512;
const BATCHES: usize = 30;

/// How many of those one request has: a mebibyte of documents.
const REQUEST: usize = 6;

/// A line as programs print it.
fn text(n: u64) -> String {
    let hash = n.wrapping_mul(2_654_435_761) & 0xffff_ffff;
    format!("[{n:>8}] INFO worker {} handled request {hash:08x} in {} ms", n % 7, n % 97)
}

fn texts(lines: std::ops::Range<u64>) -> String {
    lines.map(|n| text(n) + "\n").collect()
}

fn batches(lines: u64) -> Vec<LineBatch> {
    let batch = |first: u64| {
        let texts = texts(first..lines.min(first + BATCH));
        let number = LineNumber::new(first + 1).unwrap();
        LineBatch::split(number, Timestamp::now(), Stream::Stdout, texts.into(), LineEnd::Lf).unwrap()
    };
    (0..lines).step_by(512).map(batch).collect()
}

fn key() -> RunKey {
    RunKey::new("action-123".parse().unwrap(), Stage::new("build").unwrap(), EventId::generate(), 1)
}

/// A store that has begun a run; what others wrote is gone.
async fn begun(server: &OpenSearch, index: SearchIndex) -> (ElasticStore, RunRecord) {
    server.ask("DELETE", "/bench-*", "").unwrap();
    let config = ElasticStoreConfig::new(server.url()).with_prefix("bench").with_search_index(index);
    let store = ElasticStore::connect(config).await.unwrap();
    let record = RunRecord::begun(key(), "bench");
    store.begin(&record).await.unwrap();
    (store, record)
}

/// The index of the lines of a run that begins today.
fn today() -> String {
    let day = Timestamp::now().to_string().replace('-', ".");
    format!("bench-lines-{}", day.split('T').next().unwrap())
}

async fn append_all(store: &ElasticStore, key: &RunKey, lines: u64) -> Duration {
    let batches = batches(lines);
    let began = Instant::now();
    for batches in batches.chunks(BATCHES) {
        assert_eq!(store.append(key, batches).await.unwrap(), Appended::all());
    }
    began.elapsed()
}

fn appended(runtime: &Runtime, server: &OpenSearch, lines: u64, index: SearchIndex) -> Duration {
    runtime.block_on(async {
        let (store, record) = begun(server, index).await;
        append_all(&store, &record.key, lines).await
    })
}

/// The same documents into the same index.
fn by_hand(runtime: &Runtime, server: &OpenSearch, lines: u64) -> Duration {
    runtime.block_on(async {
        let (_store, record) = begun(server, SearchIndex::Trigrams).await;
        raw::indexed(server, &today(), &record.key, &batches(lines)).await
    })
}

fn started(runtime: &Runtime) -> OpenSearch {
    let server = OpenSearch::start(SearchEngine::of_environment().unwrap()).unwrap();
    // A server that has just started is slower.
    appended(runtime, &server, 5 * LINES, SearchIndex::Trigrams);
    server
}

/// The body of a bulk beside serde_json's writing of the same structs, and both compressed.
fn bodies(criterion: &mut Criterion) {
    let (batches, key) = (batches(LINES), key());
    let timed = |work: &dyn Fn(&[LineBatch])| {
        let began = Instant::now();
        batches.chunks(BATCHES).for_each(work);
        began.elapsed()
    };
    let (id, target) = ("elastic-bulk-body", Target::Speed(1.0));
    Row { id, size: LINES, unit: "lines", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| timed(&|batches| drop(std::hint::black_box(raw::body(&key, batches)))))
        .ours(|| timed(&|batches| drop(std::hint::black_box(measuring::body(&key, batches).unwrap()))));
    let (id, target) = ("elastic-bulk-body-gzip", Target::Speed(0.85));
    Row { id, size: LINES, unit: "lines", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| timed(&|batches| drop(std::hint::black_box(raw::packed(&raw::body(&key, batches))))))
        .ours(|| {
            timed(&|batches| drop(std::hint::black_box(measuring::packed_body(&key, batches).unwrap())))
        });
}

fn indexing(criterion: &mut Criterion) {
    let runtime = runtime();
    let server = started(&runtime);
    for lines in sizes(LINES, [LINES / 10, LINES * 4]) {
        let (id, target) = ("elastic-output-lines", Target::Speed(0.9));
        Row { id, size: lines, unit: "lines", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| by_hand(&runtime, &server, lines))
            .ours(|| appended(&runtime, &server, lines, SearchIndex::Trigrams));
    }
    for (id, program) in
        [("elastic-beside-rsyslog", Shipper::Rsyslog), ("elastic-beside-syslog-ng", Shipper::SyslogNg)]
    {
        let mut measured =
            Row { id, size: LINES, unit: "lines", target: Target::Peer(1.0), curve: Curve::No }
                .measure(criterion);
        measured.ours(|| appended(&runtime, &server, LINES, SearchIndex::Trigrams));
        let Some(shipping) = shipper(program, &ShipTo::Search { port: server.port(), index: today() }) else {
            continue;
        };
        let texts = texts(0..LINES);
        measured.peer(|| {
            runtime.block_on(begun(&server, SearchIndex::Trigrams));
            let began = Instant::now();
            shipping.give(texts.as_bytes()).unwrap();
            while raw::taken(&server, &today()) < LINES {
                std::thread::sleep(Duration::from_millis(5));
            }
            began.elapsed()
        });
    }
}

/// What trigrams cost, beside a field without them and one of OpenSearch's own kind.
fn choosing(criterion: &mut Criterion) {
    if are_curves() {
        return;
    }
    let runtime = runtime();
    let server = started(&runtime);
    let wildcard = |lines: u64| {
        runtime.block_on(async {
            let (_store, record) = begun(&server, SearchIndex::Trigrams).await;
            raw::with_wildcard(&server, "bench-wildcard", &today());
            raw::indexed(&server, "bench-wildcard", &record.key, &batches(lines)).await
        })
    };
    let row = |id, target| Row { id, size: LINES, unit: "lines", target, curve: Curve::No };
    row("elastic-trigrams-beside-text", Target::Speed(0.4))
        .measure(criterion)
        .limit(|| appended(&runtime, &server, LINES, SearchIndex::Scan))
        .ours(|| appended(&runtime, &server, LINES, SearchIndex::Trigrams));
    row("elastic-trigrams-beside-wildcard", Target::Speed(1.0))
        .measure(criterion)
        .limit(|| wildcard(LINES))
        .ours(|| by_hand(&runtime, &server, LINES));
}

/// What trigrams bring.
fn searching(criterion: &mut Criterion) {
    if are_curves() {
        return;
    }
    let runtime = runtime();
    let server = started(&runtime);
    let search = |id, target| Row { id, size: 1, unit: "search", target, curve: Curve::No };
    let (pattern, glob) =
        ("worker 3 handled request 0[0-3].* in 42 ms", "*worker 3 handled request 0* in 42 ms*");
    let written = |index| {
        runtime.block_on(async {
            let (store, mut record) = begun(&server, index).await;
            append_all(&store, &record.key, SEARCHED).await;
            record.revision += 1;
            record.status = RunStatus::Completed;
            store.finish(&record).await.unwrap();
            (store, record)
        })
    };
    let found = |store: &ElasticStore, record: &RunRecord| {
        runtime.block_on(async {
            let search = Search::regex(pattern).unwrap();
            let began = Instant::now();
            let query = RunQuery::of_run(record.key.run_id.clone());
            let hits = store.search(&query, &search).await.unwrap().map(Result::unwrap).count().await;
            let took = began.elapsed();
            assert!(hits > 0);
            took
        })
    };
    // One row after the other: indices of one store are made alike.
    let scanned = {
        let (store, record) = written(SearchIndex::Scan);
        let mut times: Vec<Duration> = (0..3).map(|_| found(&store, &record)).collect();
        times.sort_unstable();
        times.swap_remove(1)
    };
    let (store, record) = written(SearchIndex::Trigrams);
    search("elastic-search-beside-scan", Target::Speed(5.0))
        .measure(criterion)
        .limit(|| scanned)
        .ours(|| found(&store, &record));
    runtime.block_on(async {
        raw::with_wildcard(&server, "bench-wildcard", &today());
        raw::indexed(&server, "bench-wildcard", &record.key, &batches(SEARCHED)).await;
    });
    server.ask("POST", "/bench-wildcard/_refresh", "").unwrap();
    search("elastic-search-beside-wildcard", Target::Speed(0.7))
        .measure(criterion)
        .limit(|| {
            let (hits, took) = raw::wildcard(&server, "bench-wildcard", glob);
            assert!(hits > 0);
            took
        })
        .ours(|| found(&store, &record));
}

criterion_group!(benches, bodies, indexing, choosing, searching);
criterion::criterion_main!(benches);
