//! All stores together, each on its real engine and named by a URL as the program takes it: the same answers, one run into
//! all and from each to each, and a near store with an archive that goes away.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use pubsub_core::conformance::answers::{QUICK_LINES, same_answers};
use pubsub_core::conformance::fan_out::goes_into_all_and_from_each_to_each;
use pubsub_core::conformance::store::{SampleRun, at, lines, shape};
use pubsub_pipeline::{
    EventId, Gap, LineBatch, LineRange, Lines, OutputReader, OutputSink, Place, Result, RunQuery, Search,
    Spanning, Store, connect_store, verify,
};
use services::{Proxy, Weather};

/// What a variable names.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} names a server of the tests"))
}

/// A name that no other test has, as each store takes one.
fn own_name() -> String {
    format!("all-{}", EventId::generate())
}

fn redis(own: &str) -> String {
    format!("{}?prefix={own}", variable("PIPELINE_TEST_REDIS"))
}

fn bucket(own: &str) -> String {
    let url = variable("PIPELINE_TEST_S3");
    let (bucket, options) = url.split_once('?').expect("it has options");
    format!("{bucket}/{own}?{options}")
}

/// The URL of each store, in a place of its own.
fn urls(folder: &Path) -> [(&'static str, String); 6] {
    let own = own_name();
    // All tests share the servers, which may be slow on a busy machine.
    let opensearch = format!("{}?prefix={own}&answer-limit=60s", variable("PIPELINE_TEST_OPENSEARCH"));
    [
        ("memory", "memory:".to_owned()),
        ("file", format!("file:{}", folder.display())),
        ("redis", redis(&own)),
        ("opensearch", format!("elastic+{opensearch}")),
        ("mongodb", variable("PIPELINE_TEST_MONGO").replace("/?", &format!("/{own}?"))),
        ("s3", bucket(&own)),
    ]
}

async fn connect(url: &str) -> Arc<dyn Store> {
    let place: Place = url.parse().unwrap();
    connect_store(&place).await.unwrap().store
}

async fn all_stores(folder: &Path) -> Vec<(&'static str, Arc<dyn Store>)> {
    let mut stores = Vec::new();
    for (name, url) in urls(folder) {
        stores.push((name, connect(&url).await));
    }
    stores
}

mod long {
    use std::time::Instant;

    use pubsub_core::conformance::answers::LINES;

    use super::{all_stores, same_answers};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: forty searches in each of six stores that each read 200,000 lines, in release; needs Redis, \
                OpenSearch, MongoDB, S3"]
    async fn every_store_gives_the_answers_of_the_log_over_200_000_lines() {
        let folder = tempfile::tempdir().unwrap();
        for store in all_stores(folder.path()).await {
            let began = Instant::now();
            same_answers(std::slice::from_ref(&store), LINES).await;
            println!("{}: {:.1} s", store.0, began.elapsed().as_secs_f64());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis, OpenSearch, MongoDB, S3"]
async fn all_stores_give_the_same_answers_about_one_log() {
    let folder = tempfile::tempdir().unwrap();
    same_answers(&all_stores(folder.path()).await, QUICK_LINES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis, OpenSearch, MongoDB, S3"]
async fn one_run_goes_into_all_stores_and_from_each_to_each() {
    let folder = tempfile::tempdir().unwrap();
    goes_into_all_and_from_each_to_each(&all_stores(folder.path()).await, 5_000).await;
}

/// The lines of the run that two stores share.
const LAST: u64 = 1_000;

/// The last one that the archive alone has.
const OLD: u64 = 600;

const MOVED: &str = "moved to the archive";

fn numbered(first: u64, last: u64) -> LineBatch {
    lines(first, (first..=last).map(|n| format!("line {n}")))
}

/// A run that has ended, all of it in the archive and its newest lines in the near store.
async fn shared(near: &dyn OutputSink, archive: &dyn OutputSink) -> SampleRun {
    let mut run = SampleRun::new();
    run.begin(near).await;
    run.begin(archive).await;
    run.append(archive, &[numbered(1, OLD), numbered(OLD + 1, LAST)]).await;
    near.append(run.key(), &[numbered(OLD + 1, LAST)]).await.unwrap();
    run.finish(archive).await;
    let mut bounded = run.record.clone();
    let range = LineRange::new(at(1), at(OLD));
    Gap { range, bytes: None, reason: MOVED.to_owned() }.enter(&mut bounded.holes);
    near.finish(&bounded).await.unwrap();
    run
}

/// What both together have of the run's lines, and who did not answer.
async fn asked(both: &Spanning, run: &SampleRun, lines: Lines) -> (String, Vec<String>) {
    let question = both.question();
    let items: Vec<_> = question.lines(run.id(), lines).await.unwrap().items.try_collect().await.unwrap();
    (shape(&items), unanswered(&question))
}

fn unanswered(question: &Spanning) -> Vec<String> {
    question.unanswered().into_iter().map(|unanswered| unanswered.store).collect()
}

/// The numbers of the lines that end with 99, and who did not answer.
async fn found(both: &Spanning, run: &SampleRun) -> Result<(Vec<u64>, Vec<String>)> {
    let question = both.question();
    let hits: Vec<_> = question.search(&run.query(), &Search::regex("99$")?).await?.try_collect().await?;
    Ok((hits.iter().map(|hit| hit.line.number.get()).collect(), unanswered(&question)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis, OpenSearch, MongoDB, S3"]
async fn a_near_store_and_an_archive_are_one_and_the_near_one_answers_while_the_archive_is_away() {
    let bucket = bucket(&own_name());
    let (before, after) = bucket.split_once("endpoint=http://127.0.0.1:").expect("it is on this machine");
    let (port, options) = after.split_once('&').expect("it has options");
    let mut proxy = Proxy::start(port.parse().unwrap()).unwrap();
    let behind = format!("{before}endpoint=http://127.0.0.1:{}&{options}", proxy.port());
    let (near, archive) = (connect(&redis(&own_name())).await, connect(&behind).await);
    let run = shared(&*near, &*archive).await;
    let reader = |store: &Arc<dyn Store>| -> Arc<dyn OutputReader> { Arc::new(Arc::clone(store)) };
    let both = Spanning::new("near", reader(&near)).with("archive", reader(&archive));
    let whole = || (format!("1-{LAST}"), Vec::new());
    let ends_of_hundreds = |from: u64| (from..=LAST).filter(|n| n % 100 == 99).collect::<Vec<u64>>();
    let away = || vec!["archive".to_owned()];

    assert_eq!(asked(&both, &run, Lines::ALL).await, whole());
    assert_eq!(found(&both, &run).await.unwrap(), (ends_of_hundreds(1), Vec::new()));
    assert_eq!(verify(&both, run.id()).await.unwrap().problem(), None);

    proxy.set(Weather::Refused).unwrap();
    let both = both.with_answer_limit(Duration::from_secs(5));
    let gap = format!("gap 1-{OLD} {MOVED}; archive did not answer, and may have them; {}-{LAST}", OLD + 1);
    assert_eq!(asked(&both, &run, Lines::ALL).await, (gap, away()));
    assert_eq!(asked(&both, &run, Lines::Last(50)).await, ("951-1000".to_owned(), away()));
    assert_eq!(found(&both, &run).await.unwrap(), (ends_of_hundreds(OLD), away()));
    let question = both.question();
    let records = question.runs(&RunQuery::all()).await.unwrap();
    assert_eq!(records.iter().map(|record| &record.key.run_id).collect::<Vec<_>>(), [run.id()]);
    assert_eq!(unanswered(&question), away());

    proxy.set(Weather::Clear).unwrap();
    assert_eq!(asked(&both, &run, Lines::ALL).await, whole());
    assert_eq!(found(&both, &run).await.unwrap(), (ends_of_hundreds(1), Vec::new()));
    assert_eq!(verify(&both, run.id()).await.unwrap().problem(), None);
}
