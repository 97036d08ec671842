//! The limits: bulk requests made by hand, two at once.

use std::io::Write as _;
use std::time::{Duration, Instant};

use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::Transport;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use futures::stream;
use pubsub_pipeline::{LineBatch, RunKey};
use serde::Serialize;
use serde_json::{Value, json};
use services::OpenSearch;

use crate::REQUEST;

/// As many requests are under way as of ours.
const AT_ONCE: usize = 2;

/// As ours is.
const MADE: &str = "0123456789abcdef";

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

#[derive(Serialize)]
struct Action<'a> {
    create: Id<'a>,
}

#[derive(Serialize)]
struct Id<'a> {
    _id: &'a str,
}

/// The same documents as ours, as structs that serde writes.
pub(crate) fn body(key: &RunKey, batches: &[LineBatch]) -> Vec<u8> {
    let mut body = Vec::new();
    for batch in batches {
        let time = batch.time().to_string();
        batch.for_each(|number, _, content| {
            let id = format!("{}-{MADE}-{number}", key.run_id);
            serde_json::to_writer(&mut body, &Action { create: Id { _id: &id } }).unwrap();
            body.push(b'\n');
            let document = Document {
                time: &time,
                action_id: key.action_id.as_str(),
                stage: key.stage.as_str(),
                run_id: key.run_id.as_str(),
                made: MADE,
                line_number: number.get(),
                stream: batch.stream().as_str(),
                message: std::str::from_utf8(content).unwrap(),
            };
            serde_json::to_writer(&mut body, &document).unwrap();
            body.push(b'\n');
        });
    }
    body
}

pub(crate) fn packed(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}

/// All of them into an index.
pub(crate) async fn indexed(
    server: &OpenSearch,
    index: &str,
    key: &RunKey,
    batches: &[LineBatch],
) -> Duration {
    let transport = Transport::single_node(&server.url()).unwrap();
    let path = format!("{index}/_bulk");
    let (transport, path) = (&transport, &path);
    let post = |batches| async move {
        let body = packed(&body(key, batches));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let query = [("filter_path", "errors")];
        let answer =
            transport.send(Method::Post, path, headers, Some(&query[..]), Some(body), None).await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "{\"errors\":false}");
    };
    let began = Instant::now();
    stream::iter(batches.chunks(REQUEST)).for_each_concurrent(AT_ONCE, post).await;
    began.elapsed()
}

/// How many lines an index has taken; none where there is no such index as yet. Costs the server nearly nothing.
pub(crate) fn taken(server: &OpenSearch, index: &str) -> u64 {
    let path = format!("/{index}/_stats/indexing?filter_path=_all.primaries.indexing.index_total");
    let told: Value = serde_json::from_slice(server.ask("GET", &path, "").unwrap().body()).unwrap();
    told.pointer("/_all/primaries/indexing/index_total").and_then(Value::as_u64).unwrap_or(0)
}

/// Makes an index with ours' settings and fields, but a `wildcard` field in place of the trigrams.
pub(crate) fn with_wildcard(server: &OpenSearch, index: &str, ours: &str) {
    let told: Value =
        serde_json::from_slice(server.ask("GET", &format!("/{ours}"), "").unwrap().body()).unwrap();
    let mut mappings = told.pointer(&format!("/{ours}/mappings")).unwrap().clone();
    *mappings.pointer_mut("/properties/message/fields").unwrap() = json!({"wildcard": {"type": "wildcard"}});
    let refresh = told.pointer(&format!("/{ours}/settings/index/refresh_interval")).unwrap();
    let settings =
        json!({"number_of_shards": 1, "refresh_interval": refresh, "translog.durability": "request"});
    let made = json!({"settings": settings, "mappings": mappings}).to_string();
    assert_eq!(server.ask("PUT", &format!("/{index}"), &made).unwrap().status(), 200);
}

/// How many lines the `wildcard` field finds, and how long that took.
pub(crate) fn wildcard(server: &OpenSearch, index: &str, pattern: &str) -> (u64, Duration) {
    let query = json!({"size": 1000, "track_total_hits": true, "_source": ["message"],
        "query": {"wildcard": {"message.wildcard": {"value": pattern}}}});
    let (path, query) = (format!("/{index}/_search"), query.to_string());
    let began = Instant::now();
    let answer = server.ask("POST", &path, &query).unwrap();
    let took = began.elapsed();
    let told: Value = serde_json::from_slice(answer.body()).unwrap();
    (told.pointer("/hits/total/value").and_then(Value::as_u64).unwrap(), took)
}
