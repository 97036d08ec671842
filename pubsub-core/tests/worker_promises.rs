//! What a worker promises about tries, doubles and what it publishes.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pubsub_core::{
    ActionId, Backoff, Cause, DeadLetters as _, Deliveries, Event, EventType, Exit, FanOut, Handler,
    MemoryBroker, MemoryStore, Outcome, OutputReader as _, PublisherExt as _, RetryPolicy, Role, RunContext,
    RunQuery, RunRecord, SinkConfig, Stage, StartFailure, Stop, Subscription, Worker, handler_fn,
};

fn event() -> Event {
    Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap())
}

fn worker(
    broker: &Arc<MemoryBroker>,
    store: &MemoryStore,
    pattern: &str,
    handler: impl Handler + 'static,
) -> Worker {
    let sinks = FanOut::new(vec![SinkConfig::required("s", Arc::new(store.clone()))]);
    let patterns = [pattern.parse().unwrap()];
    Worker::new(broker.clone(), sinks, handler, Stage::new("s").unwrap(), patterns)
        .unwrap()
        .with_retry(RetryPolicy::default().with_backoff(Backoff::fixed(Duration::from_millis(10))))
        .until_idle()
}

async fn work(worker: Worker) {
    let (_stopper, stop) = Stop::pair();
    tokio::time::timeout(Duration::from_secs(3600), worker.run(stop)).await.unwrap().unwrap();
}

async fn runs(store: &MemoryStore) -> Vec<RunRecord> {
    store.runs(&RunQuery::all()).await.unwrap()
}

async fn published(broker: &MemoryBroker, pattern: &str) -> Vec<Event> {
    let subscription =
        Subscription::for_stage(Stage::new("probe").unwrap(), [pattern.parse().unwrap()]).unwrap();
    let mut deliveries = Deliveries::open(broker, subscription).await.unwrap();
    let mut events = Vec::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(20), deliveries.next()).await {
        let delivery = delivery.unwrap();
        events.push(delivery.event().as_ref().clone());
        delivery.ack().await.unwrap();
    }
    events
}

/// How often an event is tried whose handler always ends like this, and what its outcome is then.
async fn tries(exit: Exit, retry: impl FnOnce(RetryPolicy) -> RetryPolicy) -> (usize, Outcome) {
    let (broker, store) = (Arc::new(MemoryBroker::new()), MemoryStore::new());
    broker.publish_one(event()).await.unwrap();
    let handler = handler_fn(move |_| {
        let exit = exit.clone();
        async move { exit.into() }
    });
    let policy = retry(RetryPolicy::default().with_backoff(Backoff::fixed(Duration::from_millis(10))));
    work(worker(&broker, &store, "t:a", handler).with_retry(policy)).await;
    let runs = runs(&store).await;
    let last = runs.iter().max_by_key(|run| run.key.attempt).unwrap();
    assert!(last.is_final, "after the last one the outcome is the conclusion");
    assert!(runs.iter().all(|run| run.is_final == (run.key.attempt == last.key.attempt)));
    assert_eq!(published(&broker, "s-completed:a").await.len(), 1);
    assert!(broker.list(None, 10).await.unwrap().is_empty(), "what has an outcome is no dead letter");
    (runs.len(), last.outcome.unwrap())
}

