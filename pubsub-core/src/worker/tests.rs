//! Tests of the worker on the broker and the store in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{RetryPolicy, Worker};
use async_trait::async_trait;
use tokio::sync::Notify;

use crate::{
    ActionId, Backoff, Broker, BrokerAdmin, BrokerCapabilities, Cause, DeadLetter, DeadLetters, Deliveries,
    Error, ErrorKind, Event, EventId, EventType, Exit, FanOut, Finished, GroupInfo, GroupName, Handler,
    MemoryBroker, MemoryStore, Outcome, OutputReader, OutputSink, Position, Published, Publisher,
    PublisherExt, Result, Retention, RunContext, RunQuery, RunRecord, Scope, SinkConfig, Stage, StartFailure,
    Stop, Subscribed, Subscriber, Subscription, handler_fn, verify,
};

struct Bench {
    broker: Arc<MemoryBroker>,
    store: MemoryStore,
}

impl Bench {
    fn new() -> Self {
        Self { broker: Arc::new(MemoryBroker::new()), store: MemoryStore::new() }
    }

    async fn publish(&self, kind: &str, action: &str) -> Event {
        let event = Event::new(EventType::new(kind).unwrap(), ActionId::new(action).unwrap())
            .with_payload(r#"{"n": 1.0}"#.parse().unwrap());
        self.broker.publish_one(event.clone()).await.unwrap();
        event
    }

    fn worker(&self, stage: &str, pattern: &str, handler: impl Handler + 'static) -> Worker {
        let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(self.store.clone()))]);
        let (broker, stage) = (Arc::clone(&self.broker), Stage::new(stage).unwrap());
        Worker::new(broker, fan_out, handler, stage, [pattern.parse().unwrap()]).unwrap().until_idle()
    }

    /// Oldest first.
    async fn runs(&self) -> Vec<RunRecord> {
        let mut runs = self.store.runs(&RunQuery::all()).await.unwrap();
        runs.sort_by_key(|run| (run.started_at, run.key.attempt));
        runs
    }

    async fn events(&self, pattern: &str) -> Vec<Event> {
        let subscription =
            Subscription::for_stage(Stage::new("probe").unwrap(), [pattern.parse().unwrap()]).unwrap();
        let mut deliveries = Deliveries::open(&*self.broker, subscription).await.unwrap();
        let mut events = Vec::new();
        while let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::from_millis(20), deliveries.next()).await
        {
            let delivery = delivery.unwrap();
            events.push(delivery.event().as_ref().clone());
            delivery.ack().await.unwrap();
        }
        events
    }
}

fn exits(code: i32) -> impl Handler {
    handler_fn(move |context: RunContext| async move {
        context.output.line(format!("attempt {}", context.key.attempt)).await.unwrap();
        let mut finished = Finished::from(Exit::code(code));
        finished.values.insert("image".into(), "v1".into());
        finished
    })
}

async fn run(worker: Worker) {
    let (_stopper, stop) = Stop::pair();
    worker.run(stop).await.unwrap();
}

fn quick() -> RetryPolicy {
    RetryPolicy::default().with_backoff(Backoff::fixed(Duration::from_secs(5)))
}

