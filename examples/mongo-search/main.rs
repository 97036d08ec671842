//! `cargo run --example mongo-search`: the output of a command goes to the MongoDB that `MONGODB_URL` names, is found there by
//! what was said about the run, and searched.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt as _;
use pubsub_pipeline::{
    ActionId, Command, Event, EventType, FanOut, MemoryBroker, MongoStore, MongoStoreConfig, OutputReader,
    PublisherExt, Result, RunQuery, Search, SinkConfig, Stage, Stop, Worker,
};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("MONGODB_URL").unwrap_or_else(|_| "mongodb://127.0.0.1".to_owned());
    let store = MongoStore::connect(MongoStoreConfig::from_url(&url)?).await?;

    let broker = Arc::new(MemoryBroker::new());
    broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
    let (_stopper, stop) = Stop::pair();
    let stores = FanOut::new(vec![SinkConfig::required("mongo", Arc::new(store.clone()))]);
    let command = Command::shell("echo compiling; echo 'warning: unused variable' >&2");
    let worker = Worker::new(broker, stores, command, Stage::new("build")?, ["build-requested:*".parse()?])?;
    worker.until_idle().run(stop).await?;

    let runs = RunQuery::all().with_action(ActionId::new("action-123")?);
    for run in store.runs_with(&runs, &BTreeMap::new()).await? {
        println!("{}: {:?}, {} lines", run.key.run_id, run.outcome, run.counts.lines);
    }
    let mut hits = store.search(&runs, &Search::regex("^(warning|error)")?).await?;
    while let Some(hit) = hits.try_next().await? {
        println!("{} {}: {}", hit.run.run_id, hit.line.number, hit.line.text());
    }
    Ok(())
}
