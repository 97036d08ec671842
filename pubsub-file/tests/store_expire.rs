//! Removing and expiring: what is killed in the middle leaves nothing half, readers meet nothing that does not belong
//! together, and many runs are no burden.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use pubsub_core::conformance::store::{SampleRun, lines};
use pubsub_core::{
    ErrorKind, Follow, FollowFrom, Followed, Keep, LineNumber, Lines, MemoryStore, OutputItem,
    OutputReader as _, OutputSink as _, Retention as _, RunId, RunQuery, Search, Store, Target, Timestamp,
    follow,
};
use pubsub_file::{FileStore, FileStoreConfig};

const LONG: Duration = Duration::from_secs(30);

async fn open(folder: &Path) -> FileStore {
    FileStore::connect(FileStoreConfig::new(folder)).await.unwrap()
}

/// A run that has ended, in each of these stores, begun so many microseconds after 1970.
async fn ended(stores: &[&dyn Store], at: i64, bytes: usize) -> SampleRun {
    let mut run = SampleRun::of("a", "s");
    run.record.started_at = Timestamp::from_micros(at);
    let printed = lines(1, ["x".repeat(bytes)]);
    run.print(std::slice::from_ref(&printed));
    for store in stores {
        store.begin(&run.record).await.unwrap();
        store.append(run.key(), std::slice::from_ref(&printed)).await.unwrap();
    }
    run.complete();
    for store in stores {
        store.finish(&run.record).await.unwrap();
    }
    run
}

async fn ids(store: &dyn Store) -> Vec<RunId> {
    store.runs(&RunQuery::all()).await.unwrap().into_iter().map(|run| run.key.run_id).collect()
}

fn id_file(root: &Path, run: &RunId) -> PathBuf {
    root.join("ids").join(&run.as_str()[..2]).join(run.as_str())
}

/// Nothing of the run can be found, however it is asked for.
async fn is_gone(store: &FileStore, run: &RunId) {
    assert!(!ids(store).await.contains(run));
    assert!(!store.runs(&RunQuery::all().with_limit(9)).await.unwrap().iter().any(|r| r.key.run_id == *run));
    assert!(store.runs(&RunQuery::of_run(run.clone())).await.unwrap().is_empty());
    assert_eq!(store.lines(run, Lines::ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
    let hits = store.search(&RunQuery::all(), &Search::literal("x").unwrap()).await.unwrap();
    assert!(hits.all(|hit| std::future::ready(hit.unwrap().run.run_id != *run)).await);
}

#[tokio::test]
async fn a_remover_that_was_killed_leaves_no_half_run() {
    // After each of its steps: out of sight, the way from the id away, some of the files deleted.
    for steps in 1..=3 {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let (run, stays) = (ended(&[&store], 1, 9).await, ended(&[&store], 2, 9).await);
        let trash = root.path().join("trash").join(format!("{}-77-0123456789abcdef", run.id()));
        fs::rename(root.path().join("runs/a/s").join(run.id().as_str()), &trash).unwrap();
        if steps > 1 {
            fs::remove_file(id_file(root.path(), run.id())).unwrap();
        }
        if steps > 2 {
            fs::remove_file(trash.join("record.json")).unwrap();
        }
        is_gone(&store, run.id()).await;
        assert!(!store.remove(run.id()).await.unwrap());
        assert_eq!(store.expire(&Keep::new().with_runs(1)).await.unwrap(), 0, "it does not count");
        let opened = open(root.path()).await;
        is_gone(&opened, run.id()).await;
        assert_eq!(ids(&opened).await, [stays.id().clone()]);
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
        assert!(!id_file(root.path(), run.id()).exists(), "nothing leads to it");
        // It can begin anew, and has nothing of what it was.
        opened.begin(&run.record.as_begun()).await.unwrap();
        assert_eq!(opened.lines(run.id(), Lines::ALL).await.unwrap().items.count().await, 0);
    }
}

#[tokio::test]
async fn a_run_that_begins_again_while_the_trash_is_emptied_can_be_found() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let run = ended(&[&store], 1, 9).await;
    let trash = root.path().join("trash").join(format!("{}-77-0123456789abcdef", run.id()));
    fs::rename(root.path().join("runs/a/s").join(run.id().as_str()), &trash).unwrap();
    // It finds the way from its id as it was.
    store.begin(&run.record.as_begun()).await.unwrap();
    let opened = open(root.path()).await;
    assert!(!trash.exists());
    assert_eq!(opened.runs(&RunQuery::of_run(run.id().clone())).await.unwrap().len(), 1);
}

#[tokio::test]
async fn two_that_expire_at_once_count_each_run_once() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    for at in 0..60 {
        ended(&[&store], at, 1).await;
    }
    let (other, keep) = (open(root.path()).await, Keep::new().with_runs(10));
    let (one, two) = tokio::join!(store.expire(&keep), other.expire(&keep));
    assert_eq!(one.unwrap() + two.unwrap(), 50);
    assert_eq!(ids(&store).await.len(), 10);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_does_not_expire_and_keeps_no_other() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let mut runs = Vec::new();
    for at in 0..4 {
        runs.push(ended(&[&store], at, 1).await);
    }
    let bad = root.path().join("runs/a/s").join(runs[1].id().as_str());
    fs::write(bad.join("record.json"), b"{\"version\":99}").unwrap();
    for lose_the_catalog in [false, true] {
        if lose_the_catalog {
            fs::remove_file(root.path().join("catalog")).unwrap();
        }
        let keep = Keep::new().with_runs(if lose_the_catalog { 2 } else { 3 });
        assert_eq!(store.expire(&keep).await.unwrap(), 1);
        assert!(bad.exists());
    }
    assert_eq!(ids(&store).await, [runs[3].id().clone()]);
}

