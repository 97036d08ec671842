//! `cargo run --example redis-worker`: a worker whose broker and output store are one Redis, the one that `REDIS_URL` names.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use pubsub_pipeline::{
    ActionId, Command, Event, EventType, FanOut, OutputReader, PublisherExt, RedisBroker, RedisBrokerConfig,
    RedisConfig, RedisStore, RedisStoreConfig, Result, RunQuery, SinkConfig, Stage, Stop, Worker,
};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1".to_owned());
    let redis = RedisConfig::from_url(&url)?;
    let broker = Arc::new(RedisBroker::connect(RedisBrokerConfig::new(redis.clone())).await?);
    let store = RedisStore::connect(RedisStoreConfig::new(redis)).await?;

    // Whoever reaches the server publishes, here and from any other machine.
    let event = Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?);
    broker.publish_one(event.with_payload(r#"{"branch":"main"}"#.parse()?)).await?;

    // A worker that stays leaves out `until_idle`, and is stopped by the other half of this pair.
    let (_stopper, stop) = Stop::pair();
    let stores = FanOut::new(vec![SinkConfig::required("redis", Arc::new(store.clone()))]);
    let command = Command::shell(r#"echo "building $PIPELINE_PAYLOAD""#);
    let worker = Worker::new(broker, stores, command, Stage::new("build")?, ["build-requested:*".parse()?])?;
    worker.until_idle().run(stop).await?;

    for run in store.runs(&RunQuery::all().with_limit(5)).await? {
        println!("{}: {:?}, {} lines", run.key.action_id, run.outcome, run.counts.lines);
    }
    Ok(())
}
