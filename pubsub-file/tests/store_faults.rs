//! What others do to the store's folder: links, rotation, changed bytes, locks that are held, removal half done.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use proptest::prelude::{Just, ProptestConfig, prop_assert_eq, prop_oneof, proptest};
use pubsub_core::{
    ActionId, Durability, ErrorKind, EventId, Gap, LineBatch, LineEnd, LineNumber, Lines, OutputItem,
    OutputReader as _, OutputSink as _, Retention as _, RunKey, RunQuery, RunRecord, Search, Stage, Stream,
    Timestamp,
};
use pubsub_file::{FileStore, FileStoreConfig};

const LONG: Duration = Duration::from_secs(30);

async fn open(folder: &Path) -> FileStore {
    FileStore::connect(FileStoreConfig::new(folder)).await.unwrap()
}

fn batch(first: u64, text: impl Into<Vec<u8>>, tail: LineEnd) -> LineBatch {
    let first = LineNumber::new(first).unwrap();
    LineBatch::split(first, Timestamp::now(), Stream::Stdout, text.into().into(), tail).unwrap()
}

fn record() -> RunRecord {
    let key = RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
    RunRecord::begun(key, "w")
}

fn folder_of(root: &Path, record: &RunRecord) -> PathBuf {
    root.join("runs/a/s").join(record.key.run_id.as_str())
}

async fn items(store: &FileStore, record: &RunRecord) -> Vec<OutputItem> {
    let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
    output.items.map(Result::unwrap).collect().await
}

/// Lines as text, gaps as their numbers in brackets.
async fn shape(store: &FileStore, record: &RunRecord) -> Vec<String> {
    let told = |item| match item {
        OutputItem::Lines(batch) => batch.lines().map(|line| line.text().into_owned()).collect::<Vec<_>>(),
        OutputItem::Gap(Gap { range, .. }) => vec![format!("[{}-{}]", range.first, range.last)],
    };
    items(store, record).await.into_iter().flat_map(told).collect()
}

