//! Lines that come after the seal, and what a killed process leaves of their merge.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use pubsub_core::conformance::store::{SampleRun, at, lines, read, shape};
use pubsub_core::{Appended, Gap, LineBatch, LineRange, Lines, OutputReader, OutputSink, Search, verify};
use pubsub_file::{FileStore, FileStoreConfig};
use tempfile::TempDir;

async fn open(dir: &Path) -> FileStore {
    FileStore::connect(FileStoreConfig::new(dir)).await.unwrap()
}

fn numbered(first: u64, last: u64) -> LineBatch {
    lines(first, (first..=last).map(|n| format!("line {n}")))
}

/// A run of 30 lines that was sealed without its lines 11 to 20, and the folder of its files.
async fn sealed(dir: &TempDir) -> (FileStore, SampleRun, PathBuf) {
    let store = open(dir.path()).await;
    let mut run = SampleRun::of("a", "s");
    run.begin(&store).await;
    run.append(&store, &[numbered(1, 10)]).await;
    run.print(&[numbered(11, 20)]);
    run.append(&store, &[numbered(21, 30)]).await;
    let range = LineRange::new(at(11), at(20));
    run.record.holes = vec![Gap { range, bytes: None, reason: "refused".into() }];
    run.finish(&store).await;
    let folder = dir.path().join("runs/a/s").join(run.id().as_str());
    assert!(folder.join("output.log").exists(), "{folder:?}");
    (store, run, folder)
}

async fn is_whole(dir: &Path, run: &SampleRun) {
    let store = open(dir).await;
    assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), "1-30");
    assert_eq!(verify(&store, run.id()).await.unwrap().problem(), None);
    let hits = store.search(&run.query(), &Search::literal("line 15").unwrap()).await.unwrap();
    assert_eq!(futures::StreamExt::count(hits).await, 1);
}

#[tokio::test]
async fn late_lines_are_seen_once_the_end_came_again_and_the_plain_output_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, run, folder) = sealed(&dir).await;
    let hole = "1-10 gap 11-20 refused; 21-30";
    // In two pieces, the later one first, and one of them twice: as two copies that were cut would bring them.
    for piece in [numbered(16, 20), numbered(11, 15), numbered(14, 18)] {
        assert_eq!(store.append(run.key(), &[piece]).await.unwrap(), Appended::all());
        assert_eq!(shape(&read(&store, run.id(), Lines::ALL).await), hole);
    }
    open(dir.path()).await.finish(&run.record).await.unwrap();
    is_whole(dir.path(), &run).await;
    let record = store.runs(&run.query()).await.unwrap().remove(0);
    assert_eq!(record.holes, []);
    let text: String = (1..=30).map(|n| format!("line {n}\n")).collect();
    assert_eq!(fs::read_to_string(folder.join("output.log")).unwrap(), text);
    assert!(!folder.join("late").exists() && !folder.join("merged").exists());
}

#[tokio::test]
async fn a_torn_end_of_late_lines_was_never_acknowledged_and_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (store, run, folder) = sealed(&dir).await;
    store.append(run.key(), &[numbered(11, 13)]).await.unwrap();
    let whole = fs::read(folder.join("late")).unwrap();
    for cut in [1, 20, whole.len() - 1] {
        let torn = [&whole[..], &whole[..cut]].concat();
        fs::write(folder.join("late"), torn).unwrap();
        open(dir.path()).await.append(run.key(), &[numbered(14, 16)]).await.unwrap();
    }
    open(dir.path()).await.append(run.key(), &[numbered(17, 20)]).await.unwrap();
    fs::OpenOptions::new().append(true).open(folder.join("late")).unwrap().write_all(&whole[..30]).unwrap();
    store.finish(&run.record).await.unwrap();
    is_whole(dir.path(), &run).await;
}

