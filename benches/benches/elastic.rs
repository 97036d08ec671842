//! Lines into the store in OpenSearch beside bulk requests made by hand: the same server, documents, batches, compression.
//!
//! The server runs on the machine's own cores, for the limits as for ours.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::Transport;
use flate2::Compression;
use flate2::write::GzEncoder;
use pubsub_pipeline::{
    Appended, ElasticStore, ElasticStoreConfig, EventId, LineBatch, LineEnd, LineNumber, OutputSink as _,
    RunKey, RunRecord, SearchIndex, Stage, Stream, Timestamp,
};
use pubsub_pipeline_benches::{Curve, Row, Target, runtime, sizes};
use serde::Serialize;
use services::{OpenSearch, SearchEngine};
use tokio::runtime::Runtime;

/// Of one pass, where the table has it.
const LINES: u64 = 20_000;

/// As capture hands lines on, and how many of those a fan-out gives at once: about a mebibyte of documents.
const BATCH: u64 = 512;
const BATCHES: usize = 8;

/// A line as programs print it.
fn text(n: u64) -> String {
    format!(
        "[{n:>8}] INFO worker {} handled request {:08x} in {} ms",
        n % 7,
        n.wrapping_mul(2_654_435_761),
        n % 97
    )
}

fn batches(lines: u64) -> Vec<LineBatch> {
    let batch = |first: u64| {
        let texts: String = (first..lines.min(first + BATCH)).map(|n| format!("{}\n", text(n))).collect();
        let number = LineNumber::new(first + 1).unwrap();
        LineBatch::split(number, Timestamp::now(), Stream::Stdout, texts.into(), LineEnd::Lf).unwrap()
    };
    (0..lines).step_by(512).map(batch).collect()
}

fn key() -> RunKey {
    RunKey::new("action-123".parse().unwrap(), Stage::new("build").unwrap(), EventId::generate(), 1)
}

/// A store that has begun a run; what others wrote is gone.
async fn begun(server: &OpenSearch, index: SearchIndex) -> (ElasticStore, RunKey) {
    server.ask("DELETE", "/bench-*", "").unwrap();
    let config = ElasticStoreConfig::new(server.url()).with_prefix("bench").with_search_index(index);
    let (store, key) = (ElasticStore::connect(config).await.unwrap(), key());
    store.begin(&RunRecord::begun(key.clone(), "bench")).await.unwrap();
    (store, key)
}

fn appended(runtime: &Runtime, server: &OpenSearch, lines: u64, index: SearchIndex) -> Duration {
    runtime.block_on(async {
        let (store, key) = begun(server, index).await;
        let batches = batches(lines);
        let began = Instant::now();
        for batches in batches.chunks(BATCHES) {
            assert_eq!(store.append(&key, batches).await.unwrap(), Appended::all());
        }
        began.elapsed()
    })
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "@timestamp")]
    time: &'a str,
    action_id: &'a str,
    stage: &'a str,
    run_id: &'a str,
    made: &'a str,
    line_number: u64,
    stream: &'a str,
    message: &'a str,
}

/// The same documents into the same index, one request after the other.
fn by_hand(runtime: &Runtime, server: &OpenSearch, lines: u64) -> Duration {
    runtime.block_on(async {
        let (_store, key) = begun(server, SearchIndex::Trigrams).await;
        let day = Timestamp::now().to_string().replace('-', ".");
        let path = format!("bench-lines-{}/_bulk", day.split('T').next().unwrap());
        let transport = Transport::single_node(&server.url()).unwrap();
        let batches = batches(lines);
        let began = Instant::now();
        for batches in batches.chunks(BATCHES) {
            let mut body = Vec::new();
            for batch in batches {
                let time = batch.time().to_string();
                batch.for_each(|number, _, content| {
                    let id = format!("{}-0123456789abcdef-{number}", key.run_id);
                    body.extend_from_slice(format!("{{\"create\":{{\"_id\":\"{id}\"}}}}\n").as_bytes());
                    let document = Document {
                        time: &time,
                        action_id: key.action_id.as_str(),
                        stage: key.stage.as_str(),
                        run_id: key.run_id.as_str(),
                        made: "0123456789abcdef",
                        line_number: number.get(),
                        stream: "stdout",
                        message: std::str::from_utf8(content).unwrap(),
                    };
                    serde_json::to_writer(&mut body, &document).unwrap();
                    body.push(b'\n');
                });
            }
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&body).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            let query = [("filter_path", "errors")];
            let body = Some(gzip.finish().unwrap());
            let answer =
                transport.send(Method::Post, &path, headers, Some(&query[..]), body, None).await.unwrap();
            assert_eq!(answer.text().await.unwrap(), "{\"errors\":false}");
        }
        began.elapsed()
    })
}

fn indexing(criterion: &mut Criterion) {
    let (runtime, server) = (runtime(), OpenSearch::start(SearchEngine::of_environment().unwrap()).unwrap());
    // A server that has just started is slower.
    appended(&runtime, &server, 5 * LINES, SearchIndex::Trigrams);
    for lines in sizes(LINES, [LINES / 10, LINES * 10]) {
        let (id, target) = ("elastic-output-lines", Target::Speed(0.9));
        Row { id, size: lines, unit: "lines", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| by_hand(&runtime, &server, lines))
            .ours(|| appended(&runtime, &server, lines, SearchIndex::Trigrams));
    }
    let (id, target) = ("elastic-output-trigrams", Target::Speed(0.4));
    Row { id, size: LINES, unit: "lines", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| appended(&runtime, &server, LINES, SearchIndex::Scan))
        .ours(|| appended(&runtime, &server, LINES, SearchIndex::Trigrams));
}

criterion_group!(benches, indexing);
criterion::criterion_main!(benches);
