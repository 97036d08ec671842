//! What an outage of the server, or of a link to it, does to leases.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::Duration;

use pubsub_core::conformance::broker::{named, on};
use pubsub_core::{
    Begin, Conclusion, Deliveries, Delivery, LeaseState, PublisherExt as _, RunKey, RunRecord, Stage,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{Proxy, Redis, RedisOptions, Weather};
use tokio::time::{sleep, timeout};

const LEASE: Duration = Duration::from_secs(1);

/// How long a test waits for what has to come.
const LONG: Duration = Duration::from_secs(15);

async fn broker(port: u16) -> RedisBroker {
    let limit = Duration::from_millis(200);
    let redis = RedisConfig::new(format!("redis://127.0.0.1:{port}"));
    let redis = redis.with_answer_limit(limit).with_connect_limit(limit);
    RedisBroker::connect(RedisBrokerConfig::new(redis).with_partitions(1)).await.unwrap()
}

async fn member(broker: &RedisBroker) -> Deliveries {
    Deliveries::open(broker, on("s", &["t:*"]).with_lease(LEASE).unwrap()).await.unwrap()
}

/// The next delivery, whatever is told before it.
async fn next(deliveries: &mut Deliveries) -> Delivery {
    loop {
        match deliveries.next().await.expect("the stream goes on") {
            Ok(delivery) => return delivery,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

fn conclusion(delivery: &Delivery) -> Conclusion {
    let event = delivery.event();
    let key = RunKey::new(event.action_id.clone(), Stage::new("s").unwrap(), event.id.clone(), 1);
    Conclusion { record: RunRecord::begun(key, "w"), values: Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_server_that_slept_for_longer_than_a_lease_ends_no_lease_whose_holder_lives() {
    let server = Redis::start(&RedisOptions::new()).unwrap();
    let mut proxy = Proxy::start(server.port()).unwrap();
    let (holder, other) = (broker(proxy.port()).await, broker(server.port()).await);
    let mut of_holder = member(&holder).await;
    holder.publish_one(named("t", "a", "e")).await.unwrap();
    let held = timeout(LONG, next(&mut of_holder)).await.unwrap();
    assert!(matches!(held.begin().await.unwrap(), Begin::Go(_)));
    let mut of_other = member(&other).await;
    let taking = tokio::spawn(async move { timeout(LEASE * 5, next(&mut of_other)).await.map(|_| ()) });

    server.pause().unwrap();
    sleep(LEASE * 2).await;
    // The holder is the last to know that the server is back.
    proxy.set(Weather::Stalled).unwrap();
    server.go_on().unwrap();
    sleep(LEASE / 4).await;
    proxy.set(Weather::Clear).unwrap();

    assert!(taking.await.unwrap().is_err(), "another got an event whose holder lives");
    assert_eq!(*held.state().borrow(), LeaseState::Held);
    held.conclude(conclusion(&held)).await.unwrap();
    held.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_was_held_by_a_member_that_is_gone_since_an_outage_comes_to_another() {
    let server = Redis::start(&RedisOptions::new()).unwrap();
    let mut proxy = Proxy::start(server.port()).unwrap();
    let (holder, other) = (broker(proxy.port()).await, broker(server.port()).await);
    let mut of_holder = member(&holder).await;
    holder.publish_one(named("t", "a", "e")).await.unwrap();
    let held = timeout(LONG, next(&mut of_holder)).await.unwrap();
    assert!(matches!(held.begin().await.unwrap(), Begin::Go(_)));
    let mut of_other = member(&other).await;
    let taking = tokio::spawn(async move {
        let delivery = timeout(LONG, next(&mut of_other)).await.expect("it comes back");
        (delivery.begin().await.unwrap(), delivery.ack().await.unwrap())
    });

    server.pause().unwrap();
    sleep(LEASE * 2).await;
    proxy.set(Weather::Refused).unwrap();
    server.go_on().unwrap();
    let (Begin::Go(numbers), ()) = taking.await.unwrap() else { panic!("it is begun again") };
    assert_eq!((numbers.attempt, numbers.crashes), (2, 1));
}

/// As where a request was on its way for so long that its connection was given up, or its server was the master again only
/// later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_is_leased_to_a_member_after_it_looked_for_lost_answers_comes_to_it_within_a_lease() {
    let (stream, group) = ("pipeline:{0}:events", "s@t:*");
    let server = Redis::start(&RedisOptions::new()).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let broker = broker(proxy.port()).await;
    let mut deliveries = member(&broker).await;
    let taking = tokio::spawn(async move { next(&mut deliveries).await.event().id.to_string() });
    let waits = |times: u64| {
        let stats = server.ask(&["INFO", "commandstats"]).unwrap();
        let reads = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xreadgroup:calls="));
        let reads = reads.and_then(|line| line.split(',').next()?.parse::<u64>().ok()).unwrap_or(0);
        reads >= times && server.info("blocked_clients").unwrap() == "1"
    };
    let waiting = async |times| {
        while !waits(times) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, waiting(1)).await.expect("the member waits");
    let before = proxy.accepted();
    proxy.cut();
    while proxy.accepted() < before + 2 {
        sleep(Duration::from_millis(10)).await;
    }
    timeout(LONG, waiting(2)).await.expect("the member waits again");

    let members = server.ask(&["KEYS", "pipeline:{0}:members:*"]).unwrap();
    let consumer = &*server.ask(&["ZRANGE", &members, "0", "0"]).unwrap();
    let late = "redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
        return #redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>')";
    let event = named("t", "a", "late");
    let event = event.to_attributes().unwrap();
    let mut words = vec!["EVAL", late, "1", stream, group, consumer];
    words.extend(event.iter().flat_map(|(name, text)| [&**name, &**text]));
    assert_eq!(server.ask(&words).unwrap(), "1");
    assert_eq!(timeout(LEASE * 4, taking).await.expect("it comes").unwrap(), "late");
}
