//! The broker in a folder beside SQLite itself: the same rows, the same indexes, the same durability.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use pubsub_pipeline::{
    ActionId, Deliveries, Event, EventType, FileBroker, FileBrokerConfig, FileDurability, Publisher as _,
    PublisherExt as _, Stage, Subscription,
};
use pubsub_pipeline_benches::{
    Awaited, CONSUMED, Curve, PUBLISHED, Row, Target, event, events, runtime, sizes,
};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;

/// Published one at a time in one pass.
const ONE_BY_ONE: u64 = 5_000;

async fn open(dir: &Path, durability: FileDurability) -> FileBroker {
    FileBroker::connect(FileBrokerConfig::new(dir).with_durability(durability)).await.unwrap()
}

/// SQLite with the broker's tables and settings.
async fn raw(dir: &Path, synchronous: &str) -> Connection {
    open(dir, FileDurability::ProcessCrash).await.close().await.unwrap();
    let path = dir.join("broker").join("events.db");
    assert!(path.exists());
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.pragma_update(None, "synchronous", synchronous).unwrap();
    db.pragma_update(None, "wal_autocheckpoint", 4000).unwrap();
    db.pragma_update(None, "cache_size", -16_384).unwrap();
    db
}

fn insert(db: &mut Connection, events: &[(Event, String)]) {
    let transaction = db.transaction().unwrap();
    {
        let mut statement = transaction
            .prepare_cached("INSERT INTO events (id, type, action, body) VALUES (?1, ?2, ?3, ?4)")
            .unwrap();
        for (event, body) in events {
            let (id, kind, action) = (event.id.as_str(), event.event_type.as_str(), event.action_id.as_str());
            statement.execute(params![id, kind, action, body.as_bytes()]).unwrap();
        }
    }
    transaction.commit().unwrap();
}

fn with_bodies(events: Vec<Event>) -> Vec<(Event, String)> {
    events.into_iter().map(|event| (event.clone(), event.to_cloud_event().unwrap())).collect()
}

/// SQLite itself, a transaction for each batch.
fn inserted(runtime: &Runtime, many: u64, batch: usize, synchronous: &str) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let mut db = runtime.block_on(raw(folder.path(), synchronous));
    let rows = with_bodies(events(many));
    let begun = Instant::now();
    rows.chunks(batch).for_each(|rows| insert(&mut db, rows));
    begun.elapsed()
}

/// A call of the broker for each batch.
fn published(runtime: &Runtime, awaited: Awaited, many: u64, batch: usize) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let (dir, events) = (folder.path().to_owned(), events(many));
    awaited.run(runtime, async move {
        let broker = open(&dir, FileDurability::ProcessCrash).await;
        let batches: Vec<Vec<Event>> = events.chunks(batch).map(<[Event]>::to_vec).collect();
        let begun = Instant::now();
        for batch in batches {
            assert!(broker.publish(batch).await.iter().all(Result::is_ok));
        }
        let took = begun.elapsed();
        broker.close().await.unwrap();
        took
    })
}

fn publishing(criterion: &mut Criterion) {
    let runtime = runtime();
    for (id, batch) in [("publish-100", 100), ("publish-1000", 1000)] {
        for many in sizes(PUBLISHED, [PUBLISHED / 10, PUBLISHED * 10]) {
            Row { id, size: many, unit: "events", target: Target::Speed(0.7), curve: Curve::OverSize }
                .measure(criterion)
                .limit(|| inserted(&runtime, many, batch, "NORMAL"))
                .ours(|| published(&runtime, Awaited::InMain, many, batch));
        }
    }
    let rows = [("publish-one-from-main", ONE_BY_ONE, 1), ("publish-100-from-main", PUBLISHED, 100)];
    for (id, size, batch) in rows {
        Row { id, size, unit: "events", target: Target::Speed(0.8), curve: Curve::No }
            .measure(criterion)
            .limit(|| published(&runtime, Awaited::InTask, size, batch))
            .ours(|| published(&runtime, Awaited::InMain, size, batch));
    }
}

