//! The broker and the store on Redis beside Redis itself: the same server, the same fields, the same batches.
//!
//! The server runs on the machine's own cores, for the limits as for ours.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark fails where it cannot measure")]

#[path = "redis/output.rs"]
mod output;
#[path = "redis/raw.rs"]
mod raw;
#[path = "redis/waits.rs"]
mod waits;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use futures::StreamExt as _;
use futures::future::join_all;
use pubsub_pipeline::{
    Deliveries, Event, Publisher as _, PublisherExt as _, RedisBroker, RedisBrokerConfig, RedisConfig, Stage,
    Subscription,
};
use pubsub_pipeline_benches::{Awaited, Curve, PUBLISHED, Row, Target, event, events, runtime, sizes};
use raw::{Fields, Socket, fields};
use services::{Redis, RedisOptions};
use tokio::runtime::Runtime;

/// Published one at a time in one pass.
const ONE_BY_ONE: u64 = 5_000;

/// Consumed in one pass, where the table has it.
const CONSUMED: u64 = 50_000;

pub(crate) fn server() -> Redis {
    Redis::start(&RedisOptions::new()).unwrap()
}

pub(crate) async fn empty(redis: &Redis) {
    let _: () = redis::cmd("FLUSHALL").query_async(&mut raw::connect(&redis.url()).await).await.unwrap();
}

pub(crate) async fn open_at(url: &str) -> RedisBroker {
    RedisBroker::connect(RedisBrokerConfig::new(RedisConfig::new(url))).await.unwrap()
}

/// A broker that knows its actions: an action's first event takes one look more.
async fn ready(redis: &Redis) -> RedisBroker {
    empty(redis).await;
    let broker = open_at(&redis.url()).await;
    assert!(broker.publish(events(100)).await.iter().all(Result::is_ok));
    broker
}

fn all_fields(many: u64) -> Vec<Fields> {
    (0..many).map(|n| fields(&event(n))).collect()
}

/// The crate's own commands, in batches of this size or one by one.
fn added(runtime: &Runtime, redis: &Redis, many: u64, batch: usize) -> Duration {
    runtime.block_on(async {
        empty(redis).await;
        let (all, mut connection) = (all_fields(many), raw::connect(&redis.url()).await);
        let begun = Instant::now();
        match batch {
            1 => raw::add_one_by_one(&mut connection, &all).await,
            batch => raw::add_batches(&mut connection, &all, batch).await,
        }
        begun.elapsed()
    })
}

/// A call of the broker for each batch.
fn published(runtime: &Runtime, redis: &Redis, many: u64, batch: usize) -> Duration {
    runtime.block_on(async {
        let broker = ready(redis).await;
        let batches: Vec<Vec<Event>> = events(many).chunks(batch).map(<[Event]>::to_vec).collect();
        let begun = Instant::now();
        for batch in batches {
            assert!(broker.publish(batch).await.iter().all(Result::is_ok));
        }
        let took = begun.elapsed();
        broker.close().await.unwrap();
        took
    })
}

/// Calls of the broker, up to four of 500 events at a time.
fn published_in_flight(runtime: &Runtime, redis: &Redis, many: u64) -> Duration {
    runtime.block_on(async {
        let broker = ready(redis).await;
        let batches: Vec<Vec<Event>> = events(many).chunks(500).map(<[Event]>::to_vec).collect();
        let begun = Instant::now();
        let mut answers =
            futures::stream::iter(batches).map(|batch| broker.publish(batch)).buffer_unordered(4);
        while let Some(answers) = answers.next().await {
            assert!(answers.iter().all(Result::is_ok));
        }
        let took = begun.elapsed();
        drop(answers);
        broker.close().await.unwrap();
        took
    })
}

fn publishing(criterion: &mut Criterion) {
    let (runtime, redis) = (runtime(), server());
    for many in sizes(ONE_BY_ONE, [ONE_BY_ONE / 10, ONE_BY_ONE * 10]) {
        let (id, target) = ("redis-publish-one", Target::Speed(0.95));
        Row { id, size: many, unit: "events", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| added(&runtime, &redis, many, 1))
            .ours(|| published(&runtime, &redis, many, 1));
    }
    for (id, batch) in [("redis-publish-64", 64), ("redis-publish-128", 128)] {
        for many in sizes(PUBLISHED, [PUBLISHED / 10, PUBLISHED * 10]) {
            Row { id, size: many, unit: "events", target: Target::Speed(0.9), curve: Curve::OverSize }
                .measure(criterion)
                .limit(|| added(&runtime, &redis, many, batch))
                .ours(|| published(&runtime, &redis, many, batch));
        }
    }
    let socket = |many: u64| {
        runtime.block_on(async {
            empty(&redis).await;
            let (all, mut socket) = (all_fields(many), Socket::open(redis.port()).await);
            let begun = Instant::now();
            socket.add_batches(&all, 1000).await;
            begun.elapsed()
        })
    };
    let many = PUBLISHED * 5;
    let row = |id, target| Row { id, size: many, unit: "events", target, curve: Curve::No };
    row("redis-publish-in-flight", Target::Speed(0.85))
        .measure(criterion)
        .limit(|| socket(many))
        .ours(|| published_in_flight(&runtime, &redis, many));
    row("redis-publish-beside-peer", Target::Peer(1.3))
        .measure(criterion)
        .ours(|| published_in_flight(&runtime, &redis, many));
}

