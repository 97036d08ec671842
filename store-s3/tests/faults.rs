//! What befalls a store on a server that speaks S3: throttling, lost answers, silence, restarts, damage, wrong set-ups.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use pubsub_core::conformance::store::{SampleRun, at, lines, read, read_lines, shape};
use pubsub_core::{
    Backoff, Counts, ErrorKind, FanOut, Follow, FollowFrom, Followed, LineBatch, LineNumber, LineRange,
    Lines, OutputItem, OutputReader, OutputSink, Retention, Search, SinkConfig, Target, follow, verify,
};
use server::{at_prefix, fresh_prefix};
use services::{Data, Fate, HttpAnswer, HttpFaults, HttpRequest, S3};
use store_s3::{S3Store, S3StoreConfig};

const SLOW_DOWN: &str =
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

/// A store behind a proxy, and one that goes there directly.
async fn behind(proxy: &HttpFaults, prefix: &str) -> S3Store {
    S3Store::connect(at_prefix(&S3::url_at(proxy.port()), prefix)).await.unwrap()
}

/// Lines of about 100 bytes each that do not compress to nothing.
fn noisy(first: u64, count: u64) -> LineBatch {
    let hashed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let line = |n| {
        format!("{n} compiling {:x} in {:x} of {:x}", hashed(n), hashed(n ^ 0x5555), hashed(hashed(n) >> 7))
    };
    lines(first, (first..first + count).map(line))
}

/// Of `first..=last`, in batches of 500.
fn many(first: u64, last: u64) -> Vec<LineBatch> {
    (first..=last).step_by(500).map(|from| noisy(from, 500.min(last - from + 1))).collect()
}

fn is_segment(request: &HttpRequest, method: &str) -> bool {
    request.method() == method && request.path().ends_with(".zst")
}

/// Calls until it is answered, a few times.
async fn repeated<T>(call: impl AsyncFn() -> pubsub_core::Result<T>) -> T {
    for _ in 0..10 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    panic!("it fails ten times");
}

