//! What befalls a store on a server: lost answers, refusals, restarts, silence, a lost cursor.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use mongodb::bson::{Document, doc};
use pubsub_core::conformance::store::{SampleRun, at, batch, lines, read, read_lines, shape, until};
use pubsub_core::{
    Appended, ErrorKind, Follow, FollowFrom, Followed, LineBatch, LineEnd, LineNumber, LineRange, Lines,
    MAX_LINE_BYTES, OutputItem, OutputReader, OutputSink, RunQuery, Stream, Target, follow, verify,
};
use pubsub_file::{SpoolConfig, Spooled};
use server::{connect, database, fail, fresh_database};
use services::{Data, Mongo, MongoOptions, Proxy, Weather};
use store_mongo::{Acknowledge, MongoStoreConfig};

fn start() -> Mongo {
    Mongo::start(&MongoOptions::new()).unwrap()
}

fn config(mongo: &Mongo) -> MongoStoreConfig {
    MongoStoreConfig::new(mongo.url()).with_database("test")
}

/// A store behind a proxy.
fn behind(proxy: &Proxy) -> MongoStoreConfig {
    let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port());
    MongoStoreConfig::new(url).with_database("test").with_connect_limit(Duration::from_secs(2))
}

/// Waits for what is under way, and fails where that takes long.
async fn soon<T>(what: &str, waited: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, waited).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// `first` to `last`, in batches of at most 1,000.
fn numbered(first: u64, last: u64) -> Vec<LineBatch> {
    let starts = (first..=last).step_by(1_000);
    starts.map(|from| lines(from, (from..=last.min(from + 999)).map(|n| format!("line {n}")))).collect()
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn of_a_half_successful_insert_only_what_is_refused_is_told_and_all_else_is_there_once() {
    let name = fresh_database();
    let store = connect(&MongoStoreConfig::new(server::url()).with_database(&name)).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &numbered(1, 100)).await;
    // The server takes no document like this one.
    let refuses = doc! { "content": { "$not": { "$regex": "^line 120$" } } };
    let command = doc! { "collMod": "lines", "validator": refuses };
    database(&server::url(), &name).await.run_command(command).await.unwrap();
    for round in 0..2 {
        let answer = store.append(run.key(), &numbered(50, 150)).await.unwrap();
        assert_eq!(answer.again, [], "round {round}");
        let [gap] = &answer.refused[..] else { panic!("{answer:?}") };
        assert_eq!((gap.range, gap.bytes), (LineRange::new(at(120), at(120)), Some(9)));
        assert!(gap.reason.contains("validation") && gap.reason.contains("121"), "{}", gap.reason);
        run.record.holes = answer.refused;
    }
    run.print(&numbered(101, 150));
    run.finish(&store).await;
    let items = read(&store, run.id(), Lines::ALL).await;
    assert_eq!(shape(&items), format!("1-119 gap 120-120 {}; 121-150", run.record.holes[0].reason));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn a_call_whose_answer_is_lost_is_repeated_and_changes_nothing() {
    let mongo = start();
    let mut proxy = Proxy::start(mongo.port()).unwrap();
    let store = connect(&behind(&proxy)).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let mut lost = 0;
    for round in 0..10 {
        let part = numbered(round * 100 + 1, round * 100 + 100);
        run.print(&part);
        proxy.set(Weather::AnswersLost).unwrap();
        // The driver repeats a call once by itself; in this weather that is lost as well.
        match store.append(run.key(), &part).await {
            Ok(answer) => assert_eq!(answer, Appended::all()),
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                lost += 1;
            }
        }
        proxy.set(Weather::Clear).unwrap();
        until("the lines are taken", || {
            async { store.append(run.key(), &part).await.is_ok_and(|answer| answer == Appended::all()) }
                .boxed()
        })
        .await;
    }
    assert!(lost > 0, "no answer was lost");
    run.finish(&store).await;
    assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 1_000);
    assert!(verify(&store, run.id()).await.unwrap().agrees());
    let runs = database(&mongo.url(), "test").await.collection::<Document>("runs");
    let stored = runs.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(
        stored.get_i64("bytes").unwrap().unsigned_abs(),
        run.record.counts.bytes,
        "each byte counts once"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn what_the_server_refuses_has_its_kind_and_its_words_and_is_taken_later() {
    let mongo = start();
    let store = connect(&config(&mongo)).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    for (first, kind, fault) in [
        (1, ErrorKind::Full, doc! { "failCommands": ["insert"], "errorCode": 14031 }),
        (11, ErrorKind::Refused, doc! { "failCommands": ["insert"], "errorCode": 13 }),
        (21, ErrorKind::Unavailable, doc! { "failCommands": ["insert"], "errorCode": 16500 }),
        (
            31,
            ErrorKind::TimedOut,
            doc! {
                "failCommands": ["insert"], "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
            },
        ),
        // The lines are there, and their run was not told.
        (41, ErrorKind::Unavailable, doc! { "failCommands": ["findAndModify"], "errorCode": 16500 }),
    ] {
        fail(&mongo.url(), 1, fault).await;
        let part = numbered(first, first + 9);
        let error = store.append(run.key(), &part).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.chain().contains("code"), "{}", error.chain());
        run.append(&store, &part).await;
    }
    fail(&mongo.url(), 1, doc! { "failCommands": ["find"], "errorCode": 13 }).await;
    assert_eq!(
        store.runs(&RunQuery::all()).await.unwrap_err().kind(),
        ErrorKind::Refused,
        "never an empty list"
    );
    run.finish(&store).await;
    assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 50);
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn a_reader_whose_cursor_is_lost_goes_on_behind_what_it_has() {
    let mut mongo = start();
    let store = connect(&config(&mongo)).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &numbered(1, 5_000)).await;
    run.finish(&store).await;
    let mut items = store.lines(run.id(), Lines::ALL).await.unwrap().items;
    let mut next = 1;
    let mut lost = false;
    while let Some(item) = items.next().await {
        let OutputItem::Lines(batch) = item.unwrap() else { panic!("no line is missing") };
        assert_eq!(batch.first().get(), next);
        next = batch.last().get() + 1;
        if !std::mem::replace(&mut lost, true) {
            mongo.restart(Data::Kept).unwrap();
        }
    }
    assert_eq!(next, 5_001);
    let mut items = store.lines(run.id(), Lines::ALL).await.unwrap().items;
    let mut read = 0;
    fail(&mongo.url(), 1, doc! { "failCommands": ["getMore"], "errorCode": 43 }).await;
    while let Some(item) = items.next().await {
        read += item.unwrap().range().lines();
    }
    assert_eq!(read, 5_000);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn a_follower_gets_each_line_once_across_a_restart_of_the_server() {
    let mut mongo = start();
    let config = config(&mongo).with_connect_limit(Duration::from_secs(2));
    let (store, other) = (connect(&config).await, connect(&config).await);
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &[lines(1, ["a", "b"])]).await;
    let target = Target::Run(run.id().clone());
    let mut followed = follow(Arc::new(other), Follow { target, from: FollowFrom::Line(LineNumber::FIRST) });
    let mut next = 1;
    let mut take = async |through: u64| {
        while next <= through {
            match soon("a line", followed.next()).await {
                Some(Ok(Followed::Began(_))) => {}
                Some(Ok(Followed::Item(OutputItem::Lines(batch)))) => {
                    assert_eq!(batch.first().get(), next);
                    next = batch.last().get() + 1;
                }
                Some(Err(error)) if error.is_retryable() => {}
                other => panic!("{other:?}"),
            }
        }
    };
    take(2).await;
    mongo.kill().unwrap();
    let away = store.append(run.key(), &[lines(3, ["c"])]).await.unwrap_err();
    assert_eq!(away.kind(), ErrorKind::Unavailable, "{away:?}");
    mongo.restart(Data::Kept).unwrap();
    until("the store takes lines again", || {
        async { store.append(run.key(), &[lines(3, ["c"])]).await.is_ok() }.boxed()
    })
    .await;
    take(3).await;
    run.print(&[lines(3, ["c"])]);
    run.finish(&store).await;
    while let Some(item) = soon("the end", followed.next()).await {
        match item {
            Ok(Followed::Ended(_)) => {}
            Err(error) if error.is_retryable() => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn a_server_that_is_silent_or_away_is_an_error_in_time_and_none_of_connecting() {
    let mongo = start();
    let mut proxy = Proxy::start(mongo.port()).unwrap();
    proxy.set(Weather::Refused).unwrap();
    let config = behind(&proxy).with_answer_limit(Duration::from_secs(2));
    let store = connect(&config).await;
    let mut run = SampleRun::new();
    assert_eq!(store.begin(&run.record).await.unwrap_err().kind(), ErrorKind::Unavailable);
    proxy.set(Weather::Clear).unwrap();
    until("it is found once it is there", || async { store.begin(&run.record).await.is_ok() }.boxed()).await;
    proxy.set(Weather::Stalled).unwrap();
    let began = Instant::now();
    let error = store.append(run.key(), &[lines(1, ["a"])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    proxy.set(Weather::Clear).unwrap();
    run.append(&store, &[lines(1, ["a"])]).await;
    run.finish(&store).await;
    assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn behind_a_spool_nothing_is_lost_while_the_server_is_away() {
    let mut mongo = start();
    let dir = tempfile::tempdir().unwrap();
    let store = connect(&config(&mongo).with_connect_limit(Duration::from_secs(1))).await;
    let spooled = Spooled::open_store(store.clone(), SpoolConfig::new(dir.path())).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    run.append(&spooled, &numbered(1, 1_000)).await;
    mongo.kill().unwrap();
    let began = Instant::now();
    for first in (1_001..=20_000).step_by(1_000) {
        run.append(&spooled, &numbered(first, first + 999)).await;
    }
    run.finish(&spooled).await;
    assert!(began.elapsed() < Duration::from_secs(20), "the command is not slowed: {:?}", began.elapsed());
    mongo.restart(Data::Kept).unwrap();
    soon("all of it is shipped", spooled.shipped()).await;
    assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), "1-20000");
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn no_document_grows_with_the_output_and_writing_stays_as_fast() {
    let name = fresh_database();
    let store = connect(&MongoStoreConfig::new(server::url()).with_database(&name)).await;
    // One line of 20 MiB goes as parts, and another run is not delayed by it.
    let (mut long, mut other) = (SampleRun::new(), SampleRun::new());
    long.begin(&store).await;
    other.begin(&store).await;
    let piece = "x".repeat(MAX_LINE_BYTES);
    let parts: Vec<_> = (1..=320).map(|n| batch(n, Stream::Stdout, piece.clone(), LineEnd::Part)).collect();
    for part in parts.chunks(64) {
        long.append(&store, part).await;
    }
    other.append(&store, &[lines(1, ["quick"])]).await;
    long.finish(&store).await;
    let lines_of = read_lines(&store, long.id(), Lines::ALL).await;
    assert_eq!(lines_of.iter().map(|line| line.bytes.len()).sum::<usize>(), 20 << 20);
    let text = "x".repeat(190);
    let mut took = Vec::new();
    for first in (2..=20_001).step_by(1_000) {
        let began = Instant::now();
        let batch = |from: u64| lines(from, (from..from + 250).map(|n| format!("{n:>9}{text}")));
        let batches: Vec<_> = (first..first + 1_000).step_by(250).map(batch).collect();
        other.append(&store, &batches).await;
        took.push(began.elapsed());
    }
    other.finish(&store).await;
    assert!(verify(&store, other.id()).await.unwrap().agrees());
    let [first, last] = [&took[..5], &took[15..]].map(|some| *some.iter().min().unwrap());
    assert!(last < first * 5 + Duration::from_millis(200), "the first took {first:?} and the last {last:?}");
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn writes_that_no_deployment_can_keep_are_no_success() {
    let name = fresh_database();
    // The server of the tests is alone.
    let config =
        MongoStoreConfig::new(server::url()).with_database(&name).with_acknowledge(Acknowledge::Nodes(3));
    let store = connect(&config.with_answer_limit(Duration::from_secs(2))).await;
    let answer = store.begin(&SampleRun::new().record).await;
    assert!(answer.is_err_and(|error| error.is_retryable()), "three servers cannot have it");
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn late_lines_of_a_running_run_are_stored_and_its_followers_wait_for_them() {
    let store = connect(&server::config()).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let through = async || store.lines(run.id(), Lines::Last(0)).await.unwrap().complete_through;
    let part = |first, last| numbered(first, last);
    store.append(run.key(), &part(1, 10)).await.unwrap();
    store.append(run.key(), &part(21, 6_000)).await.unwrap();
    assert_eq!(through().await, 10);
    store.append(run.key(), &part(11, 15)).await.unwrap();
    assert_eq!(through().await, 15);
    store.append(run.key(), &[part(16, 18), part(20, 20)].concat()).await.unwrap();
    assert_eq!(through().await, 18);
    // What nobody has any more holds nothing up.
    let mut record = run.record.clone();
    record.revision += 1;
    record.holes = vec![pubsub_core::Gap {
        range: LineRange::new(at(19), at(19)),
        bytes: None,
        reason: "refused".to_owned(),
    }];
    store.begin(&record).await.unwrap();
    assert_eq!(through().await, 6_000);
    store.append(run.key(), &part(6_001, 6_010)).await.unwrap();
    assert_eq!(through().await, 6_010);
    let last = read(&store, run.id(), Lines::Last(5_995)).await;
    assert_eq!(shape(&last), "15-18 gap 19-19 refused; 20-6010");
    run.record = record;
}