/// Everything below a folder.
fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_link_planted_where_ids_are_kept_is_refused() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(root.path()).await;
    let record = record();
    let digits = record.key.run_id.as_str().get(..2).unwrap();
    fs::create_dir(root.path().join("ids")).unwrap();
    symlink(outside.path(), root.path().join("ids").join(digits)).unwrap();
    assert_eq!(store.begin(&record).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(count(outside.path()), 0);
    // Nor is anything read from there.
    let planted = format!("runs/a/s/{}", record.key.run_id);
    fs::write(outside.path().join(record.key.run_id.as_str()), planted).unwrap();
    let error = store.lines(&record.key.run_id, Lines::ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_link_planted_for_the_trash_moves_no_run_out_of_the_folder() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    fs::remove_dir(root.path().join("trash")).unwrap();
    symlink(outside.path(), root.path().join("trash")).unwrap();
    assert_eq!(store.remove(&record.key.run_id).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(folder_of(root.path(), &record).is_dir());
    assert_eq!(count(outside.path()), 0);
}

#[tokio::test]
async fn a_link_planted_before_the_store_was_made_is_refused() {
    for name in ["runs", "ids", "trash"] {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join(name)).unwrap();
        fs::create_dir(outside.path().join("theirs")).unwrap();
        let error = open(root.path()).await.begin(&record()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{name}");
        assert_eq!(count(outside.path()), 1, "{name}");
    }
}

#[tokio::test]
async fn connecting_needs_no_folder_in_reach_and_the_calls_say_that_it_is_away() {
    let root = tempfile::tempdir().unwrap();
    let obstacle = root.path().join("mount");
    fs::write(&obstacle, "a file where a folder is to be").unwrap();
    let store = open(&obstacle.join("store")).await;
    let mut record = record();
    let away = [
        store.begin(&record).await.unwrap_err(),
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap_err(),
        store.lines(&record.key.run_id, Lines::ALL).await.err().unwrap(),
        store.runs(&RunQuery::all()).await.unwrap_err(),
        store.runs(&RunQuery::of_run(record.key.run_id.clone())).await.unwrap_err(),
        store.remove(&record.key.run_id).await.unwrap_err(),
    ];
    for error in away {
        assert!(error.is_retryable(), "{}", error.chain());
    }
    // The same store goes on once it is there.
    fs::remove_file(&obstacle).unwrap();
    store.begin(&record).await.unwrap();
    store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
    assert_eq!(shape(&store, &record).await, ["one"]);
    // So it does where the whole folder goes, as where it is unmounted.
    fs::remove_dir_all(&obstacle).unwrap();
    record.revision += 1;
    store.begin(&record).await.unwrap();
}

#[tokio::test]
async fn a_reader_is_told_that_the_store_went_away_and_not_that_its_run_did() {
    let dir = tempfile::tempdir().unwrap();
    let (root, away) = (dir.path().join("store"), dir.path().join("away"));
    let (store, record, other) = (open(&root).await, record(), record());
    let kind = async |run| store.lines(run, Lines::ALL).await.map(drop).unwrap_err().kind();
    assert_eq!(kind(&record.key.run_id).await, ErrorKind::NotFound, "never made");
    store.begin(&record).await.unwrap();
    assert_eq!(kind(&other.key.run_id).await, ErrorKind::NotFound);
    fs::rename(&root, &away).unwrap();
    assert_eq!(kind(&record.key.run_id).await, ErrorKind::Unavailable);
    fs::rename(&away, &root).unwrap();
    assert!(items(&store, &record).await.is_empty());
}

#[tokio::test]
async fn a_store_of_a_newer_version_that_comes_into_reach_later_is_refused_and_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("store");
    let store = open(&folder).await;
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("format.json"), r#"{"version":2}"#).unwrap();
    let refused = [
        store.begin(&record()).await.unwrap_err(),
        store.runs(&RunQuery::all()).await.unwrap_err(),
        store.lines(&record().key.run_id, Lines::ALL).await.err().unwrap(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::TooNew, "{}", error.chain());
    }
    assert_eq!(count(&folder), 1);
}

#[tokio::test]
async fn what_a_killed_remover_left_in_the_trash_goes_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let left = root.path().join("trash/some-run-1-2");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("output.log"), "old\n").unwrap();
    drop(open(root.path()).await);
    assert_eq!(count(&root.path().join("trash")), 0);
}

#[tokio::test]
async fn lines_that_somebody_tore_up_are_told_as_a_gap_and_their_neighbours_stay() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    for (number, text) in [(1, "one\n"), (2, "two\n"), (3, "six\n")] {
        store.append(&record.key, &[batch(number, text, LineEnd::None)]).await.unwrap();
    }
    fs::write(folder_of(root.path(), &record).join("output.log"), "one\nt\no\nsix\n").unwrap();
    assert_eq!(shape(&store, &record).await, ["one", "[2-2]", "six"]);
    let search = Search::regex("[to]$").unwrap();
    let hits = store.search(&RunQuery::of_run(record.key.run_id.clone()), &search).await.unwrap();
    assert_eq!(hits.count().await, 0, "nothing is found in a gap");
}

#[tokio::test]
async fn only_what_was_cut_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    for (number, text) in [(1, "one\n"), (2, "two\n")] {
        store.append(&record.key, &[batch(number, text, LineEnd::None)]).await.unwrap();
    }
    fs::write(folder_of(root.path(), &record).join("output.log"), "one\ntw").unwrap();
    assert_eq!(shape(&store, &record).await, ["one", "[2-2]"]);
    // The writer goes on, and what comes is readable.
    store.append(&record.key, &[batch(3, "three\n", LineEnd::None)]).await.unwrap();
    assert_eq!(shape(&store, &record).await, ["one", "[2-2]", "three"]);
}

#[tokio::test]
async fn an_output_that_is_renamed_and_made_anew_takes_the_lines_that_follow() {
    for recreate in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        let folder = folder_of(root.path(), &record);
        fs::rename(folder.join("output.log"), folder.join("output.log.1")).unwrap();
        if recreate {
            fs::write(folder.join("output.log"), "").unwrap();
        }
        store.append(&record.key, &[batch(2, "two\n", LineEnd::None)]).await.unwrap();
        assert_eq!(fs::read_to_string(folder.join("output.log.1")).unwrap(), "one\n");
        assert_eq!(shape(&store, &record).await, ["[1-1]", "two"], "made anew: {recreate}");
    }
}

