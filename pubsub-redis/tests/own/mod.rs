//! A server of a test's own, and what tests of faults share.
#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::Duration;

use pubsub_core::conformance::broker::named;
use pubsub_core::{
    Conclusion, Deliveries, Delivery, Leased, PublisherExt as _, Result, RunKey, RunRecord, Stage,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{Redis, RedisOptions};
use tokio::time::timeout;

/// How long a test waits for what has to come.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn server() -> Redis {
    Redis::start(&RedisOptions::new()).unwrap()
}

pub(crate) fn config(redis: &Redis) -> RedisBrokerConfig {
    RedisBrokerConfig::new(RedisConfig::new(redis.url()))
}

pub(crate) async fn connect(config: RedisBrokerConfig) -> RedisBroker {
    RedisBroker::connect(config).await.unwrap()
}

pub(crate) async fn broker(redis: &Redis) -> RedisBroker {
    connect(config(redis)).await
}

/// Publishes events of type `t` and action `a` with these numbers as their ids.
pub(crate) async fn publish(broker: &RedisBroker, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        broker.publish_one(named("t", "a", &id.to_string())).await.unwrap();
    }
}

/// What comes next, whatever else is told before.
pub(crate) async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(LONG, next_whenever(deliveries)).await.expect("nothing comes")
}

/// The same, however long it takes.
pub(crate) async fn next_whenever(deliveries: &mut Deliveries) -> Delivery {
    loop {
        match deliveries.next().await.expect("the stream has ended") {
            Ok(delivery) => return delivery,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

/// Asks until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(LONG, asked).await.is_ok(), "{what}: not within {LONG:?}");
}

/// How the attempt of stage `s` at a leased event ended.
pub(crate) fn conclusion(leased: &Leased, attempt: u32) -> Conclusion {
    let event = &leased.event;
    let key = RunKey::new(event.action_id.clone(), Stage::new("s").unwrap(), event.id.clone(), attempt);
    Conclusion { record: RunRecord::begun(key, "owner"), values: std::collections::BTreeMap::new() }
}

/// So many connections of the server wait for something.
pub(crate) fn blocked(redis: &Redis) -> usize {
    redis.info("blocked_clients").unwrap().parse().unwrap()
}

/// What the server has counted for a field of `INFO`.
pub(crate) fn counted(redis: &Redis, field: &str) -> u64 {
    redis.info(field).unwrap().parse().unwrap()
}

/// Of a list of results those that failed.
pub(crate) fn failures<T>(results: Vec<Result<T>>) -> Vec<pubsub_core::Error> {
    results.into_iter().filter_map(Result::err).collect()
}
