//! Subscriptions without a group: many in one process, with one reader.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod own;

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use own::{LONG, blocked, broker, config, connect, counted, next, server, until};
use pubsub_core::conformance::broker::{Member, named, on};
use pubsub_core::{
    DeadLetters as _, Deliveries, Event, Publisher as _, PublisherExt as _, Settlement, StartAt,
    Subscription, Timestamp,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{Proxy, Redis, Weather};
use tokio::time::{sleep, timeout};

/// As many as wait for a subscriber.
const ROOM: usize = 4096;

/// The stream of action `a`.
const EVENTS: &str = "pipeline:{3}:events";

async fn listen(broker: &RedisBroker, pattern: &str) -> Deliveries {
    let on = Subscription::broadcast([pattern.parse().unwrap()]).unwrap();
    Deliveries::open(broker, on).await.unwrap()
}

async fn publish_all(broker: &RedisBroker, events: Vec<Event>) {
    let answers = broker.publish(events).await;
    assert!(own::failures(answers).is_empty());
}

/// What is heard, or the text of what is told instead.
async fn heard(deliveries: &mut Deliveries) -> Result<String, String> {
    let item = timeout(LONG, deliveries.next()).await.expect("nothing is heard").unwrap();
    item.map(|delivery| delivery.event().id.as_str().to_owned()).map_err(|error| error.to_string())
}

fn connections(redis: &Redis) -> usize {
    redis.ask(&["CLIENT", "LIST"]).unwrap().lines().filter(|line| line.contains(" addr=127.0.0.1:")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn of_ten_thousand_patterns_each_hears_its_own_on_one_connection() {
    const MANY: usize = 10_000;
    let redis = server();
    let (broker, publisher) = (broker(&redis).await, broker(&redis).await);
    publish_all(&publisher, vec![named("build", "team-7/web", "before")]).await;
    let broker_of = &broker;
    let mut all: Vec<Deliveries> = stream::iter(0..MANY)
        .map(|n| async move { listen(broker_of, &format!("build-*:team-{n}/*")).await })
        .buffered(64)
        .collect()
        .await;
    // It waits on one, and asks on another; and one is the publisher's, and one the test's.
    until("it reads", || std::future::ready(blocked(&redis) == 1)).await;
    assert!(connections(&redis) <= 4, "{}", connections(&redis));
    for round in 0..2 {
        let event = |n: usize| named("build-requested", &format!("team-{n}/web"), &format!("{round}-{n}"));
        for from in (0..MANY).step_by(1000) {
            publish_all(&publisher, (from..from + 1000).map(event).collect()).await;
        }
        for (n, listener) in all.iter_mut().enumerate() {
            assert_eq!(heard(listener).await, Ok(format!("{round}-{n}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn many_that_listen_cost_no_more_than_two_commands_a_second_while_nothing_comes() {
    const WATCHED: u64 = 6;
    let redis = server();
    let broker = broker(&redis).await;
    let mut all = Vec::new();
    for n in 0..100 {
        all.push(listen(&broker, &format!("t*:action-{n}")).await);
    }
    until("it reads", || std::future::ready(blocked(&redis) == 1)).await;
    let before = counted(&redis, "total_commands_processed");
    sleep(Duration::from_secs(WATCHED)).await;
    // The question itself is one.
    let asked = counted(&redis, "total_commands_processed") - before - 1;
    assert!(asked <= 2 * WATCHED, "{asked} commands in {WATCHED} s");
    assert_eq!(all.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn the_reader_ends_with_the_last_that_listens_and_begins_again_with_the_next() {
    let redis = server();
    let broker = broker(&redis).await;
    let before = connections(&redis);
    for round in 0..3 {
        let id = round.to_string();
        let mut one = listen(&broker, "t:a").await;
        // Of another partition, while the first is waited at.
        until("it reads", || std::future::ready(blocked(&redis) == 1)).await;
        let mut other = listen(&broker, "t:b").await;
        publish_all(&broker, vec![named("t", "a", &format!("a{id}")), named("t", "b", &format!("b{id}"))])
            .await;
        assert_eq!(heard(&mut one).await, Ok(format!("a{id}")));
        drop(one);
        assert_eq!(heard(&mut other).await, Ok(format!("b{id}")));
        publish_all(&broker, vec![named("t", "b", &format!("c{id}"))]).await;
        assert_eq!(heard(&mut other).await, Ok(format!("c{id}")));
        drop(other);
        until("nothing is read any more", || std::future::ready(blocked(&redis) == 0)).await;
        until("its connection goes", || std::future::ready(connections(&redis) <= before + 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn who_is_slow_delays_nobody_and_is_told_how_many_it_missed() {
    const MORE: usize = 900;
    let redis = server();
    let broker = broker(&redis).await;
    let (mut slow, mut quick) = (listen(&broker, "t:*").await, listen(&broker, "t:*").await);
    let all = ROOM + MORE;
    for from in (0..all).step_by(500) {
        let ids = from..(from + 500).min(all);
        publish_all(&broker, ids.clone().map(|n| named("t", "a", &n.to_string())).collect()).await;
        for n in ids {
            assert_eq!(heard(&mut quick).await, Ok(n.to_string()));
        }
    }
    for n in 0..ROOM {
        assert_eq!(heard(&mut slow).await, Ok(n.to_string()));
    }
    let told = heard(&mut slow).await.unwrap_err();
    assert!(told.contains("too slow") && told.contains(&format!("events={MORE}")), "{told}");
    broker.publish_one(named("t", "a", "last")).await.unwrap();
    assert_eq!(heard(&mut slow).await, Ok("last".to_owned()));
}

/// One that reads by a proxy, and one that does not.
async fn behind_a_proxy(redis: &Redis) -> (Proxy, RedisBroker, RedisBroker) {
    let proxy = Proxy::start(redis.port()).unwrap();
    let by_proxy = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port()));
    let limit = Duration::from_millis(500);
    let by_proxy = RedisBrokerConfig::new(by_proxy.with_connect_limit(limit).with_answer_limit(limit));
    (proxy, connect(by_proxy).await, broker(redis).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn whatever_happens_to_the_connection_nothing_that_is_kept_is_missed_or_heard_twice() {
    let redis = server();
    let (mut proxy, listens, direct) = behind_a_proxy(&redis).await;
    let (mut one, mut other) = (listen(&listens, "t:a").await, listen(&listens, "t:*").await);
    let mut number = 0;
    for weather in [Weather::Refused, Weather::Halved, Weather::AnswersLost, Weather::Stalled] {
        until("it reads", || std::future::ready(blocked(&redis) >= 1)).await;
        proxy.set(weather).unwrap();
        let first = number;
        number += 300;
        publish_all(&direct, (first..number).map(|n| named("t", "a", &n.to_string())).collect()).await;
        if !matches!(weather, Weather::Stalled) {
            assert!(heard(&mut one).await.is_err(), "the outage is told");
        }
        proxy.set(Weather::Clear).unwrap();
        for listener in [&mut one, &mut other] {
            for n in first..number {
                let came = next(listener).await;
                assert_eq!(came.event().id.as_str(), n.to_string());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_was_removed_while_the_connection_was_lost_is_counted() {
    let redis = server();
    let (mut proxy, listens, direct) = behind_a_proxy(&redis).await;
    let (mut one, mut other) = (listen(&listens, "t:a").await, listen(&listens, "t:b").await);
    direct.publish_one(named("t", "a", "1")).await.unwrap();
    assert_eq!(heard(&mut one).await, Ok("1".to_owned()));
    let mut member = Member::join(&direct, on("s", &["t:a"])).await;
    let leased = member.next().await;
    proxy.set(Weather::Refused).unwrap();
    publish_all(&direct, (2..12).map(|n| named("t", "a", &n.to_string())).collect()).await;
    // What is replayed is one group's, and its place was never anybody's event.
    member.settle(&leased, Settlement::DeadLetter { reason: "poison".to_owned() }).await.unwrap();
    let letter = direct.list(None, 1).await.unwrap().remove(0);
    direct.replay(&letter.id, None).await.unwrap();
    redis.ask(&["XTRIM", EVENTS, "MAXLEN", "3"]).unwrap();
    assert!(heard(&mut one).await.is_err());
    let mut missed = Vec::new();
    proxy.set(Weather::Clear).unwrap();
    let first = loop {
        match heard(&mut one).await {
            Ok(id) => break id,
            Err(told) => missed.extend(told.contains("removed at the server").then_some(told)),
        }
    };
    // Told before what is newer than all of it, so perhaps after what is left.
    assert_eq!((first.as_str(), heard(&mut one).await.unwrap().as_str()), ("9", "10"));
    assert_eq!(heard(&mut one).await, Ok("11".to_owned()));
    direct.publish_one(named("t", "a", "12")).await.unwrap();
    while missed.is_empty() {
        missed.push(heard(&mut one).await.unwrap_err());
    }
    assert!(missed.len() == 1 && missed[0].contains("events=7"), "{missed:?}");
    direct.publish_one(named("t", "b", "b")).await.unwrap();
    assert_eq!(next(&mut other).await.event().id.as_str(), "b");
}

/// It reads for itself, and nothing of what is kept is missed however slow it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn who_starts_in_the_past_misses_nothing_beside_those_that_listen_from_now_on() {
    let redis = server();
    let broker = connect(config(&redis).with_partitions(1)).await;
    let all = ROOM + 1000;
    let mut late = listen(&broker, "t:*").await;
    let past = Subscription::broadcast(["t:*".parse().unwrap()]).unwrap().with_start(StartAt::Earliest);
    let mut past = Deliveries::open(&broker, past).await.unwrap();
    let due = Timestamp::now().plus(Duration::from_millis(300));
    broker.publish_one(named("t", "a", "delayed").with_deliver_at(due)).await.unwrap();
    for from in (0..all).step_by(500) {
        let ids = from..(from + 500).min(all);
        publish_all(&broker, ids.map(|n| named("t", "a", &n.to_string())).collect()).await;
    }
    let mut ids = Vec::new();
    while ids.len() < all + 1 {
        ids.push(heard(&mut past).await.unwrap());
    }
    ids.retain(|id| id != "delayed");
    assert_eq!(ids, (0..all).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(heard(&mut late).await, Ok("0".to_owned()));
}
