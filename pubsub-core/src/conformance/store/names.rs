//! §4.1: whatever an id is, it is found again under its own name and meets no other.

use super::StoreFixture;
use super::sample::{SampleRun, cannot_remove, lines, read_lines, record_of};
use crate::conformance::HOSTILE_IDS;
use crate::{ActionId, EventId, Lines, RunKey, RunQuery, Stage, Store, StoreCapabilities};

/// Writes one run for each action and stage, with the pair as its line.
async fn written(store: &dyn Store, pairs: &[(String, String)]) -> Vec<SampleRun> {
    let mut runs = Vec::new();
    for (action, stage) in pairs {
        let mut run = SampleRun::of(action, stage);
        run.begin(store).await;
        run.append(store, &[lines(1, [format!("{action} {stage}")])]).await;
        run.finish(store).await;
        runs.push(run);
    }
    runs
}

/// Each run alone is found under its action and stage, with its own line.
async fn are_kept_apart(fixture: &dyn StoreFixture, pairs: &[(String, String)]) {
    let runs = written(&*fixture.store(), pairs).await;
    for store in [fixture.store(), fixture.reopen().await] {
        for ((action, stage), run) in pairs.iter().zip(&runs) {
            let query = RunQuery::of(ActionId::new(action).unwrap(), Stage::new(stage).unwrap());
            assert_eq!(
                store.runs(&query).await.unwrap(),
                std::slice::from_ref(&run.record),
                "{action} {stage}"
            );
            let read = read_lines(&*store, run.id(), Lines::ALL).await;
            assert_eq!(
                read.iter().map(|line| line.text()).collect::<Vec<_>>(),
                [format!("{action} {stage}")]
            );
        }
    }
}

/// §4.1: hostile ids as actions and as stages. As actions each is given a tail of its own, so that many rules may use
/// one store.
pub async fn hostile_ids_are_kept_apart(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let own = EventId::generate().to_string();
    let mut pairs: Vec<_> = HOSTILE_IDS.iter().map(|id| (format!("{id}{own}"), "build".to_owned())).collect();
    pairs.extend(HOSTILE_IDS.iter().map(|id| (own.clone(), (*id).to_owned())));
    are_kept_apart(fixture, &pairs).await;
}

/// §4.1: hostile ids as events: each finds its own run.
pub async fn hostile_event_ids_are_kept_apart(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let (store, own) = (fixture.store(), EventId::generate());
    let event = |id: &str| EventId::new(format!("{id}{own}")).unwrap();
    let mut runs = Vec::new();
    for id in HOSTILE_IDS {
        let mut run = SampleRun::new();
        let key = run.key().clone();
        run.record.key = RunKey::new(key.action_id, key.stage, event(id), 1);
        run.begin(&*store).await;
        runs.push(run);
    }
    for (id, run) in HOSTILE_IDS.iter().zip(&runs) {
        let found = store.runs(&RunQuery::all().with_event(event(id))).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&run.record), "{id}");
    }
}

/// §4.1: two ids never meet on one name, also where a file system ignores case or a name would be too long.
pub async fn ids_that_differ_in_case_or_at_the_very_end_are_kept_apart(
    fixture: &dyn StoreFixture,
    _: StoreCapabilities,
) {
    let own = EventId::generate().to_string();
    let long = format!("{own}{}", "é".repeat((255 - own.len()) / 2 - 1));
    let pairs = [
        (format!("{own}A"), "build"),
        (format!("{own}a"), "build"),
        (format!("{own}a"), "Build"),
        (format!("{own}Ä"), "build"),
        (format!("{own}ä"), "build"),
        (format!("{long}1"), "build"),
        (format!("{long}2"), "build"),
        (format!("{own}a/b"), "c"),
        (format!("{own}a"), "b/c"),
        (format!("{own}a:b"), "c"),
        (format!("{own}a"), "b:c"),
    ];
    are_kept_apart(fixture, &pairs.map(|(action, stage)| (action, stage.to_owned()))).await;
}

/// §4.1: removing a run of `a.1` leaves `ab1`, `a`, `A.1` and the pattern `a*` alone.
pub async fn removing_one_action_leaves_its_look_alikes(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let own = EventId::generate().to_string();
    let ids = ["a.1", "ab1", "a", "A.1", "a*", "a/../a.1", "a.1/", "../a.1", "?.1", ".*"];
    let pairs: Vec<_> = ids.iter().map(|id| (format!("{own}{id}"), "build".to_owned())).collect();
    let runs = written(&*store, &pairs).await;
    for (n, run) in runs.iter().enumerate() {
        assert!(store.remove(run.id()).await.unwrap());
        assert_eq!(store.runs(&run.query()).await.unwrap(), []);
        for left in &runs[n + 1..] {
            assert_eq!(record_of(&*store, left.id()).await, left.record);
            assert_eq!(read_lines(&*store, left.id(), Lines::ALL).await.len(), 1);
        }
    }
}
