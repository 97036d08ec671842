//! Who waits for changes of a store in a folder is woken for what it named, whatever happens to the files that wake;
//! and a store that can only be read, or is not there, is read all the same.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use pubsub_core::{
    ActionId, ErrorKind, EventId, Follow, FollowFrom, Followed, Keep, LineBatch, LineEnd, LineNumber, Lines,
    OutputItem, OutputReader as _, OutputSink as _, Result, Retention as _, RunKey, RunQuery, RunRecord,
    Search, Stage, Stream, Target, Timestamp, follow,
};
use pubsub_file::{FileStore, FileStoreConfig};

const LONG: Duration = Duration::from_secs(30);

async fn open(folder: &Path) -> FileStore {
    FileStore::connect(FileStoreConfig::new(folder)).await.unwrap()
}

fn record(action: &str) -> RunRecord {
    let (action, stage) = (ActionId::new(action).unwrap(), Stage::new("s").unwrap());
    RunRecord::begun(RunKey::new(action, stage, EventId::generate(), 1), "w")
}

fn line(number: u64) -> LineBatch {
    let first = LineNumber::new(number).unwrap();
    let text = format!("line {number}\n");
    LineBatch::split(first, Timestamp::now(), Stream::Stdout, text.into(), LineEnd::None).unwrap()
}

async fn woken(changes: &mut BoxStream<'static, Result<()>>) {
    tokio::time::timeout(LONG, changes.next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_change_wakes_only_those_who_named_it() {
    let root = tempfile::tempdir().unwrap();
    let (store, reader) = (open(root.path()).await, open(root.path()).await);
    let (mine, other) = (record("mine"), record("other"));
    store.begin(&mine).await.unwrap();
    store.begin(&other).await.unwrap();
    let of_stage = RunQuery::of(mine.key.action_id.clone(), mine.key.stage.clone());
    let mut by_stage = reader.changes(&of_stage).await.unwrap();
    let mut by_run = reader.changes(&RunQuery::of_run(mine.key.run_id.clone())).await.unwrap();
    let mut all = reader.changes(&RunQuery::all()).await.unwrap();
    for changes in [&mut by_stage, &mut by_run, &mut all] {
        woken(changes).await;
    }
    let since = Instant::now();
    for number in 1..=20 {
        store.append(&other.key, &[line(number)]).await.unwrap();
        woken(&mut all).await;
    }
    // Those who named it are told before those who named nothing. After seconds everybody looks by itself.
    if since.elapsed() < Duration::from_secs(4) {
        assert!(by_stage.next().now_or_never().is_none());
        assert!(by_run.next().now_or_never().is_none());
    }
    store.append(&mine.key, &[line(1)]).await.unwrap();
    woken(&mut by_stage).await;
    woken(&mut by_run).await;
}

/// Follows a run while something is done to the files that wake; answers how long the last line took.
async fn follow_while(harm: impl Fn(&Path)) -> Duration {
    let root = tempfile::tempdir().unwrap();
    let (store, reader) = (open(root.path()).await, open(root.path()).await);
    let record = record("a");
    store.begin(&record).await.unwrap();
    let target = Target::Run(record.key.run_id.clone());
    let from = FollowFrom::Line(LineNumber::FIRST);
    let mut followed = follow(Arc::new(reader), Follow { target, from });
    let began = tokio::time::timeout(LONG, followed.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(began, Followed::Began(_)));
    let mut took = Duration::ZERO;
    for number in 1..=12 {
        if number % 4 == 0 {
            harm(root.path());
        }
        let since = Instant::now();
        store.append(&record.key, &[line(number)]).await.unwrap();
        let item = tokio::time::timeout(LONG, followed.next()).await.unwrap().unwrap().unwrap();
        let Followed::Item(OutputItem::Lines(batch)) = item else { unreachable!("{item:?}") };
        assert_eq!(batch.first().get(), number);
        took = since.elapsed();
    }
    took
}

#[tokio::test]
async fn a_follower_hears_on_though_the_files_that_wake_are_deleted_or_replaced() {
    let wakes = |root: &Path| root.join("wakes");
    // Only the files.
    follow_while(|root| {
        for file in fs::read_dir(wakes(root)).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    })
    .await;
    // The folder.
    follow_while(|root| fs::remove_dir_all(wakes(root)).unwrap()).await;
    // The folder, with another in its place.
    follow_while(|root| {
        fs::rename(wakes(root), root.join(format!("old-{:?}", Instant::now()))).unwrap();
        fs::create_dir(wakes(root)).unwrap();
    })
    .await;
}

#[tokio::test]
async fn who_waits_looks_by_itself_though_nobody_ever_tells() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let record = record("a");
    store.begin(&record).await.unwrap();
    let mut changes = store.changes(&RunQuery::of_run(record.key.run_id)).await.unwrap();
    woken(&mut changes).await;
    woken(&mut changes).await;
}

/// All that a reader asks.
async fn ask(store: &FileStore, record: &RunRecord) -> (usize, usize, usize) {
    let runs = store.runs(&RunQuery::all()).await.unwrap().len();
    assert_eq!(store.runs(&RunQuery::all().with_limit(9)).await.unwrap().len(), runs);
    let search = Search::literal("line").unwrap();
    let hits = store.search(&RunQuery::all(), &search).await.unwrap().count().await;
    let lines = match store.lines(&record.key.run_id, Lines::ALL).await {
        Ok(output) => output.items.map(|item| item.unwrap().range().lines()).collect::<Vec<_>>().await.len(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            0
        }
    };
    (runs, hits, lines)
}

#[tokio::test]
async fn a_reader_of_a_folder_that_is_not_there_finds_nothing_and_makes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a/b");
    let (reader, record) = (open(&folder).await, record("a"));
    assert_eq!(ask(&reader, &record).await, (0, 0, 0));
    assert!(!reader.remove(&record.key.run_id).await.unwrap());
    assert_eq!(reader.expire(&Keep::new().with_since(Timestamp::now())).await.unwrap(), 0);
    let mut changes = reader.changes(&RunQuery::all()).await.unwrap();
    woken(&mut changes).await;
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    // A writer makes it, and the same reader sees that.
    let writer = open(&folder).await;
    writer.begin(&record).await.unwrap();
    writer.append(&record.key, &[line(1)]).await.unwrap();
    woken(&mut changes).await;
    assert_eq!(ask(&reader, &record).await, (1, 1, 1));
}

