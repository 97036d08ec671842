//! Other hands in the store's folder: its files are rotated while they are followed, and links are planted in it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use pubsub_core::{
    ActionId, EventId, Exit, ExitClassification as _, ExitTable, Follow, FollowFrom, Followed, Keep,
    LineBatch, LineEnd, LineNumber, Lines, OutputItem, OutputReader as _, OutputSink as _, Result,
    Retention as _, RunKey, RunQuery, RunRecord, SealBuilder, Search, Stage, Stream, Target, Timestamp,
    follow,
};
use pubsub_file::{FileStore, FileStoreConfig};

const LONG: Duration = Duration::from_secs(30);

async fn open(folder: &Path) -> Result<FileStore> {
    FileStore::connect(FileStoreConfig::new(folder)).await
}

fn record() -> RunRecord {
    let key = RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
    RunRecord::begun(key, "w")
}

fn folder_of(root: &Path, record: &RunRecord) -> PathBuf {
    root.join("runs/a/s").join(record.key.run_id.as_str())
}

fn text(number: u64) -> String {
    format!("this is line {number}")
}

/// A hundred lines.
fn lines(first: u64) -> LineBatch {
    let all: String = (first..first + 100).map(|number| text(number) + "\n").collect();
    let first = LineNumber::new(first).unwrap();
    LineBatch::split(first, Timestamp::now(), Stream::Stdout, all.into(), LineEnd::None).unwrap()
}

/// Takes what a follower is given up to a line; each must come once, in order, as it was printed.
async fn take(followed: &mut BoxStream<'static, Result<Followed>>, next: &mut u64, through: u64) {
    while *next <= through {
        match tokio::time::timeout(LONG, followed.next()).await.unwrap().unwrap().unwrap() {
            Followed::Began(_) => {}
            Followed::Item(OutputItem::Lines(batch)) => {
                for line in batch.lines() {
                    assert_eq!((line.number.get(), line.text().into_owned()), (*next, text(*next)));
                    *next += 1;
                }
            }
            other => panic!("{other:?} before line {next}"),
        }
    }
}

/// Follows 10,000 lines while the output is rotated after every 2,500; answers what a new reader then sees: how many
/// lines, and how many are told to be missing.
async fn rotated(rotate: impl Fn(&Path)) -> (u64, u64) {
    let root = tempfile::tempdir().unwrap();
    let (store, reader) = (open(root.path()).await.unwrap(), open(root.path()).await.unwrap());
    let mut record = record();
    store.begin(&record).await.unwrap();
    let target = Target::Run(record.key.run_id.clone());
    let from = FollowFrom::Line(LineNumber::FIRST);
    let mut followed = follow(Arc::new(reader), Follow { target, from });
    let (mut next, mut seal) = (1, SealBuilder::new());
    for first in (1..=10_000).step_by(100) {
        if first % 2_500 == 1 && first > 1 {
            // Who keeps up has all that was printed.
            take(&mut followed, &mut next, first - 1).await;
            rotate(&folder_of(root.path(), &record).join("output.log"));
        }
        store.append(&record.key, &[lines(first)]).await.unwrap();
        seal.add(&lines(first));
    }
    let exit = Exit::code(0);
    record.complete(&exit, ExitTable::default().classify(&exit), &seal.seal());
    store.finish(&record).await.unwrap();
    take(&mut followed, &mut next, 10_000).await;
    let end = tokio::time::timeout(LONG, followed.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(end, Followed::Ended(_)), "{end:?}");
    assert!(followed.next().await.is_none());
    let (mut seen, mut missing) = (0, 0);
    let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
    for item in output.items.map(Result::unwrap).collect::<Vec<_>>().await {
        match item {
            OutputItem::Lines(batch) => {
                batch.lines().for_each(|line| assert_eq!(line.text(), text(line.number.get())));
                seen += batch.range().lines();
            }
            OutputItem::Gap(gap) => missing += gap.range.lines(),
        }
    }
    (seen, missing)
}

#[tokio::test]
async fn an_output_that_is_renamed_and_made_anew_while_it_is_followed_loses_and_repeats_nothing() {
    let seen = rotated(|log| {
        fs::rename(log, log.with_extension("log.1")).unwrap();
        fs::write(log, "").unwrap();
    });
    assert_eq!(seen.await, (2_500, 7_500));
}