#[tokio::test(start_paused = true)]
async fn by_default_only_what_failed_is_tried_again_and_nothing_that_trying_cannot_help() {
    let default = |policy: RetryPolicy| policy;
    for (exit, expected) in [
        (Exit::code(0), (1, Outcome::Succeeded)),
        (Exit::code(42), (1, Outcome::Escaped)),
        (Exit::code(124), (1, Outcome::TimedOut)),
        (Exit::code(130), (1, Outcome::Interrupted)),
        (Exit::stopped(Cause::WallTimeout), (1, Outcome::TimedOut)),
        (Exit::code(1), (3, Outcome::Failed)),
        (Exit::signal(9), (3, Outcome::Failed)),
        (Exit::not_started(StartFailure::Other), (3, Outcome::Failed)),
        (Exit::not_started(StartFailure::NotFound), (1, Outcome::Failed)),
        (Exit::not_started(StartFailure::NotExecutable), (1, Outcome::Failed)),
        (Exit::not_started(StartFailure::Unacceptable), (1, Outcome::Failed)),
    ] {
        let told = format!("{exit:?}");
        assert_eq!(tries(exit, default).await, expected, "{told}");
    }
    assert_eq!(tries(Exit::code(1), |policy| policy.with_attempts(5)).await.0, 5);
    assert_eq!(tries(Exit::code(1), |_| RetryPolicy::none()).await.0, 1);
    let timeouts = |policy: RetryPolicy| policy.with_outcomes([Outcome::TimedOut]);
    assert_eq!(tries(Exit::code(124), timeouts).await.0, 3);
    assert_eq!(tries(Exit::code(1), timeouts).await.0, 1);
}

/// Two groups of one stage: while one worker is at the event, the other puts it off, uncounted, and then settles it.
#[tokio::test(start_paused = true)]
async fn an_event_that_reaches_a_stage_twice_is_run_once() {
    let (broker, store) = (Arc::new(MemoryBroker::new()), MemoryStore::new());
    broker.publish_one(event()).await.unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let slow = |begun: &Arc<AtomicUsize>| {
        let begun = Arc::clone(begun);
        handler_fn(move |_: RunContext| {
            begun.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_secs(100)).await;
                Exit::code(0).into()
            }
        })
    };
    let one = worker(&broker, &store, "t:a", slow(&begun));
    let other = worker(&broker, &store, "t:*", slow(&begun));
    tokio::join!(work(one), work(other));
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    let runs = runs(&store).await;
    assert_eq!(runs.iter().map(|run| (run.key.attempt, run.is_final)).collect::<Vec<_>>(), [(1, true)]);
    let outcomes = published(&broker, "s-completed:a").await;
    assert_eq!(outcomes.len(), 1, "published again under the same id");
}

#[tokio::test(start_paused = true)]
async fn what_is_published_carries_the_cause_the_root_and_the_trace() {
    let (broker, store) = (Arc::new(MemoryBroker::new()), MemoryStore::new());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let first =
        event().with_header("traceparent", trace).with_header("tracestate", "a=b").with_header("x", "y");
    broker.publish_one(first.clone()).await.unwrap();
    let handler = || handler_fn(|_: RunContext| async { Exit::code(0).into() });
    let then = |kind: &str| EventType::new(kind).unwrap();
    work(worker(&broker, &store, "t:a", handler()).with_then(then("u"))).await;
    let second = published(&broker, "u:a").await.remove(0);
    let sinks = FanOut::new(vec![SinkConfig::required("s", Arc::new(store.clone()))]);
    let next =
        Worker::new(broker.clone(), sinks, handler(), Stage::new("s2").unwrap(), ["u:a".parse().unwrap()]);
    work(next.unwrap().with_then(then("v")).until_idle()).await;
    let third = published(&broker, "v:a").await.remove(0);
    let outcome = published(&broker, "s2-completed:a").await.remove(0);
    for (made, cause, links, role) in [
        (&second, &first, 1, Role::Next),
        (&third, &second, 2, Role::Next),
        (&outcome, &second, 2, Role::Outcome),
    ] {
        let origin = made.origin.as_ref().unwrap();
        assert_eq!((&origin.cause, &origin.root), (&cause.id, &first.id));
        assert_eq!((origin.links, origin.role), (links, role));
        assert_eq!(made.headers.get("traceparent").map(String::as_str), Some(trace));
        assert_eq!(made.headers.get("tracestate").map(String::as_str), Some("a=b"));
        assert_eq!(made.headers.get("x"), None, "what is the publisher's own stays with its event");
    }
}
