//! Records of several stores as one list.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::{Gap, RunId, RunQuery, RunRecord, RunStatus};

/// What one store with all of these records would answer; those of the nearest store come first.
///
/// With a limit each store gives its newest, and what is among the newest of all is among the newest of its store.
pub(super) fn merged(query: &RunQuery, answers: Vec<Vec<RunRecord>>) -> Vec<RunRecord> {
    let mut runs: HashMap<RunId, RunRecord> = HashMap::new();
    for record in answers.into_iter().flatten() {
        match runs.entry(record.key.run_id.clone()) {
            Entry::Vacant(new) => {
                new.insert(record);
            }
            Entry::Occupied(mut known) => {
                let joined = joined(known.get().clone(), record);
                known.insert(joined);
            }
        }
    }
    let mut records: Vec<RunRecord> = runs.into_values().collect();
    records.sort_by(|a, b| (b.started_at, &b.key.run_id).cmp(&(a.started_at, &a.key.run_id)));
    records.truncate(query.limit.unwrap_or(usize::MAX));
    records
}

/// One record of two of a run.
pub(super) fn joined(nearer: RunRecord, other: RunRecord) -> RunRecord {
    let holes = in_both(&nearer.holes, &other.holes);
    let rank = |record: &RunRecord| (record.status == RunStatus::Completed, record.revision);
    let later = if rank(&other) > rank(&nearer) { other } else { nearer };
    RunRecord { holes, ..later }
}

/// What both lack, for the reason of the nearer.
fn in_both(nearer: &[Gap], other: &[Gap]) -> Vec<Gap> {
    let (mut common, mut rest) = (Vec::new(), other);
    for hole in nearer {
        let passed = rest.iter().take_while(|other| other.range.last < hole.range.first).count();
        rest = rest.get(passed..).unwrap_or_default();
        let within = rest.iter().take_while(|other| other.range.first <= hole.range.last);
        common.extend(within.filter_map(|other| hole.slice(other.range)));
    }
    common
}

#[cfg(test)]
mod tests {
    use super::{in_both, joined, merged};
    use crate::conformance::store::{SampleRun, at};
    use crate::{Counts, Gap, LineRange, RunQuery, RunRecord};

    fn gap(first: u64, last: u64, reason: &str) -> Gap {
        Gap { range: LineRange::new(at(first), at(last)), bytes: None, reason: reason.to_owned() }
    }

    #[test]
    fn of_two_records_the_end_wins_then_the_revision_then_the_nearer() {
        let begun = SampleRun::new().record;
        let beaten = |times: u64| {
            let mut record = begun.clone();
            (0..times).for_each(|_| record.beat(Counts::default()));
            // The same at each call.
            record.beat_at = begun.beat_at;
            record
        };
        let mut ended = SampleRun::new();
        ended.record = beaten(2);
        ended.complete();
        let ended = ended.record;
        let mut elsewhere = ended.clone();
        elsewhere.owner = "elsewhere".to_owned();
        for (nearer, other, wins) in [
            (beaten(1), beaten(2), beaten(2)),
            (beaten(2), beaten(1), beaten(2)),
            (ended.clone(), elsewhere.clone(), ended.clone()),
            (elsewhere.clone(), ended.clone(), elsewhere),
            // A sign of life that came after the end changes nothing, whichever store took it.
            (beaten(9), ended.clone(), ended.clone()),
            (ended.clone(), beaten(9), ended.clone()),
        ] {
            // What one store would have kept of both.
            let kept = nearer.followed_by(&other).unwrap_or_else(|| nearer.clone());
            assert!(kept == wins || nearer.revision == 10, "{kept:?}");
            assert_eq!(joined(nearer, other), wins);
        }
    }

    #[test]
    fn holes_are_those_that_both_have_for_the_reason_of_the_nearer() {
        let nearer = [gap(1, 5, "a"), gap(8, 20, "b"), gap(30, 30, "c")];
        let other = [gap(4, 9, "x"), gap(12, 12, "x"), gap(19, 30, "x")];
        let both = [gap(4, 5, "a"), gap(8, 9, "b"), gap(12, 12, "b"), gap(19, 20, "b"), gap(30, 30, "c")];
        assert_eq!(in_both(&nearer, &other), both);
        assert_eq!(in_both(&nearer, &[]), []);
    }

    #[test]
    fn a_limit_takes_the_newest_of_all() {
        let began = |micros: i64| -> RunRecord {
            let mut record = SampleRun::new().record;
            record.started_at = crate::Timestamp::from_micros(micros);
            record
        };
        let runs: Vec<_> = (0..6).map(began).collect();
        let newest = |of: &[usize]| of.iter().map(|n| runs[*n].clone()).collect::<Vec<_>>();
        let query = RunQuery::all().with_limit(3);
        let answers = vec![newest(&[4, 2, 0]), newest(&[5, 4, 1]), newest(&[])];
        assert_eq!(merged(&query, answers), newest(&[5, 4, 2]));
    }
}
