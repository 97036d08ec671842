//! Which run is meant by an action and a stage.

use std::collections::{BTreeMap, BinaryHeap};

use crate::{ActionId, EventId, OutputReader, Result, RunQuery, RunRecord, Stage, Timestamp};

/// How many of a stage's newest runs are looked at first; where they leave a doubt, so many times more.
const PAGE: usize = 16;

/// How many events of one page are asked for by name. More only where old events were tried again since.
const CHECKS: usize = 16;

/// The current run of an action's stage: the latest attempt of its latest event. `None` where none began yet.
///
/// The latest event is the one whose first attempt began last; where two began in the same microsecond, the one with
/// the larger id. A stage with many runs is not read whole.
///
/// # Errors
/// Where the store cannot be read.
pub async fn current_run(
    reader: &dyn OutputReader,
    action: &ActionId,
    stage: &Stage,
) -> Result<Option<RunRecord>> {
    current_by_pages(reader, &RunQuery::of(action.clone(), stage.clone()), PAGE).await
}

/// The current one of the runs of one action's stage, from pages of the newest.
///
/// What began after a page's oldest run is on the page, so an event that is not on it began no later than that. An event
/// on it began no later than its oldest attempt there. So the event that is the latest by what the page shows is the
/// latest of all, once asking for it by name brought no earlier attempt.
async fn current_by_pages(
    reader: &dyn OutputReader,
    of_stage: &RunQuery,
    mut size: usize,
) -> Result<Option<RunRecord>> {
    let mut asked: BTreeMap<EventId, Timestamp> = BTreeMap::new();
    loop {
        let page = reader.runs(&of_stage.clone().with_limit(size)).await?;
        let oldest = page.last().map(|run| run.started_at);
        let Some(oldest) = oldest.filter(|_| page.len() >= size) else { return Ok(current_of(page)) };
        let mut began = first_attempts(&page);
        for (event, first) in &mut began {
            *first = asked.get(*event).copied().unwrap_or(*first).min(*first);
        }
        let mut latest: BinaryHeap<(Timestamp, &EventId)> =
            began.into_iter().map(|(event, first)| (first, event)).collect();
        for _ in 0..CHECKS {
            // One that began with the oldest may have company that is not on the page.
            let Some((first, event)) = latest.pop().filter(|(first, _)| *first > oldest) else { break };
            let runs = reader.runs(&of_stage.clone().with_event(event.clone())).await?;
            let Some(begin) = runs.iter().map(|run| run.started_at).min() else { continue };
            if begin >= first {
                return Ok(runs.into_iter().max_by_key(|run| run.key.attempt));
            }
            latest.push((begin, event));
            asked.insert(event.clone(), begin);
        }
        size = size.saturating_mul(16);
    }
}

/// When each event began: its first attempt among these.
fn first_attempts(runs: &[RunRecord]) -> BTreeMap<&EventId, Timestamp> {
    let mut began = BTreeMap::new();
    for run in runs {
        let first = began.entry(&run.key.event_id).or_insert(run.started_at);
        *first = run.started_at.min(*first);
    }
    began
}

/// The current one of runs of one action's stage.
pub(crate) fn current_of(runs: Vec<RunRecord>) -> Option<RunRecord> {
    let latest = first_attempts(&runs).into_iter().max_by_key(|(event, first)| (*first, *event))?.0.clone();
    runs.into_iter().filter(|run| run.key.event_id == latest).max_by_key(|run| run.key.attempt)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream::BoxStream;
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{PAGE, current_by_pages, current_of, current_run};
    use crate::{
        ActionId, EventId, Hit, Lines, MemoryStore, Output, OutputReader, OutputSink, Result, RunId, RunKey,
        RunQuery, RunRecord, Search, Stage, Timestamp,
    };

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

    /// Counts the records that it answers.
    struct Counting(MemoryStore, AtomicUsize);

    #[async_trait::async_trait]
    impl OutputReader for Counting {
        async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
            let runs = self.0.runs(query).await?;
            self.1.fetch_add(runs.len(), Ordering::Relaxed);
            Ok(runs)
        }

        async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
            self.0.lines(run, lines).await
        }

        async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
            self.0.search(query, search).await
        }

        async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
            self.0.changes(query).await
        }
    }

    fn of_stage() -> RunQuery {
        let key = run("e", 1, 0).key;
        RunQuery::of(key.action_id, key.stage)
    }

    #[tokio::test]
    async fn a_stage_with_many_runs_is_not_read_whole() {
        let store = Counting(MemoryStore::new(), AtomicUsize::new(0));
        for n in 0..2_000 {
            store.0.begin(&run(&format!("e{n}"), 1, n)).await.unwrap();
        }
        let key = run("e", 1, 0).key;
        let current = || async { current_run(&store, &key.action_id, &key.stage).await.unwrap().unwrap() };
        assert_eq!(current().await.key.event_id.as_str(), "e1999");
        assert_eq!(store.1.swap(0, Ordering::Relaxed), PAGE + 1);
        // Old ones are tried again after the newest began.
        for n in 0..12 {
            store.0.begin(&run(&format!("e{n}"), 2, 3_000 + n)).await.unwrap();
        }
        assert_eq!(current().await.key.event_id.as_str(), "e1999");
        assert_eq!(store.1.swap(0, Ordering::Relaxed), PAGE + 2 * 12 + 1);
        for n in 12..1_000 {
            store.0.begin(&run(&format!("e{n}"), 2, 3_000 + n)).await.unwrap();
        }
        assert_eq!(current().await.key.event_id.as_str(), "e1999");
    }

    proptest! {
        #[test]
        fn pages_lead_to_the_run_that_all_records_lead_to(
            runs in proptest::collection::vec((0..9_u8, 1..5_u32, 0..12_i64), 0..60), size in 1..8_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = MemoryStore::new();
                for (event, attempt, began) in runs {
                    store.begin(&run(&format!("e{event}"), attempt, began)).await.unwrap();
                }
                let expected = current_of(store.runs(&of_stage()).await.unwrap());
                prop_assert_eq!(current_by_pages(&store, &of_stage(), size).await.unwrap(), expected);
                Ok(())
            })?;
        }
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
