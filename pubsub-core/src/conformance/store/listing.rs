//! §4.7: the same question about runs gets the same answer from every store.

use std::time::Duration;

use super::StoreFixture;
use super::sample::SampleRun;
use crate::{
    ActionId, EventId, Exit, ExitClassification as _, ExitTable, Outcome, RunId, RunKey, RunQuery, RunRecord,
    SealBuilder,
};
use crate::{Store, StoreCapabilities, Timestamp};

/// Runs of one action, oldest first: two stages, one event with two attempts, two outcomes, one still running, two that
/// began in the same microsecond.
async fn some_runs(store: &dyn Store) -> (ActionId, Vec<SampleRun>) {
    let action = EventId::generate().to_string();
    let begun = Timestamp::now();
    let mut runs = Vec::new();
    for (stage, micros, code) in [
        ("build", 0, Some(0)),
        ("build", 1, Some(1)),
        ("test", 2, Some(0)),
        ("test", 3, Some(1)),
        ("test", 3, None),
    ] {
        let mut run = SampleRun::of(&action, stage);
        run.record.started_at = begun.plus(Duration::from_micros(micros));
        if micros == 1 {
            let first: &SampleRun = &runs[0];
            let key = first.key().clone();
            run.record.key = RunKey::new(key.action_id, key.stage, key.event_id, 2);
        }
        run.begin(store).await;
        if let Some(code) = code {
            let exit = Exit::code(code);
            let seal = SealBuilder::new().seal();
            run.record.complete(&exit, ExitTable::default().classify(&exit), &seal);
            store.finish(&run.record).await.unwrap();
        }
        runs.push(run);
    }
    runs.sort_by_key(|run| (run.record.started_at, run.id().clone()));
    SampleRun::written(store, &[]).await;
    (ActionId::new(action).unwrap(), runs)
}

async fn listed(store: &dyn Store, query: &RunQuery) -> Vec<RunId> {
    store.runs(query).await.unwrap().into_iter().map(|record| record.key.run_id).collect()
}

/// §4.7: newest first, by time begun, then run id, through every handle.
pub async fn runs_come_newest_first(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let (action, runs) = some_runs(&*fixture.store()).await;
    let expected: Vec<_> = runs.iter().rev().map(|run| run.record.clone()).collect();
    for store in [fixture.store(), fixture.reopen().await] {
        let query = RunQuery::all().with_action(action.clone());
        assert_eq!(store.runs(&query).await.unwrap(), expected);
    }
}

/// §4.7: each condition is kept alone and together with others.
pub async fn each_filter_holds(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let (action, runs) = some_runs(&*store).await;
    let all = RunQuery::all().with_action(action.clone());
    let build = runs[0].key().stage.clone();
    let test = runs[2].key().stage.clone();
    let queries = [
        all.clone().with_stage(build.clone()),
        all.clone().with_stage(test.clone()),
        RunQuery::of(action.clone(), test.clone()),
        RunQuery::all().with_event(runs[0].key().event_id.clone()),
        all.clone().with_event(runs[2].key().event_id.clone()),
        runs[3].query(),
        all.clone().with_outcome(Outcome::Succeeded),
        all.clone().with_outcome(Outcome::Failed).with_stage(build.clone()),
        all.clone().with_outcome(Outcome::Escaped),
        all.clone().with_since(runs[1].record.started_at),
        all.clone().with_until(runs[2].record.started_at),
        all.clone().with_since(runs[1].record.started_at).with_until(runs[3].record.started_at),
        RunQuery { action: Some(action), ..runs[0].query() },
        runs[0].query().with_stage(test),
        RunQuery::all().with_event(EventId::generate()),
    ];
    for query in queries {
        let expected: Vec<_> =
            runs.iter().rev().filter(|run| query.matches(&run.record)).map(|run| run.id().clone()).collect();
        assert_eq!(listed(&*store, &query).await, expected, "{query:?}");
    }
}

/// §4.7: a limit keeps the newest, after the other conditions.
pub async fn a_limit_keeps_the_newest(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let (action, runs) = some_runs(&*store).await;
    let query = RunQuery::all().with_action(action);
    for limit in 0..=6 {
        let expected: Vec<_> = runs.iter().rev().take(limit).map(|run| run.id().clone()).collect();
        assert_eq!(listed(&*store, &query.clone().with_limit(limit)).await, expected, "limit {limit}");
    }
    let query = query.with_stage(runs[0].key().stage.clone()).with_limit(1);
    assert_eq!(listed(&*store, &query).await, [runs[1].id().clone()]);
}

/// §4.7: the current run of a stage is the latest attempt of its latest event, by time, then id, among more runs than a
/// store is asked for at once.
pub async fn the_current_run_is_the_latest_attempt_of_the_latest_event(
    fixture: &dyn StoreFixture,
    _: StoreCapabilities,
) {
    let store = fixture.store();
    let key = SampleRun::new().key().clone();
    let begun = Timestamp::now();
    let attempt = |event: &str, attempt: u32, micros: u64| {
        let event = EventId::new(format!("{}-{event}", key.action_id)).unwrap();
        let key = RunKey::new(key.action_id.clone(), key.stage.clone(), event, attempt);
        let mut record = RunRecord::begun(key, "owner-1");
        record.started_at = begun.plus(Duration::from_micros(micros));
        record
    };
    // `y` and `z` began in one microsecond; `z` was tried again, its third attempt on a host whose clock is behind.
    let mut runs = vec![attempt("z", 1, 50), attempt("y", 1, 50), attempt("z", 2, 70), attempt("z", 3, 55)];
    // Older events were tried again since.
    for n in 0..20 {
        runs.extend([attempt(&format!("old-{n}"), 1, n), attempt(&format!("old-{n}"), 2, 100 + n)]);
    }
    for run in &runs {
        store.begin(run).await.unwrap();
    }
    let current = async || crate::current_run(&*store, &key.action_id, &key.stage).await.unwrap();
    assert_eq!(current().await.unwrap().key, runs[3].key);
    // Another stage of the action changes nothing; a later event does, though others were tried again after it.
    SampleRun::of(key.action_id.as_str(), "other").begin(&*store).await;
    assert_eq!(current().await.unwrap().key, runs[3].key);
    let newer = attempt("newer", 1, 60);
    store.begin(&newer).await.unwrap();
    assert_eq!(current().await.unwrap().key, newer.key);
}
