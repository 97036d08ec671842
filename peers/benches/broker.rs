//! The file backend of sea-streamer beside the broker in a folder.
//!
//! It does less. A publish is flushed to the system, as ours is, but is known by no id; a consumer of a group gets
//! each event once and settles nothing: there are no leases, no attempts, no retries, and where it stood is not kept.

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use pubsub_pipeline_benches::{CONSUMED, PUBLISHED, payload, peer, runtime};
use sea_streamer_file::{
    AutoStreamReset, FileConnectOptions, FileConsumerOptions, FileId, FileProducer, FileStreamer,
};
use sea_streamer_types::{
    Consumer as _, ConsumerGroup, ConsumerMode, ConsumerOptions as _, Producer as _, StreamKey, Streamer as _,
};
use tokio::runtime::Runtime;

fn key() -> StreamKey {
    StreamKey::new("build-requested").unwrap()
}

async fn open(dir: &Path) -> FileStreamer {
    let mut options = FileConnectOptions::default();
    options.set_create_if_not_exists(true);
    let file = FileId::new(dir.join("events.ss").to_str().unwrap());
    FileStreamer::connect(file.to_streamer_uri().unwrap(), options).await.unwrap()
}

/// Publishes batches, each of which is with the system before the next.
async fn publish(producer: &mut FileProducer, many: u64, batch: u64, payload: &str) {
    let mut left = many;
    while left > 0 {
        let sent = (0..left.min(batch)).map(|_| producer.send(payload).unwrap());
        join_all(sent).await.into_iter().for_each(|sent| drop(sent.unwrap()));
        producer.flush().await.unwrap();
        left -= left.min(batch);
    }
}

fn published(runtime: &Runtime, many: u64, batch: u64) -> Duration {
    let (folder, payload) = (tempfile::tempdir().unwrap(), payload());
    runtime.block_on(async {
        let streamer = open(folder.path()).await;
        let mut producer = streamer.create_producer(key(), Default::default()).await.unwrap();
        let begun = Instant::now();
        publish(&mut producer, many, batch, &payload).await;
        let took = begun.elapsed();
        producer.end().await.unwrap();
        took
    })
}

fn consumed(runtime: &Runtime, many: u64) -> Duration {
    let (folder, payload) = (tempfile::tempdir().unwrap(), payload());
    runtime.block_on(async {
        let streamer = open(folder.path()).await;
        let mut producer = streamer.create_producer(key(), Default::default()).await.unwrap();
        publish(&mut producer, many, 1000, &payload).await;
        let mut options = FileConsumerOptions::new(ConsumerMode::LoadBalanced);
        options.set_consumer_group(ConsumerGroup::new("build")).unwrap();
        options.set_auto_stream_reset(AutoStreamReset::Earliest);
        let consumer = streamer.create_consumer(&[key()], options).await.unwrap();
        let begun = Instant::now();
        for _ in 0..many {
            drop(consumer.next().await.unwrap());
        }
        let took = begun.elapsed();
        drop(consumer);
        producer.end().await.unwrap();
        took
    })
}

fn broker(criterion: &mut Criterion) {
    let runtime = runtime();
    for (id, batch) in [("publish-100", 100), ("publish-1000", 1000)] {
        peer(criterion, id, PUBLISHED, || published(&runtime, PUBLISHED, batch));
    }
    peer(criterion, "consume", CONSUMED, || consumed(&runtime, CONSUMED));
}

criterion_group!(benches, broker);
criterion_main!(benches);