#[tokio::test]
async fn who_waits_for_changes_is_told_of_what_expired() {
    let root = tempfile::tempdir().unwrap();
    let (store, reader) = (open(root.path()).await, open(root.path()).await);
    ended(&[&store], 1, 1).await;
    let mut changes = reader.changes(&RunQuery::all()).await.unwrap();
    changes.next().await.unwrap().unwrap();
    assert_eq!(store.expire(&Keep::new().with_runs(0)).await.unwrap(), 1);
    tokio::time::timeout(LONG, changes.next()).await.expect("an item comes").unwrap().unwrap();
}

#[tokio::test]
async fn who_reads_a_run_that_is_removed_gets_the_rest_of_it() {
    let root = tempfile::tempdir().unwrap();
    let (store, mut run) = (open(root.path()).await, SampleRun::of("a", "s"));
    run.begin(&store).await;
    for part in 0..40 {
        // More than what is read at once.
        run.append(&store, &[lines(part * 1_000 + 1, (0..1_000).map(|_| "y".repeat(60)))]).await;
    }
    run.finish(&store).await;
    let mut items = store.lines(run.id(), Lines::ALL).await.unwrap().items;
    let mut given = items.next().await.unwrap().unwrap().range().lines();
    assert!(store.remove(run.id()).await.unwrap());
    while let Some(item) = items.next().await {
        let OutputItem::Lines(batch) = item.unwrap() else { panic!("no line is missing") };
        assert!(batch.lines().all(|line| line.bytes == "y".repeat(60)));
        given += batch.len() as u64;
    }
    assert_eq!(given, 40_000);
}

#[tokio::test]
async fn who_follows_a_run_that_is_removed_is_told_so_and_ends() {
    for of_stage in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (store, mut run) = (open(root.path()).await, SampleRun::of("a", "s"));
        run.begin(&store).await;
        run.append(&store, &[lines(1, ["one"])]).await;
        let target = match of_stage {
            true => Target::Stage(run.key().action_id.clone(), run.key().stage.clone()),
            false => Target::Run(run.id().clone()),
        };
        let from = FollowFrom::Line(LineNumber::FIRST);
        let mut followed = follow(Arc::new(store.clone()), Follow { target, from });
        assert!(matches!(followed.next().await, Some(Ok(Followed::Began(_)))));
        assert!(matches!(followed.next().await, Some(Ok(Followed::Item(_)))));
        store.remove(run.id()).await.unwrap();
        let told = tokio::time::timeout(LONG, followed.next()).await.expect("it is told").unwrap();
        assert_eq!(told.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(followed.next().await.is_none());
    }
}

