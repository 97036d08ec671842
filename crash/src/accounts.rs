//! The account of a run in each store: every number is there once, as a line or in a gap.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Place;
use crate::planned::{SECOND, Stores};

/// The record as a store has it.
fn record_in(place: &Place, store: &[&str], run: &Value) -> Value {
    if store.is_empty() {
        return run.clone();
    }
    let [action, stage, id] = ["action_id", "stage", "run_id"].map(|name| run[name].as_str().unwrap());
    let words = [store, &["get-status", action, stage, "--run", id, "--json"]].concat();
    place.expect(0, &words).documents().remove(0)
}

/// Checks the output of a run that has ended, in every store: its lines are what was printed, in order; what is not
/// there is in a gap; and the seal is that of what is there.
pub(crate) fn balance(place: &Place, stores: Stores, run: &Value, printed: &[String]) {
    let [action, stage, id] = ["action_id", "stage", "run_id"].map(|name| run[name].as_str().unwrap());
    let mut places = vec![&[][..]];
    places.extend((stores != Stores::One).then_some(&SECOND[..]));
    for store in places {
        let of = |words: &[&str]| place.expect(0, &[store, words, &[action, stage, "--run", id]].concat());
        of(&["verify"]);
        let record = record_in(place, store, run);
        for name in ["status", "outcome", "final", "digest", "lines", "bytes"] {
            assert_eq!(record[name], run[name], "{name} in {store:?}: {record} {run}");
        }
        let lines = of(&["get-logs", "--json"]).documents();
        assert_eq!(record["lines"].as_u64(), Some(lines.len() as u64), "{store:?}: {record}");
        let mut numbers = BTreeMap::<u64, u64>::new();
        for line in &lines {
            let number = line["line"].as_u64().unwrap();
            let expected = usize::try_from(number - 1).ok().and_then(|at| printed.get(at));
            assert_eq!(line["text"].as_str(), expected.map(String::as_str), "line {number} of {record}");
            *numbers.entry(number).or_default() += 1;
        }
        for gap in record["gaps"].as_array().unwrap() {
            let [first, last] = ["first", "last"].map(|end| gap[end].as_u64().unwrap());
            (first..=last).for_each(|number| *numbers.entry(number).or_default() += 1);
        }
        let all = (1..=printed.len() as u64).map(|number| (number, 1));
        assert!(numbers.iter().map(|(number, times)| (*number, *times)).eq(all), "an account of {record}");
        assert!(lines.is_sorted_by_key(|line| line["line"].as_u64()), "in order: {record}");
    }
}
