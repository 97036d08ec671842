//! What a worker costs around the work.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pubsub_pipeline::{
    ActionId, Cause, Command, Event, EventType, Exit, FanOut, Finished, Handler, MemoryBroker, MemoryStore,
    Publisher as _, RunRecord, SinkConfig, Stage, Stop, Worker, handler_fn,
};
use pubsub_pipeline_benches::{Row, Target, runtime};
use tokio::runtime::Runtime;

/// Works `many` events off, in the runtime's main future or in a task of its own; answers how long that took.
fn worked(runtime: &Runtime, many: usize, handler: impl Handler + 'static, spawned: bool) -> Duration {
    runtime.block_on(async {
        let broker = Arc::new(MemoryBroker::new());
        let event =
            |n: usize| Event::new(EventType::new("t").unwrap(), ActionId::new(format!("a-{n}")).unwrap());
        assert!(broker.publish((0..many).map(event).collect()).await.iter().all(Result::is_ok));
        let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(MemoryStore::new()))]);
        let stage = Stage::new("s").unwrap();
        // Stopped at the last event: looking whether a group is idle takes its time.
        let (stopper, stop) = Stop::pair();
        let ended = AtomicUsize::new(0);
        let count = move |_: &RunRecord| {
            if ended.fetch_add(1, Ordering::Relaxed) + 1 == many {
                stopper.stop(Cause::Shutdown);
            }
        };
        // The broker is held: what it keeps is not dropped in the time that is taken.
        let worker = Worker::new(broker.clone(), fan_out, handler, stage, ["t:*".parse().unwrap()])
            .unwrap()
            .with_concurrency(if many > 1000 { 64 } else { 1 })
            .with_observer(count);
        let begun = Instant::now();
        if spawned {
            tokio::spawn(worker.run(stop)).await.unwrap().unwrap();
        } else {
            worker.run(stop).await.unwrap();
        }
        begun.elapsed()
    })
}

fn nothing() -> impl Handler {
    handler_fn(|_| async { Finished::from(Exit::code(0)) })
}

fn plain(runtime: &Runtime, many: usize) -> Duration {
    runtime.block_on(async {
        let running = tokio::spawn(async move {
            let begun = Instant::now();
            for _ in 0..many {
                let output = tokio::process::Command::new("true").output().await.unwrap();
                assert!(output.status.success());
            }
            begun.elapsed()
        });
        running.await.unwrap()
    })
}

fn work(criterion: &mut Criterion) {
    let runtime = runtime();
    let many = 20_000;
    Row { id: "no-op-handler", size: many as u64, unit: "events", target: Target::PerSecond(100_000.0) }
        .measure(criterion)
        .ours(|| worked(&runtime, many, nothing(), true));
    Row { id: "no-op-handler-from-main", size: many as u64, unit: "events", target: Target::Speed(0.8) }
        .measure(criterion)
        .limit(|| worked(&runtime, many, nothing(), true))
        .ours(|| worked(&runtime, many, nothing(), false));
    Row { id: "command-true", size: 200, unit: "commands", target: Target::Cost(1.3) }
        .measure(criterion)
        .limit(|| plain(&runtime, 200))
        .ours(|| worked(&runtime, 200, Command::new("true"), true));
}

criterion_group!(benches, work);
criterion_main!(benches);
