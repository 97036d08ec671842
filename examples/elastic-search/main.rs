//! `cargo run --example elastic-search`: a worker whose output goes to the Elasticsearch or OpenSearch that
//! `ELASTICSEARCH_URL` names, and a search over all runs there.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use futures::TryStreamExt;
use pubsub_pipeline::{
    ActionId, Command, ElasticStore, ElasticStoreConfig, Event, EventType, FanOut, MemoryBroker,
    OutputReader, PublisherExt, Result, RunQuery, Search, SinkConfig, Stage, Stop, Worker,
};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("ELASTICSEARCH_URL").unwrap_or_else(|_| "http://127.0.0.1:9200".to_owned());
    let prefix = std::env::var("ELASTICSEARCH_PREFIX").unwrap_or_else(|_| "pipeline".to_owned());
    let store = ElasticStore::connect(ElasticStoreConfig::new(url).with_prefix(prefix)).await?;

    let broker = Arc::new(MemoryBroker::new());
    let event = Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?);
    broker.publish_one(event).await?;

    let (_stopper, stop) = Stop::pair();
    let stores = FanOut::new(vec![SinkConfig::required("elastic", Arc::new(store.clone()))]);
    let command = Command::shell("echo 'compiling'; echo 'ERROR: code=42 at /a/b' >&2; exit 42");
    let worker = Worker::new(broker, stores, command, Stage::new("build")?, ["build-requested:*".parse()?])?;
    worker.until_idle().run(stop).await?;

    let mut hits = store.search(&RunQuery::all(), &Search::regex(r"(?i)error: code=\d+")?).await?;
    while let Some(hit) = hits.try_next().await? {
        println!("{} line {}: {}", hit.run.action_id, hit.line.number, hit.line.text());
    }
    Ok(())
}
