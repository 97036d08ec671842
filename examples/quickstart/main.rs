//! `cargo run --example quickstart`: from an event to a searchable run, in a temporary folder.
//!
//! It publishes `build-requested`. One worker takes that and runs a real `cargo build` of a small crate; its conclusion
//! publishes `build-done`, at which another worker runs `cargo test`, where one test fails on purpose. Meanwhile the
//! output of both is followed live; in the end anyone can ask for it.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod demo;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pubsub_pipeline::{
    ActionId, Cause, Command, Error, ErrorKind, Event, EventType, FanOut, FileBroker, FileBrokerConfig,
    FileStore, FileStoreConfig, Follow, FollowFrom, Followed, LineNumber, Lines, Outcome, OutputItem,
    OutputReader, PublisherExt as _, Result, RetryPolicy, RunQuery, RunRecord, Search, SinkConfig, Stage,
    Stop, Target, Wait, Worker, current_run, follow, wait,
};
use tokio::task::JoinSet;

/// Longest time that either command may take.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> ExitCode {
    match quickstart().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("quickstart: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn quickstart() -> Result<()> {
    let folder = tempfile::tempdir().map_err(failed("make a temporary folder"))?;
    let krate = folder.path().join("demo");
    demo::write(&krate).map_err(failed("write a small crate"))?;
    let action = ActionId::new("action-123")?;
    let (build, test) = (Stage::new("build")?, Stage::new("test")?);

    println!("# 1. A broker and an output store in a folder: no server");
    let pipeline = folder.path().join("pipeline");
    let broker = Arc::new(FileBroker::connect(FileBrokerConfig::new(&pipeline)).await?);
    let store = FileStore::connect(FileStoreConfig::new(&pipeline)).await?;

    println!("# 2. Two workers: the second starts where the first says that the pipeline goes on");
    let retry = RetryPolicy::none();
    let building = worker(&broker, &store, cargo("build", &krate), &build, "build-requested:*")?
        .with_then(EventType::new("build-done")?);
    let testing = worker(&broker, &store, cargo("test", &krate), &test, "build-done:*")?.with_retry(retry);
    let (stopper, stop) = Stop::pair();
    let mut tasks = JoinSet::new();
    tasks.spawn(building.run(stop.clone()));
    tasks.spawn(testing.run(stop));
    let mut followers = JoinSet::new();
    for stage in [&build, &test] {
        followers.spawn(show(Arc::new(store.clone()), action.clone(), stage.clone()));
    }

    println!("# 3. An event starts it all; the output is followed while it is printed");
    broker.publish_one(Event::new(EventType::new("build-requested")?, action.clone())).await?;
    let waited = wait(&store, &*broker, &Wait::new(action.clone()).with_limit(2 * LIMIT)).await?;
    if current_run(&store, &action, &test).await?.is_none() {
        report(&store, &action, &build).await?;
        return Err(Error::new(ErrorKind::Internal, "the build was meant to succeed, and did not"));
    }
    all(&mut followers).await?;
    stopper.stop(Cause::Shutdown);
    all(&mut tasks).await?;

    println!("\n# 4. Anyone asks, from any process: status, last lines, search");
    for stage in [&build, &test] {
        report(&store, &action, stage).await?;
    }
    if waited.outcome() != Outcome::Failed {
        return Err(Error::new(ErrorKind::Internal, "one test was meant to fail, and none did"));
    }
    println!("\nOne test failed on purpose, so the chain ended at `test`. The folder is removed now.");
    Ok(())
}

/// A worker that runs a command at each event of a stage and keeps its output in the store.
fn worker(
    broker: &Arc<FileBroker>,
    store: &FileStore,
    command: Command,
    stage: &Stage,
    on: &str,
) -> Result<Worker> {
    let fan_out = FanOut::new(vec![SinkConfig::required("file", Arc::new(store.clone()))]);
    Worker::new(Arc::clone(broker) as _, fan_out, command, stage.clone(), [on.parse()?])
}

fn cargo(what: &str, krate: &Path) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let target = krate.join("target").display().to_string();
    Command::new(cargo)
        .with_args([what, "--offline"])
        .with_working_dir(krate)
        .with_variable("CARGO_TARGET_DIR", target)
        .with_timeout(LIMIT)
}

/// Follows a stage from its first line to its end.
async fn show(reader: Arc<dyn OutputReader>, action: ActionId, stage: Stage) -> Result<()> {
    let from = FollowFrom::Line(LineNumber::FIRST);
    let mut followed = follow(reader, Follow { target: Target::Stage(action, stage.clone()), from });
    while let Some(item) = followed.next().await {
        if let Followed::Item(OutputItem::Lines(batch)) = item? {
            batch.lines().for_each(|line| println!("{:>6} {stage:<5} | {}", line.number, line.text()));
        }
    }
    Ok(())
}

async fn report(store: &FileStore, action: &ActionId, stage: &Stage) -> Result<()> {
    let Some(record) = current_run(store, action, stage).await? else {
        return Err(Error::new(ErrorKind::NotFound, "the stage did not run").with("stage", stage));
    };
    println!("\n{stage}: {}", told(&record));
    println!("  the last two lines:");
    let mut items = store.lines(&record.key.run_id, Lines::Last(2)).await?.items;
    while let Some(item) = items.next().await {
        if let OutputItem::Lines(batch) = item? {
            batch.lines().for_each(|line| println!("    {}:{}", line.number, line.text()));
        }
    }
    println!("  lines that match `warning|panicked|FAILED`:");
    let search = Search::regex("warning|panicked|FAILED")?;
    let mut hits = store.search(&RunQuery::of_run(record.key.run_id), &search).await?;
    while let Some(hit) = hits.next().await {
        let line = hit?.line;
        println!("    {}:{}", line.number, line.text());
    }
    Ok(())
}

fn told(record: &RunRecord) -> String {
    let outcome = record.outcome.map_or("running", Outcome::as_str);
    let code = record.code.map_or_else(|| "no code".to_owned(), |code| format!("exit {code}"));
    let goes_on = if record.continues == Some(true) { "goes on" } else { "stops" };
    format!("{outcome} ({code}), {} lines; the pipeline {goes_on}", record.counts.lines)
}

/// Waits for tasks of ours.
async fn all(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| Error::new(ErrorKind::Internal, "a task panicked").with_source(e))??;
    }
    Ok(())
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::new(ErrorKind::Unavailable, what).with_source(e)
}
