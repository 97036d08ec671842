//! How soon what happens in one process is seen in another: a printed line by who follows it, an event by its handler.
//!
//! All processes of a machine share its monotonic clock: the one that acts writes its time down, the other subtracts.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group};
use futures::StreamExt as _;
use futures::future::join_all;
use pubsub_pipeline::{
    ActionId, Command, Deliveries, Event, EventId, EventType, Execution, FanOut, FileBroker,
    FileBrokerConfig, FileStore, FileStoreConfig, Finality, Follow, FollowFrom, Followed, LineNumber,
    OutputItem, OutputSink as _, Publisher as _, PublisherExt as _, RunKey, RunRecord, SinkConfig, Stage,
    Stop, Subscription, Target as Wanted, follow,
};
use pubsub_pipeline_benches::{Curve, Row, Target, runtime, sizes};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

/// Of each pass.
const MANY: usize = 500;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(2);

fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn own(words: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(words);
    command
}

/// Which of the sorted times this share is below.
fn percentile(mut times: Vec<Duration>, share: usize) -> Duration {
    times.sort_unstable();
    *times.get(times.len() * share / 100).unwrap()
}

/// A process of its own, which is waited for.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

/// Prints the time, line by line.
fn print_times() {
    let mut out = std::io::stdout();
    for _ in 0..MANY {
        std::thread::sleep(PAUSE);
        writeln!(out, "{}", now().as_nanos()).unwrap();
        out.flush().unwrap();
    }
}

fn key() -> RunKey {
    let (action, stage) = (ActionId::new("a").unwrap(), Stage::new("s").unwrap());
    RunKey::new(action, stage, "01890000-0000-7000-8000-000000000000".parse().unwrap(), 1)
}

/// Captures the process that prints the time, with no delay to gather lines.
fn capture(dir: &Path) {
    runtime().block_on(async {
        let store = FileStore::connect(FileStoreConfig::new(dir)).await.unwrap();
        let sink = SinkConfig::required("file", Arc::new(store)).with_delay(Duration::ZERO);
        let (fan_out, key) = (FanOut::new(vec![sink]), key());
        let event = Event::new(EventType::new("t").unwrap(), key.action_id.clone());
        let command = Command::new(std::env::current_exe().unwrap().display().to_string());
        let command = command.with_args(["print-times"]);
        let (_stopper, stop) = Stop::pair();
        let run = Execution::new();
        run.run(&fan_out, &command, Arc::new(event), key, stop, Finality::Final).await.unwrap();
    });
}

/// When each line was seen by a follower, counted from when it was printed.
async fn seen(store: FileStore) -> Vec<Duration> {
    let key = key();
    let target = Wanted::Stage(key.action_id, key.stage);
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

/// From printed to seen by followers in another process.
fn followed(runtime: &Runtime, followers: u64) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let times = runtime.block_on(async {
        let store = FileStore::connect(FileStoreConfig::new(dir.path())).await.unwrap();
        // The first run of a folder makes it, which is seen later than a run in one that is watched.
        let other =
            RunKey::new(ActionId::new("b").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
        store.begin(&RunRecord::begun(other, "bench")).await.unwrap();
        let following: Vec<_> = (0..followers).map(|_| tokio::spawn(seen(store.clone()))).collect();
        let _capture = Beside(own(&["capture", dir.path().to_str().unwrap()]).spawn().unwrap());
        join_all(following).await.into_iter().flat_map(Result::unwrap).collect()
    });
    percentile(times, 99)
}

/// Publishes the time.
fn publish(dir: &Path) {
    runtime().block_on(async {
        let broker = FileBroker::connect(FileBrokerConfig::new(dir)).await.unwrap();
        for n in 0..MANY {
            tokio::time::sleep(PAUSE).await;
            let action = ActionId::new(format!("action-{n}")).unwrap();
            let event = Event::new(EventType::new("t").unwrap(), action);
            broker
                .publish_one(event.with_payload(now().as_nanos().to_string().parse().unwrap()))
                .await
                .unwrap();
        }
        broker.close().await.unwrap();
    });
}

/// From the call that publishes to the delivery in another process.
fn handled(runtime: &Runtime) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let times = runtime.block_on(async {
        let broker = FileBroker::connect(FileBrokerConfig::new(dir.path())).await.unwrap();
        let on = Subscription::for_stage(Stage::new("s").unwrap(), ["t:*".parse().unwrap()]).unwrap();
        let mut deliveries = Deliveries::open(&broker, on).await.unwrap();
        let _publisher =
            Beside(own(&["publish", dir.path().to_str().unwrap()]).stdin(Stdio::null()).spawn().unwrap());
        let mut times = Vec::with_capacity(MANY);
        while times.len() < MANY {
            let delivery = deliveries.next().await.unwrap().unwrap();
            let published = Duration::from_nanos(delivery.event().payload.as_str().parse().unwrap());
            times.push(now().saturating_sub(published));
            delivery.ack().await.unwrap();
        }
        deliveries.close().await;
        broker.close().await.unwrap();
        times
    });
    percentile(times, 50)
}

fn latency(criterion: &mut Criterion) {
    let runtime = runtime();
    for followers in sizes(1, [10, 100]) {
        let (target, curve) =
            (Target::Within(Duration::from_millis(2)), Curve::Among(followers, "followers"));
        Row { id: "printed-to-seen-p99", size: 1, unit: "line", target, curve }
            .measure(criterion)
            .ours(|| followed(&runtime, followers));
    }
    let (id, target) = ("publish-to-handler-p50", Target::Within(Duration::from_millis(1)));
    Row { id, size: 1, unit: "event", target, curve: Curve::No }
        .measure(criterion)
        .ours(|| handled(&runtime));
}

criterion_group!(benches, latency);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["print-times"] => print_times(),
        ["capture", dir] => capture(Path::new(dir)),
        ["publish", dir] => publish(Path::new(dir)),
        _ => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
