//! What is made at the server: templates, indices by day, mappings that do not grow, what a search reads.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use pubsub_core::conformance::store::{SampleRun, lines, read_lines};
use pubsub_core::{
    ErrorKind, Hit, Keep, Lines, OutputReader, OutputSink, Retention, RunQuery, Search, Timestamp,
};
use serde_json::Value;
use server::{config_at, numbered, port, store_at};
use services::{Fate, HttpAnswer, HttpFaults, Mend};
use store_elastic::{ElasticStore, ElasticStoreConfig, SearchIndex};

/// Asks the server past the store.
fn ask(method: &str, target: &str, body: &str) -> (u16, Value) {
    let answer = services::ask_http(port(), method, target, body).unwrap();
    (answer.status(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
}

async fn found(store: &ElasticStore, query: &RunQuery, search: &Search) -> Vec<u64> {
    let hits: Vec<Hit> = store.search(query, search).await.unwrap().try_collect().await.unwrap();
    hits.iter().map(|hit| hit.line.number.get()).collect()
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn what_a_run_carries_makes_no_fields_and_comes_back_unchanged() {
    let store = store_at(port()).await;
    let prefix = store.config().prefix();
    let mappings = || ask("GET", &format!("/{prefix}-*/_mapping"), "").1;
    SampleRun::written(&store, &numbered(1, 1)).await;
    let before = mappings();
    let payloads = [
        r#"{"when":"2024-05-01T10:00:00Z","v":1}"#,
        r#"{"when":"yesterday","v":{"x":2}}"#,
        r#"{"v":"text"}"#,
        r#"{"v":null,"a.b":1,"a":2,"":3}"#,
        &format!("{}1{}", "{\"x\":".repeat(60), "}".repeat(60)),
    ];
    for (n, payload) in payloads.iter().cycle().take(50).enumerate() {
        let mut run = SampleRun::new();
        run.record.metadata.insert(format!("key-{n}-{:x}", fastrand::u64(..)), (*payload).to_owned());
        run.record.metadata.insert("when".to_owned(), (*payload).to_owned());
        run.record.metadata.insert(["a.b", "a", "", "x"][n % 4].to_owned(), n.to_string());
        run.begin(&store).await;
        run.append(&store, &[lines(1, [payload])]).await;
        run.finish(&store).await;
        assert_eq!(store.runs(&run.query()).await.unwrap(), std::slice::from_ref(&run.record));
        assert_eq!(read_lines(&store, run.id(), Lines::ALL).await[0].text(), *payload);
    }
    assert_eq!(mappings(), before);
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_search_for_something_rare_reads_next_to_nothing() {
    let proxy = HttpFaults::start(port()).unwrap();
    let store = store_at(proxy.port()).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &numbered(1, 10_000)).await;
    run.append(&store, &[lines(10_001, ["a Needle in it"])]).await;
    run.append(&store, &numbered(10_002, 20_000)).await;
    run.finish(&store).await;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    proxy.set(move |request| {
        let counted = Arc::clone(&counted);
        let mend = Mend::new(move |answer| {
            counted.fetch_add(answer.body().len(), Ordering::Relaxed);
            answer
        });
        Fate::Changed(request.clone(), mend)
    });
    for search in [Search::literal("Needle"), Search::regex("(?i)^a NEEDLE"), Search::regex("Need.*|no such")]
    {
        read.store(0, Ordering::Relaxed);
        assert_eq!(found(&store, &run.query(), &search.unwrap()).await, [10_001]);
        assert!(read.load(Ordering::Relaxed) < 20_000, "{} bytes were read", read.load(Ordering::Relaxed));
    }
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_search_over_many_runs_asks_for_those_alone_that_may_have_hits() {
    let proxy = HttpFaults::start(port()).unwrap();
    let store = store_at(proxy.port()).await;
    for n in 0..30 {
        SampleRun::written(&store, &[lines(1, [format!("run {n} of many")])]).await;
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    proxy.set(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Fate::Passes
    });
    let search = Search::literal("run 17 of").unwrap();
    assert_eq!(found(&store, &RunQuery::all(), &search).await, [1]);
    assert!(asked.load(Ordering::Relaxed) < 10, "{} requests", asked.load(Ordering::Relaxed));
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn an_index_without_trigrams_is_searched_line_by_line() {
    let config = config_at(port());
    let scans = ElasticStore::connect(config.clone().with_search_index(SearchIndex::Scan)).await.unwrap();
    let runs = [
        SampleRun::written(&scans, &numbered(1, 50)).await,
        SampleRun::written(&scans, &numbered(1, 50)).await,
    ];
    // Another process narrows, and finds the same.
    let narrows = ElasticStore::connect(config).await.unwrap();
    let mut old = SampleRun::new();
    old.record.started_at = Timestamp::now().minus(Duration::from_secs(3 * 24 * 3_600));
    old.begin(&narrows).await;
    old.append(&narrows, &numbered(1, 50)).await;
    old.finish(&narrows).await;
    for store in [&scans, &narrows] {
        let search = Search::literal("line 17").unwrap();
        assert_eq!(found(store, &RunQuery::all(), &search).await, [17; 3]);
        assert_eq!(found(store, &runs[0].query(), &search).await, [17]);
    }
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn an_index_goes_as_a_whole_where_nothing_of_its_day_is_left() {
    let store = store_at(port()).await;
    let began = |days: u64| Timestamp::now().minus(Duration::from_secs(days * 24 * 3_600));
    let mut runs = Vec::new();
    for days in [9, 9, 5, 0] {
        let mut run = SampleRun::new();
        run.record.started_at = began(days);
        run.begin(&store).await;
        run.append(&store, &numbered(1, 20)).await;
        run.finish(&store).await;
        runs.push(run);
    }
    let prefix = store.config().prefix();
    let day = |days: u64| began(days).to_string()[..10].replace('-', ".");
    let is_there = |days: u64| ask("GET", &format!("/{prefix}-lines-{}", day(days)), "").0 == 200;
    assert!(is_there(9) && is_there(5) && is_there(0));
    assert_eq!(store.expire(&Keep::new().with_since(began(6))).await.unwrap(), 2);
    assert!(!is_there(9) && is_there(5) && is_there(0));
    // Of today's index lines alone are removed.
    assert_eq!(store.expire(&Keep::new().with_runs(0)).await.unwrap(), 2);
    assert!(!is_there(5) && is_there(0));
    ask("POST", &format!("/{prefix}-*/_refresh"), "");
    let (_, left) = ask("GET", &format!("/{prefix}-*/_count"), "");
    assert_eq!(left["count"], 0, "{left}");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_removal_that_was_cut_is_completed_by_the_next() {
    let proxy = HttpFaults::start(port()).unwrap();
    let store = store_at(proxy.port()).await;
    let (gone, stays) = (
        SampleRun::written(&store, &numbered(1, 50)).await,
        SampleRun::written(&store, &numbered(1, 50)).await,
    );
    proxy.set(|request| if request.path() == "/_bulk" { Fate::CutBefore } else { Fate::Passes });
    assert!(store.remove(gone.id()).await.unwrap_err().is_retryable());
    assert_eq!(store.lines(gone.id(), Lines::ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
    proxy.clear();
    // A run of the same id that began since keeps its lines, and sees none of the old ones.
    let mut again = gone;
    again.record.revision = 1;
    again.record.status = pubsub_core::RunStatus::Running;
    store.begin(&again.record).await.unwrap();
    store.append(again.key(), &numbered(1, 3)).await.unwrap();
    ask("POST", &format!("/{}-lines-*/_refresh", store.config().prefix()), "");
    assert_eq!(read_lines(&store, again.id(), Lines::ALL).await.len(), 3);
    assert!(store.remove(again.id()).await.unwrap());
    assert!(!store.remove(again.id()).await.unwrap());
    assert_eq!(read_lines(&store, stays.id(), Lines::ALL).await.len(), 50);
    let (_, left) = ask("GET", &format!("/{}-lines-*/_count", store.config().prefix()), "");
    assert_eq!(left["count"], 50);
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn of_many_writers_the_highest_revision_stays() {
    let store = store_at(port()).await;
    let run = SampleRun::new();
    run.begin(&store).await;
    let write = |revision: u64| {
        let (store, mut record) = (store.clone(), run.record.clone());
        record.revision = revision;
        async move { store.begin(&record).await.unwrap() }
    };
    futures::future::join_all((2..20).map(write)).await;
    assert_eq!(store.runs(&run.query()).await.unwrap()[0].revision, 19);
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn what_is_too_new_or_too_old_is_refused_by_name() {
    let store = store_at(port()).await;
    let prefix = store.config().prefix().to_owned();
    let newer =
        format!("{{\"index_patterns\":[\"{prefix}-runs\"],\"priority\":500,\"_meta\":{{\"format\":2}}}}");
    assert_eq!(ask("PUT", &format!("/_index_template/{prefix}-runs"), &newer).0, 200);
    let error = ElasticStore::connect(config_at(port()).with_prefix(prefix)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew, "{error:?}");
    assert!(error.to_string().contains("version=2"), "{error}");
    let proxy = HttpFaults::start(port()).unwrap();
    proxy.set(|_| Fate::Answered(HttpAnswer::new(200).with_body(r#"{"version":{"number":"6.8.23"}}"#)));
    let error = ElasticStore::connect(config_at(proxy.port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("7.10") && error.to_string().contains("6.8.23"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_of_each_call_and_shows_no_password() {
    let config = ElasticStoreConfig::new("http://user:secret@127.0.0.1:1");
    let store = ElasticStore::connect(config).await.unwrap();
    let error = store.runs(&RunQuery::all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.chain().contains("secret") && !format!("{store:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_server_that_comes_later_is_made_ready_by_the_first_call() {
    let proxy = HttpFaults::start(port()).unwrap();
    proxy.set(|_| Fate::CutBefore);
    let store = store_at(proxy.port()).await;
    let mut run = SampleRun::new();
    assert!(store.begin(&run.record).await.unwrap_err().is_retryable());
    proxy.clear();
    run.begin(&store).await;
    run.append(&store, &numbered(1, 3)).await;
    run.finish(&store).await;
    assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 3);
    let template = format!("/_index_template/{}-lines", store.config().prefix());
    assert_eq!(ask("GET", &template, "").0, 200);
}