#[tokio::test]
async fn a_run_whose_files_are_held_does_not_hold_up_another() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let (held, free) = (record(), record());
    store.begin(&held).await.unwrap();
    store.begin(&free).await.unwrap();
    let lock = fs::File::open(folder_of(root.path(), &held).join("index")).unwrap();
    lock.lock().unwrap();
    let waiting: Vec<_> = (1..=4)
        .map(|number| {
            let (store, key) = (store.clone(), held.key.clone());
            tokio::spawn(async move { store.append(&key, &[batch(number, "x\n", LineEnd::None)]).await })
        })
        .collect();
    for number in 1..=50 {
        let lines = [batch(number, "free\n", LineEnd::None)];
        let appended = tokio::time::timeout(LONG, store.append(&free.key, &lines)).await;
        assert!(appended.is_ok(), "line {number} of another run waits");
        appended.unwrap().unwrap();
    }
    assert!(waiting.iter().all(|task| !task.is_finished()));
    lock.unlock().unwrap();
    for task in waiting {
        tokio::time::timeout(LONG, task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_repeated_record_wakes_those_whom_the_first_one_may_not_have_reached() {
    let root = tempfile::tempdir().unwrap();
    let (store, reader) = (open(root.path()).await, open(root.path()).await);
    let record = record();
    store.begin(&record).await.unwrap();
    let mut changes = reader.changes(&RunQuery::of_run(record.key.run_id.clone())).await.unwrap();
    changes.next().await.unwrap().unwrap();
    store.begin(&record).await.unwrap();
    tokio::time::timeout(LONG, changes.next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_store_against_power_loss_does_the_same() {
    let root = tempfile::tempdir().unwrap();
    let config = FileStoreConfig::new(root.path()).with_durability(Durability::PowerLoss);
    let store = FileStore::connect(config).await.unwrap();
    let mut record = record();
    store.begin(&record).await.unwrap();
    store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
    record.note("n", "t", None);
    store.finish(&record).await.unwrap();
    assert_eq!(shape(&open(root.path()).await, &record).await, ["one"]);
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), [record.clone()]);
    assert!(store.remove(&record.key.run_id).await.unwrap());
}

#[tokio::test]
async fn runs_come_and_go_side_by_side_in_one_stage() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    // Whoever removes the last run of a stage takes its folder away, perhaps while another makes its run in it.
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    let record = record();
                    store.begin(&record).await.unwrap();
                    assert!(store.remove(&record.key.run_id).await.unwrap());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(store.runs(&RunQuery::all()).await.unwrap().is_empty());
}

/// Patterns in which the text around a line could matter if it were seen.
const PATTERNS: [&str; 24] = [
    "a",
    "^.$",
    r"\x{fffd}$",
    r"^\x{fffd}{2}",
    "é|a.b",
    "^a",
    "a$",
    "^$",
    r"\Aa",
    r"a\z",
    r"\s",
    "[^a]",
    r"[^a]b",
    r"a\nb",
    "a.b",
    "(?s)a.b",
    r"\ba",
    r"a\B",
    "b*",
    r"\r",
    "(?-m:^)b",
    "(?R)a$",
    "é",
    "(?i)A|B$",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The model is the pattern on each line alone.
    #[test]
    fn a_search_finds_what_each_line_alone_says(
        parts in proptest::collection::vec((
            proptest::collection::vec(
                proptest::sample::select(vec![
                    &b"a"[..], b"b", b" ", b"\n", b"\n", b"\r", b"\r\n", b"\xff", b"\xe2\x82", b"\xac", "é".as_bytes(),
                ]),
                1..12,
            ),
            prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)],
            prop_oneof![Just(LineEnd::Part), Just(LineEnd::None)],
        ), 1..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path()).await;
            let record = record();
            store.begin(&record).await.unwrap();
            let (mut next, mut model) = (LineNumber::FIRST, Vec::new());
            for (bytes, stream, tail) in parts {
                let batch = LineBatch::split(next, Timestamp::EPOCH, stream, bytes.concat().into(), tail).unwrap();
                next = batch.last().plus(1);
                model.extend(batch.lines());
                store.append(&record.key, &[batch]).await.unwrap();
            }
            for pattern in PATTERNS {
                let search = Search::regex(pattern).unwrap();
                let found = store.search(&RunQuery::all(), &search).await.unwrap();
                let found: Vec<_> = found.map(|hit| hit.unwrap().line).collect().await;
                let expected: Vec<_> = model.iter().filter(|l| search.is_match(&l.bytes)).cloned().collect();
                prop_assert_eq!(found, expected, "{}", pattern);
            }
            for text in ["a", "b\n", "", " ", "é", "\u{fffd}", "a\u{fffd}"] {
                let search = Search::literal(text).unwrap();
                let found = store.search(&RunQuery::all(), &search).await.unwrap();
                let found: Vec<_> = found.map(|hit| hit.unwrap().line).collect().await;
                let expected: Vec<_> = model.iter().filter(|l| search.is_match(&l.bytes)).cloned().collect();
                prop_assert_eq!(found, expected, "{:?}", text);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn an_index_that_was_lost_is_made_again_from_the_output_and_nothing_printed_is_cut() {
    for keep in [0, 40] {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        store.append(&record.key, &[batch(2, "two\nthree\n", LineEnd::None)]).await.unwrap();
        let folder = folder_of(root.path(), &record);
        // As a power loss leaves it: as long as before, and zeros.
        let mut index = fs::read(folder.join("index")).unwrap();
        index.get_mut(keep..).unwrap().fill(0);
        fs::write(folder.join("index"), index).unwrap();
        let store = open(root.path()).await;
        assert_eq!(shape(&store, &record).await, ["one", "two", "three"], "read, {keep}");
        assert_eq!(fs::read_to_string(folder.join("output.log")).unwrap(), "one\ntwo\nthree\n");
        // The owner sends again what it is not sure of, and goes on.
        store.append(&record.key, &[batch(3, "three\nfour\n", LineEnd::None)]).await.unwrap();
        assert_eq!(fs::read_to_string(folder.join("output.log")).unwrap(), "one\ntwo\nthree\nfour\n");
        let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
        let lines: Vec<_> = output.items.map(Result::unwrap).collect().await;
        let flags = lines.iter().flat_map(|item| match item {
            OutputItem::Lines(batch) => batch.lines().map(|l| (l.text().into_owned(), l.recovered)).collect(),
            OutputItem::Gap(_) => Vec::new(),
        });
        let expected = [("one", keep == 0), ("two", true), ("three", true), ("four", false)];
        assert!(flags.eq(expected.map(|(text, flag)| (text.to_owned(), flag))), "{keep}: {lines:?}");
    }
}

#[tokio::test]
async fn the_parts_of_a_line_are_searched_apart_though_the_file_has_them_together() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    let parts = [batch(1, "xa", LineEnd::Part), batch(2, "bx\n", LineEnd::None)];
    store.append(&record.key, &parts).await.unwrap();
    for (pattern, expected) in [("a$", 1), ("^b", 1), ("ab", 0)] {
        let search = Search::regex(pattern).unwrap();
        let hits = store.search(&RunQuery::all(), &search).await.unwrap();
        assert_eq!(hits.count().await, expected, "{pattern}");
    }
}

#[tokio::test]
async fn a_search_through_more_than_one_step_finds_every_line_in_order() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    let text = |n: u64| format!("{n:05} {}\n", "x".repeat(60_000));
    for first in (1..=400).step_by(10) {
        let batches: Vec<_> = (first..first + 10).map(|n| batch(n, text(n), LineEnd::None)).collect();
        store.append(&record.key, &batches).await.unwrap();
    }
    let numbers = async |search: Search| -> Vec<u64> {
        let hits = store.search(&RunQuery::all(), &search).await.unwrap();
        hits.map(|hit| hit.unwrap().line.number.get()).collect().await
    };
    assert_eq!(numbers(Search::regex("^00[0-9]+ x").unwrap()).await, (1..=400).collect::<Vec<_>>());
    assert_eq!(
        numbers(Search::regex("^0[0-9]+3 x").unwrap()).await,
        (3..=400).step_by(10).collect::<Vec<_>>()
    );
    assert_eq!(numbers(Search::literal("00399 ").unwrap()).await, [399]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever an index says, what is shown as printed was printed, and nothing is read without end.
    #[test]
    fn garbage_in_the_index_shows_no_line_that_was_not_printed(
        at in 0usize..200, garbage in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path()).await;
            let record = record();
            store.begin(&record).await.unwrap();
            for number in 1..=5 {
                store.append(&record.key, &[batch(number, format!("line {number}\n"), LineEnd::None)]).await.unwrap();
            }
            let path = folder_of(root.path(), &record).join("index");
            let mut index = fs::read(&path).unwrap();
            index.splice(at..(at + garbage.len()).min(200), garbage);
            fs::write(&path, index).unwrap();
            let seen = tokio::time::timeout(LONG, items(&store, &record)).await.unwrap();
            for item in seen {
                if let OutputItem::Lines(batch) = item {
                    for line in batch.lines() {
                        let expected = format!("line {}", line.number);
                        prop_assert_eq!(line.text(), expected);
                    }
                }
            }
            Ok(())
        })?;
    }
}