#[tokio::test]
async fn a_merge_that_was_killed_anywhere_is_whole_or_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, run, folder) = sealed(&dir).await;
    let (old_log, old_index) =
        (fs::read(folder.join("output.log")).unwrap(), fs::read(folder.join("index")).unwrap());
    store.append(run.key(), &[numbered(11, 20)]).await.unwrap();
    let late = fs::read(folder.join("late")).unwrap();
    // Before anything was moved: what is half written there is of no use to anybody.
    fs::create_dir(folder.join("merged")).unwrap();
    fs::write(folder.join("merged/output.log"), b"line 1\nli").unwrap();
    assert_eq!(
        shape(&read(&open(dir.path()).await, run.id(), Lines::ALL).await),
        "1-10 gap 11-20 refused; 21-30"
    );
    fs::write(folder.join("merged/index"), b"x").unwrap();
    assert_eq!(
        shape(&read(&open(dir.path()).await, run.id(), Lines::ALL).await),
        "1-10 gap 11-20 refused; 21-30"
    );
    open(dir.path()).await.finish(&run.record).await.unwrap();
    is_whole(dir.path(), &run).await;
    // Between the two moves: the new output, with the index that was not moved yet.
    fs::create_dir(folder.join("merged")).unwrap();
    fs::rename(folder.join("index"), folder.join("merged/index")).unwrap();
    fs::write(folder.join("index"), &old_index).unwrap();
    is_whole(dir.path(), &run).await;
    fs::write(folder.join("late"), &late).unwrap();
    open(dir.path()).await.finish(&run.record).await.unwrap();
    is_whole(dir.path(), &run).await;
    assert!(!folder.join("merged").exists() && !folder.join("late").exists());
    // Also where nobody finishes it, for whoever writes does.
    assert_ne!(old_log, fs::read(folder.join("output.log")).unwrap());
}

#[tokio::test]
async fn a_reader_beside_a_merge_sees_the_run_before_it_or_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, run, _) = sealed(&dir).await;
    let other = open(dir.path()).await;
    let id = run.id().clone();
    let reading = tokio::spawn(async move {
        let mut seen = String::new();
        while seen != "1-30" {
            seen = shape(&read(&other, &id, Lines::ALL).await);
            assert!(["1-10 gap 11-20 refused; 21-30", "1-30"].contains(&seen.as_str()), "{seen}");
        }
    });
    store.append(run.key(), &[numbered(11, 20)]).await.unwrap();
    store.finish(&run.record).await.unwrap();
    reading.await.unwrap();
}

#[tokio::test]
async fn lines_that_come_late_while_a_run_goes_on_are_refused_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &[numbered(1, 1), numbered(4, 4)]).await;
    let answer = store.append(run.key(), &[numbered(2, 3)]).await.unwrap();
    assert_eq!(answer.refused[0].range, LineRange::new(at(2), at(3)));
}

#[tokio::test]
async fn an_unfinished_merge_loses_its_index_before_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let (store, run, folder) = sealed(&dir).await;
    store.append(run.key(), &[numbered(11, 20)]).await.unwrap();
    drop(store);
    // An index that cannot be deleted, as on a disk that fails: an index alone would be taken for one to be moved.
    let merged = folder.join("merged");
    fs::create_dir_all(merged.join("index")).unwrap();
    fs::write(merged.join("output.log"), b"line 1\nli").unwrap();
    open(dir.path()).await.finish(&run.record).await.unwrap_err();
    assert!(merged.join("index").exists() && merged.join("output.log").exists());
    // Half deleted: what is left is no merge, and it is done again.
    fs::remove_dir(merged.join("index")).unwrap();
    assert_eq!(
        shape(&read(&open(dir.path()).await, run.id(), Lines::ALL).await),
        "1-10 gap 11-20 refused; 21-30"
    );
    open(dir.path()).await.finish(&run.record).await.unwrap();
    is_whole(dir.path(), &run).await;
    assert!(!merged.exists());
}
