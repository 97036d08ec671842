//! The broker in a folder beside SQLite itself: the same rows, the same indexes, the same durability.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use pubsub_pipeline::{
    ActionId, Deliveries, Event, EventType, FileBroker, FileBrokerConfig, FileDurability, Payload,
    Publisher as _, PublisherExt as _, Stage, Subscription,
};
use pubsub_pipeline_benches::{Row, Target, runtime};
use rusqlite::{Connection, params};

/// Published in one pass.
const EVENTS: usize = 20_000;

fn event(n: usize) -> Event {
    let payload: Payload = format!("\"{}\"", "x".repeat(198)).parse().unwrap();
    Event::new(
        EventType::new("build-requested").unwrap(),
        ActionId::new(format!("action-{}", n % 100)).unwrap(),
    )
    .with_payload(payload)
}

fn events(many: usize) -> Vec<Event> {
    (0..many).map(event).collect()
}

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

fn publishing(criterion: &mut Criterion) {
    let runtime = runtime();
    for (id, batch) in [("publish-100", 100), ("publish-1000", 1000)] {
        Row { id, size: EVENTS as u64, unit: "events", target: Target::Speed(0.7) }
            .measure(criterion)
            .limit(|| {
                let folder = tempfile::tempdir().unwrap();
                let mut db = runtime.block_on(raw(folder.path(), "NORMAL"));
                let rows = with_bodies(events(EVENTS));
                let begun = Instant::now();
                rows.chunks(batch).for_each(|rows| insert(&mut db, rows));
                begun.elapsed()
            })
            .ours(|| {
                let folder = tempfile::tempdir().unwrap();
                let batches: Vec<Vec<Event>> = events(EVENTS).chunks(batch).map(<[Event]>::to_vec).collect();
                runtime.block_on(async {
                    let broker = open(folder.path(), FileDurability::ProcessCrash).await;
                    let begun = Instant::now();
                    for batch in batches {
                        assert!(broker.publish(batch).await.iter().all(Result::is_ok));
                    }
                    let took = begun.elapsed();
                    broker.close().await.unwrap();
                    took
                })
            });
    }
}

/// 64 tasks that each await their publish, where each commit waits for the disk.
fn grouping(criterion: &mut Criterion) {
    let runtime = runtime();
    let (tasks, each) = (64_usize, 20_usize);
    Row {
        id: "publish-64-tasks-full",
        size: (tasks * each) as u64,
        unit: "events",
        target: Target::Speed(5.0),
    }
    .measure(criterion)
    .limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut db = runtime.block_on(raw(folder.path(), "FULL"));
        let rows = with_bodies(events(tasks * each));
        let begun = Instant::now();
        rows.chunks(1).for_each(|row| insert(&mut db, row));
        begun.elapsed()
    })
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

fn consuming(criterion: &mut Criterion) {
    let runtime = runtime();
    let many = 100_000;
    Row { id: "consume", size: many as u64, unit: "events", target: Target::PerSecond(200_000.0) }
        .measure(criterion)
        .ours(|| {
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(async {
                let broker = open(folder.path(), FileDurability::ProcessCrash).await;
                for batch in events(many).chunks(1000) {
                    assert!(broker.publish(batch.to_vec()).await.iter().all(Result::is_ok));
                }
                let on =
                    Subscription::for_stage(Stage::new("build").unwrap(), ["*:*".parse().unwrap()]).unwrap();
                let mut deliveries = Deliveries::open(&broker, on.with_prefetch(1000)).await.unwrap();
                let begun = Instant::now();
                // As many in flight as were taken in advance.
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
        });
}

/// A group of one action among a million events.
fn starting(criterion: &mut Criterion) {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let broker = runtime.block_on(async {
        let broker = open(folder.path(), FileDurability::ProcessCrash).await;
        for batch in 0..1000 {
            let events = (0..1000).map(|n| event(batch * 1000 + n)).collect();
            assert!(broker.publish(events).await.iter().all(Result::is_ok));
        }
        broker
    });
    let mut number = 0;
    Row {
        id: "group-among-a-million",
        size: 1,
        unit: "group",
        target: Target::Within(Duration::from_millis(5)),
    }
    .measure(criterion)
    .ours(|| {
        number += 1;
        let name = format!("one-{number}");
        runtime.block_on(async {
            let on = ActionId::new(name.clone()).unwrap();
            let event = Event::new(EventType::new("build-requested").unwrap(), on);
            broker.publish_one(event).await.unwrap();
            let pattern = format!("build-requested:{name}").parse().unwrap();
            let on = Subscription::for_stage(Stage::new("build").unwrap(), [pattern]).unwrap();
            let begun = Instant::now();
            let mut deliveries = Deliveries::open(&broker, on).await.unwrap();
            let delivery = deliveries.next().await.unwrap().unwrap();
            let took = begun.elapsed();
            delivery.ack().await.unwrap();
            deliveries.close().await;
            took
        })
    });
    runtime.block_on(broker.close()).unwrap();
}

criterion_group!(benches, publishing, grouping, consuming, starting);
criterion_main!(benches);
