//! Many runs in one folder, listed and searched.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use pubsub_core::conformance::store::{SampleRun, lines};
use pubsub_core::{ActionId, OutputReader as _, RunQuery, Search, Stage, current_run};

use super::store;

/// Runs of each stage of an action.
const EACH: usize = 5;

async fn timed<T>(what: &str, limit: Duration, ask: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = ask.await;
    let took = began.elapsed();
    println!("{what}: {took:.2?}");
    assert!(took < limit, "{what} took {took:?}");
    answer
}

/// So many runs, of two stages of each action.
async fn answers_do_not_take_long(many: usize, limit: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let write = store(folder.path()).await;
    let actions = many / 2 / EACH;
    let began = Instant::now();
    let writing = stream::iter(0..many).for_each_concurrent(8, |n| {
        let write = &write;
        async move {
            let stage = if n % 2 == 0 { "build" } else { "deploy" };
            let mut run = SampleRun::of(&format!("action-{}", n / 2 % actions), stage);
            run.begin(write).await;
            run.append(write, &[lines(1, [format!("this is run {n} of many"), "done".to_owned()])]).await;
            run.finish(write).await;
        }
    });
    writing.await;
    println!("{many} runs written in {:.1?}", began.elapsed());
    // As another process that has not seen anything yet.
    let store = store(folder.path()).await;
    let (action, stage) = (ActionId::new("action-7").unwrap(), Stage::new("build").unwrap());
    let newest = RunQuery::all().with_limit(50);
    let of_action = RunQuery::all().with_action(action.clone());
    assert_eq!(timed("newest 50", limit, store.runs(&newest)).await.unwrap().len(), 50);
    assert_eq!(timed("newest 50 again", limit, store.runs(&newest)).await.unwrap().len(), 50);
    assert_eq!(timed("an action's", limit, store.runs(&of_action)).await.unwrap().len(), 2 * EACH);
    let newest_of_stage = newest.clone().with_stage(stage.clone());
    let found = timed("newest 50 of a stage", limit, store.runs(&newest_of_stage)).await.unwrap();
    assert_eq!(found.len(), 50);
    let current = timed("a stage's current run", limit, current_run(&store, &action, &stage)).await;
    assert_eq!(current.unwrap().unwrap().key.action_id, action);
    let search = Search::literal("of many").unwrap();
    for (what, query, hits) in
        [("search the newest 50", newest, 50), ("search an action", of_action, 2 * EACH)]
    {
        let asked = async { store.search(&query, &search).await.unwrap().count().await };
        assert_eq!(timed(what, limit, asked).await, hits);
    }
    let runs = timed("all", super::LONG, store.runs(&RunQuery::all())).await.unwrap();
    assert_eq!(runs.len(), many);
}

#[tokio::test]
async fn questions_to_many_runs_are_answered() {
    answers_do_not_take_long(500, Duration::from_secs(30)).await;
}

#[tokio::test]
#[ignore = "long: 100,000 runs; measured with --release"]
async fn questions_to_a_hundred_thousand_runs_are_answered_quickly() {
    answers_do_not_take_long(100_000, Duration::from_secs(1)).await;
}
