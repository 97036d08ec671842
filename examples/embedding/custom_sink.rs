//! `cargo run --example custom-sink`: the sink of `error_count.rs` stands between a worker and its store.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod error_count;

use std::sync::{Arc, Mutex};

use error_count::ErrorCount;
use pubsub_pipeline::{
    ActionId, Command, Event, EventType, FanOut, MemoryBroker, MemoryStore, OutputReader, PublisherExt,
    Result, RunQuery, SinkConfig, Stage, Stop, Worker,
};

#[tokio::main]
async fn main() -> Result<()> {
    let (broker, store) = (Arc::new(MemoryBroker::new()), MemoryStore::new());
    broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;

    let counting = Arc::new(ErrorCount(store.clone(), Mutex::default()));
    let stores = FanOut::new(vec![SinkConfig::required("memory", counting.clone())]);
    let command = Command::shell("echo building; echo 'error: no such file'; echo 'error: giving up' >&2");
    let worker = Worker::new(broker, stores, command, Stage::new("build")?, ["build-requested:*".parse()?])?;
    let (_stopper, stop) = Stop::pair();
    worker.until_idle().run(stop).await?;

    // Readers ask the store itself.
    for run in store.runs(&RunQuery::all()).await? {
        let errors = counting.of(&run.key.run_id);
        println!("{}: {} lines, {errors} errors", run.key.action_id, run.counts.lines);
    }
    Ok(())
}
