//! Finding a few runs among many: the catalog answers as the records would, and is made again where it is lost.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use futures::StreamExt as _;
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use pubsub_core::{
    ActionId, ErrorKind, EventId, Lines, OutputReader as _, OutputSink as _, Retention as _, RunKey,
    RunQuery, RunRecord, Search, Stage, Timestamp,
};
use pubsub_file::{FileStore, FileStoreConfig};

async fn open(folder: &Path) -> FileStore {
    FileStore::connect(FileStoreConfig::new(folder)).await.unwrap()
}

fn run(action: &str, stage: &str, event: &str, attempt: u32, at: i64) -> RunRecord {
    let (action, stage) = (ActionId::new(action).unwrap(), Stage::new(stage).unwrap());
    let key = RunKey::new(action, stage, EventId::new(event).unwrap(), attempt);
    let mut record = RunRecord::begun(key, "w");
    record.started_at = Timestamp::from_micros(at);
    record
}

/// Runs of three actions, two stages and ten events.
fn some() -> Vec<RunRecord> {
    let of = |n: u32| {
        let (action, stage, event) = (format!("a{}", n % 3), format!("s{}", n % 2), format!("e{}", n % 10));
        // Some at the same time.
        run(&action, &stage, &event, n + 1, i64::from(n / 4))
    };
    (0..40).map(of).collect()
}

async fn write(store: &FileStore, runs: &[RunRecord]) {
    for record in runs {
        store.begin(record).await.unwrap();
    }
}

fn newest(mut runs: Vec<RunRecord>, query: &RunQuery) -> Vec<RunRecord> {
    runs.retain(|record| query.matches(record));
    runs.sort_by(|a, b| (b.started_at, &b.key.run_id).cmp(&(a.started_at, &a.key.run_id)));
    runs.truncate(query.limit.unwrap_or(usize::MAX));
    runs
}

fn queries() -> Vec<RunQuery> {
    let at = Timestamp::from_micros;
    vec![
        RunQuery::all(),
        RunQuery::all().with_limit(0),
        RunQuery::all().with_limit(7),
        RunQuery::all().with_event(EventId::new("e3").unwrap()),
        RunQuery::all().with_stage(Stage::new("s1").unwrap()),
        RunQuery::all().with_action(ActionId::new("a2").unwrap()).with_limit(3),
        RunQuery::of(ActionId::new("a1").unwrap(), Stage::new("s0").unwrap()),
        RunQuery::of(ActionId::new("a1").unwrap(), Stage::new("s0").unwrap()).with_limit(2),
        RunQuery::all().with_since(at(3)).with_until(at(6)),
        RunQuery::all().with_event(EventId::new("none").unwrap()),
    ]
}

async fn agrees(store: &FileStore, runs: &[RunRecord], when: &str) {
    for query in queries() {
        assert_eq!(store.runs(&query).await.unwrap(), newest(runs.to_vec(), &query), "{when}: {query:?}");
    }
}

#[tokio::test]
async fn the_catalog_answers_as_the_records_do() {
    let root = tempfile::tempdir().unwrap();
    let (store, mut runs) = (open(root.path()).await, some());
    write(&store, &runs).await;
    agrees(&store, &runs, "written").await;
    agrees(&open(root.path()).await, &runs, "opened again").await;
    for gone in runs.drain(10..30) {
        assert!(store.remove(&gone.key.run_id).await.unwrap());
    }
    agrees(&store, &runs, "some removed").await;
    let again = some().remove(15);
    store.begin(&again).await.unwrap();
    runs.push(again);
    agrees(&store, &runs, "one again").await;
}

#[tokio::test]
async fn a_catalog_that_is_deleted_cut_or_changed_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let (store, runs) = (open(root.path()).await, some());
    write(&store, &runs).await;
    let path = root.path().join("catalog");
    let whole = fs::read(&path).unwrap();
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damage = [
        Vec::new(),
        whole[..whole.len() / 2 / 48 * 48].to_vec(),
        whole[..whole.len() - 5].to_vec(),
        vec![0; whole.len()],
        changed(3),
        changed(200),
        [&whole[..480], &[0; 48], &whole[528..]].concat(),
        b"something else\n".repeat(100),
    ];
    for (n, bytes) in damage.iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        agrees(&store, &runs, &format!("damage {n}")).await;
    }
    fs::remove_file(&path).unwrap();
    agrees(&store, &runs, "deleted").await;
    // A writer that comes before any reader.
    let mut runs = runs;
    for (n, bytes) in damage.iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let next = run("a1", "s1", "late", u32::try_from(n).unwrap() + 1, 99);
        store.begin(&next).await.unwrap();
        runs.push(next);
        agrees(&store, &runs, &format!("damage {n}, then a run")).await;
    }
}

