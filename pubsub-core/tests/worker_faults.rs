//! A worker whose stores, classification or observer fail, and what must then become of its events.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::{
    ActionId, Appended, BrokerAdmin as _, Cause, DeadLetters as _, Error, ErrorKind, Event, EventType,
    Execution, Exit, ExitClassification, FanOut, Finished, LineBatch, MemoryBroker, MemoryStore,
    OutputReader as _, OutputSink, PublisherExt as _, Result, RunContext, RunKey, RunQuery, RunRecord, Scope,
    SinkConfig, Stage, Stop, Subscriber as _, Subscription, Verdict, Worker, handler_fn,
};

async fn publish(broker: &MemoryBroker, action: &str) -> Event {
    let event = Event::new(EventType::new("t").unwrap(), ActionId::new(action).unwrap());
    broker.publish_one(event.clone()).await.unwrap();
    event
}

fn sinks(store: impl OutputSink + 'static) -> FanOut {
    FanOut::new(vec![SinkConfig::required("s", Arc::new(store))])
}

/// A store whose calls fail for one action, or never answer.
#[derive(Clone)]
struct Sick {
    store: MemoryStore,
    append_unavailable_for: Option<&'static str>,
    finish_unavailable_for: Option<&'static str>,
    begin_unavailable: Arc<AtomicBool>,
    begin_refused: bool,
    finish_refused: bool,
    never_answers: bool,
    calls: Arc<AtomicU32>,
}

impl Sick {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            append_unavailable_for: None,
            finish_unavailable_for: None,
            begin_unavailable: Arc::default(),
            begin_refused: false,
            finish_refused: false,
            never_answers: false,
            calls: Arc::default(),
        }
    }
}

#[async_trait]
impl OutputSink for Sick {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        if self.begin_refused {
            return Err(Error::new(ErrorKind::Invalid, "no room for this run, ever"));
        }
        if self.begin_unavailable.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "away"));
        }
        self.store.begin(record).await
    }
    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if self.never_answers {
            std::future::pending::<()>().await;
        }
        if self.append_unavailable_for.is_some_and(|a| a == run.action_id.as_str()) {
            return Err(Error::new(ErrorKind::Unavailable, "away"));
        }
        self.store.append(run, batches).await
    }
    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.finish_refused {
            return Err(Error::new(ErrorKind::Invalid, "refused for good"));
        }
        if self.finish_unavailable_for.is_some_and(|a| a == record.key.action_id.as_str()) {
            return Err(Error::new(ErrorKind::Unavailable, "away"));
        }
        self.store.finish(record).await
    }
}

async fn prints(context: RunContext) -> Finished {
    let _ = context.output.line("x").await;
    Exit::code(0).into()
}

fn worker(broker: &Arc<MemoryBroker>, store: Sick) -> Worker {
    let handler = handler_fn(prints);
    let stage = Stage::new("s").unwrap();
    Worker::new(broker.clone(), sinks(store), handler, stage, ["t:*".parse().unwrap()]).unwrap()
}

/// Works with this store at an event, is asked to stop after a while, then cut, and ends.
async fn stops_within_its_limit(store: Sick) {
    let broker = Arc::new(MemoryBroker::new());
    publish(&broker, "a").await;
    let (stopper, stop) = Stop::pair();
    let working = tokio::spawn(worker(&broker, store).with_drain(Duration::from_secs(5)).run(stop));
    tokio::time::sleep(Duration::from_secs(5)).await;
    stopper.stop(Cause::Shutdown);
    tokio::time::sleep(Duration::from_secs(10)).await;
    stopper.cut(Cause::Shutdown);
    tokio::time::timeout(Duration::from_secs(600), working).await.unwrap().unwrap().unwrap();
}

/// A worker whose required store never answers stops within its limit.
#[tokio::test(start_paused = true)]
async fn a_worker_with_a_dead_required_store_stops_within_its_limit() {
    let mut store = Sick::new();
    store.never_answers = true;
    stops_within_its_limit(store).await;
}