/// 64 tasks that each await their publish, where each commit waits for the disk.
fn grouping(criterion: &mut Criterion) {
    let runtime = runtime();
    let (tasks, each) = (64, 20);
    let size = tasks * each;
    let id = "publish-64-tasks-full";
    Row { id, size, unit: "events", target: Target::Speed(5.0), curve: Curve::No }
        .measure(criterion)
        .limit(|| inserted(&runtime, size, 1, "FULL"))
        .ours(|| {
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(async {
                let broker = open(folder.path(), FileDurability::PowerLoss).await;
                let begun = Instant::now();
                let publishing = (0..tasks).map(|task| {
                    let broker = broker.clone();
                    tokio::spawn(async move {
                        for n in 0..each {
                            broker.publish_one(event(task * each + n)).await.unwrap();
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

/// Publishes them in large batches.
async fn filled(dir: &Path, many: u64) -> FileBroker {
    let broker = open(dir, FileDurability::ProcessCrash).await;
    for first in (0..many).step_by(1000) {
        let events = (first..many.min(first + 1000)).map(event).collect();
        assert!(broker.publish(events).await.iter().all(Result::is_ok));
    }
    broker
}

/// Takes and settles all of them, as many in flight as were taken in advance.
fn consumed(runtime: &Runtime, awaited: Awaited, many: u64) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_owned();
    awaited.run(runtime, async move {
        let broker = filled(&dir, many).await;
        let on = Subscription::for_stage(Stage::new("build").unwrap(), ["*:*".parse().unwrap()]).unwrap();
        let mut deliveries = Deliveries::open(&broker, on.with_prefetch(1000)).await.unwrap();
        let begun = Instant::now();
        let mut settling = Vec::with_capacity(500);
        for _ in 0..many {
            settling.push(deliveries.next().await.unwrap().unwrap().ack());
            if settling.len() == 500 {
                join_all(settling.drain(..)).await.into_iter().for_each(Result::unwrap);
            }
        }
        join_all(settling).await.into_iter().for_each(Result::unwrap);
        let took = begun.elapsed();
        deliveries.close().await;
        broker.close().await.unwrap();
        took
    })
}

fn consuming(criterion: &mut Criterion) {
    let runtime = runtime();
    for many in sizes(CONSUMED, [CONSUMED / 10, CONSUMED * 10]) {
        let target = Target::PerSecond(200_000.0);
        Row { id: "consume", size: many, unit: "events", target, curve: Curve::OverSize }
            .measure(criterion)
            .ours(|| consumed(&runtime, Awaited::InMain, many));
    }
    let (id, target) = ("consume-from-main", Target::Speed(0.8));
    Row { id, size: CONSUMED, unit: "events", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| consumed(&runtime, Awaited::InTask, CONSUMED))
        .ours(|| consumed(&runtime, Awaited::InMain, CONSUMED));
}

/// From the subscription to the only event of a new action.
fn started(runtime: &Runtime, broker: &FileBroker, name: &str) -> Duration {
    runtime.block_on(async {
        let on = ActionId::new(name).unwrap();
        let event = Event::new(EventType::new("build-requested").unwrap(), on);
        broker.publish_one(event).await.unwrap();
        let pattern = format!("build-requested:{name}").parse().unwrap();
        let on = Subscription::for_stage(Stage::new("build").unwrap(), [pattern]).unwrap();
        let begun = Instant::now();
        let mut deliveries = Deliveries::open(broker, on).await.unwrap();
        let delivery = deliveries.next().await.unwrap().unwrap();
        let took = begun.elapsed();
        delivery.ack().await.unwrap();
        deliveries.close().await;
        took
    })
}

/// A group of one action among the events of others.
fn starting(criterion: &mut Criterion) {
    let runtime = runtime();
    for many in sizes(1_000_000, [10_000, 100_000]) {
        let folder = tempfile::tempdir().unwrap();
        let broker = runtime.block_on(filled(folder.path(), many));
        let mut number = 0;
        let (target, curve) = (Target::Within(Duration::from_millis(5)), Curve::Among(many, "events"));
        Row { id: "group-of-one-action", size: 1, unit: "group", target, curve }.measure(criterion).ours(
            || {
                number += 1;
                started(&runtime, &broker, &format!("one-{number}"))
            },
        );
        runtime.block_on(broker.close()).unwrap();
    }
}

criterion_group!(benches, publishing, grouping, consuming, starting);
criterion_main!(benches);