async fn agrees(store: &S3Store, run: &SampleRun) {
    assert_eq!(verify(store, run.id()).await.unwrap().problem(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn a_store_that_asks_to_slow_down_most_of_the_time_gets_every_line_of_every_job() {
    let proxy = server::proxy();
    let store = behind(&proxy, &fresh_prefix()).await;
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    // Seven of ten, in both dialects, of the first thousand.
    proxy.set(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
        n if n >= 1_000 || n % 10 >= 7 => Fate::Passes,
        n if n % 2 == 0 => Fate::Answered(HttpAnswer::new(503).with_body(SLOW_DOWN)),
        _ => Fate::Answered(HttpAnswer::new(429)),
    });
    let backoff = Backoff { base: Duration::from_millis(20), factor: 2, cap: Duration::from_secs(1) };
    let job = async |_| {
        let sink = SinkConfig::required("s3", Arc::new(store.clone())).with_backoff(backoff);
        let fan_out = FanOut::new(vec![sink.with_delay(Duration::from_millis(200))]);
        let mut run = SampleRun::new();
        let output = fan_out.begin(&run.record).await.unwrap();
        for from in (1..=2_000).step_by(100) {
            let batch = noisy(from, 100);
            run.print(std::slice::from_ref(&batch));
            output.append(&[batch]);
            output.room().await;
        }
        run.complete();
        output.finish(run.record.clone()).await.unwrap();
        run
    };
    let runs = join_all((0..20).map(job)).await;
    assert!(asked.load(Ordering::Relaxed) > 100);
    proxy.clear();
    for run in runs {
        agrees(&store, &run).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn an_answer_that_is_lost_leaves_nothing_twice() {
    let proxy = server::proxy();
    let store = behind(&proxy, &fresh_prefix()).await;
    let mut run = SampleRun::new();
    let mut lost = 0;
    // The first of each kind of write is done, and nobody hears of it; the first read is cut in the middle.
    let mut seen = std::collections::BTreeSet::new();
    proxy.set(move |request| {
        let name = request.path().rsplit(['/', '.']).next().unwrap_or_default().to_owned();
        if !seen.insert((request.method().to_owned(), name)) || lost > 20 {
            return Fate::Passes;
        }
        lost += 1;
        if request.method() == "GET" { Fate::CutWithin } else { Fate::CutAfter }
    });
    repeated(async || store.begin(&run.record).await).await;
    let given = many(1, 3_000);
    run.print(&given);
    let appended = repeated(async || store.append(run.key(), &given).await).await;
    assert_eq!(appended, pubsub_core::Appended::all());
    run.complete();
    repeated(async || store.finish(&run.record).await).await;
    proxy.clear();
    agrees(&store, &run).await;
    assert_eq!(store.runs(&run.query()).await.unwrap(), [run.record]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn a_long_log_that_is_written_slowly_is_complete_and_no_upload_is_left_open() {
    let proxy = server::proxy();
    let store = behind(&proxy, &fresh_prefix()).await;
    let uploads = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&uploads);
    proxy.set(move |request| {
        counted.fetch_add(u64::from(request.query().contains("upload")), Ordering::Relaxed);
        Fate::Passes
    });
    let mut run = SampleRun::new();
    run.begin(&store).await;
    // 12 MB, a portion of another size each time.
    let (mut first, mut portion) = (1, 100);
    while first < 200_000 {
        let last = first + portion - 1;
        run.append(&store, &many(first, last)).await;
        // What was appended can be read at once.
        assert_eq!(store.lines(run.id(), Lines::Last(1)).await.unwrap().complete_through, last);
        (first, portion) = (last + 1, portion * 3 % 50_000 + 1_000);
    }
    run.finish(&store).await;
    agrees(&store, &run).await;
    assert_eq!(uploads.load(Ordering::Relaxed), 0, "segments are put in one request each");
}

#[tokio::test]
#[ignore = "needs S3"]
async fn a_job_without_output_has_a_record_an_empty_list_and_no_segment() {
    let proxy = server::proxy();
    let store = behind(&proxy, &fresh_prefix()).await;
    let segments = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&segments);
    proxy.set(move |request| {
        counted.fetch_add(u64::from(is_segment(request, "PUT")), Ordering::Relaxed);
        Fate::Passes
    });
    let run = SampleRun::written(&store, &[]).await;
    assert_eq!(read(&store, run.id(), Lines::ALL).await, []);
    agrees(&store, &run).await;
    assert_eq!(segments.load(Ordering::Relaxed), 0);
}

#[tokio::test]
#[ignore = "needs S3"]
async fn a_wrong_set_up_fails_at_the_start_and_is_not_tried_again() {
    let proxy = server::proxy();
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    proxy.set(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Fate::Passes
    });
    let good = S3::url_at(proxy.port());
    let wrong_secret = at_prefix(&good, "x").with_option("secret_access_key", "falsch");
    let wrong_key = at_prefix(&good, "x").with_option("access_key_id", "niemand");
    let other_bucket = at_prefix(&good.replace("s3://test", "s3://no-such-bucket"), "x");
    for (config, named) in
        [(wrong_secret, "SignatureDoesNotMatch"), (wrong_key, "InvalidAccessKeyId"), (other_bucket, "bucket")]
    {
        let shown = format!("{config:?}");
        assert!(!shown.contains("falsch") && !shown.contains(S3::KEYS.1), "{shown}");
        asked.store(0, Ordering::Relaxed);
        let error = S3Store::connect(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        let text = error.chain();
        assert!(text.contains(named) && !text.contains("falsch") && !text.contains(S3::KEYS.1), "{text}");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "{text}");
    }
}

#[tokio::test]
#[ignore = "needs S3"]
async fn a_server_that_never_answers_is_an_error_that_may_pass_and_holds_nobody_else_up() {
    let proxy = server::proxy();
    let prefix = fresh_prefix();
    let slow = at_prefix(&S3::url_at(proxy.port()), &prefix).with_option("timeout", "1s");
    let (store, other) = (
        S3Store::connect(slow).await.unwrap(),
        S3Store::connect(at_prefix(&S3::url_at(server::port()), &prefix)).await.unwrap(),
    );
    let mut run = SampleRun::new();
    run.begin(&store).await;
    proxy.set(|_| Fate::Stalls);
    let began = Instant::now();
    let (key, given) = (run.key().clone(), [noisy(1, 10)]);
    let (stalled, ()) = tokio::join!(store.append(&key, &given), run.append(&other, &given));
    let error = stalled.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    proxy.clear();
    run.finish(&store).await;
    agrees(&store, &run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn a_follower_gets_each_line_once_across_a_restart_and_an_emptied_bucket_is_no_removal() {
    let mut server = S3::start().unwrap();
    let config = at_prefix(&server.url(), "p").with_option("connect_timeout", "1s");
    let store = S3Store::connect(config).await.unwrap();
    let mut run = SampleRun::new();
    run.record.beat_every_ms = 600_000;
    run.begin(&store).await;
    run.append(&store, &[noisy(1, 10)]).await;
    let target = Target::Run(run.id().clone());
    let mut followed =
        follow(Arc::new(store.clone()), Follow { target, from: FollowFrom::Line(LineNumber::FIRST) });
    let mut next = 1;
    let mut outages = 0;
    let mut take = async |through: u64| {
        while next <= through {
            match tokio::time::timeout(Duration::from_secs(60), followed.next()).await.unwrap() {
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
    take(10).await;
    server.kill().unwrap();
    let away = store.append(run.key(), &[noisy(11, 10)]).await.unwrap_err();
    assert!(away.is_retryable(), "{away:?}");
    server.restart(Data::Kept).unwrap();
    while store.append(run.key(), &[noisy(11, 10)]).await.is_err() {}
    assert!(take(20).await <= 2);
    run.print(&[noisy(11, 10)]);
    run.finish(&store).await;
    agrees(&store, &run).await;
    // Nothing that the store wrote is there any more: that is not said of one run.
    server.restart(Data::Lost).unwrap();
    let error = store.append(run.key(), &[noisy(21, 1)]).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn records_that_are_written_at_once_leave_the_highest_revision() {
    let config = server::config();
    let stores = join_all((0..8).map(|_| S3Store::connect(config.clone()))).await;
    let stores: Vec<S3Store> = stores.into_iter().map(Result::unwrap).collect();
    let mut run = SampleRun::new();
    run.begin(&stores[0]).await;
    let beats = stores.iter().cloned().enumerate().map(|(n, store)| {
        let mut record = run.record.clone();
        tokio::spawn(async move {
            for step in 0..5 {
                record.beat(Counts::default());
                record.revision = 2 + step * 8 + n as u64;
                store.begin(&record).await.unwrap();
            }
        })
    });
    for beat in join_all(beats).await {
        beat.unwrap();
    }
    run.record.revision = 100;
    assert_eq!(stores[1].runs(&run.query()).await.unwrap()[0].revision, 2 + 4 * 8 + 7);
    run.finish(&stores[2]).await;
    assert_eq!(stores[3].runs(&run.query()).await.unwrap(), [run.record]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn a_merge_that_is_interrupted_loses_nothing_and_is_done_by_the_next() {
    let (proxy, prefix) = (server::proxy(), fresh_prefix());
    let store = behind(&proxy, &prefix).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    assert_eq!(store.compact(run.id()).await.unwrap(), 0, "a run that runs is left alone");
    for first in (1..=3_000).step_by(100) {
        run.append(&store, &[noisy(first, 100)]).await;
    }
    // As one that was sent again in other portions.
    run.finish(&store).await;
    store.append(run.key(), &many(150, 1_049)).await.unwrap();
    store.finish(&run.record).await.unwrap();
    // What was merged cannot be deleted.
    proxy.set(|request| match (request.method(), request.query()) {
        ("DELETE", _) | ("POST", "delete" | "delete=") => Fate::Answered(HttpAnswer::new(403)),
        _ => Fate::Passes,
    });
    let reader = store.lines(run.id(), Lines::ALL).await.unwrap();
    let error = store.compact(run.id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    agrees(&store, &run).await;
    proxy.clear();
    assert!(store.compact(run.id()).await.unwrap() >= 29);
    assert_eq!(store.compact(run.id()).await.unwrap(), 0, "there is nothing left to merge");
    agrees(&store, &run).await;
    // Who began to read before goes on with what there is now.
    let items: Vec<OutputItem> = reader.items.map(Result::unwrap).collect().await;
    assert_eq!(shape(&items), "1-3000");
    let found = store.search(&run.query(), &Search::regex("^1[0-9]{3} ").unwrap()).await.unwrap();
    assert_eq!(found.count().await, 1_000);
}

#[tokio::test]
#[ignore = "needs S3"]
async fn the_last_lines_of_a_run_that_has_ended_cost_two_reads_and_a_rare_text_few_bytes() {
    let (proxy, prefix) = (server::proxy(), fresh_prefix());
    let store = behind(&proxy, &prefix).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let given = many(1, 150_000);
    let bytes: usize = given.iter().map(|batch| batch.bytes().len()).sum();
    for portion in given.chunks(20) {
        run.append(&store, portion).await;
    }
    run.append(&store, &[lines(150_001, ["and one needle in the hay"])]).await;
    run.append(&store, &many(150_002, 160_000)).await;
    run.finish(&store).await;
    let (reads, read_bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counted = (Arc::clone(&reads), Arc::clone(&read_bytes));
    proxy.set(move |request| {
        counted.0.fetch_add(1, Ordering::Relaxed);
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        if let Some((from, to)) = range {
            let length = to.parse::<u64>().unwrap() + 1 - from.parse::<u64>().unwrap();
            counted.1.fetch_add(length, Ordering::Relaxed);
        }
        Fate::Passes
    });
    let last = read_lines(&behind(&proxy, &prefix).await, run.id(), Lines::Last(100)).await;
    assert_eq!((last.len(), last[0].number), (100, at(159_901)));
    // One more of them looked at the bucket when the store was connected.
    assert_eq!(reads.load(Ordering::Relaxed), 3);
    store.compact(run.id()).await.unwrap();
    read_bytes.store(0, Ordering::Relaxed);
    let fresh = behind(&proxy, &prefix).await;
    let found = fresh.search(&run.query(), &Search::literal("needle").unwrap()).await.unwrap();
    assert_eq!(found.count().await, 1);
    let read_bytes = read_bytes.load(Ordering::Relaxed);
    assert!(read_bytes * 20 < bytes as u64, "{read_bytes} of {bytes} bytes were read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs S3"]
async fn readers_that_look_at_nothing_hold_nobody_up() {
    let store = S3Store::connect(server::config().with_requests(2)).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&store).await;
    for first in (1..=30_000).step_by(5_000) {
        run.append(&store, &many(first, first + 4_999)).await;
    }
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut items = store.lines(run.id(), Lines::ALL).await.unwrap().items;
        assert!(items.next().await.unwrap().is_ok());
        readers.push(items);
    }
    let finished = tokio::time::timeout(Duration::from_secs(60), run.finish(&store)).await;
    assert!(finished.is_ok(), "the end of the run waits for readers");
    agrees(&store, &run).await;
}

#[tokio::test]
#[ignore = "needs S3"]
async fn a_segment_that_was_changed_is_a_gap_and_hides_nothing_else() {
    let (proxy, prefix) = (server::proxy(), fresh_prefix());
    let store = behind(&proxy, &prefix).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    for first in [1, 101, 201] {
        run.append(&store, &[noisy(first, 100)]).await;
    }
    run.finish(&store).await;
    for part in ["the lines", "the index"] {
        // A byte near the beginning or the end of the second segment.
        proxy.set(move |request| {
            if !(is_segment(request, "GET") && request.path().contains("00101-")) {
                return Fate::Passes;
            }
            Fate::Changed(
                request.clone(),
                services::Mend::new(move |answer| {
                    let mut body = answer.body().to_vec();
                    let at = if part == "the lines" { body.len() / 2 } else { body.len() - 20 };
                    body[at] ^= 1;
                    answer.with_body(body)
                }),
            )
        });
        let damaged = behind(&proxy, &prefix).await;
        let expected = "1-100 gap 101-200 the segment was changed after it was stored; 201-300";
        assert_eq!(shape(&read(&damaged, run.id(), Lines::ALL).await), expected, "{part}");
        let problem = verify(&damaged, run.id()).await.unwrap().problem();
        assert!(problem.as_ref().is_some_and(|problem| problem.contains("101 to 200")), "{problem:?}");
        let asked = Lines::Range(LineRange::new(at(250), at(251)));
        assert_eq!(read_lines(&damaged, run.id(), asked).await.len(), 2);
    }
    // Filters without a bit hold nothing back: they are not those that were written.
    proxy.set(|request| {
        if !is_segment(request, "GET") {
            return Fate::Passes;
        }
        let mend = |answer: HttpAnswer| {
            let mut body = answer.body().to_vec();
            body[8..40].fill(0);
            answer.with_body(body)
        };
        Fate::Changed(request.clone(), services::Mend::new(mend))
    });
    let damaged = behind(&proxy, &prefix).await;
    let found = damaged.search(&run.query(), &Search::literal("compiling").unwrap()).await.unwrap();
    assert_eq!(found.count().await, 300);
}

#[tokio::test]
#[ignore = "needs S3"]
async fn what_a_newer_version_wrote_is_refused_by_name() {
    let prefix = fresh_prefix();
    let (proxy, config) = (server::proxy(), |port| at_prefix(&S3::url_at(port), &prefix));
    proxy.set(|request| {
        if !request.path().ends_with("format.json") {
            return Fate::Passes;
        }
        Fate::Answered(
            HttpAnswer::new(200)
                .with_header("ETag", "\"1\"")
                .with_header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
                .with_body("{\"format\":2}"),
        )
    });
    let error = S3Store::connect(config(proxy.port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew, "{error:?}");
    assert!(error.to_string().contains("version=2"), "{error}");
}

#[tokio::test]
#[ignore = "needs S3"]
async fn a_removal_that_was_interrupted_is_brought_to_its_end() {
    let (proxy, prefix) = (server::proxy(), fresh_prefix());
    let store = behind(&proxy, &prefix).await;
    let run = SampleRun::written(&store, &[noisy(1, 100)]).await;
    let mut deletes = 0;
    proxy.set(move |request| {
        let is_delete = request.method() == "DELETE" || request.query().starts_with("delete");
        deletes += u64::from(is_delete);
        if is_delete && deletes > 1 { Fate::Answered(HttpAnswer::new(403)) } else { Fate::Passes }
    });
    assert_eq!(store.remove(run.id()).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(
        store.lines(run.id(), Lines::ALL).await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "it is gone"
    );
    proxy.clear();
    assert!(store.remove(run.id()).await.unwrap(), "there was something left of it");
    assert!(!store.remove(run.id()).await.unwrap());
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_no_error_of_the_start() {
    let config = S3StoreConfig::from_url(&S3::url_at(1)).unwrap();
    let store = S3Store::connect(config).await.unwrap();
    let error = store.begin(&SampleRun::new().record).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(!error.chain().contains(S3::KEYS.1), "{error:?}");
}
