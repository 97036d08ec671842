//! `cargo run --example complete`: an action from its first event to the last question, on a Redis, an Elasticsearch or
//! OpenSearch, a MongoDB and a bucket, which `REDIS_URL`, `ELASTICSEARCH_URL`, `MONGODB_URL` and `S3_BUCKET` name. Another
//! `action_config` may be given as an argument: `cargo run --example complete -- '{"dir":"/tmp/complete"}'` needs no server.
//!
//! Three stages are chained by events: build, test, deploy. Of four actions one goes through, one leaves its tests early with
//! code 42, one builds for too long, and one fails its tests, which stops its own chain and no other's.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod asked;

use std::time::Duration;

use futures::future::try_join_all;
use pubsub_pipeline::{
    ActionId, Cause, Command, Error, ErrorKind, Event, EventId, EventType, Pipeline, Result, Stage, Stop,
    Stopper, Wait, Worker, wait,
};
use tokio::task::JoinSet;

/// What the action asks for.
const ACTION_CONFIG: &str = r#"{
    "timeout": 600,
    "message_broker": "redis",
    "retry_policy": "exponential",
    "stream_enabled": true,
    "datastore_backends": ["elasticsearch", "mongodb", "s3"]
}"#;

/// The actions, by what happens to them.
const ACTIONS: [&str; 4] = ["good", "early", "slow", "broken"];

/// What each stage is started by, its name, what follows it, and what it runs.
const STAGES: [(&str, &str, Option<&str>, &str); 3] = [
    ("build-requested", "build", Some("built"), BUILD),
    ("built", "test", Some("tested"), TEST),
    ("tested", "deploy", None, DEPLOY),
];

/// A value goes on to the stages after it.
const BUILD: &str = r#"
echo "building $PIPELINE_ACTION_ID"
case "$PIPELINE_ACTION_ID" in slow-*) echo "waiting for a lock"; sleep 600 ;; esac
echo "artifact=$PIPELINE_ACTION_ID.tar" >> "$PIPELINE_OUTPUT"
"#;

const TEST: &str = r#"
for n in 1 2 3 4 5; do echo "test $n ... ok"; done
case "$PIPELINE_ACTION_ID" in
early-*) echo "nothing of it has changed: left out"; exit 42 ;;
broken-*) echo "ERROR: test 6 failed"; exit 3 ;;
esac
"#;

const DEPLOY: &str = r#"echo "deploying what was built"; cat; echo"#;

/// How long a build may take here: no reader of an example waits ten minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(3);

/// How long an action may take in all.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    let given = std::env::args().nth(1);
    let pipeline = Pipeline::from_json(given.as_deref().unwrap_or(ACTION_CONFIG)).await?;
    // So that it can be run again at the same servers.
    let own = EventId::generate();
    let actions: Vec<ActionId> =
        ACTIONS.iter().map(|name| ActionId::new(format!("{name}-{own}"))).collect::<Result<_>>()?;

    let (stopper, workers) = start(&pipeline, own.as_str())?;
    for action in &actions {
        pipeline.publish(Event::new(EventType::new("build-requested")?, action.clone())).await?;
    }
    let reader = pipeline.reader();
    let ended = |action: &ActionId| {
        let (reader, broker) = (&reader, pipeline.broker());
        let what = Wait::new(action.clone()).with_limit(LIMIT);
        async move { wait(reader, &**broker, &what).await }
    };
    try_join_all(actions.iter().map(ended)).await?;
    stop(&stopper, workers).await?;

    asked::show(&pipeline, &actions).await?;
    asked::is_equal_everywhere(&pipeline, &actions).await
}

/// A worker of each stage.
fn start(pipeline: &Pipeline, own: &str) -> Result<(Stopper, JoinSet<Result<()>>)> {
    let (stopper, stop) = Stop::pair();
    let mut workers = JoinSet::new();
    for (on, stage, then, line) in STAGES {
        let mut worker: Worker =
            pipeline.worker(Stage::new(stage)?, [format!("{on}:*-{own}").parse()?], Command::shell(line))?;
        worker = worker.with_concurrency(ACTIONS.len());
        if stage == "build" {
            worker = worker.with_execution(pipeline.execution().with_timeout(BUILD_LIMIT));
        }
        if let Some(then) = then {
            worker = worker.with_then(EventType::new(then)?);
        }
        workers.spawn(worker.run(stop.clone()));
    }
    Ok((stopper, workers))
}

/// Lets the workers end what they do.
async fn stop(stopper: &Stopper, mut workers: JoinSet<Result<()>>) -> Result<()> {
    stopper.stop(Cause::Shutdown);
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|e| Error::new(ErrorKind::Internal, "a worker panicked").with_source(e))??;
    }
    Ok(())
}