#[tokio::test(start_paused = true)]
async fn a_chain_goes_on_with_payload_values_and_outcome() {
    let bench = Bench::new();
    let first = bench.publish("build-requested", "a").await;
    run(bench
        .worker("build", "build-requested:a", exits(42))
        .with_then(EventType::new("test-requested").unwrap()))
    .await;
    run(bench
        .worker("test", "test-requested:a", exits(0))
        .with_then(EventType::new("deploy-requested").unwrap()))
    .await;
    let runs = bench.runs().await;
    let told: Vec<_> = runs.iter().map(|r| (r.key.stage.as_str(), r.outcome.unwrap(), r.is_final)).collect();
    assert_eq!(told, [("build", Outcome::Escaped, true), ("test", Outcome::Succeeded, true)]);
    for record in &runs {
        assert!(verify(&bench.store, &record.key.run_id).await.unwrap().agrees());
    }
    let next = bench.events("deploy-requested:a").await.remove(0);
    assert_eq!(
        next.payload.as_str(),
        r#"{"payload":{"n": 1.0},"values":{"image":"v1"},"outcome":"succeeded"}"#
    );
    let origin = next.origin.unwrap();
    assert_eq!((&origin.root, origin.links), (&first.id, 2));
    let outcomes = bench.events("*-completed:a").await;
    assert_eq!(outcomes.len(), 2);
    assert!(
        outcomes.first().unwrap().payload.as_str().contains(r#""outcome":"escaped","code":42"#),
        "{outcomes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_three_times_and_stops_its_chain() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    run(bench.worker("s", "t:a", exits(3)).with_retry(quick()).with_then(EventType::new("next").unwrap()))
        .await;
    let runs = bench.runs().await;
    let told: Vec<_> = runs.iter().map(|r| (r.key.attempt, r.code, r.is_final)).collect();
    assert_eq!(told, [(1, Some(3), false), (2, Some(3), false), (3, Some(3), true)]);
    assert!(bench.events("next:a").await.is_empty());
    assert_eq!(bench.events("s-completed:a").await.len(), 1, "only a conclusion is published");
    assert!(bench.broker.list(None, 10).await.unwrap().is_empty(), "what has an outcome is no dead letter");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_removed_does_not_come_back_with_another_group_of_its_stage() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    run(bench.worker("s", "t:a", exits(0))).await;
    let removed = bench.runs().await.remove(0);
    assert!(bench.store.remove(&removed.key.run_id).await.unwrap());
    run(bench.worker("s", "t:*", exits(0))).await;
    assert!(bench.runs().await.is_empty(), "{:?}", bench.runs().await);
    let idle = bench.broker.groups(&Scope::default()).await.unwrap();
    assert!(idle.iter().all(|group| group.depth.is_idle()), "{idle:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_fails_with_what_it_said() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    let handler = handler_fn(|_| async { panic!("no image {}", 7) });
    run(bench.worker("s", "t:a", handler).with_retry(RetryPolicy::none())).await;
    let record = bench.runs().await.remove(0);
    assert_eq!(
        (record.code, record.detail.as_deref()),
        (Some(101), Some("the handler panicked: no image 7"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_listens_to_everything_never_hears_itself() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    let worker = bench.worker("s", "*:a", exits(0)).with_then(EventType::new("u").unwrap());
    tokio::time::timeout(Duration::from_secs(3600), run(worker)).await.unwrap();
    assert_eq!(bench.runs().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_feeds_itself_ends_in_dead_letters() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    run(bench.worker("s", "t:a", exits(0)).with_then(EventType::new("t").unwrap())).await;
    assert_eq!(bench.runs().await.len(), 64);
    let letters = bench.broker.list(None, 10).await.unwrap();
    assert!(letters.len() == 1 && letters.first().unwrap().reason.contains("64"), "{letters:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_over_after_the_conclusion_publishes_the_same_and_runs_nothing() {
    // What the dead one wrote of its run may lie in a spool that nobody ships yet.
    for is_stored in [true, false] {
        takes_over_what_was_concluded(is_stored).await;
    }
}

async fn takes_over_what_was_concluded(is_stored: bool) {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    // A worker that dies between its conclusion and its publishing.
    let subscription = Subscription::for_stage(Stage::new("s").unwrap(), ["t:a".parse().unwrap()]).unwrap();
    let mut dead = bench.broker.subscribe(subscription).await.unwrap();
    let leased = futures::StreamExt::next(&mut dead.entries).await.unwrap().unwrap();
    let lease = leased.lease.unwrap();
    dead.claims.begin(&lease).await.unwrap();
    let event = leased.event;
    let key = crate::RunKey::new(event.action_id, Stage::new("s").unwrap(), event.id, 1);
    let mut record = RunRecord::begun(key, "dead");
    if is_stored {
        bench.store.begin(&record).await.unwrap();
    }
    let exit = Exit::code(0);
    let verdict = crate::Verdict::new(Outcome::Succeeded, crate::Chain::Continues);
    record.complete(&exit, verdict, &crate::SealBuilder::new().seal());
    if is_stored {
        bench.store.finish(&record).await.unwrap();
    }
    record.conclude();
    dead.claims
        .conclude(&lease, crate::Conclusion { record, values: std::collections::BTreeMap::new() })
        .await
        .unwrap();
    run(bench.worker("s", "t:a", exits(1)).with_then(EventType::new("next").unwrap())).await;
    let runs = bench.runs().await;
    assert_eq!(runs.iter().map(|r| (r.owner.as_str(), r.is_final)).collect::<Vec<_>>(), [("dead", true)]);
    assert_eq!(bench.events("next:a").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_workers_die_is_concluded_as_failed_and_dead_lettered() {
    let bench = Bench::new();
    let poison = bench.publish("t", "a").await;
    for _ in 0..3 {
        let subscription =
            Subscription::for_stage(Stage::new("s").unwrap(), ["t:a".parse().unwrap()]).unwrap();
        let mut dead = bench.broker.subscribe(subscription).await.unwrap();
        let leased = futures::StreamExt::next(&mut dead.entries).await.unwrap().unwrap();
        dead.claims.begin(&leased.lease.unwrap()).await.unwrap();
    }
    run(bench.worker("s", "t:a", exits(0))).await;
    let letters = bench.broker.list(None, 10).await.unwrap();
    assert_eq!(letters.first().map(|l| (l.id.as_str(), l.crashes)), Some((poison.id.as_str(), 3)));
    let runs = bench.runs().await;
    assert_eq!(
        runs.iter().map(|r| (r.key.attempt, r.outcome, r.is_final)).collect::<Vec<_>>(),
        [(4, Some(Outcome::Failed), true)]
    );
    assert_eq!(bench.events("s-completed:a").await.len(), 1);
}

/// Prints, then waits for its stop and says why it was stopped.
fn obeys() -> impl Handler {
    handler_fn(|mut context: RunContext| async move {
        context.output.line("started").await.unwrap();
        let cause = context.stop.requested().await;
        context.output.line("stopping").await.unwrap();
        Exit::stopped(cause).into()
    })
}

#[tokio::test(start_paused = true)]
async fn a_cancel_stops_what_runs_and_what_waits_and_no_chain_goes_on() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.publish("t", "a").await;
    }
    let worker = bench.worker("s", "t:a", obeys()).with_then(EventType::new("next").unwrap());
    let (_stopper, stop) = Stop::pair();
    let working = tokio::spawn(worker.run(stop));
    while bench.runs().await.iter().all(|run| run.counts.lines == 0) {
        // The first sign of life tells of the first line.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bench.broker.cancel(&ActionId::new("a").unwrap()).await.unwrap();
    working.await.unwrap().unwrap();
    let runs = bench.runs().await;
    assert_eq!(runs.len(), 3);
    assert!(
        runs.iter().all(|r| (r.outcome, r.cause) == (Some(Outcome::Interrupted), Some(Cause::Cancelled)))
    );
    assert_eq!(bench.events("s-completed:a").await.len(), 3);
    assert!(bench.events("next:a").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_drains_and_what_is_cut_is_released_and_runs_again() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    let (stopper, stop) = Stop::pair();
    let worker = bench.worker("s", "t:a", obeys()).with_drain(Duration::from_secs(5));
    let working = tokio::spawn(worker.run(stop));
    while bench.runs().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = tokio::time::Instant::now();
    stopper.stop(Cause::Shutdown);
    working.await.unwrap().unwrap();
    assert!(asked.elapsed() >= Duration::from_secs(5) && asked.elapsed() < Duration::from_secs(20));
    run(bench.worker("s", "t:a", exits(0))).await;
    let told: Vec<_> =
        bench.runs().await.into_iter().map(|r| (r.key.attempt, r.outcome, r.cause, r.is_final)).collect();
    assert_eq!(
        told,
        [
            (1, Some(Outcome::Interrupted), Some(Cause::Shutdown), false),
            (2, Some(Outcome::Succeeded), Some(Cause::Exit), true)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_ahead_is_given_back_at_the_stop_and_not_after_the_last_run() {
    let bench = Bench::new();
    for n in 0..5 {
        bench.publish("t", &format!("a{n}")).await;
    }
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tells, waits) = (Arc::clone(&begun), Arc::clone(&go));
    let handler = handler_fn(move |_| {
        let (tells, waits) = (Arc::clone(&tells), Arc::clone(&waits));
        async move {
            tells.notify_one();
            waits.notified().await;
            Exit::code(0).into()
        }
    });
    let (stopper, stop) = Stop::pair();
    let worker = tokio::spawn(bench.worker("build", "t:*", handler).with_prefetch(20).run(stop));
    begun.notified().await;
    let on = Subscription::for_stage(Stage::new("build").unwrap(), ["t:*".parse().unwrap()]).unwrap();
    let mut other = Deliveries::open(&*bench.broker, on).await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_secs(1), other.next()).await;
    assert!(nothing.is_err(), "all five were taken");
    stopper.stop(Cause::Shutdown);
    let stopped = tokio::time::Instant::now();
    for _ in 0..4 {
        other.next().await.unwrap().unwrap().ack().await.unwrap();
    }
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
    go.notify_one();
    worker.await.unwrap().unwrap();
    assert_eq!(bench.runs().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_would_drain_for_ever_is_cut_all_the_same() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    let (stopper, stop) = Stop::pair();
    let working = tokio::spawn(bench.worker("s", "t:a", obeys()).with_drain(Duration::MAX).run(stop));
    while bench.runs().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stopper.cut(Cause::Shutdown);
    working.await.unwrap().unwrap();
    assert_eq!(bench.runs().await[0].cause, Some(Cause::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn events_of_one_action_run_one_after_the_other_and_others_beside_them() {
    let bench = Bench::new();
    for action in ["a", "a", "b", "a"] {
        bench.publish("t", action).await;
    }
    let running = Arc::new(Mutex::new(Vec::<ActionId>::new()));
    let (seen, most) = (Arc::clone(&running), Arc::new(AtomicU32::new(0)));
    let beside = Arc::clone(&most);
    let handler = handler_fn(move |context: RunContext| {
        let (running, most) = (Arc::clone(&seen), Arc::clone(&beside));
        async move {
            let action = context.key.action_id.clone();
            {
                let mut running = running.lock().unwrap();
                assert!(!running.contains(&action), "two of {action} at once");
                running.push(action.clone());
                most.fetch_max(u32::try_from(running.len()).unwrap(), Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            running.lock().unwrap().retain(|other| *other != action);
            Exit::code(0).into()
        }
    });
    run(bench.worker("s", "t:*", handler).with_concurrency(2)).await;
    assert!(bench.runs().await.iter().all(|run| run.outcome == Some(Outcome::Succeeded)));
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_started_for_a_moment_is_given_back_and_counts_nowhere() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    let handler = handler_fn(|context: RunContext| async move {
        match context.key.attempt {
            // More than there are retries, and more than crashes are borne.
            1..=5 => {
                let lack = Exit::not_started(StartFailure::OutOfResources);
                lack.with_detail("could not start make: too many open files").into()
            }
            6 => Exit::code(1).into(),
            _ => Exit::code(0).into(),
        }
    });
    let began = tokio::time::Instant::now();
    run(bench.worker("s", "t:a", handler).with_retry(quick().with_attempts(2))).await;
    let waits = began.elapsed() - Duration::from_secs(5);
    // Jittered waits of 1, 2, 4, 8 and 16 s at most.
    assert!(waits >= Duration::from_millis(3100) && waits < Duration::from_secs(40), "{waits:?}");
    let runs = bench.runs().await;
    let told: Vec<_> = runs.iter().map(|r| (r.key.attempt, r.cause.unwrap(), r.is_final)).collect();
    let lacking = (1..=5).map(|attempt| (attempt, Cause::NotStarted, false));
    let ended = [(6, Cause::Exit, false), (7, Cause::Exit, true)];
    assert_eq!(told, lacking.chain(ended).collect::<Vec<_>>());
    assert_eq!(runs[0].detail.as_deref(), Some("could not start make: too many open files"));
    assert_eq!(runs[6].outcome, Some(Outcome::Succeeded), "the one retry was left");
    assert!(bench.broker.list(None, 10).await.unwrap().is_empty());
}

/// A store that is out of reach from the first append on.
struct Away(MemoryStore);

#[async_trait::async_trait]
impl crate::OutputSink for Away {
    async fn begin(&self, record: &RunRecord) -> crate::Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, _: &crate::RunKey, _: &[crate::LineBatch]) -> crate::Result<crate::Appended> {
        Err(crate::Error::new(crate::ErrorKind::Unavailable, "503"))
    }

    async fn finish(&self, _: &RunRecord) -> crate::Result<()> {
        Err(crate::Error::new(crate::ErrorKind::Unavailable, "503"))
    }
}

/// A broker that cannot tell of its groups the first so many times.
struct Forgetful {
    broker: MemoryBroker,
    left: AtomicU32,
}

#[async_trait]
impl Publisher for Forgetful {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        self.broker.publish(events).await
    }

    async fn close(&self) -> Result<()> {
        self.broker.close().await
    }
}

#[async_trait]
impl Subscriber for Forgetful {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        self.broker.subscribe(subscription).await
    }
}

#[async_trait]
impl BrokerAdmin for Forgetful {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        let less = |left: u32| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Err(Error::new(ErrorKind::Unavailable, "tell of groups")),
            Err(_) => self.broker.groups(scope).await,
        }
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        self.broker.cancel(action).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        self.broker.remove_group(group).await
    }
}

#[async_trait]
impl DeadLetters for Forgetful {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.broker.list(group, limit).await
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        self.broker.replay(id, group).await
    }
}

impl Broker for Forgetful {
    fn capabilities(&self) -> BrokerCapabilities {
        self.broker.capabilities()
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_required_store_is_away_ends_within_its_limits_and_the_event_comes_back() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    let fan_out = FanOut::new(vec![SinkConfig::required("away", Arc::new(Away(bench.store.clone())))]);
    let (broker, stage) = (Arc::clone(&bench.broker), Stage::new("s").unwrap());
    let worker = Worker::new(broker, fan_out, exits(0), stage, ["t:a".parse().unwrap()]).unwrap();
    let (stopper, stop) = Stop::pair();
    let working = tokio::spawn(worker.with_drain(Duration::from_secs(20)).run(stop));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = tokio::time::Instant::now();
    stopper.stop(Cause::Shutdown);
    working.await.unwrap().unwrap();
    // Until it is cut, until the cut is over, and for the sinks.
    assert!(asked.elapsed() < Duration::from_secs(20 + 12 + 20 + 1), "{:?}", asked.elapsed());
    assert!(bench.events("*-completed:a").await.is_empty(), "what is not stored is not concluded");
    run(bench.worker("s", "t:a", exits(0))).await;
    let attempts: Vec<_> = bench.runs().await.iter().map(|r| (r.key.attempt, r.outcome)).collect();
    assert_eq!(attempts, [(1, None), (2, Some(Outcome::Succeeded))]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_while_its_store_is_away_gives_its_event_back_at_once_and_counts_nowhere() {
    let bench = Bench::new();
    bench.publish("t", "a").await;
    // More often than crashes are borne, and there are no retries.
    for attempt in 1..=4 {
        let away = SinkConfig::required("away", Arc::new(Away(bench.store.clone())));
        let (broker, stage) = (Arc::clone(&bench.broker), Stage::new("s").unwrap());
        let (began, mut begun) = tokio::sync::mpsc::channel(1);
        let handler = handler_fn(move |mut context: RunContext| {
            let began = began.clone();
            async move {
                context.output.line("lost").await.unwrap();
                began.send(context.key.attempt).await.unwrap();
                Exit::stopped(context.stop.requested().await).into()
            }
        });
        let worker = Worker::new(broker, FanOut::new(vec![away]), handler, stage, ["t:a".parse().unwrap()]);
        let (stopper, stop) = Stop::pair();
        let working = tokio::spawn(worker.unwrap().with_lease(Duration::from_secs(600)).unwrap().run(stop));
        let begun = tokio::time::timeout(Duration::from_secs(2), begun.recv()).await;
        assert_eq!(begun.expect("the event was there at once"), Some(attempt));
        stopper.stop(Cause::Shutdown);
        stopper.cut(Cause::Shutdown);
        let cut = tokio::time::Instant::now();
        let lease_is_over = async {
            while bench.broker.groups(&Scope::default()).await.unwrap().iter().any(|g| g.depth.leased > 0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        lease_is_over.await;
        assert!(cut.elapsed() < Duration::from_secs(6), "{:?}", cut.elapsed());
        working.await.unwrap().unwrap();
    }
    let worker = bench.worker("s", "t:a", exits(0)).with_retry(RetryPolicy::none());
    run(worker.with_lease(Duration::from_secs(600)).unwrap()).await;
    let runs = bench.runs().await;
    let last = runs.last().unwrap();
    assert_eq!((runs.len(), last.key.attempt, last.outcome), (5, 5, Some(Outcome::Succeeded)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ends_when_idle_outlives_a_broker_that_is_out_of_reach_for_a_while() {
    let broker = Arc::new(Forgetful { broker: MemoryBroker::new(), left: AtomicU32::new(3) });
    let store = MemoryStore::new();
    let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(store))]);
    let (stage, patterns) = (Stage::new("build").unwrap(), ["go:*".parse().unwrap()]);
    let shared = Arc::<Forgetful>::clone(&broker);
    run(Worker::new(shared, fan_out, exits(0), stage, patterns).unwrap().until_idle()).await;
    assert_eq!(broker.left.load(Ordering::Relaxed), 0);
}
