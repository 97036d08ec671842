//! How soon what happens in one process is seen in another, over a folder.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::time::Duration;

use criterion::{Criterion, criterion_group};
use pubsub_pipeline::{FileBroker, FileBrokerConfig, FileStore, FileStoreConfig, Publisher as _};
use pubsub_pipeline_benches::latency::{self, Beside, percentile};
use pubsub_pipeline_benches::{Curve, Row, Target, runtime, sizes};
use tokio::runtime::Runtime;

/// Between two lines, and between two events.
const PAUSE: Duration = Duration::from_millis(2);

async fn store(dir: &str) -> FileStore {
    FileStore::connect(FileStoreConfig::new(dir)).await.unwrap()
}

async fn broker(dir: &str) -> FileBroker {
    FileBroker::connect(FileBrokerConfig::new(dir)).await.unwrap()
}

fn followed(runtime: &Runtime, followers: u64) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let mut times = runtime.block_on(async {
        latency::followed(store(dir).await, followers, || Beside::start(&["capture", dir])).await
    });
    percentile(&mut times, 99)
}

fn handled(runtime: &Runtime) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let mut times = runtime.block_on(async {
        let broker = broker(dir).await;
        let times = latency::handled(&broker, || Beside::start(&["publish", dir])).await;
        broker.close().await.unwrap();
        times
    });
    percentile(&mut times, 50)
}

fn measured(criterion: &mut Criterion) {
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

criterion_group!(benches, measured);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["print-times"] => latency::print_times(PAUSE),
        ["capture", dir] => runtime().block_on(async {
            latency::capture(store(dir).await, &["print-times"]).await;
        }),
        ["publish", dir] => runtime().block_on(async {
            let broker = broker(dir).await;
            latency::publish(&broker, PAUSE).await;
            broker.close().await.unwrap();
        }),
        _ => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
