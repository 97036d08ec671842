//! Reading and searching a run of a gibibyte, beside ripgrep on the same file; and a folder with many runs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark fails where it cannot measure")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::StreamExt as _;
use pubsub_pipeline::{
    ActionId, EventId, FileStore, FileStoreConfig, LineBatch, LineEnd, LineNumber, Lines, OutputItem,
    OutputReader as _, OutputSink as _, RunId, RunKey, RunQuery, RunRecord, Search, Stage, Stream, Timestamp,
    current_run,
};
use pubsub_pipeline_benches::{Row, Target, runtime};
use tokio::runtime::Runtime;

/// 160 characters and a line feed, as a build prints: one line in a thousand has an error, and one in all is rare.
const LINE_BYTES: usize = 161;

/// So many make a gibibyte.
const LINES: u64 = (1 << 30) / LINE_BYTES as u64;

/// In one append.
const BATCH: u64 = 400;

fn line(n: u64) -> Vec<u8> {
    let mut line = format!(
        "[{n:>9}] compile unit {:08x} of the target, with warnings turned on",
        n.wrapping_mul(0x9e37_79b9)
    );
    if n.is_multiple_of(1000) {
        line.push_str(" error: it does not");
    }
    if n == LINES / 2 {
        line.push_str(" the needle of all");
    }
    line.push_str(&".".repeat(LINE_BYTES - 1 - line.len()));
    line.push('\n');
    line.into_bytes()
}

fn key(action: &str) -> RunKey {
    RunKey::new(ActionId::new(action).unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1)
}

async fn written(store: &FileStore, key: RunKey, lines: u64) -> RunId {
    let record = RunRecord::begun(key, "bench");
    store.begin(&record).await.unwrap();
    let mut first = 1;
    while first <= lines {
        let last = lines.min(first + BATCH - 1);
        let bytes: Vec<u8> = (first..=last).flat_map(line).collect();
        let number = LineNumber::new(first).unwrap();
        let batch =
            LineBatch::split(number, Timestamp::now(), Stream::Stdout, bytes.into(), LineEnd::None).unwrap();
        let appended = store.append(&record.key, &[batch]).await.unwrap();
        assert!(appended.refused.is_empty() && appended.again.is_empty());
        first = last + 1;
    }
    record.key.run_id
}

/// The plain output of the only run in a folder.
fn plain(dir: &Path) -> PathBuf {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.metadata().unwrap().len() > 1 << 29 {
                return entry.path();
            }
        }
    }
    panic!("the output is not there");
}

/// Hits, and how long all of them took.
fn found(runtime: &Runtime, store: &FileStore, run: &RunId, search: &Search) -> (u64, Duration) {
    runtime.block_on(async {
        let (store, run, search) = (store.clone(), run.clone(), search.clone());
        let searching = tokio::spawn(async move {
            let begun = Instant::now();
            let mut hits = store.search(&RunQuery::of_run(run), &search).await.unwrap();
            let mut many = 0;
            while let Some(hit) = hits.next().await {
                hit.unwrap();
                many += 1;
            }
            (many, begun.elapsed())
        });
        searching.await.unwrap()
    })
}

/// `rg` with line numbers and as many threads as it takes for one file: one.
fn ripgrep(words: &[&str], file: &Path, hits: u64) -> Duration {
    let begun = Instant::now();
    let output = std::process::Command::new("rg")
        .args(["--no-config", "-j1", "-n"])
        .args(words)
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let took = begun.elapsed();
    assert_eq!(memchr::memchr_iter(b'\n', &output.stdout).count() as u64, hits);
    took
}

fn searching(criterion: &mut Criterion) {
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let store = runtime.block_on(FileStore::connect(FileStoreConfig::new(folder.path()))).unwrap();
    let run = runtime.block_on(written(&store, key("a"), LINES));
    let file = plain(folder.path());
    let errors = Search::regex("error|exception").unwrap();
    let needle = Search::literal("the needle of all").unwrap();
    for (id, search, words) in [
        ("search-alternatives", &errors, &["error|exception"][..]),
        ("search-rare-literal", &needle, &["-F", "the needle of all"]),
    ] {
        let (hits, _) = found(&runtime, &store, &run, search);
        Row { id, size: LINES, unit: "lines", target: Target::Speed(0.5) }
            .measure(criterion)
            .limit(|| ripgrep(words, &file, hits))
            .ours(|| found(&runtime, &store, &run, search).1);
    }
    Row {
        id: "last-100-of-a-gibibyte",
        size: 1,
        unit: "question",
        target: Target::Within(Duration::from_millis(2)),
    }
    .measure(criterion)
    .ours(|| last(&runtime, &store, &run));
}

fn last(runtime: &Runtime, store: &FileStore, run: &RunId) -> Duration {
    runtime.block_on(async {
        let begun = Instant::now();
        let mut output = store.lines(run, Lines::Last(100)).await.unwrap();
        let mut lines = 0;
        while let Some(item) = output.items.next().await {
            if let OutputItem::Lines(batch) = item.unwrap() {
                lines += batch.len();
            }
        }
        let took = begun.elapsed();
        assert_eq!(lines, 100);
        took
    })
}

/// A folder with 100,000 runs, each asked for with nothing opened before, as `pipeline` does.
fn asking(criterion: &mut Criterion) {
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let open = || FileStore::connect(FileStoreConfig::new(folder.path()));
    runtime.block_on(async {
        let store = open().await.unwrap();
        for n in 0..100_000 {
            written(&store, key(&format!("a-{n}")), u64::from(n % 100 == 0) * 200 + 1).await;
        }
    });
    let of = |action: &str| (ActionId::new(action).unwrap(), Stage::new("s").unwrap());
    let (action, stage) = of("a-50000");
    Row {
        id: "status-among-100000-runs",
        size: 1,
        unit: "question",
        target: Target::Within(Duration::from_millis(10)),
    }
    .measure(criterion)
    .ours(|| {
        runtime.block_on(async {
            let begun = Instant::now();
            let store = open().await.unwrap();
            assert!(current_run(&store, &action, &stage).await.unwrap().is_some());
            begun.elapsed()
        })
    });
    Row {
        id: "logs-100-among-100000-runs",
        size: 1,
        unit: "question",
        target: Target::Within(Duration::from_millis(10)),
    }
    .measure(criterion)
    .ours(|| {
        let begun = Instant::now();
        let (store, run) = runtime.block_on(async {
            let store = open().await.unwrap();
            let run = current_run(&store, &action, &stage).await.unwrap().unwrap();
            (store, run.key.run_id)
        });
        last(&runtime, &store, &run);
        begun.elapsed()
    });
}

criterion_group!(benches, searching, asking);
criterion_main!(benches);
