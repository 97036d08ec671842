//! A master that fails in the middle of the work, watched by sentinels of a test's own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pubsub_core::conformance::broker::{named, on};
use pubsub_core::{
    Begin, Conclusion, Deliveries, Delivery, ErrorKind, PublisherExt as _, RunKey, RunRecord, Stage,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{RedisOptions, RedisSentinel};
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for what has to come.
const LONG: Duration = Duration::from_secs(60);

async fn broker(watched: &RedisSentinel) -> RedisBroker {
    let config = RedisConfig::from_url(&watched.url()).unwrap().with_answer_limit(Duration::from_secs(2));
    RedisBroker::connect(RedisBrokerConfig::new(config)).await.unwrap()
}

fn start() -> RedisSentinel {
    block_in_place(|| RedisSentinel::start(&RedisOptions::new())).unwrap()
}

/// Publishes an event, until it is answered.
async fn publish(broker: &RedisBroker, n: usize) {
    let began = Instant::now();
    let event = named("t", &format!("a{}", n % 7), &n.to_string());
    while let Err(error) = broker.publish_one(event.clone()).await {
        assert!(error.is_retryable() && began.elapsed() < LONG, "{}", error.chain());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    loop {
        match timeout(LONG, deliveries.next()).await.expect("nothing comes").expect("the stream has ended") {
            Ok(delivery) => return delivery,
            Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
        }
    }
}

/// What became of events at the broker that this program was connected to.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Begun, with how often.
    begun: BTreeMap<usize, usize>,
    concluded: BTreeSet<usize>,
}

/// Runs what comes, and tells of it.
async fn run(delivery: Delivery, seen: &watch::Sender<Seen>) {
    let event = delivery.event().clone();
    let n: usize = event.id.as_str().parse().unwrap();
    match delivery.begin().await {
        Ok(Begin::Go(numbers)) => {
            seen.send_modify(|seen| *seen.begun.entry(n).or_default() += 1);
            let action = event.action_id.clone();
            let key = RunKey::new(action, Stage::new("s").unwrap(), event.id.clone(), numbers.attempt);
            let end = Conclusion { record: RunRecord::begun(key, "w"), values: BTreeMap::default() };
            if delivery.conclude(end).await.is_err() {
                return;
            }
        }
        Ok(Begin::Concluded(_)) => {}
        Ok(other) => panic!("{other:?}"),
        // A master that was replaced may have given what is not known to be leased at the new one.
        Err(error) if error.kind() == ErrorKind::LeaseLost => return,
        Err(error) => panic!("{}", error.chain()),
    }
    delivery.ack().await.ok();
    seen.send_modify(|seen| {
        seen.concluded.insert(n);
    });
}

/// Publishes one event after the other until there are so many as are wanted; tells how many were answered.
async fn publish_all(broker: RedisBroker, answered: watch::Sender<usize>, wanted: watch::Receiver<usize>) {
    let mut n = 0;
    while n < *wanted.borrow() {
        publish(&broker, n).await;
        n += 1;
        answered.send_replace(n);
    }
}

async fn run_all(mut deliveries: Deliveries, seen: watch::Sender<Seen>) {
    loop {
        run(next(&mut deliveries).await, &seen).await;
    }
}

/// Publishes and runs all the time; in the middle of it the master fails in this way.
async fn goes_on(watched: &mut RedisSentinel, fail: impl FnOnce(&mut RedisSentinel)) {
    let broker = broker(watched).await;
    let subscription = on("s", &["t:*"]).with_lease(Duration::from_secs(3)).unwrap();
    let deliveries = Deliveries::open(&broker, subscription).await.unwrap();
    let (seen, answered) = (watch::Sender::new(Seen::default()), watch::Sender::new(0));
    let (mut told, mut count) = (seen.subscribe(), answered.subscribe());
    let wanted = watch::Sender::new(usize::MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(publish_all(broker, answered, wanted.subscribe()));
    tasks.spawn(run_all(deliveries, seen.clone()));

    told.wait_for(|seen| seen.concluded.len() >= 50).await.unwrap();
    // What was answered and passed on before the failure.
    let (acknowledged, before) = (*count.borrow(), told.borrow().clone());
    block_in_place(|| {
        let master = watched.master().unwrap();
        watched.servers()[master].replicated().unwrap();
        fail(watched);
        watched.until_not(master).unwrap();
    });
    // For so long a master is believed after it was named.
    sleep(Duration::from_millis(1100)).await;
    // The publish after the one that is under way is the first of which the new master is asked alone.
    let after = *count.borrow() + 1;
    let until = after + 50;
    wanted.send_replace(until);
    count.wait_for(|answered| *answered == until).await.unwrap();
    let kept = |n: &usize| *n < acknowledged || *n >= after;
    told.wait_for(|seen| (0..until).filter(kept).all(|n| seen.concluded.contains(&n))).await.unwrap();
    let again = |n: &&usize| told.borrow().begun.get(n) != before.begun.get(n);
    let again: Vec<&usize> = before.concluded.iter().filter(again).collect();
    assert!(again.is_empty(), "concluded and passed on, and run again: {again:?}");
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_master_that_dies_in_the_middle_takes_nothing_with_it_that_was_passed_on() {
    let kill = |watched: &mut RedisSentinel| {
        let master = watched.master().unwrap();
        watched.servers_mut()[master].kill().unwrap();
    };
    timeout(2 * LONG, goes_on(&mut start(), kill)).await.expect("it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_forced_failover_in_the_middle_loses_nothing_that_was_passed_on() {
    let fail = |watched: &mut RedisSentinel| watched.fail_over().unwrap();
    timeout(2 * LONG, goes_on(&mut start(), fail)).await.expect("it goes on");
}

/// It keeps its connections while it sleeps, and takes itself for the master when it wakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_member_that_waits_at_a_master_that_slept_goes_on_at_the_new_one() {
    let watched = start();
    let broker = broker(&watched).await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"])).await.unwrap();
    publish(&broker, 0).await;
    next(&mut deliveries).await.ack().await.unwrap();
    let old = watched.master().unwrap();
    let waits = |server: usize| {
        block_in_place(|| watched.servers()[server].ask(&["CLIENT", "LIST"]))
            .unwrap()
            .contains("cmd=xreadgroup")
    };
    let came = next(&mut deliveries);
    let failing = async {
        while !waits(old) {
            sleep(Duration::from_millis(5)).await;
        }
        block_in_place(|| {
            watched.servers()[old].replicated().unwrap();
            watched.servers()[old].pause().unwrap();
            watched.until_not(old).unwrap();
        });
        publish(&broker, 1).await;
        watched.servers()[old].go_on().unwrap();
    };
    let (came, ()) = tokio::join!(came, failing);
    assert_eq!(came.event().id.as_str(), "1");
    came.ack().await.unwrap();
    publish(&broker, 2).await;
    assert_eq!(next(&mut deliveries).await.event().id.as_str(), "2");
    let left = async {
        while waits(old) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, left).await.expect("nobody waits at the old one");
}
