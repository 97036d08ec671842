//! `cargo run --example rust-handler`: a Rust function in place of a command. It is asked to stop at its time limit, as it
//! would be at a cancel or a shutdown, and says what it has until then.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::BTreeMap, time::Duration};

use pubsub_pipeline::{
    ActionId, Backend, Event, EventType, Exit, Finished, Pipeline, PipelineConfig, Result, Retry, RunContext,
    Stage, Stop, handler_fn,
};

async fn train(mut context: RunContext) -> Result<Finished> {
    let mut epochs = 0;
    let cause = loop {
        tokio::select! {
            cause = context.stop.requested() => break cause,
            () = tokio::time::sleep(Duration::from_millis(100)) => epochs += 1,
        }
        context.output.line(format!("epoch {epochs}")).await?;
    };
    let exit = Exit::stopped(cause).with_detail(format!("saved after {epochs} epochs"));
    Ok(Finished { exit, values: BTreeMap::from([("epochs".to_owned(), epochs.to_string())]) })
}

#[tokio::main]
async fn main() -> Result<()> {
    let memory = Backend::At("memory:".parse()?);
    let config = PipelineConfig::default().with_broker(memory.clone()).with_stores([memory]);
    let config = config.with_timeout(Duration::from_secs(1)).with_retry(Retry::None);
    let pipeline = Pipeline::connect(config).await?;
    pipeline.publish(Event::new(EventType::new("train-requested")?, ActionId::new("action-123")?)).await?;

    let handler = handler_fn(|context| async move { train(context).await.into() });
    let worker = pipeline.worker(Stage::new("train")?, ["train-requested:*".parse()?], handler)?;
    let worker = worker
        .with_observer(|run| println!("{:?}: {:?}, {} lines", run.outcome, run.detail, run.counts.lines));
    let (_stopper, stop) = Stop::pair();
    worker.until_idle().run(stop).await
}
