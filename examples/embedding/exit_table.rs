//! `cargo run --example exit-table`: an exit table of one's own, in which the codes 10 to 19 are escapes.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use pubsub_pipeline::{
    ActionId, Backend, Chain, Command, Event, EventType, ExitTable, Outcome, OutputReader, Pipeline,
    PipelineConfig, Result, Retry, RunQuery, Stage, Stop, Verdict,
};

#[tokio::main]
async fn main() -> Result<()> {
    let memory = Backend::At("memory:".parse()?);
    let config = PipelineConfig::default().with_retry(Retry::None).with_broker(memory.clone());
    let pipeline = Pipeline::connect(config.with_stores([memory])).await?;

    // Each payload is the code that its command ends with.
    for code in [0, 12, 20] {
        let event =
            Event::new(EventType::new("build-requested")?, ActionId::new(format!("ends-with-{code}"))?);
        pipeline.publish(event.with_payload(code.to_string().parse()?)).await?;
    }

    let escape = Verdict::new(Outcome::Escaped, Chain::Continues);
    let table = ExitTable::default().with_codes(10..=19, escape);
    let execution = pipeline.execution().with_classification(Arc::new(table));
    let command = Command::shell("exit $PIPELINE_PAYLOAD");
    let worker = pipeline.worker(Stage::new("build")?, ["build-requested:*".parse()?], command)?;
    let (_stopper, stop) = Stop::pair();
    worker.with_execution(execution).until_idle().run(stop).await?;

    let mut runs = pipeline.reader().runs(&RunQuery::all()).await?;
    runs.sort_by_key(|run| run.code);
    for run in runs {
        let (outcome, goes_on) = (run.outcome.unwrap_or(Outcome::Failed), run.continues == Some(true));
        println!("{}: {outcome}, the chain {}", run.key.action_id, if goes_on { "goes on" } else { "stops" });
    }
    Ok(())
}
