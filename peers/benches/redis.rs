//! The Redis backend of sea-streamer beside the broker on Redis.
//!
//! It does less. A consumer acknowledges when it hands a message on or later by time, not after the handler; there are no
//! claims, no attempts, no retries, and an entry has one field.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use pubsub_pipeline_benches::{PUBLISHED, payload, peer, runtime};
use sea_streamer_redis::{
    AutoCommit, AutoStreamReset, RedisConnectOptions, RedisConsumerOptions, RedisProducer, RedisStreamer,
};
use sea_streamer_types::{
    Consumer as _, ConsumerGroup, ConsumerMode, ConsumerOptions as _, Producer as _, StreamKey, Streamer as _,
};
use services::{Redis, RedisOptions};
use tokio::runtime::Runtime;

/// As the rows beside it.
const IN_FLIGHT: u64 = PUBLISHED * 5;
const CONSUMED: u64 = 50_000;

fn key() -> StreamKey {
    StreamKey::new("build-requested").unwrap()
}

async fn open(redis: &Redis) -> RedisStreamer {
    redis.ask(&["FLUSHALL"]).unwrap();
    RedisStreamer::connect(redis.url().parse().unwrap(), RedisConnectOptions::default()).await.unwrap()
}

/// Publishes all, up to 2,000 of them not answered yet.
async fn publish(producer: &mut RedisProducer, many: u64, payload: &str) {
    let mut left = many;
    while left > 0 {
        let sent = (0..left.min(2_000)).map(|_| producer.send(payload).unwrap());
        join_all(sent).await.into_iter().for_each(|sent| drop(sent.unwrap()));
        left -= left.min(2_000);
    }
}

fn published(runtime: &Runtime, redis: &Redis, many: u64) -> Duration {
    let payload = payload();
    runtime.block_on(async {
        let streamer = open(redis).await;
        let mut producer = streamer.create_producer(key(), Default::default()).await.unwrap();
        let begun = Instant::now();
        publish(&mut producer, many, &payload).await;
        producer.flush().await.unwrap();
        let took = begun.elapsed();
        producer.end().await.unwrap();
        took
    })
}

/// From a spawned task: there it is at its best.
fn consumed(runtime: &Runtime, redis: &Redis, many: u64) -> Duration {
    let payload = payload();
    let consumer = runtime.block_on(async {
        let streamer = open(redis).await;
        let mut producer = streamer.create_producer(key(), Default::default()).await.unwrap();
        publish(&mut producer, many, &payload).await;
        producer.end().await.unwrap();
        let mut options = RedisConsumerOptions::new(ConsumerMode::LoadBalanced);
        options.set_consumer_group(ConsumerGroup::new("build")).unwrap();
        options.set_auto_stream_reset(AutoStreamReset::Earliest);
        options.set_auto_commit(AutoCommit::Immediate);
        options.set_batch_size(1000);
        (streamer, options)
    });
    let (streamer, options) = consumer;
    let consuming = async move {
        let begun = Instant::now();
        let consumer = streamer.create_consumer(&[key()], options).await.unwrap();
        for _ in 0..many {
            drop(consumer.next().await.unwrap());
        }
        begun.elapsed()
    };
    runtime.block_on(async { tokio::spawn(consuming).await.unwrap() })
}

fn broker(criterion: &mut Criterion) {
    let (runtime, redis) = (runtime(), Redis::start(&RedisOptions::new()).unwrap());
    peer(criterion, "redis-publish-beside-peer", IN_FLIGHT, || published(&runtime, &redis, IN_FLIGHT));
    peer(criterion, "redis-consume-beside-peer", CONSUMED, || consumed(&runtime, &redis, CONSUMED));
}

criterion_group!(benches, broker);
criterion_main!(benches);
