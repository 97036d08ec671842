//! What befalls a store on one server: no memory, a restart, cut connections, odd lines, bounds and ends of time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Proxy, Server};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use pubsub_core::conformance::store::{SampleRun, at, batch, lines, read, read_lines, shape, until};
use pubsub_core::{
    Appended, Capture, Durability, ErrorKind, Follow, FollowFrom, Followed, LineEnd, LineNumber, Lines,
    OutputItem, OutputReader, OutputSink, Retention, RunQuery, RunRecord, Search, Store, Stream, Target,
    Timestamp, follow, verify,
};
use pubsub_redis::{RedisConfig, RedisStore, RedisStoreConfig};

async fn store() -> RedisStore {
    RedisStore::connect(RedisStoreConfig::new(common::config())).await.unwrap()
}

async fn store_of(server: &Server) -> RedisStore {
    RedisStore::connect(RedisStoreConfig::new(server.config())).await.unwrap()
}

/// Waits for what is under way, and fails where that takes long.
async fn soon<T>(what: &str, waited: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, waited).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// So many lines of about 1,000 bytes each.
fn thousands(first: u64, count: u64) -> pubsub_core::LineBatch {
    lines(first, (first..first + count).map(|n| format!("{n:>990}")))
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn after_an_out_of_memory_refusal_no_later_line_passes_an_earlier_one() {
    let server = Server::start(&["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let given: Vec<_> = (0..200).map(|n| thousands(1 + n * 60, 60)).collect();
    run.print(&given);
    // In the middle of one call: scripts before it are done, and the call says that there is no room.
    let error = store.append(run.key(), &given).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert!(error.is_retryable());
    let stored = store.lines(run.id(), Lines::ALL).await.unwrap().complete_through;
    assert!(stored > 0 && stored < 12_000, "{stored} lines were stored");
    // What came after the refused ones in the call was not tried.
    assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), format!("1-{stored}"));
    // There is room again; the whole call is repeated, and every line is there once.
    server.set("maxmemory", "0").await;
    assert_eq!(store.append(run.key(), &given).await.unwrap(), Appended::all());
    run.finish(&store).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
    assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 12_000);
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_follower_gets_each_line_once_across_a_restart_of_the_server() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let (store, other) = (store_of(&server).await, store_of(&server).await);
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &[lines(1, ["a", "b"])]).await;
    let target = Target::Run(run.id().clone());
    let mut followed = follow(Arc::new(other), Follow { target, from: FollowFrom::Line(LineNumber::FIRST) });
    let (mut next, mut outages) = (1, 0);
    let mut take = async |through: u64| {
        while next <= through {
            match soon("a line", followed.next()).await {
                Some(Ok(Followed::Began(_))) => {}
                Some(Ok(Followed::Item(OutputItem::Lines(batch)))) => {
                    assert_eq!(batch.first().get(), next);
                    next = batch.last().get() + 1;
                }
                Some(Err(error)) if error.is_retryable() => outages += 1,
                other => panic!("{other:?}"),
            }
        }
        outages
    };
    take(2).await;
    server.stop().await;
    let away = store.append(run.key(), &[lines(3, ["c"])]).await.unwrap_err();
    assert!(away.is_retryable(), "{away:?}");
    server.start_again().await;
    until("the store takes lines again", || {
        async { store.append(run.key(), &[lines(3, ["c"])]).await.is_ok() }.boxed()
    })
    .await;
    let mut outages = take(3).await;
    run.print(&[lines(3, ["c"])]);
    run.finish(&store).await;
    while let Some(item) = soon("the end", followed.next()).await {
        match item {
            Ok(Followed::Ended(_)) => {}
            Err(error) if error.is_retryable() => outages += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(outages <= 2, "{outages} errors in one outage");
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn cut_connections_are_made_anew_and_nothing_is_lost() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let mut changes = store.changes(&run.query()).await.unwrap();
    changes.next().await.unwrap().unwrap();
    for number in 1..=20 {
        // Both: the one of commands and the one that waits.
        server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        run.append(&store, &[lines(number, ["x"])]).await;
        let told = async {
            while store.lines(run.id(), Lines::Last(0)).await.unwrap().complete_through < number
                || changes.next().await.unwrap().is_err()
            {}
        };
        soon("a change is told", told).await;
    }
    run.finish(&store).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn connections_on_which_nothing_comes_any_more_are_given_up() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(&server).await;
    let config = proxy.config().with_answer_limit(Duration::from_secs(2));
    let store = RedisStore::connect(RedisStoreConfig::new(config)).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let mut changes = store.changes(&run.query()).await.unwrap();
    changes.next().await.unwrap().unwrap();
    soon("the stream is watched", changes.next()).await.unwrap().unwrap();
    assert_eq!(proxy.connections(), 2, "one of commands and one that waits");
    proxy.silence();
    let error = store.append(run.key(), &[lines(1, ["a"])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    run.append(&store, &[lines(1, ["a"])]).await;
    // The one that waits was silent as well; that may be told, and then all is as before.
    until("both are made anew", || std::future::ready(proxy.connections() >= 4).boxed()).await;
    run.append(&store, &[lines(2, ["b"])]).await;
    while soon("a change is told", changes.next()).await.unwrap().is_err() {}
    run.finish(&store).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_server_that_forgot_its_scripts_is_given_them_again() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    for number in 1..=20 {
        server.ask(&["SCRIPT", "FLUSH", "SYNC"]).await;
        run.append(&store, &[lines(number, ["x"])]).await;
    }
    run.finish(&store).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_read_that_waits_delays_no_command_and_a_thousand_followers_share_it() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut runs = Vec::new();
    for _ in 0..10 {
        let run = SampleRun::new();
        run.begin(&store).await;
        runs.push(run);
    }
    let mut waiting = Vec::new();
    for n in 0..1_000 {
        let mut changes = store.changes(&runs[n % 10].query()).await.unwrap();
        changes.next().await.unwrap().unwrap();
        waiting.push(changes);
    }
    until("the stream is watched", || {
        async { server.ask(&["CLIENT", "LIST"]).await.contains("cmd=xread") }.boxed()
    })
    .await;
    // Each of these in less time than the wait takes, by far.
    for first in (1..=10_000).step_by(1_000) {
        let begun = Instant::now();
        let texts = (first..first + 1_000).map(|n| n.to_string());
        runs[0].append(&store.clone(), &[lines(first, texts)]).await;
        assert_eq!(store.runs(&runs[0].query()).await.unwrap().len(), 1);
        assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    }
    let clients = server.ask(&["CLIENT", "LIST"]).await;
    let ours = clients.lines().filter(|client| client.contains("cmd=")).count();
    // The one of this question, the one of commands and the one that waits.
    assert_eq!(ours, 3, "{clients}");
    for changes in waiting.iter_mut().step_by(10) {
        soon("a follower of the run is woken", changes.next()).await.unwrap().unwrap();
    }
    drop(waiting);
    until("nobody waits, so nothing is watched", || {
        async { !server.ask(&["CLIENT", "LIST"]).await.contains("cmd=xread") }.boxed()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn long_lines_and_bytes_of_any_kind_come_back_as_they_were() {
    let store = store().await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let every_byte: Vec<u8> = (0..=255_u8).filter(|byte| *byte != b'\n').chain(*b"\n").collect();
    let mut printed = every_byte;
    printed.extend(std::iter::repeat_n(b'y', 1 << 20));
    printed.extend_from_slice(b"needle\r\n\0\r\n  \n");
    let (mut capture, mut given) = (Capture::new(Arc::default()), Vec::new());
    let now = tokio::time::Instant::now();
    capture.push(Stream::Stdout, printed.clone().into(), now, Timestamp::now(), &mut given);
    capture.end(Stream::Stdout, Timestamp::now(), &mut given);
    run.append(&store, &given).await;
    run.finish(&store).await;
    let back = read_lines(&store, run.id(), Lines::ALL).await;
    let rebuilt: Vec<u8> = back.iter().flat_map(|line| [&line.bytes, line.end.as_bytes()].concat()).collect();
    assert!(rebuilt == printed, "{} bytes came back of {}", rebuilt.len(), printed.len());
    let search = Search::literal("needle").unwrap();
    let hits: Vec<_> = store.search(&run.query(), &search).await.unwrap().try_collect().await.unwrap();
    assert_eq!(hits.len(), 1);
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn over_its_bound_a_run_loses_its_first_lines_to_one_counted_gap() {
    let config = RedisStoreConfig::new(common::config()).with_max_run_bytes(1 << 20);
    let store = RedisStore::connect(config).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&store).await;
    for first in (1..=3_000).step_by(50) {
        run.append(&store, &[thousands(first, 50)]).await;
    }
    let items = read(&store, run.id(), Lines::ALL).await;
    let OutputItem::Gap(gap) = &items[0] else { panic!("{:?}", items[0]) };
    assert_eq!((gap.range.first.get(), gap.bytes), (1, Some(gap.range.lines() * 991)));
    assert!(gap.reason.contains("1048576 bytes"), "{}", gap.reason);
    let kept = 3_000 - gap.range.lines();
    assert!(kept * 991 <= 1 << 20 && kept * 991 > (1 << 20) - 2_000, "{kept} lines are left");
    let last = read_lines(&store, run.id(), Lines::Last(3)).await;
    assert_eq!(last.iter().map(|line| line.number.get()).collect::<Vec<_>>(), [2_998, 2_999, 3_000]);
    // What went is not taken again, and that is told.
    let again = store.append(run.key(), &[thousands(1, 50)]).await.unwrap();
    assert_eq!(again.dropped.iter().map(|gap| gap.range.lines()).sum::<u64>(), 50);
    run.finish(&store).await;
    let record = store.runs(&run.query()).await.unwrap().remove(0);
    assert_eq!(record.holes, std::slice::from_ref(gap), "the seal says so");
    assert!(!verify(&store, run.id()).await.unwrap().agrees());
    // Whoever followed from the first line is told of the same gap.
    let target = Target::Run(run.id().clone());
    let from = FollowFrom::Line(at(10));
    let items: Vec<_> = follow(Arc::new(store), Follow { target, from }).try_collect().await.unwrap();
    assert!(matches!(&items[1], Followed::Item(OutputItem::Gap(told)) if told.range.first.get() == 10
        && told.range.last == gap.range.last));
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_finished_run_goes_when_its_time_ends_and_leaves_nothing() {
    let server = Server::start(&[]).await;
    let config = RedisStoreConfig::new(server.config()).with_keep_finished(Duration::from_secs(1));
    let store = RedisStore::connect(config).await.unwrap();
    let mut running = SampleRun::new();
    running.begin(&store).await;
    running.append(&store, &[lines(1, ["a"])]).await;
    let ended = SampleRun::written(&store, &[lines(1, ["a", "b"])]).await;
    // A late line goes with its run.
    store.append(ended.key(), &[lines(7, ["late"])]).await.unwrap();
    store.append(ended.key(), &[lines(5, ["later"])]).await.unwrap();
    until("the run goes", || {
        async { store.lines(ended.id(), Lines::ALL).await.is_err_and(|e| e.kind() == ErrorKind::NotFound) }
            .boxed()
    })
    .await;
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), std::slice::from_ref(&running.record));
    assert_eq!(store.append(ended.key(), &[lines(8, ["x"])]).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Sets are cleared by those who write next, also sets that nobody reads.
    running.finish(&store).await;
    for query in [RunQuery::all().with_action(ended.key().action_id.clone())] {
        assert_eq!(store.runs(&query).await.unwrap(), []);
    }
    until("all of it goes", || {
        async {
            store.runs(&RunQuery::all()).await.unwrap();
            let keys = server.ask(&["KEYS", "*"]).await;
            !keys.contains(ended.id().as_str())
        }
        .boxed()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_store_that_is_away_is_an_error_of_each_call_and_none_of_connecting() {
    let port = common::free_port();
    let config = RedisConfig::new(format!("redis://127.0.0.1:{port}")).with_prefix("away");
    let store = RedisStore::connect(RedisStoreConfig::new(config)).await.unwrap();
    let run = SampleRun::new();
    let errors = [
        store.begin(&run.record).await.unwrap_err(),
        store.append(run.key(), &[lines(1, ["a"])]).await.unwrap_err(),
        store.runs(&RunQuery::all()).await.unwrap_err(),
        store.lines(run.id(), Lines::ALL).await.unwrap_err(),
        store.remove(run.id()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_retryable(), "{error:?}");
    }
    let mut changes = store.changes(&run.query()).await.unwrap();
    assert!(changes.next().await.unwrap().is_ok(), "an item at once");
    let told = soon("the outage is told", changes.next()).await.unwrap();
    assert!(told.unwrap_err().is_retryable());
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_server_says_what_its_lines_survive() {
    for (arguments, durability) in [
        (&["--appendonly", "no"][..], Durability::Memory),
        (&["--appendonly", "yes"], Durability::ProcessCrash),
        (&["--appendonly", "yes", "--appendfsync", "always"], Durability::PowerLoss),
    ] {
        let server = Server::start(arguments).await;
        assert_eq!(store_of(&server).await.durability().await.unwrap(), durability);
    }
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn what_a_newer_version_wrote_is_refused_by_name_and_left_as_it_is() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::written(&store, &[lines(1, ["a"])]).await;
    let readable = SampleRun::written(&store, &[]).await;
    let key = format!("{}:{{{}}}:record", server.config().prefix(), run.id());
    server.ask(&["HSET", &key, "version", "2"]).await;
    run.record.conclude();
    let errors = [
        store.finish(&run.record).await.unwrap_err(),
        store.append(run.key(), &[lines(2, ["b"])]).await.unwrap_err(),
        store.lines(run.id(), Lines::ALL).await.unwrap_err(),
        store.remove(run.id()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::TooNew, "{error:?}");
        assert!(error.to_string().contains("version=2"), "{error}");
    }
    // It hides no other.
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), [readable.record]);
    server.ask(&["HSET", &key, "version", "1"]).await;
    assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 1);
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_line_that_was_changed_at_the_server_is_a_gap_that_says_so() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &[lines(1, ["a", "b"])]).await;
    let (action, id) = (run.key().action_id.as_str(), run.id());
    let stream = format!("{}:{action}:build:{{{id}}}", server.config().prefix());
    server.ask(&["XADD", &stream, "3-0", "type", "output", "content", "two\nlines"]).await;
    server.ask(&["XADD", &stream, "3-1", "type", "other", "content", "passed over"]).await;
    run.print(&[lines(3, ["c"])]);
    run.append(&store, &[lines(4, ["d"])]).await;
    run.finish(&store).await;
    let items = read(&store, run.id(), Lines::ALL).await;
    assert_eq!(shape(&items), "1-2 gap 3-3 the line was changed after it was stored; 4-4");
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn entries_of_others_at_the_border_of_a_page_hide_no_line() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let stream = format!("{}:{}:build:{{{}}}", server.config().prefix(), run.key().action_id, run.id());
    for number in 1..=700 {
        run.append(&store, &[lines(number, ["x"])]).await;
        if number % 2 == 0 {
            server.ask(&["XADD", &stream, &format!("{number}-1"), "type", "mark"]).await;
        }
    }
    run.finish(&store).await;
    assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), "1-700");
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn the_stored_shape_is_what_other_tools_expect() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let mut run = SampleRun::of("action-123", "build");
    run.begin(&store).await;
    run.append(&store, &[batch(1, Stream::Stderr, "hello\r\n", LineEnd::None)]).await;
    run.finish(&store).await;
    let stream = format!("{}:action-123:build:{{{}}}", server.config().prefix(), run.id());
    let entry = server.ask(&["XRANGE", &stream, "1", "1"]).await;
    for field in ["1-0", "output", "line_number", "hello", "timestamp", "stderr", "crlf"] {
        assert!(entry.contains(field), "{field} in {entry}");
    }
    let record = format!("{}:{{{}}}:record", server.config().prefix(), run.id());
    let shown = server.ask(&["HMGET", &record, "status", "outcome", "code", "action_id", "bytes"]).await;
    for field in ["completed", "succeeded", "0", "action-123", "7"] {
        assert!(shown.contains(field), "{field} in {shown}");
    }
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn a_run_whose_writer_died_before_it_was_entered_is_entered_by_a_repeated_call() {
    let server = Server::start(&[]).await;
    let store = store_of(&server).await;
    let run = SampleRun::written(&store, &[]).await;
    server.ask(&["DEL", &format!("{}:runs", server.config().prefix())]).await;
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), []);
    store.finish(&run.record).await.unwrap();
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), [run.record]);
}

/// A run of a lost writer, and one that was removed by half, leave no trace that a reader trips over.
#[tokio::test]
#[ignore = "needs Redis"]
async fn what_is_in_a_set_and_not_there_is_taken_out_of_it() {
    let server = Server::start(&[]).await;
    let store: Arc<dyn Store> = Arc::new(store_of(&server).await);
    let mut runs = Vec::new();
    for _ in 0..30 {
        runs.push(SampleRun::written(&*store, &[]).await);
    }
    for run in &runs[..29] {
        let key = format!("{}:{{{}}}:record", server.config().prefix(), run.id());
        server.ask(&["DEL", &key]).await;
    }
    let newest = store.runs(&RunQuery::all().with_limit(3)).await.unwrap();
    assert_eq!(newest, std::slice::from_ref(&runs[29].record));
    let set = format!("{}:runs", server.config().prefix());
    assert_eq!(server.ask(&["ZCARD", &set]).await, "int(1)");
}

/// A server closes the connection on which something comes that is larger than it takes.
#[tokio::test]
#[ignore = "needs Redis"]
async fn a_record_that_the_server_would_not_take_is_refused_with_both_sizes() {
    let server = Server::start(&["--proto-max-bulk-len", "1mb"]).await;
    let store = store_of(&server).await;
    let (mut run, large) = (SampleRun::new(), SampleRun::new());
    let key = large.key().clone();
    let mut record = RunRecord::begun(key, "owner");
    record.metadata.insert("k".to_owned(), "x".repeat(1 << 20));
    // Beside lines, each of which is as long as a line may be.
    let line = "y".repeat(pubsub_core::MAX_LINE_BYTES);
    run.begin(&store).await;
    run.print(&(1..40).map(|n| lines(n, [&line])).collect::<Vec<_>>());
    let given: Vec<_> = (1..40).map(|n| lines(n, [&line])).collect();
    let (refused, appended) = tokio::join!(store.begin(&record), store.append(run.key(), &given));
    assert_eq!(appended.unwrap(), Appended::all());
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    for part in ["bytes=10", "limit=1048576", "setting=proto-max-bulk-len"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    // Nothing is left of it, in no set.
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap().len(), 1);
    large.begin(&store).await;
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap().len(), 2);
    run.finish(&store).await;
    assert!(verify(&store, run.id()).await.unwrap().agrees());
}