/// The same where the store is away when a run would begin.
#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_for_a_store_to_begin_stops_within_its_limit() {
    let store = Sick::new();
    store.begin_unavailable.store(true, Ordering::SeqCst);
    stops_within_its_limit(store).await;
}

/// §4.3: "Without a spool the delivery waits, its lease renewed, its slot freed".
#[tokio::test(start_paused = true)]
async fn a_delivery_that_waits_for_its_store_frees_its_slot() {
    let broker = Arc::new(MemoryBroker::new());
    publish(&broker, "a").await;
    publish(&broker, "b").await;
    let mut store = Sick::new();
    store.append_unavailable_for = Some("a");
    let (_stopper, stop) = Stop::pair();
    tokio::spawn(worker(&broker, store.clone()).run(stop));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let runs = store.store.runs(&RunQuery::all()).await.unwrap();
    assert!(runs.iter().any(|r| r.key.action_id.as_str() == "b" && r.is_final), "{runs:?}");
}

/// The same where the store has every line and not the seal, and where nothing was run: an event that was cancelled.
#[tokio::test(start_paused = true)]
async fn a_delivery_whose_record_waits_for_its_store_frees_its_slot() {
    for cancelled in [false, true] {
        let broker = Arc::new(MemoryBroker::new());
        publish(&broker, "a").await;
        if cancelled {
            broker.cancel(&ActionId::new("a").unwrap()).await.unwrap();
        }
        publish(&broker, "b").await;
        let mut store = Sick::new();
        store.finish_unavailable_for = Some("a");
        let (_stopper, stop) = Stop::pair();
        tokio::spawn(worker(&broker, store.clone()).run(stop));
        tokio::time::sleep(Duration::from_secs(600)).await;
        let runs = store.store.runs(&RunQuery::all()).await.unwrap();
        let ended = runs.iter().any(|r| r.key.action_id.as_str() == "b" && r.is_final);
        assert!(ended, "cancelled {cancelled}: {runs:?}");
        let depth = broker.groups(&Scope::default()).await.unwrap().pop().unwrap().depth;
        assert_eq!((depth.leased, depth.waiting), (1, 0), "its lease is renewed: {depth:?}");
    }
}

/// §4.3: "A required sink that refuses for good leaves the outcome as it is, marks the record `output_incomplete`, and
/// does not hold the event."
#[tokio::test(start_paused = true)]
async fn a_required_sink_that_refuses_to_begin_does_not_hold_the_event() {
    let broker = Arc::new(MemoryBroker::new());
    publish(&broker, "a").await;
    let mut store = Sick::new();
    store.begin_refused = true;
    let (_stopper, stop) = Stop::pair();
    let working = worker(&broker, store.clone()).until_idle().run(stop);
    assert!(tokio::time::timeout(Duration::from_secs(3600), working).await.is_ok(), "held for an hour");
}

/// The same sentence, where the run's last word is refused: for an event that was cancelled before it began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_sink_that_refuses_a_cancelled_record_does_not_hold_the_event() {
    let broker = Arc::new(MemoryBroker::new());
    publish(&broker, "a").await;
    broker.cancel(&ActionId::new("a").unwrap()).await.unwrap();
    let mut store = Sick::new();
    store.finish_refused = true;
    let (stopper, stop) = Stop::pair();
    let working = tokio::spawn(worker(&broker, store.clone()).until_idle().run(stop));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = store.calls.load(Ordering::SeqCst);
    let depth = broker.groups(&Scope::default()).await.unwrap().pop().unwrap().depth;
    let over = working.is_finished();
    stopper.cut(Cause::Shutdown);
    assert!(over && calls < 5, "over: {over}, {calls} calls in a second, {depth:?}");
}

#[derive(Debug)]
struct Panics;
impl ExitClassification for Panics {
    fn classify(&self, _: &Exit) -> Verdict {
        panic!("a table that has a hole")
    }
}

