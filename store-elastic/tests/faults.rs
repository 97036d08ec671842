//! What befalls requests: items refused, limits, cuts, stalls, a read-only index, a server that restarts.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod bulk;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulk::{items_of, with_answers};
use futures::FutureExt as _;
use pubsub_core::conformance::store::{SampleRun, lines, until};
use pubsub_core::{
    Appended, Backoff, ErrorKind, FanOut, LineBatch, Lines, MemoryStore, OutputReader as _, OutputSink,
    Retrying, RunQuery, SinkConfig, Store, verify,
};
use serde_json::json;
use server::{config_at, numbered, port, shape_of, store_at};
use services::{Data, Fate, HttpAnswer, HttpFaults, OpenSearch, SearchEngine};
use store_elastic::ElasticStore;

/// A store behind a proxy, and a run in it that has begun.
async fn behind() -> (HttpFaults, ElasticStore, SampleRun) {
    let proxy = HttpFaults::start(port()).unwrap();
    let store = store_at(proxy.port()).await;
    let run = SampleRun::new();
    run.begin(&store).await;
    (proxy, store, run)
}

fn patient(store: &ElasticStore) -> Retrying<ElasticStore> {
    Retrying::new(store.clone(), Backoff::fixed(Duration::from_millis(1)), 30)
}

