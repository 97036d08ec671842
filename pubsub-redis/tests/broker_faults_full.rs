//! A broker on a server whose memory is full, and events that are too large.
#![expect(clippy::unwrap_used, reason = "a test")]

mod own;

use std::collections::BTreeSet;
use std::time::Duration;

use own::{broker, conclusion, config, connect, failures, publish, server, until};
use pubsub_core::conformance::broker::{Member, event, named, on};
use pubsub_core::{
    Begin, BrokerAdmin as _, DeadLetters as _, ErrorKind, Event, EventId, Novelty, Payload, Publisher as _,
    PublisherExt as _, Renewal, Scope, Settlement,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{Redis, RedisCluster, RedisOptions};

/// A text of so many bytes, as JSON.
fn payload(bytes: usize) -> Payload {
    format!("\"{}\"", "x".repeat(bytes)).parse().unwrap()
}

fn limited(bytes: u64) -> Redis {
    Redis::start(&RedisOptions::new().with_max_memory(bytes, "noeviction")).unwrap()
}

/// From now on nothing fits, whatever is removed; or all does.
fn set_memory(redis: &Redis, bytes: u64) {
    redis.ask(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]).unwrap();
}

/// Publishes until nothing more fits; answers what was taken and what was refused.
async fn fill(broker: &RedisBroker) -> (Vec<EventId>, Vec<Event>) {
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    while refused.is_empty() {
        let many: Vec<Event> = (0..8)
            .map(|n| named("t", "a", &format!("{}-{n}", taken.len())).with_payload(payload(32 * 1024)))
            .collect();
        for (event, answer) in many.iter().zip(broker.publish(many.clone()).await) {
            match answer {
                Ok(_) => taken.push(event.id.clone()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
                    assert!(error.to_string().contains("maxmemory of the Redis server"), "{error}");
                    refused.push(event.clone());
                }
            }
        }
    }
    (taken, refused)
}

fn length(redis: &Redis, key: &str) -> usize {
    redis.ask(&["XLEN", key]).unwrap().parse().unwrap()
}