/// A file system of two megabytes, away with the test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .status();
        assert!(mount.unwrap().success());
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "needs root: mounts a small tmpfs"]
async fn a_full_disk_is_told_and_the_store_goes_on_once_there_is_room() {
    let small = Small::mount();
    let root = small.0.path().join("store");
    let record = record();
    {
        let store = open(&root).await;
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        let ballast = small.0.path().join("ballast");
        let big = vec![0; 1 << 20];
        fs::write(&ballast, &big).unwrap();
        let lines: Vec<_> =
            (2..=40).map(|n| batch(n, format!("{n} {}\n", "x".repeat(50_000)), LineEnd::None)).collect();
        let error = store.append(&record.key, &lines).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{}", error.chain());
        let seen = shape(&store, &record).await;
        assert_eq!(seen.first().unwrap(), "one");
        assert!(
            seen.iter().skip(1).zip(2..).all(|(line, n)| line.starts_with(&format!("{n} x"))),
            "whole lines"
        );
        // Without a restart.
        fs::remove_file(&ballast).unwrap();
        store.append(&record.key, &lines[..20]).await.unwrap();
        assert_eq!(shape(&store, &record).await.len(), 21);
    }
    // And with one.
    let store = open(&root).await;
    store.append(&record.key, &[batch(22, "end\n", LineEnd::None)]).await.unwrap();
    assert_eq!(shape(&store, &record).await.last().unwrap(), "end");
}