#[tokio::test]
async fn what_a_process_killed_before_the_record_leaves_in_the_catalog_hides_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (store, runs) = (open(root.path()).await, some());
    write(&store, &runs).await;
    // The entry is there, the record is not.
    let killed = run("a0", "s0", "killed", 1, 50);
    store.begin(&killed).await.unwrap();
    let folder = root.path().join("runs/a0/s0").join(killed.key.run_id.as_str());
    fs::remove_file(folder.join("record.json")).unwrap();
    agrees(&store, &runs, "killed").await;
    // A part of an entry, and an entry that the header does not count.
    let path = root.path().join("catalog");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes[bytes.len() - 48..].to_vec();
    bytes.extend_from_slice(&last);
    bytes.extend_from_slice(&last[..20]);
    fs::write(&path, bytes).unwrap();
    agrees(&store, &runs, "half an entry").await;
    let mut all = runs;
    all.push(killed.clone());
    store.begin(&killed).await.unwrap();
    agrees(&store, &all, "begun again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_begin_while_the_catalog_is_lost_again_and_again_are_all_found() {
    let root = tempfile::tempdir().unwrap();
    let runs: Vec<_> = (0..200).map(|n| run("a", "s", &format!("e{n}"), 1, n)).collect();
    let mut tasks = Vec::new();
    for part in runs.chunks(50) {
        let (part, folder) = (part.to_vec(), root.path().to_owned());
        tasks.push(tokio::spawn(async move {
            // A handle of its own, as another process has one.
            let store = open(&folder).await;
            for (n, record) in part.iter().enumerate() {
                store.begin(record).await.unwrap();
                if n % 9 == 0 {
                    let _ = fs::remove_file(folder.join("catalog"));
                }
                let event = RunQuery::all().with_event(record.key.event_id.clone());
                assert_eq!(store.runs(&event).await.unwrap().len(), 1);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let all = RunQuery::all().with_limit(1_000);
    assert_eq!(open(root.path()).await.runs(&all).await.unwrap(), newest(runs, &all));
}

#[tokio::test]
async fn runs_that_were_removed_leave_the_catalog() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let runs: Vec<_> = (0..1_100).map(|n| run("a", "s", &format!("e{n}"), 1, n)).collect();
    write(&store, &runs).await;
    for gone in &runs[1..] {
        fs::remove_dir_all(root.path().join("runs/a/s").join(gone.key.run_id.as_str())).unwrap();
        let id = gone.key.run_id.as_str();
        fs::remove_file(root.path().join("ids").join(&id[..2]).join(id)).unwrap();
    }
    let one = RunQuery::all().with_limit(1);
    assert_eq!(store.runs(&one).await.unwrap(), runs[..1]);
    assert_eq!(fs::metadata(root.path().join("catalog")).unwrap().len(), 96);
    assert_eq!(store.runs(&one).await.unwrap(), runs[..1]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_hides_no_other_and_answers_its_error_when_asked_for() {
    let newer = br#"{"version":99,"more":true}"#;
    let kinds: [(&[u8], ErrorKind); 5] = [
        (b"", ErrorKind::Corrupt),
        (b"{\"version\":1,\"rev", ErrorKind::Corrupt),
        (&[0; 300], ErrorKind::Corrupt),
        (b"no json", ErrorKind::Corrupt),
        (newer, ErrorKind::TooNew),
    ];
    for (bytes, kind) in kinds {
        let root = tempfile::tempdir().unwrap();
        let (store, mut runs) = (open(root.path()).await, some());
        write(&store, &runs).await;
        let bad = runs.remove(20);
        let [action, stage] = [bad.key.action_id.as_str(), bad.key.stage.as_str()];
        let folder = root.path().join("runs").join(action).join(stage).join(bad.key.run_id.as_str());
        fs::write(folder.join("record.json"), bytes).unwrap();
        agrees(&store, &runs, "listed").await;
        // Also where the catalog is made again meanwhile.
        fs::remove_file(root.path().join("catalog")).unwrap();
        agrees(&store, &runs, "catalog lost").await;
        let hits = store.search(&RunQuery::all(), &Search::literal("x").unwrap()).await.unwrap();
        assert_eq!(hits.count().await, 0);
        let of_run = RunQuery::of_run(bad.key.run_id.clone());
        let error = store.runs(&of_run).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(bad.key.run_id.as_str()), "{error}");
        let error = store.lines(&bad.key.run_id, Lines::ALL).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        // Its owner writes it anew, unless it is somebody's who knows more.
        let again = store.begin(&bad).await;
        if kind == ErrorKind::TooNew {
            assert_eq!(again.unwrap_err().kind(), kind);
        } else {
            again.unwrap();
            runs.push(bad);
            agrees(&store, &runs, "written anew").await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_stands_in_the_catalog_no_run_is_hidden(
        at in 0usize..600, garbage in proptest::collection::vec(proptest::num::u8::ANY, 0..100), cut in 0usize..600,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path()).await;
            let runs: Vec<_> = some().into_iter().take(12).collect();
            write(&store, &runs).await;
            let path = root.path().join("catalog");
            let mut bytes = fs::read(&path).unwrap();
            let end = (at + garbage.len()).min(bytes.len());
            bytes.splice(at..end, garbage);
            bytes.truncate(bytes.len().saturating_sub(cut));
            fs::write(&path, bytes).unwrap();
            for query in queries() {
                prop_assert_eq!(store.runs(&query).await.unwrap(), newest(runs.clone(), &query));
            }
            Ok(())
        })?;
    }
}