const EVENTS: &str = "pipeline:{3}:events";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_server_that_is_full_refuses_events_as_a_whole_and_takes_them_once_there_is_room() {
    let redis = limited(12 * 1024 * 1024);
    let broker = broker(&redis).await;
    let (taken, refused) = fill(&broker).await;
    assert!(taken.len() > 20, "{}", taken.len());
    // Nothing of what was refused is there: no entry, and no id that would make the next try a duplicate.
    assert_eq!(length(&redis, EVENTS), taken.len());
    assert_eq!(redis.ask(&["HLEN", "pipeline:{3}:ids"]).unwrap(), taken.len().to_string());
    // Also where the event goes in without a look at what is there.
    set_memory(&redis, 1);
    let plain = event("t", "a");
    let error = broker.publish_one(plain.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert!(error.is_retryable() && error.chain().contains("OOM"), "{}", error.chain());
    set_memory(&redis, 0);
    for event in refused.into_iter().chain([plain]) {
        assert_eq!(broker.publish_one(event).await.unwrap().novelty, Novelty::New);
    }
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    for id in taken {
        assert_eq!(member.take().await, id.as_str());
    }
}

/// Nothing else makes room: so what is there can be worked off, by those who work and by those who come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_is_there_is_worked_off_while_the_server_is_full() {
    let redis = limited(0);
    let broker = broker(&redis).await;
    publish(&broker, 0..8).await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    let first = member.next().await;
    set_memory(&redis, 1);
    assert_eq!(member.renew(&first).await, Renewal::Held);
    assert!(matches!(member.begin(&first).await.unwrap(), Begin::Go(_)));
    member.conclude(&first, conclusion(&first, 1)).await.unwrap();
    member.ack(&first).await;
    // Moved to the due list, and back from it once it is due.
    let second = member.next().await;
    member.begin(&second).await.unwrap();
    member.settle(&second, Settlement::Retry { after: Duration::from_millis(50) }).await.unwrap();
    let third = member.next().await;
    let reason = "no good".to_owned();
    member.settle(&third, Settlement::DeadLetter { reason }).await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        seen.insert(member.take().await);
    }
    assert!(seen.is_disjoint(&BTreeSet::from(["0".to_owned(), "2".to_owned()])), "{seen:?}");
    // Another process and another group join; members give signs of life longer than that would be believed of old ones.
    let other = own::broker(&redis).await;
    let mut late = Member::join(&other, on("late", &["t:*"])).await;
    assert_eq!(late.take_many(8).await, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    while seen.len() < 6 {
        seen.insert(member.take().await);
    }
    assert_eq!(broker.list(None, 10).await.unwrap()[0].reason, "no good");
    broker.cancel(&"a".parse().unwrap()).await.unwrap();
    let refused = broker.replay("2", None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "a new event");
    assert_eq!(broker.list(None, 10).await.unwrap().len(), 1, "and the letter is kept");
    assert!(broker.groups(&Scope::default()).await.unwrap().iter().all(|group| group.depth.is_idle()));
    set_memory(&redis, 0);
    publish(&broker, [8]).await;
    assert_eq!((member.take().await, late.take().await), ("8".to_owned(), "8".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_is_old_goes_while_the_server_is_full() {
    let redis = limited(0);
    let short = config(&redis).with_retention(Duration::from_millis(200));
    let broker = connect(short).await;
    // What no group waits for goes at once.
    let mut member = Member::join(&broker, on("s", &["t:a"]).with_prefetch(50)).await;
    publish(&broker, 0..50).await;
    set_memory(&redis, 1);
    for _ in 0..50 {
        member.take().await;
    }
    until("the settled events go", || std::future::ready(length(&redis, EVENTS) == 0)).await;
}

/// A broker that nobody used before cannot note anything at a server that is full; it is told why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_new_broker_at_a_full_server_is_full_and_works_once_there_is_room() {
    let redis = limited(1);
    let broker = broker(&redis).await;
    let error = broker.publish_one(event("t", "a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    set_memory(&redis, 0);
    broker.publish_one(event("t", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_event_over_the_limit_is_refused_with_both_sizes_and_its_neighbours_are_taken() {
    let redis = server();
    let broker = connect(config(&redis).with_max_event_bytes(64 * 1024)).await;
    let large = named("t", "a", "large").with_payload(payload(64 * 1024));
    let answers = broker.publish(vec![named("t", "a", "1"), large.clone(), named("t", "a", "2")]).await;
    let refused = failures(answers);
    let [error] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(!error.is_retryable());
    for part in ["event=large", "limit=65536", "bytes=65"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    assert_eq!(member.take_many(2).await, ["1", "2"]);
    // By default 16 MiB, whole.
    let wide = own::broker(&redis).await;
    let whole = payload(15 * 1024 * 1024);
    wide.publish_one(named("t", "a", "whole").with_payload(whole.clone())).await.unwrap();
    let came = member.next().await;
    assert_eq!(came.event.payload, whole);
    let error = wide.publish_one(named("t", "a", "x").with_payload(payload(17 << 20))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(error.to_string().contains("limit=16777216"), "{error}");
}

/// A server closes the connection on which something comes that is larger than it takes: with all that was sent beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_the_server_would_not_take_is_refused_with_both_sizes_and_its_neighbours_are_taken() {
    for setting in ["proto-max-bulk-len", "client-query-buffer-limit"] {
        let redis = Redis::start(&RedisOptions::new().with_setting(setting, "1mb")).unwrap();
        let broker = broker(&redis).await;
        let large = |id: &str| named("t", "a", id).with_payload(payload((1 << 20) - 1));
        // The first ones go by a script, those after them by a plain command.
        for round in 0..2 {
            let ids = ["before", "after"].map(|id| format!("{id} {round}"));
            let [before, after] = ids.each_ref().map(|id| named("t", "a", id));
            let chosen = broker.publish(vec![before, large("large"), after]).await;
            let made = broker.publish_one(event("t", "a").with_payload(payload(1 << 20))).await;
            let refused = failures(chosen.into_iter().chain([made]).collect());
            assert_eq!(refused.len(), 2, "{setting}: {refused:?}");
            for error in &refused {
                assert_eq!(error.kind(), ErrorKind::TooLarge, "{setting}: {error:?}");
                assert!(error.to_string().contains("bytes=1048"), "{error}");
                assert!(error.to_string().contains(&format!("setting={setting}")), "{error}");
                assert!(error.to_string().contains("limit="), "{error}");
            }
            assert!(refused[0].to_string().contains("event=large"), "{}", refused[0]);
            let mut member = Member::join(&broker, on("s", &["t:a"])).await;
            assert_eq!(member.take_many(2).await, ids);
        }
        // All that fits does.
        let most = if setting == "proto-max-bulk-len" { 1 << 20 } else { (1 << 20) - (64 << 10) };
        broker.publish_one(event("t", "a").with_payload(payload(most - 2))).await.unwrap();
        broker.publish_one(named("t", "a", "most").with_payload(payload(most - 2))).await.unwrap();
        let mut other = Member::join(&broker, on("s", &["t:a"])).await;
        let leased = other.next().await;
        let reason = "x".repeat((1 << 20) + 1);
        let answer = other.settle(&leased, Settlement::DeadLetter { reason }).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::TooLarge, "{setting}");
        other.settle(&leased, Settlement::DeadLetter { reason: "short".to_owned() }).await.unwrap();
        assert_eq!(other.take().await, "most");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn each_node_of_a_cluster_says_what_it_takes() {
    let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
    cluster.nodes()[2].ask(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]).unwrap();
    let broker = connect(RedisBrokerConfig::new(RedisConfig::from_url(&cluster.url()).unwrap())).await;
    let large = |n: u32| named("t", &format!("a{n}"), "large").with_payload(payload(1 << 20));
    let refused = failures(broker.publish((0..20).map(large).collect()).await);
    assert_eq!(refused.len(), 20, "{refused:?}");
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    }
}