/// 64 tasks that each await their publish.
fn grouping(criterion: &mut Criterion) {
    let redis = server();
    let (tasks, each) = (64, 300);
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (id, runtime, share) in
        [("redis-publish-64-tasks", runtime(), 1.2), ("redis-publish-64-tasks-one-thread", current, 0.9)]
    {
        Row { id, size: tasks * each, unit: "events", target: Target::Speed(share), curve: Curve::No }
            .measure(criterion)
            .limit(|| {
                runtime.block_on(async {
                    empty(&redis).await;
                    let connection = raw::connect(&redis.url()).await;
                    let all = (0..tasks).map(|_| (all_fields(each), connection.clone())).collect::<Vec<_>>();
                    let begun = Instant::now();
                    let adding = all.into_iter().map(|(fields, mut connection)| {
                        tokio::spawn(async move { raw::add_one_by_one(&mut connection, &fields).await })
                    });
                    join_all(adding).await.into_iter().for_each(Result::unwrap);
                    begun.elapsed()
                })
            })
            .ours(|| {
                runtime.block_on(async {
                    let broker = ready(&redis).await;
                    let all = (0..tasks).map(|_| (events(each), broker.clone())).collect::<Vec<_>>();
                    let begun = Instant::now();
                    let publishing = all.into_iter().map(|(events, broker)| {
                        tokio::spawn(async move {
                            for event in events {
                                broker.publish_one(event).await.unwrap();
                            }
                        })
                    });
                    join_all(publishing).await.into_iter().for_each(Result::unwrap);
                    let took = begun.elapsed();
                    broker.close().await.unwrap();
                    took
                })
            });
    }
}

/// Redis itself: so many of those that wait are read and acknowledged.
fn raw_consumed(runtime: &Runtime, redis: &Redis, many: u64, count: usize) -> Duration {
    runtime.block_on(async {
        let mut connection = raw::connect(&redis.url()).await;
        raw::fill(&mut connection, &all_fields(many)).await;
        raw::consume(&mut connection, usize::try_from(many).unwrap(), count).await
    })
}

/// Publishes so many, and takes and settles so many of them, up to `count` taken in advance.
fn consumed(
    runtime: &Runtime,
    redis: &Redis,
    awaited: Awaited,
    waiting: u64,
    many: u64,
    count: usize,
) -> Duration {
    let url = redis.url();
    runtime.block_on(empty(redis));
    awaited.run(runtime, async move {
        let broker = open_at(&url).await;
        for first in (0..waiting).step_by(1000) {
            let events = (first..waiting.min(first + 1000)).map(event).collect();
            assert!(broker.publish(events).await.iter().all(Result::is_ok));
        }
        let on = Subscription::for_stage(Stage::new("build").unwrap(), ["*:*".parse().unwrap()]).unwrap();
        let mut deliveries = Deliveries::open(&broker, on.with_prefetch(count)).await.unwrap();
        let begun = Instant::now();
        // What was taken together is settled while the next is asked for, as by a worker with many slots.
        let (mut settling, mut next) = (Vec::with_capacity(count), deliveries.next().await);
        for left in (0..many).rev() {
            settling.push(next.take().unwrap().unwrap().ack());
            if settling.len() < count && left > 0 {
                next = deliveries.next().await;
                continue;
            }
            let settled = join_all(settling.drain(..));
            let answers = if left > 0 {
                let (answers, found) = tokio::join!(settled, deliveries.next());
                next = found;
                answers
            } else {
                settled.await
            };
            answers.into_iter().for_each(Result::unwrap);
        }
        let took = begun.elapsed();
        deliveries.close().await;
        broker.close().await.unwrap();
        took
    })
}

fn consuming(criterion: &mut Criterion) {
    let (runtime, redis) = (runtime(), server());
    for (id, count) in [("redis-consume-100", 100), ("redis-consume-1000", 1000)] {
        for many in sizes(CONSUMED, [CONSUMED / 10, CONSUMED * 4]) {
            Row { id, size: many, unit: "events", target: Target::Speed(0.85), curve: Curve::OverSize }
                .measure(criterion)
                .limit(|| raw_consumed(&runtime, &redis, many, count))
                .ours(|| consumed(&runtime, &redis, Awaited::InTask, many, many, count));
        }
    }
    let row = |id, target, size| Row { id, size, unit: "events", target, curve: Curve::No };
    row("redis-consume-beside-peer", Target::Peer(1.0), CONSUMED)
        .measure(criterion)
        .ours(|| consumed(&runtime, &redis, Awaited::InTask, CONSUMED, CONSUMED, 1000));
    row("redis-consume-from-main", Target::Speed(0.8), CONSUMED)
        .measure(criterion)
        .limit(|| consumed(&runtime, &redis, Awaited::InTask, CONSUMED, CONSUMED, 100))
        .ours(|| consumed(&runtime, &redis, Awaited::InMain, CONSUMED, CONSUMED, 100));
    row("redis-consume-among-million", Target::Speed(0.9), 5_000)
        .measure(criterion)
        .limit(|| consumed(&runtime, &redis, Awaited::InTask, 5_000, 5_000, 100))
        .ours(|| consumed(&runtime, &redis, Awaited::InTask, 1_000_000, 5_000, 100));
}

criterion_group!(benches, publishing, grouping, consuming, waits::waiting, output::writing);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !waits::is_beside(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
