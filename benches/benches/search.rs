//! Reading and searching a run of a gibibyte, beside ripgrep and grep on the same file; and a folder with many runs.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark fails where it cannot measure"
)]

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
use pubsub_pipeline_benches::{Awaited, Curve, Row, Target, runtime, sizes};
use tokio::runtime::Runtime;

/// 160 characters and a line feed, as a build prints: one line in a thousand has an error, and one in all is rare.
const LINE_BYTES: u64 = 161;

/// Of the run that is searched: a gibibyte.
const RUN_BYTES: u64 = 1 << 30;

/// In one append.
const BATCH: u64 = 400;

fn line(n: u64, of: u64) -> Vec<u8> {
    let mut line = format!(
        "[{n:>9}] compile unit {:08x} of the target, with warnings turned on",
        n.wrapping_mul(0x9e37_79b9)
    );
    if n.is_multiple_of(1000) {
        line.push_str(" error: it does not");
    }
    if n == of / 2 {
        line.push_str(" the needle of all");
    }
    let line_bytes = usize::try_from(LINE_BYTES).unwrap();
    line.push_str(&".".repeat(line_bytes - 1 - line.len()));
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
        let bytes: Vec<u8> = (first..=last).flat_map(|n| line(n, lines)).collect();
        let number = LineNumber::new(first).unwrap();
        let batch =
            LineBatch::split(number, Timestamp::now(), Stream::Stdout, bytes.into(), LineEnd::None).unwrap();
        let appended = store.append(&record.key, &[batch]).await.unwrap();
        assert!(appended.refused.is_empty() && appended.again.is_empty());
        first = last + 1;
    }
    record.key.run_id
}

/// The plain output of the only run in a folder, of so many bytes.
fn plain(dir: &Path, bytes: u64) -> PathBuf {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.metadata().unwrap().len() == bytes {
                return entry.path();
            }
        }
    }
    panic!("the output is not there");
}

/// Hits, and how long all of them took.
fn found(runtime: &Runtime, store: &FileStore, run: &RunId, search: &Search) -> (u64, Duration) {
    let (store, run, search) = (store.clone(), run.clone(), search.clone());
    Awaited::InTask.run(runtime, async move {
        let begun = Instant::now();
        let mut hits = store.search(&RunQuery::of_run(run), &search).await.unwrap();
        let mut many = 0;
        while let Some(hit) = hits.next().await {
            hit.unwrap();
            many += 1;
        }
        (many, begun.elapsed())
    })
}

/// `rg` with line numbers and as many threads as it takes for one file: one.
const RIPGREP: [&str; 4] = ["rg", "--no-config", "-j1", "-n"];

/// The same of `grep`.
const GREP: [&str; 2] = ["grep", "-n"];

/// How long a program takes that searches a file and prints these hits.
fn searched(program: &[&str], words: &[&str], file: &Path, hits: u64) -> Duration {
    let begun = Instant::now();
    let output = std::process::Command::new(program[0])
        .args(&program[1..])
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
    let runtime = runtime();
    for bytes in sizes(RUN_BYTES, [16 << 20, 128 << 20]) {
        let lines = bytes / LINE_BYTES;
        let folder = tempfile::tempdir().unwrap();
        let store = runtime.block_on(FileStore::connect(FileStoreConfig::new(folder.path()))).unwrap();
        let run = runtime.block_on(written(&store, key("a"), lines));
        let file = plain(folder.path(), lines * LINE_BYTES);
        let errors = Search::regex("error|exception").unwrap();
        let needle = Search::literal("the needle of all").unwrap();
        for (id, search, of_ripgrep, of_grep) in [
            ("search-alternatives", &errors, ["-e", "error|exception"], ["-E", "error|exception"]),
            ("search-rare-literal", &needle, ["-F", "the needle of all"], ["-F", "the needle of all"]),
        ] {
            let (hits, _) = found(&runtime, &store, &run, search);
            Row { id, size: lines, unit: "lines", target: Target::Speed(0.5), curve: Curve::OverSize }
                .measure(criterion)
                .limit(|| searched(&RIPGREP, &of_ripgrep, &file, hits))
                .ours(|| found(&runtime, &store, &run, search).1)
                .peer(|| searched(&GREP, &of_grep, &file, hits));
        }
        let (target, curve) = (Target::Within(Duration::from_millis(2)), Curve::Among(lines, "lines"));
        Row { id: "last-100-lines", size: 1, unit: "question", target, curve }
            .measure(criterion)
            .ours(|| last(&runtime, &store, &run));
    }
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

/// A folder with many runs, each asked for with nothing opened before, as `pipeline` does.
fn asking(criterion: &mut Criterion) {
    let runtime = runtime();
    for runs in sizes(100_000, [1_000, 10_000]) {
        let folder = tempfile::tempdir().unwrap();
        let open = || FileStore::connect(FileStoreConfig::new(folder.path()));
        runtime.block_on(async {
            let store = open().await.unwrap();
            for n in 0..runs {
                written(&store, key(&format!("a-{n}")), u64::from(n % 100 == 0) * 200 + 1).await;
            }
        });
        // One of those with more than one line.
        let action = ActionId::new(format!("a-{}", runs / 2)).unwrap();
        let stage = Stage::new("s").unwrap();
        let (target, curve) = (Target::Within(Duration::from_millis(10)), Curve::Among(runs, "runs"));
        Row { id: "status", size: 1, unit: "question", target, curve }.measure(criterion).ours(|| {
            runtime.block_on(async {
                let begun = Instant::now();
                let store = open().await.unwrap();
                assert!(current_run(&store, &action, &stage).await.unwrap().is_some());
                begun.elapsed()
            })
        });
        Row { id: "logs-100", size: 1, unit: "question", target, curve }.measure(criterion).ours(|| {
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
}

criterion_group!(benches, searching, asking);
criterion_main!(benches);
