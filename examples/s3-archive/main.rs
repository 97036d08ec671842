//! `cargo run --example s3-archive`: a worker writes into memory and archives in a bucket, the one that `ARCHIVE_URL` names
//! (`s3://bucket/prefix`); then the archive alone is asked.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use futures::TryStreamExt as _;
use pubsub_pipeline::{
    ActionId, Command, Event, EventType, FanOut, MemoryBroker, MemoryStore, OutputReader, PublisherExt,
    Result, RunQuery, S3_STORE_DELAY, S3Store, S3StoreConfig, Search, SinkConfig, Stage, Stop, Worker,
    verify,
};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("ARCHIVE_URL").unwrap_or_else(|_| "memory:///".to_owned());
    let archive = S3Store::connect(S3StoreConfig::from_url(&url)?).await?;
    let near = MemoryStore::new();

    let broker = Arc::new(MemoryBroker::new());
    let (event_type, action) = (EventType::new("build-requested")?, ActionId::new("action-123")?);
    broker.publish_one(Event::new(event_type, action.clone())).await?;

    // The archive gathers for long, since each append costs requests; the newest lines are at the near store.
    let stores = FanOut::new(vec![
        SinkConfig::required("near", Arc::new(near)),
        SinkConfig::required("archive", Arc::new(archive.clone())).with_delay(S3_STORE_DELAY),
    ]);
    let command = Command::shell("seq 1 100000; echo 'error: the needle' >&2");
    let (_stopper, stop) = Stop::pair();
    let worker = Worker::new(broker, stores, command, Stage::new("build")?, ["build-requested:*".parse()?])?;
    worker.until_idle().run(stop).await?;

    let query = RunQuery::all().with_action(action).with_limit(1);
    for run in archive.runs(&query).await? {
        let id = &run.key.run_id;
        archive.compact(id).await?;
        println!("{} lines, whole: {}", run.counts.lines, verify(&archive, id).await?.agrees());
    }
    let hits = archive.search(&query, &Search::regex("^error: .*needle")?).await?;
    let hits: Vec<_> = hits.try_collect().await?;
    for hit in hits {
        println!("{}", hit.line.text());
    }
    Ok(())
}
