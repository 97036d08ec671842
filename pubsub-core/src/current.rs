//! Which run is meant by an action and a stage.

use std::collections::BTreeMap;

use crate::{ActionId, EventId, OutputReader, Result, RunQuery, RunRecord, Stage, Timestamp};

/// The current run of an action's stage: the latest attempt of its latest event. `None` where none began yet.
///
/// The latest event is the one whose first attempt began last; where two began in the same microsecond, the one with
/// the larger id.
///
/// # Errors
/// Where the store cannot be read.
pub async fn current_run(
    reader: &dyn OutputReader,
    action: &ActionId,
    stage: &Stage,
) -> Result<Option<RunRecord>> {
    Ok(current_of(reader.runs(&RunQuery::of(action.clone(), stage.clone())).await?))
}

/// The current one of runs of one action's stage.
pub(crate) fn current_of(runs: Vec<RunRecord>) -> Option<RunRecord> {
    let mut began: BTreeMap<&EventId, Timestamp> = BTreeMap::new();
    for run in &runs {
        let first = began.entry(&run.key.event_id).or_insert(run.started_at);
        *first = run.started_at.min(*first);
    }
    let latest = began.into_iter().max_by_key(|(event, first)| (*first, *event))?.0.clone();
    runs.into_iter().filter(|run| run.key.event_id == latest).max_by_key(|run| run.key.attempt)
}

#[cfg(test)]
mod tests {
    use super::{current_of, current_run};
    use crate::{ActionId, EventId, MemoryStore, OutputSink, RunKey, RunRecord, Stage, Timestamp};

    fn run(event: &str, attempt: u32, began: i64) -> RunRecord {
        let (action, stage) = (ActionId::new("a").unwrap(), Stage::new("s").unwrap());
        let key = RunKey::new(action, stage, EventId::new(event).unwrap(), attempt);
        let mut record = RunRecord::begun(key, "w");
        record.started_at = Timestamp::from_micros(began);
        record
    }

    #[test]
    fn the_latest_attempt_of_the_latest_event_is_current() {
        let current = |runs: &[(&str, u32, i64)]| {
            let runs = runs.iter().map(|(event, attempt, began)| run(event, *attempt, *began)).collect();
            let record: RunRecord = current_of(runs)?;
            Some((record.key.event_id.to_string(), record.key.attempt))
        };
        let is = |event: &str, attempt| Some((event.to_owned(), attempt));
        assert_eq!(current(&[]), None);
        assert_eq!(current(&[("e", 1, 0), ("e", 3, 2), ("e", 2, 9)]), is("e", 3));
        assert_eq!(current(&[("new", 1, 5), ("old", 1, 0)]), is("new", 1));
        // An older event that is tried again is not the latest one.
        assert_eq!(current(&[("new", 1, 5), ("old", 1, 0), ("old", 2, 9)]), is("new", 1));
        assert_eq!(current(&[("a", 1, 5), ("b", 1, 5)]), is("b", 1));
    }

    #[tokio::test]
    async fn an_action_without_runs_has_no_current_one() {
        let store = MemoryStore::new();
        let key = run("e", 1, 0).key;
        assert_eq!(current_run(&store, &key.action_id, &key.stage).await.unwrap(), None);
        store.begin(&run("e", 1, 0)).await.unwrap();
        let current = current_run(&store, &key.action_id, &key.stage).await.unwrap();
        assert_eq!(current.unwrap().key, key);
    }
}
