//! What a worker costs around the work.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pubsub_pipeline::{
    ActionId, Cause, Command, Deliveries, Event, EventType, Exit, FanOut, Finished, Handler, MemoryBroker,
    MemoryStore, Publisher as _, RunRecord, SinkConfig, Stage, Stop, Subscription, Worker, handler_fn,
};
use pubsub_pipeline_benches::{Awaited, Curve, Row, Target, runtime, sizes};
use tokio::runtime::Runtime;

/// Worked off in one pass.
const EVENTS: u64 = 20_000;

/// Works `many` events off; answers how long that took.
fn worked(runtime: &Runtime, awaited: Awaited, many: u64, handler: impl Handler + 'static) -> Duration {
    awaited.run(runtime, async move {
        let broker = Arc::new(MemoryBroker::new());
        let event =
            |n: u64| Event::new(EventType::new("t").unwrap(), ActionId::new(format!("a-{n}")).unwrap());
        assert!(broker.publish((0..many).map(event).collect()).await.iter().all(Result::is_ok));
        let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(MemoryStore::new()))]);
        let stage = Stage::new("s").unwrap();
        // Stopped at the last event: looking whether a group is idle takes its time.
        let (stopper, stop) = Stop::pair();
        let ended = AtomicU64::new(0);
        let count = move |_: &RunRecord| {
            if ended.fetch_add(1, Ordering::Relaxed) + 1 == many {
                stopper.stop(Cause::Shutdown);
            }
        };
        // The broker is held: what it keeps is not dropped in the time that is taken.
        let worker = Worker::new(broker.clone(), fan_out, handler, stage, ["t:*".parse().unwrap()])
            .unwrap()
            .with_concurrency(if many > 1000 { 64 } else { 1 })
            .with_prefetch(if many > 1000 { 64 } else { 1 })
            .with_observer(count);
        let begun = Instant::now();
        worker.run(stop).await.unwrap();
        begun.elapsed()
    })
}

fn nothing() -> impl Handler {
    handler_fn(|_| async { Finished::from(Exit::code(0)) })
}

fn plain(runtime: &Runtime, many: u64) -> Duration {
    Awaited::InTask.run(runtime, async move {
        let begun = Instant::now();
        for _ in 0..many {
            let output = tokio::process::Command::new("true").output().await.unwrap();
            assert!(output.status.success());
        }
        begun.elapsed()
    })
}

fn work(criterion: &mut Criterion) {
    let runtime = runtime();
    for many in sizes(EVENTS, [EVENTS / 10, EVENTS * 10]) {
        let target = Target::PerSecond(100_000.0);
        Row { id: "no-op-handler", size: many, unit: "events", target, curve: Curve::OverSize }
            .measure(criterion)
            .ours(|| worked(&runtime, Awaited::InTask, many, nothing()));
    }
    let (id, target) = ("no-op-handler-from-main", Target::Speed(0.8));
    Row { id, size: EVENTS, unit: "events", target, curve: Curve::No }
        .measure(criterion)
        .limit(|| worked(&runtime, Awaited::InTask, EVENTS, nothing()))
        .ours(|| worked(&runtime, Awaited::InMain, EVENTS, nothing()));
    Row { id: "command-true", size: 200, unit: "commands", target: Target::Cost(1.3), curve: Curve::No }
        .measure(criterion)
        .limit(|| plain(&runtime, 200))
        .ours(|| worked(&runtime, Awaited::InTask, 200, Command::new("true")));
}

/// Publishes to so many who listen each to an action of their own.
fn told(runtime: &Runtime, listening: u64, many: u64) -> Duration {
    Awaited::InTask.run(runtime, async move {
        let broker = MemoryBroker::new();
        let event = |n: u64| {
            Event::new(EventType::new("t").unwrap(), ActionId::new(format!("a-{}", n % listening)).unwrap())
        };
        let mut heard = Vec::new();
        for n in 0..listening {
            let on = Subscription::broadcast([format!("t*:a-{n}").parse().unwrap()]).unwrap();
            heard.push(Deliveries::open(&broker, on).await.unwrap());
        }
        let events = (0..many).map(event).collect();
        let begun = Instant::now();
        assert!(broker.publish(events).await.iter().all(Result::is_ok));
        begun.elapsed()
    })
}

fn matching(criterion: &mut Criterion) {
    let (runtime, many) = (runtime(), 1_000);
    for listening in sizes(10_000, [100, 1_000]) {
        let (target, curve) =
            (Target::Within(Duration::from_micros(20)), Curve::Among(listening, "subscriptions"));
        Row { id: "publish-among-subscriptions", size: many, unit: "events", target, curve }
            .measure(criterion)
            .ours(|| told(&runtime, listening, many));
    }
}

criterion_group!(benches, work, matching);
criterion_main!(benches);