#[tokio::test]
async fn an_index_that_was_emptied_or_deleted_loses_and_doubles_nothing() {
    for (deleted, reopened) in [(false, true), (true, true), (false, false), (true, false)] {
        let told = format!("deleted {deleted}, reopened {reopened}");
        let root = tempfile::tempdir().unwrap();
        let mut store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        store.append(&record.key, &[batch(2, "two\nthree\n", LineEnd::None)]).await.unwrap();
        let index = folder_of(root.path(), &record).join("index");
        if deleted {
            fs::remove_file(&index).unwrap();
        } else {
            fs::write(&index, "").unwrap();
        }
        if reopened {
            store = open(root.path()).await;
        }
        assert_eq!(shape(&store, &record).await, ["one", "two", "three"], "{told}");
        let search = Search::literal("t").unwrap();
        assert_eq!(store.search(&RunQuery::all(), &search).await.unwrap().count().await, 2, "{told}");
        // The owner sends again what it is not sure of, and goes on.
        store.append(&record.key, &[batch(3, "three\nfour\n", LineEnd::None)]).await.unwrap();
        let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
        let lines: Vec<_> = output.items.map(Result::unwrap).collect().await;
        let flags = lines.iter().flat_map(|item| match item {
            OutputItem::Lines(batch) => batch.lines().map(|l| (l.text().into_owned(), l.recovered)).collect(),
            OutputItem::Gap(_) => Vec::new(),
        });
        let expected = [("one", true), ("two", true), ("three", true), ("four", false)];
        assert!(flags.eq(expected.map(|(text, flag)| (text.to_owned(), flag))), "{told}: {lines:?}");
    }
}

