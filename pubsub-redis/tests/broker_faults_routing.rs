//! What cannot be decoded, dead letters that cannot be written, odd ids, events that were added twice, and workers that are
//! stopped at any moment.
#![expect(clippy::unwrap_used, reason = "a test")]

mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use own::{broker, conclusion, config, connect, publish, server, until};
use pubsub_core::conformance::broker::{Member, event, named, on};
use pubsub_core::{
    Begin, BrokerAdmin as _, Cause, DeadLetters as _, Exit, FanOut, MemoryStore, OutputReader as _,
    PublisherExt as _, RunContext, RunQuery, Scope, Settlement, SinkConfig, Stage, Stop, Worker, handler_fn,
};
use pubsub_redis::RedisBroker;
use services::Redis;

const EVENTS: &str = "pipeline:{3}:events";
const CLAIMS: &str = "pipeline:{3}:claims";

fn length(redis: &Redis, command: &str, key: &str) -> usize {
    redis.ask(&[command, key]).unwrap().parse().unwrap()
}

fn add(redis: &Redis, fields: &[&str]) {
    redis.ask(&[&["XADD", EVENTS, "*"], fields].concat()).unwrap();
}

/// Entries that are no events, as of another program or of a defect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_is_no_event_is_a_dead_letter_once_and_holds_up_nobody() {
    let redis = server();
    let broker = broker(&redis).await;
    let subscription = |stage: &str| on(stage, &["t:a"]);
    let mut members =
        [Member::join(&broker, subscription("one")).await, Member::join(&broker, subscription("two")).await];
    let whole = ["specversion", "1.0", "id", "x", "source", "s", "time", "2024-05-01T10:00:00Z"];
    add(&redis, &["type", "t", "subject", "a", "data", "no JSON"]);
    add(&redis, &[&whole[..], &["subject", "a", "data", r#"{"without":"type"}"#]].concat());
    add(&redis, &[&whole[..], &["type", "t", "data", r#"{"without":"subject"}"#]].concat());
    add(&redis, &["anything", "else"]);
    add(&redis, &[&whole[..], &["type", "t", "subject", "a", "data", r#"{"cut":"#]].concat());
    publish(&broker, 0..10).await;
    let good: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    for member in &mut members {
        assert_eq!(member.take_many(10).await, good);
    }
    let letters = broker.list(None, 100).await.unwrap();
    let bytes: Vec<_> = letters.iter().map(|l| String::from_utf8_lossy(&l.bytes).into_owned()).collect();
    let expected =
        ["no JSON", r#"{"without":"type"}"#, r#"{"without":"subject"}"#, "anything=else\n", r#"{"cut":"#];
    assert_eq!(bytes, expected, "each once, whoever met it");
    assert!(letters.iter().all(|letter| letter.group.is_none() && !letter.reason.is_empty()));
    assert!(broker.groups(&Scope::default()).await.unwrap().iter().all(|group| group.depth.is_idle()));
}

/// Where a dead letter cannot be written the event is kept: another program's key stands where they are to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_event_whose_dead_letter_cannot_be_written_is_kept() {
    let redis = server();
    let broker = broker(&redis).await;
    publish(&broker, 0..2).await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    redis.ask(&["SET", "pipeline:{3}:dead", "in the way"]).unwrap();
    let leased = member.next().await;
    assert!(matches!(member.begin(&leased).await.unwrap(), Begin::Go(_)));
    let reason = || Settlement::DeadLetter { reason: "no good".to_owned() };
    for _ in 0..2 {
        member.settle(&leased, reason()).await.unwrap_err();
        let held = redis.ask(&["XPENDING", EVENTS, "s@t:a"]).unwrap();
        assert!(held.starts_with('1'), "{held}");
    }
    // The next one does not wait for it, and the same lease settles it once that is possible.
    assert_eq!(member.take().await, "1");
    redis.ask(&["DEL", "pipeline:{3}:dead"]).unwrap();
    member.settle(&leased, reason()).await.unwrap();
    let letters = broker.list(None, 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].attempts), (1, 1));
    assert!(broker.groups(&Scope::default()).await.unwrap()[0].depth.is_idle());
}

/// The double that a repeated publish left is known by its claim, as long as it may come; then the claim goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_double_that_comes_long_after_its_event_is_gone_is_not_run() {
    let redis = server();
    let broker = connect(config(&redis).with_retention(Duration::from_millis(200))).await;
    let (event, other) = (event("t", "a"), event("t", "a"));
    for one in [&event, &event, &other] {
        broker.publish_one(one.clone()).await.unwrap();
    }
    let mut member = Member::join(&broker, on("s", &["t:a"]).with_prefetch(1)).await;
    let first = member.next().await;
    assert!(matches!(member.begin(&first).await.unwrap(), Begin::Go(_)));
    member.conclude(&first, conclusion(&first, 1)).await.unwrap();
    member.ack(&first).await;
    let touched = || redis.ask(&["ZRANGE", "pipeline:{3}:touched", "0", "-1", "WITHSCORES"]).unwrap();
    let (before, entry) = (touched(), first.position.as_str().split_once(':').unwrap().1.to_owned());
    let is_gone = || redis.ask(&["XRANGE", EVENTS, &entry, &entry]).unwrap().is_empty();
    until("the first goes", || std::future::ready(is_gone())).await;
    until("its claim is old", || std::future::ready(touched() != before)).await;
    let double = member.next().await;
    assert_eq!(double.event.id, event.id);
    assert!(matches!(member.begin(&double).await.unwrap(), Begin::Concluded(_)));
    member.ack(&double).await;
    assert_eq!(member.take().await, other.id.as_str());
    until("all goes", || std::future::ready(length(&redis, "XLEN", EVENTS) == 0)).await;
    until("the claim goes", || std::future::ready(length(&redis, "HLEN", CLAIMS) == 0)).await;
    assert_eq!(length(&redis, "ZCARD", "pipeline:{3}:touched"), 0);
}

/// As by hand, or by a failover that lost the acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_entry_that_is_added_again_after_its_event_was_run_is_acknowledged_without_a_run() {
    let redis = server();
    let broker = broker(&redis).await;
    publish(&broker, [1]).await;
    let runs = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&runs);
    let handler = handler_fn(move |_: RunContext| {
        *counted.lock().unwrap() += 1;
        async { Exit::code(0).into() }
    });
    let entry = redis.ask(&["XRANGE", EVENTS, "-", "+"]).unwrap();
    let fields: Vec<&str> = entry.lines().skip(1).collect();
    add(&redis, &fields);
    let stores = FanOut::new(vec![SinkConfig::required("memory", Arc::new(MemoryStore::new()))]);
    let stage = Stage::new("s").unwrap();
    let worker =
        Worker::new(Arc::new(broker.clone()), stores, handler, stage, ["t:a".parse().unwrap()]).unwrap();
    let (_stopper, stop) = Stop::pair();
    worker.until_idle().run(stop).await.unwrap();
    assert_eq!(*runs.lock().unwrap(), 1);
    assert!(broker.groups(&Scope::default()).await.unwrap().iter().all(|group| group.depth.is_idle()));
}

/// Ids with what means something to patterns, keys, hash tags and scripts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn ids_of_every_kind_reach_their_own_group_and_no_other() {
    let redis = server();
    let broker = broker(&redis).await;
    let long = "x".repeat(255);
    let ids =
        ["a[1]", "a1", "a*", "a?", "ab", "a:b", "A1", "{a}:{b}", "}{", "..", "%s %d", "é🦀", "\\", &long];
    for id in ids {
        broker.publish_one(event("build-requested", id)).await.unwrap();
        broker.publish_one(event("buildXrequested", id)).await.unwrap();
    }
    let escaped = |id: &str| id.replace('\\', r"\\").replace('*', r"\*").replace('?', r"\?");
    let mut members = Vec::new();
    for id in ids {
        let mut member = Member::join(&broker, on("s", &[&format!("build-requested:{}", escaped(id))])).await;
        let came = member.next().await;
        assert_eq!((came.event.event_type.as_str(), came.event.action_id.as_str()), ("build-requested", id));
        member.ack(&came).await;
        members.push(member);
    }
    // Two patterns that both match are one delivery.
    let mut wide = Member::join(&broker, on("wide", &["build-requested:a?", "build*:a*"])).await;
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..12 {
        let came = wide.next().await;
        *seen.entry(came.event.action_id.as_str().to_owned()).or_default() += 1;
        wide.ack(&came).await;
    }
    // Both types of each that begins with `a`.
    assert!(seen.len() == 6 && seen.values().all(|times| *times == 2), "{seen:?}");
    wide.nothing().await;
    for member in &mut members {
        member.nothing().await;
    }
}

/// What a round of shutdowns saw: how often each event's handler began and came to its end.
#[derive(Default)]
struct Seen {
    began: BTreeMap<String, Vec<u32>>,
    ended: BTreeMap<String, u32>,
}

fn worker(broker: &RedisBroker, store: &MemoryStore, seen: &Arc<Mutex<Seen>>, drain: Duration) -> Worker {
    let seen = Arc::clone(seen);
    let handler = handler_fn(move |context: RunContext| {
        let seen = Arc::clone(&seen);
        async move {
            let (id, attempt) = (context.event.id.as_str().to_owned(), context.key.attempt);
            seen.lock().unwrap().began.entry(id.clone()).or_default().push(attempt);
            let wait = tokio::time::sleep(Duration::from_millis(fastrand::u64(1..120)));
            let mut stop = context.stop.clone();
            tokio::select! {
                () = wait => *seen.lock().unwrap().ended.entry(id).or_default() += 1,
                cause = stop.cut() => return Exit::stopped(cause).into(),
            }
            Exit::code(0).into()
        }
    });
    let sinks = FanOut::new(vec![SinkConfig::required("memory", Arc::new(store.clone()))]);
    let stage = Stage::new("s").unwrap();
    let worker = Worker::new(Arc::new(broker.clone()), sinks, handler, stage, ["t:*".parse().unwrap()]);
    // Far longer than a round: what was held has to be given back at once.
    worker.unwrap().with_concurrency(4).with_drain(drain).with_lease(Duration::from_secs(120)).unwrap()
}

/// Workers are stopped at random moments: some drain, some are cut by their limit, some by a second signal.
async fn stops(rounds: u32) {
    const EVENTS: u32 = 24;
    let redis = server();
    let broker = broker(&redis).await;
    let (store, seen) = (MemoryStore::new(), Arc::<Mutex<Seen>>::default());
    for round in 0..rounds {
        for n in round * EVENTS..(round + 1) * EVENTS {
            broker.publish_one(named("t", &format!("a{}", n % 9), &format!("{n}"))).await.unwrap();
        }
        let drain = if round % 3 == 1 { Duration::from_millis(30) } else { Duration::from_secs(60) };
        let (stopper, stop) = Stop::pair();
        let working = tokio::spawn(worker(&broker, &store, &seen, drain).run(stop));
        // Drawn anew for each round.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        stopper.stop(Cause::Shutdown);
        if round % 3 == 2 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
            stopper.cut(Cause::Shutdown);
        }
        working.await.unwrap().unwrap();
        until("all that was held is given back", || async {
            let groups = broker.groups(&Scope::default()).await.unwrap();
            groups.iter().all(|group| group.depth.leased == 0)
        })
        .await;
    }
    let (_stopper, stop) = Stop::pair();
    let last = worker(&broker, &store, &seen, Duration::from_secs(60)).until_idle().run(stop);
    tokio::time::timeout(Duration::from_secs(60), last).await.unwrap().unwrap();
    let events: BTreeSet<String> = (0..rounds * EVENTS).map(|n| n.to_string()).collect();
    let runs = store.runs(&RunQuery::all().with_limit(100_000)).await.unwrap();
    let finals = runs.iter().filter(|run| run.is_final).count();
    assert_eq!(finals, events.len());
    assert!(runs.iter().all(|run| run.is_final || run.cause == Some(Cause::Shutdown)));
    assert!(broker.list(None, 1).await.unwrap().is_empty());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.ended.keys().cloned().collect::<BTreeSet<_>>(), events, "none is lost");
    assert!(
        seen.ended.values().all(|times| *times == 1),
        "what was finished is not run again: {:?}",
        seen.ended
    );
    // An attempt may be cut before its handler begins.
    assert!(seen.began.values().all(|attempts| attempts.is_sorted_by(|a, b| a < b)), "{:?}", seen.began);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn workers_that_are_stopped_at_any_moment_lose_nothing_and_repeat_only_what_was_cut() {
    stops(12).await;
}

mod long {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: 100 rounds of shutdowns, and needs Redis"]
    async fn workers_that_are_stopped_at_any_moment_lose_nothing_in_many_rounds() {
        super::stops(100).await;
    }
}