/// Seals the run and says what is there, and that the seal agrees with it but for these holes.
async fn ended(store: ElasticStore, mut run: SampleRun, answer: Appended) -> String {
    assert_eq!((answer.again, answer.dropped), (Vec::new(), Vec::new()));
    run.record.holes = answer.refused;
    run.finish(&store).await;
    let store: Arc<dyn Store> = Arc::new(store);
    let verified = verify(&*store, run.id()).await.unwrap();
    assert_eq!(verified.agrees(), run.record.holes.is_empty(), "{:?}", verified.problem());
    shape_of(&store, &run).await
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn of_a_bulk_each_item_is_judged_by_itself_and_only_what_failed_is_repeated() {
    let (proxy, store, mut run) = behind().await;
    let given = numbered(1, 1_000);
    run.print(&given);
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    let mut was_busy = false;
    proxy.set(move |request| {
        if !request.path().ends_with("/_bulk") {
            return Fate::Passes;
        }
        let items = items_of(request);
        told.lock().unwrap().push(items.len());
        let busy = json!({"type": "es_rejected_execution_exception", "reason": "queue full"});
        let wrong = json!({"type": "mapper_parsing_exception", "reason": "no such field"});
        let mut answers = Vec::new();
        for (at, item) in items.iter().enumerate() {
            if item.document["message"] == "line 3" && !std::mem::replace(&mut was_busy, true) {
                answers.push((at, 429, busy.clone()));
            }
            if item.document["message"] == "line 5" {
                answers.push((at, 400, wrong.clone()));
            }
        }
        with_answers(request, answers)
    });
    let answer = patient(&store).append(run.key(), &given).await.unwrap();
    {
        let asked = asked.lock().unwrap();
        let (again, first) = asked.split_last().unwrap();
        assert_eq!(
            (first.iter().sum::<usize>(), *again),
            (1_000, 1),
            "line 3 alone is sent again: {asked:?}"
        );
    }
    assert_eq!(answer.refused.len(), 1);
    assert_eq!(answer.refused[0].reason, "mapper_parsing_exception: no such field");
    proxy.clear();
    let shape = ended(store, run, answer).await;
    assert_eq!(shape, "1-4 gap 5-5 mapper_parsing_exception: no such field; 6-1000");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_cut_after_the_server_has_done_it_repeats_nothing() {
    let (proxy, store, mut run) = behind().await;
    let given = numbered(1, 1_000);
    run.print(&given);
    for fate in [(|| Fate::CutAfter) as fn() -> Fate, || Fate::CutWithin, || Fate::CutBefore] {
        let mut cuts = 1;
        proxy.set(move |request| {
            let is_bulk = request.path().ends_with("/_bulk");
            cuts -= i32::from(is_bulk);
            if is_bulk && cuts == 0 { fate() } else { Fate::Passes }
        });
        // Once requests were made smaller, others of the call may be done.
        match store.append(run.key(), &given).await {
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
            Ok(appended) => assert!(!appended.again.is_empty() && appended.refused.is_empty()),
        }
        assert_eq!(store.append(run.key(), &given).await.unwrap(), Appended::all());
    }
    // The same of what writes the record.
    proxy.set({
        let mut cuts = 2;
        move |request| {
            let is_write = request.method() == "PUT";
            cuts -= i32::from(is_write);
            if is_write && cuts == 1 { Fate::CutAfter } else { Fate::Passes }
        }
    });
    run.complete();
    assert!(store.finish(&run.record).await.unwrap_err().is_retryable());
    store.finish(&run.record).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    assert_eq!(shape_of(&store, &run).await, "1-1000");
    assert!(verify(&*store, run.id()).await.unwrap().agrees());
}

/// 5,000 lines of 2 KiB, one of which no request may hold.
fn with_one_too_large() -> Vec<LineBatch> {
    let text = |n: u64| if n == 2_345 { "oversize".to_owned() } else { format!("{n:>2047}") };
    (0..250).map(|part| lines(part * 20 + 1, (part * 20 + 1..=part * 20 + 20).map(text))).collect()
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_request_that_is_too_large_is_split_and_only_a_line_that_never_fits_is_refused() {
    let (proxy, store, mut run) = behind().await;
    let given = with_one_too_large();
    run.print(&given);
    proxy.set(|request| {
        let items = items_of(request);
        let size: usize = items.iter().map(|item| item.size).sum();
        let is_over = size > 1 << 20 || items.iter().any(|item| item.document["message"] == "oversize");
        if is_over { Fate::Answered(HttpAnswer::new(413)) } else { Fate::Passes }
    });
    // Without being repeated by anybody else.
    let answer = store.append(run.key(), &given).await.unwrap();
    let refused: Vec<_> =
        answer.refused.iter().map(|gap| (gap.range.first.get(), gap.range.last.get())).collect();
    assert_eq!(refused, [(2_345, 2_345)]);
    assert!(answer.refused[0].reason.contains("413"), "{}", answer.refused[0].reason);
    proxy.clear();
    let shape = ended(store, run, answer).await;
    assert!(shape.starts_with("1-2344 gap 2345-2345 ") && shape.ends_with("; 2346-5000"), "{shape}");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn where_a_server_cuts_in_place_of_saying_that_it_is_too_much_requests_become_smaller() {
    let (proxy, store, mut run) = behind().await;
    let given = numbered(1, 20_000);
    run.print(&given);
    proxy.set(|request| {
        let size: usize = items_of(request).iter().map(|item| item.size).sum();
        if size > 1 << 20 { Fate::CutBefore } else { Fate::Passes }
    });
    let answer = patient(&store).append(run.key(), &given).await.unwrap();
    assert_eq!(answer, Appended::all());
    assert_eq!(ended(store, run, answer).await, "1-20000");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn load_is_told_apart_from_an_index_that_takes_no_writes() {
    let (proxy, store, mut run) = behind().await;
    let given = numbered(1, 10);
    run.print(&given);
    for (status, name, expected) in [
        (429, "es_rejected_execution_exception", ErrorKind::Unavailable),
        (429, "circuit_breaking_exception", ErrorKind::Unavailable),
        (503, "no_shard_available_action_exception", ErrorKind::Unavailable),
        (429, "cluster_block_exception", ErrorKind::Full),
        (401, "security_exception", ErrorKind::Refused),
    ] {
        let body = json!({"error": {"type": name, "reason": "why"}, "status": status}).to_string();
        proxy.set(move |request| match request.path().ends_with("/_bulk") {
            true => Fate::Answered(HttpAnswer::new(status).with_body(body.clone())),
            false => Fate::Passes,
        });
        let error = store.append(run.key(), &given).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error:?}");
        assert!(error.chain().contains(&format!("{name}: why")), "{error:?}");
    }
    proxy.clear();
    // By the server itself, as its disk is nearly full, and by hand.
    let index = format!("/{}-lines-*", store_prefix(&store));
    for block in ["read_only_allow_delete", "write", "read_only"] {
        let set = |value: &str| {
            ask("PUT", &format!("{index}/_settings"), &format!("{{\"index.blocks.{block}\":{value}}}"))
        };
        set("true");
        let error = store.append(run.key(), &given).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{block}: {error:?}");
        assert!(error.chain().contains("the index is read-only"), "{error:?}");
        set("null");
        assert_eq!(store.append(run.key(), &given).await.unwrap(), Appended::all());
    }
    assert_eq!(ended(store, run, Appended::all()).await, "1-10");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_server_that_accepts_and_never_answers_is_given_up_within_the_limit() {
    let proxy = HttpFaults::start(port()).unwrap();
    let config = config_at(proxy.port()).with_answer_limit(Duration::from_secs(2));
    let store = ElasticStore::connect(config).await.unwrap();
    let mut run = SampleRun::new();
    patient(&store).begin(&run.record).await.unwrap();
    proxy.set(|request| if request.path().ends_with("/_bulk") { Fate::Stalls } else { Fate::Passes });
    let given = numbered(1, 10);
    run.print(&given);
    let error = store.append(run.key(), &given).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    proxy.clear();
    let answer = patient(&store).append(run.key(), &given).await.unwrap();
    run.complete();
    patient(&store).finish(&run.record).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store_at_prefix(&store).await);
    assert_eq!((answer, shape_of(&store, &run).await.as_str()), (Appended::all(), "1-10"));
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn while_seven_of_ten_requests_are_refused_everything_arrives() {
    let (proxy, store, mut run) = behind().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    proxy.set(move |_| {
        if fastrand::u8(0..10) < 7 {
            counted.fetch_add(1, Ordering::Relaxed);
            return Fate::Answered(HttpAnswer::new(if fastrand::bool() { 503 } else { 429 }));
        }
        Fate::Passes
    });
    let sink = Retrying::new(store.clone(), Backoff::fixed(Duration::from_millis(1)), 1_000);
    for part in 0..10 {
        let given = numbered(part * 100 + 1, part * 100 + 100);
        run.print(&given);
        assert_eq!(sink.append(run.key(), &given).await.unwrap(), Appended::all());
    }
    run.complete();
    sink.finish(&run.record).await.unwrap();
    proxy.clear();
    assert!(refused.load(Ordering::Relaxed) > 10);
    let store: Arc<dyn Store> = Arc::new(store);
    assert_eq!(shape_of(&store, &run).await, "1-1000");
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn a_store_that_is_away_holds_up_no_other_and_gets_everything_once_it_is_back() {
    let (proxy, store, mut run) = behind().await;
    let memory = MemoryStore::new();
    let backoff = Backoff { base: Duration::from_millis(10), factor: 2, cap: Duration::from_millis(200) };
    let fan_out = FanOut::new(vec![
        SinkConfig::required("elastic", Arc::new(store.clone())).with_backoff(backoff),
        SinkConfig::required("memory", Arc::new(memory.clone())),
    ]);
    let writing = fan_out.begin(&run.record).await.unwrap();
    proxy.set(|_| Fate::Answered(HttpAnswer::new(503)));
    for part in 0..50 {
        let given = numbered(part * 100 + 1, part * 100 + 100);
        run.print(&given);
        writing.append(&given);
    }
    let has_all = || async {
        memory.lines(run.id(), Lines::Last(0)).await.is_ok_and(|output| output.complete_through == 5_000)
    };
    until("the other store has all lines", || has_all().boxed()).await;
    proxy.clear();
    run.complete();
    writing.finish(run.record.clone()).await.unwrap();
    for account in writing.accounts() {
        assert_eq!((account.captured, account.stored), (5_000, 5_000), "{account:?}");
    }
    let store: Arc<dyn Store> = Arc::new(store);
    assert_eq!(shape_of(&store, &run).await, "1-5000");
    assert!(verify(&*store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs OpenSearch"]
async fn what_was_acknowledged_survives_a_crash_of_the_server() {
    let mut server = OpenSearch::start(SearchEngine::of_environment().unwrap()).unwrap();
    let store = store_at(server.port()).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &numbered(1, 500)).await;
    server.kill().unwrap();
    let further = numbered(501, 600);
    let error = store.append(run.key(), &further).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    server.restart(Data::Kept).unwrap();
    run.print(&further);
    let sink = Retrying::new(store.clone(), Backoff::fixed(Duration::from_millis(50)), 200);
    let answer = sink.append(run.key(), &further).await.unwrap();
    assert_eq!(ended(store.clone(), run, answer).await, "1-600");
    // One that comes back empty is made ready again: what is written then is found as ever.
    server.restart(Data::Lost).unwrap();
    let mut run = SampleRun::new();
    sink.begin(&run.record).await.unwrap();
    run.append(&store, &numbered(1, 5)).await;
    run.finish(&store).await;
    let query = RunQuery::of(run.key().action_id.clone(), run.key().stage.clone());
    assert_eq!(store.runs(&query).await.unwrap(), std::slice::from_ref(&run.record));
    let store: Arc<dyn Store> = Arc::new(store);
    assert_eq!(shape_of(&store, &run).await, "1-5");
}

fn store_prefix(store: &ElasticStore) -> String {
    store.config().prefix().to_owned()
}

/// The same store past the proxy.
async fn store_at_prefix(store: &ElasticStore) -> ElasticStore {
    ElasticStore::connect(config_at(port()).with_prefix(store_prefix(store))).await.unwrap()
}

/// Asks the server past the store.
fn ask(method: &str, target: &str, body: &str) {
    let answer = services::ask_http(port(), method, target, body).unwrap();
    assert!(answer.status() < 300, "{target}: {}", String::from_utf8_lossy(answer.body()));
}