#[tokio::test]
async fn a_first_append_that_was_cut_short_is_no_lost_index() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    let folder = folder_of(root.path(), &record);
    store.append(&record.key, &[]).await.unwrap();
    // As a killed writer leaves it: bytes, and no entry or a part of one.
    for part in [1, 39] {
        fs::write(folder.join("output.log"), "one\ntw").unwrap();
        fs::OpenOptions::new().write(true).open(folder.join("index")).unwrap().set_len(part).unwrap();
        let store = open(root.path()).await;
        assert_eq!(shape(&store, &record).await, [""; 0]);
        let store = open(root.path()).await;
        store.append(&record.key, &[]).await.unwrap();
        assert_eq!(fs::read(folder.join("output.log")).unwrap(), b"");
    }
    store.append(&record.key, &[batch(1, "one\ntwo\n", LineEnd::None)]).await.unwrap();
    assert_eq!(shape(&store, &record).await, ["one", "two"]);
}

#[tokio::test]
async fn a_hole_in_a_part_is_a_gap_and_a_nul_that_was_printed_is_not() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    store.append(&record.key, &[batch(1, "a part with no end", LineEnd::Part)]).await.unwrap();
    store.append(&record.key, &[batch(2, "nul \0 printed\n", LineEnd::None)]).await.unwrap();
    store.append(&record.key, &[batch(3, "three\n", LineEnd::None)]).await.unwrap();
    let log = folder_of(root.path(), &record).join("output.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes.get_mut(2..18).unwrap().fill(0);
    fs::write(&log, bytes).unwrap();
    assert_eq!(shape(&store, &record).await, ["[1-1]", "nul \0 printed", "three"]);
    let search = Search::literal("a").unwrap();
    assert_eq!(store.search(&RunQuery::all(), &search).await.unwrap().count().await, 0);
}

