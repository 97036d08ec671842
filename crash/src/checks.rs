//! What has to hold once a round is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::accounts::balance;
use crate::kills::Seen;
use crate::planned::{Planned, Stores, actions, worker};
use crate::{LIMIT, Place, Witness, concluded, logs, none_is_running, runs, to_the_end};

/// Whether its worker died so often that it was given up.
pub(crate) fn is_exhausted(run: &Value) -> bool {
    run["cause"] == "lease_lost"
}

/// No event is lost or run again, and each final output is whole in every store.
pub(crate) fn check_builds(
    place: &Place,
    events: &[Planned],
    stores: Stores,
    seen: &Seen,
    witness: &Witness,
) {
    let mut concluded_events = BTreeSet::new();
    for action in actions() {
        for (event, runs) in &runs(place, &action, "build") {
            let planned = events.iter().find(|planned| planned.id == *event).unwrap();
            assert_eq!(planned.action, action);
            let last = concluded(witness, "build", event, runs);
            concluded_events.insert(event.clone());
            let attempt = last["attempt"].as_u64().unwrap();
            if is_exhausted(last) {
                assert_eq!((&last["outcome"], &last["lines"]), (&"failed".into(), &0.into()), "{last}");
                continue;
            }
            assert_eq!(last["code"].as_u64(), Some(planned.code), "{last}");
            let ends = witness.attempts("end", "build", event);
            assert_eq!(ends.last(), Some(&attempt), "{runs:#?}");
            balance(place, stores, last, &planned.prints(last));
        }
    }
    let lost: Vec<_> = seen.published.difference(&concluded_events).collect();
    assert!(lost.is_empty(), "published and never concluded: {lost:?}");
}

/// Each conclusion was told once.
pub(crate) fn check_told(place: &Place) {
    let text = fs::read_to_string(place.path().join("told")).unwrap();
    let run_of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["run_id"].clone();
    let mut told: Vec<_> = text.lines().map(|line| run_of(line).to_string()).collect();
    told.sort_unstable();
    let stages = || ["build", "test"].into_iter();
    let all = actions().flat_map(|action| stages().map(move |stage| runs(place, &action, stage)));
    let all: Vec<_> = all.flat_map(BTreeMap::into_values).flatten().collect();
    let finals = all.iter().filter(|run| run["final"] == true);
    let mut finals: Vec<_> = finals.map(|run| run["run_id"].to_string()).collect();
    finals.sort_unstable();
    assert_eq!(told, finals);
}

/// The chain went on once where the first stage said so, with what its final attempt wrote, and nowhere else.
pub(crate) fn check_tests(place: &Place, stores: Stores, witness: &Witness) {
    for action in actions() {
        let builds = runs(place, &action, "build");
        let going_on =
            builds.values().flatten().filter(|run| run["final"] == true && run["continues"] == true);
        let mut given: Vec<_> = going_on.map(|run| run["attempt"].as_u64().unwrap()).collect();
        let tests = runs(place, &action, "test");
        assert_eq!(tests.len(), given.len(), "{action}: {builds:#?} {tests:#?}");
        for (event, runs) in &tests {
            let last = concluded(witness, "test", event, runs);
            if is_exhausted(last) {
                continue;
            }
            assert_eq!(last["outcome"], "succeeded", "{last}");
            let printed = logs(place, &action, "test", last).out;
            balance(place, stores, last, &[printed.trim_end().to_owned()]);
            let payload: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(payload["payload"], serde_json::json!([1]));
            let from: u64 = payload["values"]["from"].as_str().unwrap().parse().unwrap();
            let at = given.iter().position(|attempt| *attempt == from);
            given.swap_remove(at.unwrap_or_else(|| panic!("{payload} of {builds:#?}")));
        }
    }
}

/// What is in a spool is what no store could have had: runs whose owner died. It goes once they count as lost, which a
/// spool knows by their silence alone.
fn check_spools(place: &Place) {
    if !place.path().join("spool").exists() {
        return;
    }
    let worker = worker("build", Stores::Spooled);
    let mut words: Vec<_> = worker.iter().map(String::as_str).collect();
    words.insert(1, "--until-idle");
    let limit = Instant::now() + LIMIT;
    loop {
        to_the_end(place, &words);
        let left = left_in_spools(place);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < limit, "left in the spool: {left:?}");
        thread::sleep(Duration::from_secs(1));
    }
}

fn left_in_spools(place: &Place) -> Vec<String> {
    let spool = place.path().join("spool");
    let mut folders: Vec<_> = names(&spool).iter().map(|name| spool.join(name)).collect();
    // What is held back of outputs over their limit lies beside, by store as well.
    let held_back = spool.join("held-back");
    folders.retain(|folder| *folder != held_back);
    if held_back.exists() {
        folders.extend(names(&held_back).iter().map(|name| held_back.join(name)));
    }
    let all = folders.iter().flat_map(|folder| names(folder));
    all.filter(|name| name != "format.json").collect()
}

/// No damage was met.
pub(crate) fn check_folders(place: &Place, stores: Stores) {
    let broker = names(&place.path().join(".pipeline/broker"));
    assert!(!broker.iter().any(|name| name.contains("damaged")), "set aside: {broker:?}");
    let mut folders = vec![".pipeline"];
    folders.extend((stores != Stores::One).then_some("second"));
    for folder in folders {
        let trash = names(&place.path().join(folder).join("trash"));
        assert!(trash.is_empty(), "left in the trash: {trash:?}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The folder takes new work, and finishes it.
pub(crate) fn check_opens(place: &Place) {
    place.expect(0, &["stream", "afterwards", "s", "--", "echo", "still here"]);
    assert_eq!(place.expect(0, &["get-logs", "afterwards", "s"]).out, "still here\n");
    place.expect(0, &["publish", "afterwards", "t", "--id", "afterwards"]);
    place.expect(0, &["work", "--on", "t:*", "--stage", "s", "--until-idle", "--", "echo", "and works"]);
    assert_eq!(place.expect(0, &["get-logs", "afterwards", "s"]).out, "and works\n");
}

/// What was left in silence is told as lost in the end.
pub fn none_is_left_running(place: &Place) {
    for action in actions() {
        none_is_running(place, &action, "build");
        none_is_running(place, &action, "test");
    }
    check_spools(place);
}