#[tokio::test]
async fn an_output_that_is_copied_and_truncated_while_it_is_followed_repeats_nothing() {
    let seen = rotated(|log| {
        fs::copy(log, log.with_extension("log.1")).unwrap();
        fs::OpenOptions::new().write(true).open(log).unwrap().set_len(0).unwrap();
    });
    assert_eq!(seen.await, (2_500, 7_500));
}

#[tokio::test]
async fn an_output_that_is_deleted_and_made_anew_with_the_same_size_is_noticed() {
    let seen = rotated(|log| {
        let length = fs::metadata(log).unwrap().len();
        fs::remove_file(log).unwrap();
        fs::write(log, "?\n".repeat(usize::try_from(length).unwrap() / 2 + 1)).unwrap();
        fs::OpenOptions::new().write(true).open(log).unwrap().set_len(length).unwrap();
    });
    assert_eq!(seen.await, (2_500, 7_500));
}

/// All below a folder, links as such.
fn everything(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.insert(entry.clone(), Vec::new());
            found.extend(everything(&entry));
        } else {
            found.insert(entry.clone(), fs::read(&entry).unwrap());
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Asks and does all that a store can; what it answers, as text.
async fn everything_done(store: &FileStore, record: &RunRecord) -> String {
    let mut told = String::new();
    let run = &record.key.run_id;
    let of_stage = RunQuery::of(record.key.action_id.clone(), record.key.stage.clone());
    for query in [RunQuery::all(), of_stage, RunQuery::all().with_limit(9), RunQuery::of_run(run.clone())] {
        told += &format!("{:?}\n", store.runs(&query).await);
        if let Ok(hits) = store.search(&query, &Search::literal("secret").unwrap()).await {
            told += &format!("{:?}\n", hits.collect::<Vec<_>>().await);
        }
        let mut changes = store.changes(&query).await.ok();
        if let Some(changes) = &mut changes {
            let _ = changes.next().await;
        }
    }
    if let Ok(output) = store.lines(run, Lines::ALL).await {
        told += &format!("{:?}\n", output.items.collect::<Vec<_>>().await);
    }
    let mut later = record.clone();
    later.revision += 1;
    told += &format!("{:?}\n", store.begin(&later).await);
    told += &format!("{:?}\n", store.append(&record.key, &[lines(1)]).await);
    later.revision += 1;
    told += &format!("{:?}\n", store.finish(&later).await);
    told += &format!("{:?}\n", store.expire(&Keep::new().with_since(Timestamp::now())).await);
    told + &format!("{:?}\n", store.remove(run).await)
}

#[tokio::test]
async fn nothing_behind_a_planted_link_is_read_written_or_removed() {
    for place in 0..12 {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let record = record();
        let store = open(root.path()).await.unwrap();
        store.begin(&record).await.unwrap();
        let text = "not for you\n";
        let batch =
            LineBatch::split(LineNumber::FIRST, Timestamp::now(), Stream::Stdout, text.into(), LineEnd::None);
        store.append(&record.key, &[batch.unwrap()]).await.unwrap();
        let run = folder_of(root.path(), &record);
        let id = record.key.run_id.as_str();
        let digits = root.path().join("ids").join(&id[..2]);
        let places = [
            root.path().join("runs"),
            root.path().join("runs/a"),
            root.path().join("runs/a/s"),
            run.clone(),
            run.join("output.log"),
            run.join("index"),
            run.join("record.json"),
            root.path().join("ids"),
            digits.clone(),
            digits.join(id),
            root.path().join("trash"),
            root.path().join("wakes"),
        ];
        let place = &places[place];
        // Outside lies a copy that would do in its place, but says something else.
        let copied = outside.path().join("copy");
        copy(place, &copied);
        for (path, bytes) in everything(outside.path()) {
            if path.ends_with("output.log") || path == copied && place.ends_with("output.log") {
                assert_eq!(bytes, text.as_bytes());
                fs::write(&path, "secret text\n").unwrap();
            }
            if place.ends_with("wakes") && path != copied {
                fs::write(&path, "something").unwrap();
            }
        }
        if place.is_dir() {
            fs::remove_dir_all(place).unwrap();
        } else {
            fs::remove_file(place).unwrap();
        }
        symlink(&copied, place).unwrap();
        let before = everything(outside.path());
        let mut told = everything_done(&store, &record).await;
        if let Ok(again) = open(root.path()).await {
            told += &everything_done(&again, &record).await;
        }
        assert_eq!(everything(outside.path()), before, "{}:\n{told}", place.display());
        assert!(!told.contains("secret text"), "{}:\n{told}", place.display());
    }
}