/// A folder seen a second time, where nothing can be written; away with the test.
struct ReadOnly(tempfile::TempDir);

impl ReadOnly {
    fn of(folder: &Path) -> Self {
        let view = tempfile::tempdir().unwrap();
        for options in ["bind", "remount,bind,ro"] {
            let mut mount = std::process::Command::new("mount");
            mount.args(["-o", options]).arg(folder).arg(view.path());
            assert!(mount.status().unwrap().success());
        }
        Self(view)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "needs root: mounts a folder for reading only"]
async fn a_store_that_can_only_be_read_answers_questions_and_refuses_writes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let (old, new) = (record("a"), record("a"));
    store.begin(&old).await.unwrap();
    store.append(&old.key, &[line(1)]).await.unwrap();
    let view = ReadOnly::of(root.path());
    let reader = open(view.0.path()).await;
    assert_eq!(ask(&reader, &old).await, (1, 1, 1));
    let errors = [
        reader.begin(&new).await.unwrap_err(),
        reader.begin(&old).await.unwrap_err(),
        reader.append(&old.key, &[line(2)]).await.map(|_| ()).unwrap_err(),
        reader.finish(&old).await.unwrap_err(),
        reader.remove(&old.key.run_id).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
    }
    let mut changes = reader.changes(&RunQuery::all()).await.unwrap();
    woken(&mut changes).await;
    store.append(&old.key, &[line(2)]).await.unwrap();
    woken(&mut changes).await;
    // Without its catalog.
    fs::remove_file(root.path().join("catalog")).unwrap();
    assert_eq!(ask(&reader, &old).await, (1, 2, 2));
    drop(changes);
}
