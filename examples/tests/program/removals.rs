//! `kill -9` of `expire` and `remove` at random instants: a run is whole or gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use pubsub_pipeline::{
    ActionId, EventId, Exit, ExitClassification as _, ExitTable, FileStore, FileStoreConfig, LineBatch,
    LineEnd, LineNumber, OutputSink as _, RunKey, RunRecord, SealBuilder, Stage, Stream, Timestamp,
};

use crate::Place;

const RUNS: u64 = 120;

/// So many runs of one action, each with three lines.
fn written(place: &Place, action: &str, runs: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = FileStore::connect(FileStoreConfig::new(place.path().join(".pipeline"))).await.unwrap();
        for _ in 0..runs {
            let (action, stage) = (ActionId::new(action).unwrap(), Stage::new("s").unwrap());
            let mut record = RunRecord::begun(RunKey::new(action, stage, EventId::generate(), 1), "w");
            let (now, exit, mut seal) = (Timestamp::now(), Exit::code(0), SealBuilder::new());
            let lines =
                LineBatch::split(LineNumber::FIRST, now, Stream::Stdout, "1\n2\n3\n".into(), LineEnd::None);
            let lines = lines.unwrap();
            seal.add(&lines);
            store.begin(&record).await.unwrap();
            store.append(&record.key, &[lines]).await.unwrap();
            record.complete(&exit, ExitTable::default().classify(&exit), &seal.seal());
            store.finish(&record).await.unwrap();
        }
    });
}

/// The names of the files and folders so many levels below a folder.
fn below(folder: &Path, levels: u32) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    if levels == 0 {
        return entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    }
    entries.flat_map(|entry| below(&entry.path(), levels - 1)).collect()
}

/// The runs that are listed: each of them is whole, and of no other is anything left.
fn whole(place: &Place) -> BTreeSet<String> {
    let runs = place.expect(0, &["list", "--limit", "1000", "--json"]).documents();
    let listed: BTreeSet<String> =
        runs.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect();
    assert!(runs.iter().all(|run| run["status"] == "completed" && run["lines"] == 3));
    let folder = place.path().join(".pipeline");
    assert_eq!(below(&folder.join("runs"), 2), listed, "what is there is listed");
    assert_eq!(below(&folder.join("ids"), 1), listed, "and found by its id");
    assert_eq!(below(&folder.join("trash"), 0), BTreeSet::new());
    for run in runs.iter().take(2) {
        let of = |name: &str| run[name].as_str().unwrap().to_owned();
        place.expect(0, &["verify", &of("action_id"), "s", "--run", &of("run_id")]);
    }
    listed
}

/// Kills a subcommand again and again, later each time, until it ends by itself.
fn killed(place: &Place, words: &[&str]) -> u32 {
    let (mut kills, mut left) = (0, whole(place));
    for wait in (0..).map(|n| Duration::from_millis(4 + 3 * n)) {
        let mut running = place.start(words);
        sleep(wait);
        if running.child.try_wait().unwrap().is_some() {
            return kills;
        }
        drop(running);
        kills += 1;
        let now = whole(place);
        assert!(now.is_subset(&left), "none comes back");
        left = now;
    }
    kills
}

#[test]
fn a_killed_expire_leaves_no_half_run_and_the_next_one_goes_on() {
    let place = Place::new();
    written(&place, "a", RUNS);
    let newest: Vec<_> = place.expect(0, &["list", "--limit", "5", "--json"]).documents();
    let kills = killed(&place, &["expire", "--max-runs", "5"]);
    assert!(kills > 0, "it was killed at least once");
    let newest = newest.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(whole(&place), newest);
}

#[test]
fn a_killed_remove_leaves_no_half_run_and_nothing_of_another_action() {
    let place = Place::new();
    written(&place, "a", 2);
    let stays = whole(&place);
    written(&place, "b", RUNS);
    let kills = killed(&place, &["remove", "b"]);
    assert!(kills > 0, "it was killed at least once");
    assert_eq!(whole(&place), stays);
}
