//! The store in Redis against the one in memory, and many hands at once.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use pubsub_core::conformance::store::{SampleRun, at, lines, read, shape};
use pubsub_core::{
    Counts, Gap, Line, LineRange, Lines, MemoryStore, OutputItem, OutputReader, OutputSink, Retention,
    RunQuery, RunStatus, Search, Store,
};
use pubsub_redis::{RedisConfig, RedisStore, RedisStoreConfig};
use tokio::task::JoinSet;

async fn store(config: &RedisConfig) -> RedisStore {
    RedisStore::connect(RedisStoreConfig::new(config.clone())).await.unwrap()
}

async fn told(store: &dyn Store, run: &SampleRun, asked: Lines) -> (String, Vec<Line>) {
    let items = read(store, run.id(), asked).await;
    let lines = items.iter().flat_map(|item| match item {
        OutputItem::Lines(batch) => batch.lines().collect::<Vec<_>>(),
        OutputItem::Gap(_) => Vec::new(),
    });
    (shape(&items), lines.collect())
}

/// Some of the numbers up to `last`, in growing pieces that do not touch.
fn pieces(last: u64) -> Vec<(u64, u64)> {
    let (mut pieces, mut next) = (Vec::new(), 1 + fastrand::u64(0..4));
    while next <= last {
        let end = last.min(next + fastrand::u64(0..700));
        pieces.push((next, end));
        next = end + 2 + fastrand::u64(0..300);
    }
    pieces
}

fn numbered(first: u64, last: u64) -> pubsub_core::LineBatch {
    lines(first, (first..=last).map(|n| format!("line {n} {}", "x".repeat(usize::try_from(n % 97).unwrap()))))
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn whatever_is_missing_and_comes_late_every_question_is_answered_as_by_the_store_in_memory() {
    let (redis, memory) = (store(&common::config()).await, MemoryStore::new());
    for _ in 0..3 {
        let last = fastrand::u64(1..3_000);
        let mut run = SampleRun::new();
        let given = pieces(last);
        run.print(&(1..=last).step_by(500).map(|n| numbered(n, last.min(n + 499))).collect::<Vec<_>>());
        let mut next = 1;
        for (first, end) in given.iter().copied().chain([(last + 1, last + 1)]) {
            if next < first {
                let range = LineRange::new(at(next), at(first - 1));
                run.record.holes.push(Gap { range, bytes: None, reason: "refused".into() });
            }
            next = end + 1;
        }
        let stores: [&dyn Store; 2] = [&redis, &memory];
        for store in stores {
            run.begin(store).await;
            for (first, end) in &given {
                store.append(run.key(), &[numbered(*first, *end)]).await.unwrap();
            }
        }
        run.complete();
        for round in 0..3 {
            for store in stores {
                store.finish(&run.record).await.unwrap();
            }
            let mut asked = vec![Lines::ALL];
            for _ in 0..4 {
                let from = at(fastrand::u64(1..=last + 5));
                let range = LineRange::new(from, from.plus(fastrand::u64(0..last)));
                asked.extend([
                    Lines::From(from),
                    Lines::Range(range),
                    Lines::Last(fastrand::u64(0..=last + 5)),
                ]);
            }
            for asked in asked {
                let (here, there) = (told(&redis, &run, asked).await, told(&memory, &run, asked).await);
                assert_eq!(here, there, "{asked:?} of {last} in round {round}: {given:?}");
            }
            let search = Search::regex("^line .*7 ").unwrap();
            let hits = async |store: &dyn Store| {
                let hits = store.search(&run.query(), &search).await.unwrap();
                hits.map_ok(|hit| hit.line).try_collect::<Vec<_>>().await.unwrap()
            };
            assert_eq!(hits(&redis).await, hits(&memory).await);
            let record = async |store: &dyn Store| store.runs(&run.query()).await.unwrap();
            assert_eq!(record(&redis).await, record(&memory).await);
            // Some more come late, in any order and again and again.
            for _ in 0..4 {
                let first = fastrand::u64(1..=last);
                let end = last.min(first + fastrand::u64(0..200));
                for store in stores {
                    store.append(run.key(), &[numbered(first, end)]).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_record_that_many_write_at_once_ends_as_the_last_one() {
    let config = common::config();
    let mut run = SampleRun::new();
    let mut records = vec![run.record.clone()];
    for lines in 1..20 {
        run.record.beat(Counts { lines, ..Counts::default() });
        records.push(run.record.clone());
    }
    run.complete();
    records.push(run.record.clone());
    let mut writers = JoinSet::new();
    for n in 0..8_usize {
        let (store, mut records) = (store(&config).await, records.clone());
        fastrand::Rng::with_seed(n as u64).shuffle(&mut records);
        writers.spawn(async move {
            for record in records {
                let ended = record.status == RunStatus::Completed;
                if ended { store.finish(&record).await } else { store.begin(&record).await }.unwrap();
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    assert_eq!(store(&config).await.runs(&run.query()).await.unwrap(), [run.record]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn runs_that_begin_and_go_while_others_list_are_all_found() {
    let config = common::config();
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (writer, reader) = (store(&config).await, store(&config).await);
        tasks.spawn(async move {
            for n in 0..40 {
                let run = SampleRun::of("action-123", "build");
                run.begin(&writer).await;
                if n % 2 == 0 {
                    assert!(writer.remove(run.id()).await.unwrap());
                }
                if n % 4 == 0 {
                    run.begin(&writer).await;
                }
            }
        });
        tasks.spawn(async move {
            for _ in 0..40 {
                reader.runs(&RunQuery::all()).await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let run = SampleRun::of("action-123", "build");
    let queries = [RunQuery::all(), RunQuery::of(run.key().action_id.clone(), run.key().stage.clone())];
    for query in queries {
        assert_eq!(store(&config).await.runs(&query).await.unwrap().len(), 4 * 30, "{query:?}");
    }
}

/// What is reached and never answers is out of reach as well.
#[tokio::test]
#[ignore = "needs Redis"]
async fn a_server_that_never_answers_is_an_error_within_the_limits() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let limit = Duration::from_millis(200);
    let config = RedisConfig::new(format!("redis://{}", silent.local_addr().unwrap()))
        .with_connect_limit(limit)
        .with_answer_limit(limit);
    let store: Arc<dyn Store> = Arc::new(store(&config).await);
    let run = SampleRun::new();
    let call = tokio::time::timeout(Duration::from_secs(30), store.begin(&run.record)).await;
    let error = call.unwrap().unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}