/// The run is removed and begins again all the time, each time with other lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_mixes_a_run_with_what_was_there_before_it() {
    let root = tempfile::tempdir().unwrap();
    let (store, reader) = (open(root.path()).await, open(root.path()).await);
    let first = SampleRun::of("a", "s");
    let id = first.id().clone();
    let record = first.record.clone();
    let writing = tokio::spawn(async move {
        for round in 0..150_u64 {
            let mut run = SampleRun::new();
            run.record = record.clone();
            run.begin(&store).await;
            let texts: Vec<String> = (0..=round % 7).map(|_| format!("round {round}")).collect();
            run.append(&store, &[lines(1, &texts)]).await;
            run.finish(&store).await;
            store.remove(run.id()).await.unwrap();
        }
    });
    let mut whole = 0;
    while !writing.is_finished() {
        let output = match reader.lines(&id, Lines::ALL).await {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
                continue;
            }
            Ok(output) => output,
        };
        let items: Vec<_> = output.items.collect().await;
        let mut rounds = BTreeSet::new();
        let mut count = 0;
        for item in items {
            let OutputItem::Lines(batch) = item.unwrap() else { panic!("no line is missing") };
            count += batch.len();
            rounds.extend(batch.lines().map(|line| line.bytes));
            assert!(batch.lines().all(|line| !line.recovered));
        }
        assert!(rounds.len() <= 1, "{rounds:?}");
        if output.record.finished_at.is_some() {
            assert_eq!(count as u64, output.record.counts.lines);
            whole += 1;
        }
    }
    writing.await.unwrap();
    assert!(whole > 0, "it was read at least once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The model is the store in memory.
    #[test]
    fn what_expires_is_what_expires_in_memory(
        runs in proptest::collection::vec((0i64..6, 0usize..50), 1..12),
        since in proptest::option::of(0i64..8), bytes in proptest::option::of(0u64..400),
        most in proptest::option::of(0u64..14), lost in proptest::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let (store, model) = (open(root.path()).await, MemoryStore::new());
            for (at, bytes) in runs {
                ended(&[&store, &model], at, bytes).await;
            }
            if lost {
                fs::write(root.path().join("catalog"), b"no catalog").unwrap();
            }
            let mut keep = Keep::new();
            keep.since = since.map(Timestamp::from_micros);
            (keep.bytes, keep.runs) = (bytes, most);
            prop_assert_eq!(store.expire(&keep).await.unwrap(), model.expire(&keep).await.unwrap());
            prop_assert_eq!(ids(&store).await, ids(&model).await);
            Ok(())
        })?;
    }
}

#[tokio::test]
#[ignore = "long: a hundred thousand runs"]
async fn a_hundred_thousand_runs_in_one_folder_are_listed_searched_and_expired() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let many: u64 = std::env::var("RUNS").map_or(100_000, |runs| runs.parse().unwrap());
    let tenth = many / 10;
    let started = Instant::now();
    for at in 0..many.cast_signed() {
        ended(&[&store], at, 60).await;
    }
    let mut last = Instant::now();
    let mut told = |what: &str| {
        println!("{what}: {:?}", last.elapsed());
        last = Instant::now();
    };
    println!("written: {:?}", started.elapsed());
    let newest = store.runs(&RunQuery::all().with_limit(50)).await.unwrap();
    assert_eq!(newest[0].started_at, Timestamp::from_micros(many.cast_signed() - 1));
    told("the newest 50 listed");
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap().len() as u64, many);
    told("all listed");
    let search = Search::literal("nowhere").unwrap();
    assert_eq!(store.search(&RunQuery::all(), &search).await.unwrap().count().await, 0);
    told("all searched");
    assert_eq!(store.expire(&Keep::new().with_bytes(u64::MAX).with_runs(u64::MAX)).await.unwrap(), 0);
    told("nothing expired, all counted");
    assert_eq!(
        store.expire(&Keep::new().with_since(Timestamp::from_micros(tenth.cast_signed()))).await.unwrap(),
        tenth
    );
    told("a tenth expired by age");
    let keep = Keep::new().with_runs(tenth);
    assert_eq!(store.expire(&keep).await.unwrap(), many - 2 * tenth);
    told("eight tenths expired by number");
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap().len() as u64, tenth);
    told("the rest listed");
    assert_eq!(open(root.path()).await.runs(&RunQuery::all().with_limit(50)).await.unwrap().len(), 50);
    told("the newest 50 listed");
}