#[tokio::test]
async fn an_output_that_was_deleted_is_told_as_a_gap() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record();
    store.begin(&record).await.unwrap();
    store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
    fs::remove_file(folder_of(root.path(), &record).join("output.log")).unwrap();
    assert_eq!(shape(&store, &record).await, ["[1-1]"]);
    store.remove(&record.key.run_id).await.unwrap();
    let error = store.lines(&record.key.run_id, Lines::ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// What a killed process leaves, and what a store of another time or hand leaves.
mod crashes {
    use futures::StreamExt as _;
    use pubsub_core::{OutputReader as _, OutputSink as _};

    use super::{
        ErrorKind, FileStore, FileStoreConfig, LineBatch, LineEnd, LineNumber, Lines, OutputItem, Path,
        RunRecord, Stream, Timestamp, batch, folder_of, fs, open, record,
    };

    async fn texts(store: &FileStore, record: &RunRecord) -> Vec<(u64, String, bool)> {
        let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
        let items: Vec<_> = output.items.map(Result::unwrap).collect().await;
        let lines = items.iter().flat_map(|item| match item {
            OutputItem::Lines(batch) => batch.lines().collect::<Vec<_>>(),
            OutputItem::Gap(gap) => panic!("{gap:?}"),
        });
        lines.map(|l| (l.number.get(), l.text().into_owned(), l.recovered)).collect()
    }

    #[tokio::test]
    async fn the_output_is_a_plain_file_that_other_tools_read() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        let err = LineBatch::split(
            LineNumber::new(4).unwrap(),
            Timestamp::now(),
            Stream::Stderr,
            "ERR\n".into(),
            LineEnd::None,
        );
        let batches =
            [batch(1, "one\r\ntwo\n", LineEnd::None), batch(3, "half", LineEnd::Part), err.unwrap()];
        store.append(&record.key, &batches).await.unwrap();
        store.append(&record.key, &[batch(5, " rest\n", LineEnd::None)]).await.unwrap();
        let text = fs::read_to_string(folder_of(root.path(), &record).join("output.log")).unwrap();
        assert_eq!(text, "one\r\ntwo\nhalf\nERR\n rest\n");
    }

    #[tokio::test]
    async fn whatever_a_crash_leaves_of_an_append_the_acknowledged_lines_are_there() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\ntwo\n", LineEnd::None)]).await.unwrap();
        let folder = folder_of(root.path(), &record);
        let lengths =
            |folder: &Path| ["output.log", "index"].map(|f| fs::metadata(folder.join(f)).unwrap().len());
        let before = lengths(&folder);
        store.append(&record.key, &[batch(3, "three\nfour\n", LineEnd::None)]).await.unwrap();
        let after = lengths(&folder);
        let whole = ["output.log", "index"].map(|f| fs::read(folder.join(f)).unwrap());
        let cut = |file: usize, length: u64| {
            let name = ["output.log", "index"][file];
            fs::write(folder.join(name), &whole[file][..usize::try_from(length).unwrap()]).unwrap();
        };
        // Bytes come first and the index after them, so these are all the states a killed process leaves.
        let states = (before[0]..=after[0])
            .map(|log| (log, before[1]))
            .chain((before[1]..=after[1]).map(|i| (after[0], i)));
        for (log, index) in states {
            cut(0, log);
            cut(1, index);
            let store = open(root.path()).await;
            let seen = texts(&store, &record).await;
            let expected = if index == after[1] { 4 } else { 2 };
            assert_eq!(seen.len(), expected, "log {log}, index {index}");
            // The worker's successor, or its spool, sends the lines again.
            store.append(&record.key, &[batch(2, "two\nthree\nfour\nfive\n", LineEnd::None)]).await.unwrap();
            let seen: Vec<String> =
                texts(&store, &record).await.into_iter().map(|(_, text, _)| text).collect();
            assert_eq!(seen, ["one", "two", "three", "four", "five"], "log {log}, index {index}");
        }
    }

    #[tokio::test]
    async fn lines_behind_the_index_of_a_lost_run_are_found_and_flagged() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let mut record = record();
        record.beat_at = Timestamp::EPOCH;
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        let log = folder_of(root.path(), &record).join("output.log");
        let mut text = fs::read(&log).unwrap();
        text.extend_from_slice(b"two\nthr");
        fs::write(&log, text).unwrap();
        let seen = texts(&store, &record).await;
        assert_eq!(seen, [(1, "one".into(), false), (2, "two".into(), true), (3, "thr".into(), true)]);
        let told = store.lines(&record.key.run_id, Lines::Last(1)).await.unwrap().record;
        assert_eq!(told.notes.last().unwrap().kind, "repaired");
    }

    #[tokio::test]
    async fn output_that_somebody_cut_is_told_as_a_gap() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        store.append(&record.key, &[batch(2, "two\n", LineEnd::None)]).await.unwrap();
        fs::write(folder_of(root.path(), &record).join("output.log"), "on").unwrap();
        let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
        let items: Vec<_> = output.items.map(Result::unwrap).collect().await;
        assert!(
            items.iter().all(|item| matches!(item, OutputItem::Gap(gap) if gap.reason.contains("cut"))),
            "{items:?}"
        );
        assert_eq!(items.last().unwrap().range().last.get(), 2);
    }

    #[tokio::test]
    async fn a_planted_link_is_refused_and_nothing_behind_it_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        fs::create_dir(root.path().join("runs")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("runs/a")).unwrap();
        let error = store.begin(&record()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.chain());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_newer_layout_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("format.json"), r#"{"version":2}"#).unwrap();
        let error = FileStore::connect(FileStoreConfig::new(root.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooNew);
        assert!(error.to_string().contains("version=2"), "{error}");
    }
}
