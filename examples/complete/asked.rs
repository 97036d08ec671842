//! What is asked of every store once all is over.

use futures::TryStreamExt as _;
use pubsub_pipeline::{
    ActionId, Error, ErrorKind, OutputReader, Pipeline, PipelineStore, Result, RunQuery, RunRecord, Search,
    verify, verify_against,
};

/// How each stage of each action ended, and what is found in the output of all of them.
pub(crate) async fn show(pipeline: &Pipeline, actions: &[ActionId]) -> Result<()> {
    let reader = pipeline.reader();
    for action in actions {
        for run in concluded(&reader, action).await? {
            let outcome = run.outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
            let (attempt, lines) = (run.key.attempt, run.counts.lines);
            println!("{} {}: {outcome} at attempt {attempt}, {lines} lines", name(action), run.key.stage);
        }
    }
    for action in actions {
        let query = RunQuery::all().with_action(action.clone());
        let hits = reader.search(&query, &Search::regex("ERROR|left out|\\.tar")?).await?;
        for hit in hits.try_collect::<Vec<_>>().await? {
            println!("{} {} line {}: {}", name(action), hit.run.stage, hit.line.number, hit.line.text());
        }
    }
    Ok(())
}

/// Every run that was concluded is whole in each store, and the same in all of them.
pub(crate) async fn is_equal_everywhere(pipeline: &Pipeline, actions: &[ActionId]) -> Result<()> {
    let mut runs = 0;
    for action in actions {
        for run in concluded(&pipeline.reader(), action).await? {
            for store in pipeline.stores() {
                if let Some(problem) = difference(pipeline, store, &run).await? {
                    let differs = Error::new(ErrorKind::Corrupt, problem);
                    return Err(differs.with("run", &run.key.run_id).with("store", &store.name));
                }
            }
            runs += 1;
        }
    }
    println!("{runs} runs are whole and equal in each of {} stores", pipeline.stores().len());
    Ok(())
}

/// What is wrong with a run in this store; `None` where it has what was printed, as all the others.
async fn difference(pipeline: &Pipeline, store: &PipelineStore, run: &RunRecord) -> Result<Option<String>> {
    let id = &run.key.run_id;
    if let Some(problem) = verify(&*store.store, id).await?.problem() {
        return Ok(Some(problem));
    }
    let found = verify_against(&pipeline.reader(), &*store.store, id).await?;
    Ok(found.map(|difference| difference.what))
}

/// The final runs of an action, the first one first.
async fn concluded(reader: &dyn OutputReader, action: &ActionId) -> Result<Vec<RunRecord>> {
    let mut runs = reader.runs(&RunQuery::all().with_action(action.clone())).await?;
    runs.retain(|run| run.is_final);
    runs.reverse();
    Ok(runs)
}

/// Without what makes the action's id unique.
fn name(action: &ActionId) -> &str {
    action.as_str().split('-').next().unwrap_or_default()
}