/// Works until nothing is left at an event whose handler exits with this code; says how often it ran and what became a
/// dead letter. The clock is paused: whoever tries without a pause never ends.
async fn to_the_end(code: i32, set_up: impl FnOnce(Worker) -> Worker) -> (u32, usize) {
    let broker = Arc::new(MemoryBroker::new());
    publish(&broker, "a").await;
    let runs = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&runs);
    let handler = handler_fn(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        async move { Exit::code(code).into() }
    });
    let (stage, patterns) = (Stage::new("s").unwrap(), ["t:*".parse().unwrap()]);
    let worker = Worker::new(broker.clone(), sinks(MemoryStore::new()), handler, stage, patterns).unwrap();
    let (_stopper, stop) = Stop::pair();
    let working = set_up(worker).until_idle().run(stop);
    tokio::time::timeout(Duration::from_secs(3600), working).await.unwrap().unwrap();
    (runs.load(Ordering::SeqCst), broker.list(None, 10).await.unwrap().len())
}

/// Three counts: a worker's own code that panics is a crash, and has the limit of crashes.
#[tokio::test(start_paused = true)]
async fn a_classification_that_panics_is_a_crash() {
    let execution = Execution::new().with_classification(Arc::new(Panics));
    assert_eq!(to_the_end(0, |worker| worker.with_execution(execution)).await, (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_is_a_crash() {
    let panics = |_: &RunRecord| panic!("observer");
    assert_eq!(to_the_end(1, |worker| worker.with_observer(panics)).await, (3, 1));
    assert_eq!(
        to_the_end(0, |worker| worker.with_observer(panics)).await,
        (1, 0),
        "concluded before it is told"
    );
}

/// §4.3: "An exhausted event is concluded as failed, published, then dead-lettered", also where the worker that
/// concluded it dies before it was dead-lettered.
#[tokio::test(start_paused = true)]
async fn an_exhausted_event_reaches_dead_letters_when_its_concluder_dies() {
    let broker = Arc::new(MemoryBroker::new());
    let poison = publish(&broker, "a").await;
    let subscription =
        || Subscription::for_stage(Stage::new("s").unwrap(), ["t:*".parse().unwrap()]).unwrap();
    for n in 0..4_u32 {
        let mut dead = broker.subscribe(subscription()).await.unwrap();
        let leased = futures::StreamExt::next(&mut dead.entries).await.unwrap().unwrap();
        let lease = leased.lease.unwrap();
        let begun = dead.claims.begin(&lease).await.unwrap();
        if n == 3 {
            let pubsub_core::Begin::Exhausted(numbers) = begun else { panic!("{begun:?}") };
            let key = RunKey::new(
                ActionId::new("a").unwrap(),
                Stage::new("s").unwrap(),
                poison.id.clone(),
                numbers.attempt,
            );
            let mut record = RunRecord::begun(key, "dead");
            let verdict = Verdict::new(pubsub_core::Outcome::Failed, pubsub_core::Chain::Stops);
            record.complete(
                &Exit::stopped(Cause::LeaseLost),
                verdict,
                &pubsub_core::SealBuilder::new().seal(),
            );
            record.conclude();
            let conclusion = pubsub_core::Conclusion { record, values: Default::default() };
            dead.claims.conclude(&lease, conclusion).await.unwrap();
        }
    }
    let (_stopper, stop) = Stop::pair();
    worker(&broker, Sick::new()).until_idle().run(stop).await.unwrap();
    let letters = broker.list(None, 10).await.unwrap();
    assert_eq!(letters.len(), 1, "the poison event is in no list");
}

/// A stage whose outcome event has no valid type is refused when the worker is made, or its event is settled; never a
/// spin. §4.1: "stages … 1 to 255 bytes".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_of_250_bytes_settles_its_event() {
    let broker = Arc::new(MemoryBroker::new());
    publish(&broker, "a").await;
    let store = MemoryStore::new();
    let stage = Stage::new("x".repeat(250)).unwrap();
    let made = Worker::new(broker.clone(), sinks(store), handler_fn(prints), stage, ["t:*".parse().unwrap()]);
    let Ok(worker) = made else { return };
    let (stopper, stop) = Stop::pair();
    let working = tokio::spawn(worker.until_idle().run(stop));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let over = working.is_finished();
    stopper.cut(Cause::Shutdown);
    assert!(over, "its event is taken and given up again and again");
}
