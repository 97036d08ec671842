//! `--spool`: output waits on the local disk until a store takes it.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pubsub_pipeline::{
    ActionId, Appended, Error, ErrorKind, EventId, Exit, ExitClassification as _, ExitTable, LineBatch,
    LineEnd, LineNumber, OutputSink, Result, RunKey, RunRecord, SealBuilder, SpoolConfig, Spooled, Stage,
    Stream, Timestamp, name,
};

use crash::Place;

#[test]
fn a_run_goes_through_the_spool_to_its_store() {
    let place = Place::new();
    let words = ["--store", "file:far", "--spool", "spool"];
    place.expect(0, &[&words[..], &["stream", "a", "s", "--", "sh", "-c", "echo one; echo two"]].concat());
    assert_eq!(place.expect(0, &["--store", "file:far", "get-logs", "a", "s"]).out, "one\ntwo\n");
    place.expect(0, &["--store", "file:far", "verify", "a", "s"]);
    let left = std::fs::read_dir(place.path().join("spool")).unwrap();
    for store in left {
        let left = std::fs::read_dir(store.unwrap().path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["format.json"], "what was shipped is freed");
    }
}

/// How many bytes lie in the segments below a folder.
fn spooled(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.map(|entry| {
        let path = entry.unwrap().path();
        match path.extension() {
            Some(end) if end == "segment" => std::fs::metadata(path).unwrap().len(),
            _ => spooled(&path),
        }
    });
    bytes.sum()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_a_killed_process_left_in_its_spool_is_shipped_by_the_next() {
    let place = Place::new();
    let words = ["--store", "file:far", "--spool", "spool"];
    let script = "echo one; echo two; sleep 60";
    let running = place.start(&[&words[..], &["stream", "a", "s", "--", "sh", "-c", script]].concat());
    // What was shown may not be in the spool yet.
    until("the spool has both lines", || spooled(&place.path().join("spool")) > "one\ntwo\n".len() as u64);
    drop(running);
    place.expect(0, &[&words[..], &["stream", "b", "s", "--", "true"]].concat());
    assert_eq!(place.expect(0, &["--store", "file:far", "get-logs", "a", "s"]).out, "one\ntwo\n");
}

#[test]
fn what_waits_in_a_spool_is_removed_with_its_run() {
    let place = Place::new();
    let words = ["--store", "file:far", "--spool", "spool"];
    let script = "echo one; echo two; sleep 60";
    let mut running = place.start(&[&words[..], &["stream", "a", "s", "--", "sh", "-c", script]].concat());
    assert_eq!(running.line(), "one\n");
    // The other process has it, and it is running.
    until("the store has it", || {
        place.run(&["--store", "file:far", "get-logs", "a", "s"]).out == "one\ntwo\n"
    });
    assert!(
        place.expect(4, &["remove", "a", "--store", "file:far", "--spool", "spool"]).err.contains("--force")
    );
    place.expect(0, &["remove", "a", "--store", "file:far", "--spool=spool", "--force"]);
    place.expect(3, &["--store", "file:far", "get-logs", "a", "s"]);
    drop(running);
}

/// A sink that is out of reach.
struct Away;

#[async_trait]
impl OutputSink for Away {
    async fn begin(&self, _: &RunRecord) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "away"))
    }

    async fn append(&self, _: &RunKey, _: &[LineBatch]) -> Result<Appended> {
        Err(Error::new(ErrorKind::Unavailable, "away"))
    }

    async fn finish(&self, _: &RunRecord) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "away"))
    }
}

/// What a process left in the spool of store `far`, which it never reached.
fn left(place: &Place, actions: &[&str]) {
    let far = place.path().join("far").display().to_string();
    let folder = place.path().join("spool").join(format!("file-{}", name::encode(&far)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spooled = Spooled::open(Away, SpoolConfig::new(folder)).await.unwrap();
        for action in actions {
            let (action, stage) = (ActionId::new(*action).unwrap(), Stage::new("s").unwrap());
            let mut record = RunRecord::begun(RunKey::new(action, stage, EventId::generate(), 1), "w");
            spooled.begin(&record).await.unwrap();
            let (first, time) = (LineNumber::FIRST, Timestamp::now());
            let line = LineBatch::split(first, time, Stream::Stdout, "left\n".into(), LineEnd::None).unwrap();
            spooled.append(&record.key, std::slice::from_ref(&line)).await.unwrap();
            let (exit, mut seal) = (Exit::code(0), SealBuilder::new());
            seal.add(&line);
            record.complete(&exit, ExitTable::default().classify(&exit), &seal.seal());
            spooled.finish(&record).await.unwrap();
        }
        spooled.close(Duration::ZERO).await.unwrap_err();
    });
}

#[test]
fn a_run_that_only_waits_in_the_spool_is_removed_and_never_shipped() {
    let place = Place::new();
    left(&place, &["a", "b"]);
    let words = ["--store", "file:far", "--spool", "spool"];
    place.expect(3, &["remove", "a", "--store", "file:far"]);
    assert!(place.expect(0, &[&words[..], &["remove", "a"]].concat()).out.ends_with(" removed\n"));
    place.expect(3, &[&words[..], &["remove", "a"]].concat());
    // This one ships what is left.
    place.expect(0, &[&words[..], &["stream", "c", "s", "--", "true"]].concat());
    let runs = place.expect(0, &["list", "--store", "file:far", "--json"]).documents();
    let mut actions: Vec<_> = runs.iter().map(|run| run["action_id"].as_str().unwrap()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["b", "c"]);
}

#[test]
fn what_waits_in_a_spool_is_listed_and_damage_is_told() {
    let place = Place::new();
    let told = place.expect(2, &["spool"]);
    assert!(told.err.contains("--spool DIR"), "{told:?}");
    let told = place.expect(3, &["--spool", "spool", "spool"]);
    assert!(told.err.contains("there is no folder spool"), "{told:?}");
    left(&place, &["a"]);
    // Whichever stores are named now.
    let words = ["--spool", "spool", "spool"];
    let listed = place.expect(0, &[&["--json"], &words[..]].concat()).documents();
    assert_eq!((&listed[0]["action_id"], &listed[0]["lines"], listed.len()), (&"a".into(), &1.into(), 1));
    let told = place.expect(0, &words).out;
    assert!(told.starts_with("a s attempt 1: 1 line, ") && told.ends_with("/far\n"), "{told}");
    let spools = std::fs::read_dir(place.path().join("spool")).unwrap().map(|entry| entry.unwrap().path());
    let runs = spools.flat_map(|spool| std::fs::read_dir(spool).unwrap()).map(|entry| entry.unwrap().path());
    let segment = runs.map(|run| run.join("000000000000.segment")).find(|segment| segment.exists()).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let told = place.expect(1, &words).out;
    assert!(told.contains("damaged: segment 0"), "{told}");
}
