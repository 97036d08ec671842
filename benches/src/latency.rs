//! How soon what happens in one process is seen in another: a printed line by who follows it, an event by its handler.
//!
//! All processes of a machine share its monotonic clock: the one that acts writes its time down, the other subtracts.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::io::Write as _;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use pubsub_pipeline::{
    ActionId, Broker, Command, Deliveries, Event, EventId, EventType, Execution, FanOut, Finality, Follow,
    FollowFrom, Followed, LineNumber, OutputItem, OutputReader, OutputSink, Publisher, PublisherExt as _,
    RunKey, RunRecord, SinkConfig, Stage, Stop, Subscription, Target, follow,
};
use rustix::time::{ClockId, clock_gettime};

/// Of each pass.
const MANY: usize = 500;

/// The time that all processes share.
///
/// # Panics
/// Never: the system's nanoseconds are below a second.
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Which of the times this share is below.
///
/// # Panics
/// Without times.
#[must_use]
pub fn percentile(times: &mut [Duration], share: usize) -> Duration {
    times.sort_unstable();
    *times.get(times.len() * share / 100).unwrap()
}

/// This benchmark, as a process of its own that is waited for.
#[derive(Debug)]
pub struct Beside(Child);

impl Beside {
    /// Starts it with these words.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(words: &[&str]) -> Self {
        let mut process = Process::new(std::env::current_exe().unwrap());
        Self(process.args(words).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

/// Prints the time, line by line, with so long between two.
///
/// # Panics
/// Where nobody reads.
pub fn print_times(pause: Duration) {
    let mut out = std::io::stdout();
    for _ in 0..MANY {
        std::thread::sleep(pause);
        writeln!(out, "{}", now().as_nanos()).unwrap();
        out.flush().unwrap();
    }
}

fn key() -> RunKey {
    let (action, stage) = (ActionId::new("a").unwrap(), Stage::new("s").unwrap());
    RunKey::new(action, stage, "01890000-0000-7000-8000-000000000000".parse().unwrap(), 1)
}

/// Captures this benchmark with these words, with no delay to gather lines.
///
/// # Panics
/// Where it fails.
pub async fn capture<S: OutputSink + 'static>(store: S, words: &[&str]) {
    let sink = SinkConfig::required("store", Arc::new(store)).with_delay(Duration::ZERO);
    let (fan_out, key) = (FanOut::new(vec![sink]), key());
    let event = Event::new(EventType::new("t").unwrap(), key.action_id.clone());
    let command = Command::new(std::env::current_exe().unwrap().display().to_string());
    let command = command.with_args(words.iter().copied());
    let (_stopper, stop) = Stop::pair();
    let run = Execution::new();
    run.run(&fan_out, &command, Arc::new(event), key, stop, Finality::Final).await.unwrap();
}

/// When each line was seen by a follower, counted from when it was printed.
async fn seen<S: OutputReader + 'static>(store: S) -> Vec<Duration> {
    let key = key();
    let target = Target::Stage(key.action_id, key.stage);
    let mut output = follow(Arc::new(store), Follow { target, from: FollowFrom::Line(LineNumber::FIRST) });
    let mut times = Vec::with_capacity(MANY);
    while let Some(item) = output.next().await {
        let Followed::Item(OutputItem::Lines(lines)) = item.unwrap() else { continue };
        let seen = now();
        let printed = |text: &str| Duration::from_nanos(text.parse().unwrap());
        times.extend(lines.lines().map(|line| seen.saturating_sub(printed(&line.text()))));
    }
    assert_eq!(times.len(), MANY);
    times
}

/// From printed to seen by so many followers, while `start` has a process run that captures.
///
/// # Panics
/// Where anything fails.
pub async fn followed<S>(store: S, followers: u64, start: impl FnOnce() -> Beside) -> Vec<Duration>
where
    S: OutputSink + OutputReader + Clone + 'static,
{
    // The first run of a store may make it, which is seen later than a run in one that is watched.
    let other = RunKey::new(ActionId::new("b").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
    store.begin(&RunRecord::begun(other, "bench")).await.unwrap();
    let following: Vec<_> = (0..followers).map(|_| tokio::spawn(seen(store.clone()))).collect();
    let _capture = start();
    join_all(following).await.into_iter().flat_map(Result::unwrap).collect()
}

/// Publishes the time, with so long between two.
///
/// # Panics
/// Where anything fails.
pub async fn publish(publisher: &dyn Publisher, pause: Duration) {
    let mut next = tokio::time::interval(pause);
    for n in 0..MANY {
        next.tick().await;
        let action = ActionId::new(format!("action-{n}")).unwrap();
        let event = Event::new(EventType::new("t").unwrap(), action);
        let payload = now().as_nanos().to_string().parse().unwrap();
        publisher.publish_one(event.with_payload(payload)).await.unwrap();
    }
}

/// From the call that publishes to the delivery, while `start` has a process run that publishes.
///
/// # Panics
/// Where anything fails.
pub async fn handled(broker: &dyn Broker, start: impl FnOnce() -> Beside) -> Vec<Duration> {
    let on = Subscription::for_stage(Stage::new("s").unwrap(), ["t:*".parse().unwrap()]).unwrap();
    let mut deliveries = Deliveries::open(broker, on).await.unwrap();
    let _publisher = start();
    let mut times = Vec::with_capacity(MANY);
    while times.len() < MANY {
        let delivery = deliveries.next().await.unwrap().unwrap();
        let published = Duration::from_nanos(delivery.event().payload.as_str().parse().unwrap());
        times.push(now().saturating_sub(published));
        delivery.ack().await.unwrap();
    }
    deliveries.close().await;
    times
}
