//! From a command's pipe into a file store: numbered, indexed, sealed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark fails where it cannot measure"
)]

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, criterion_group};
use pubsub_pipeline::{
    ActionId, Command, Event, EventType, Execution, FanOut, FileStore, FileStoreConfig, Finality, RunKey,
    SinkConfig, Stage, Stop,
};
use pubsub_pipeline_benches::{Curve, Row, Target, runtime, sizes};
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;

/// With its line feed.
const LINE_BYTES: usize = 100;

/// One hundred megabytes of them.
const LINES: u64 = 1_000_000;

/// Of a producer that flushes each one.
const FLUSHED: u64 = 200_000;

/// Prints lines, in blocks or one by one, and tells a file how long that took.
fn produce(kind: &str, lines: u64) {
    let mut line = vec![b'x'; LINE_BYTES - 1];
    line.push(b'\n');
    let mut out = std::fs::File::options().write(true).open("/dev/stdout").unwrap();
    let begun = Instant::now();
    if kind == "blocks" {
        let block = line.repeat(640);
        let (whole, rest) = (lines / 640, usize::try_from(lines % 640).unwrap());
        (0..whole).for_each(|_| out.write_all(&block).unwrap());
        out.write_all(&block[..rest * LINE_BYTES]).unwrap();
    } else {
        (0..lines).for_each(|_| out.write_all(&line).unwrap());
    }
    drop(out);
    if let Some(file) = std::env::var_os("PRODUCED_IN") {
        std::fs::write(file, begun.elapsed().as_nanos().to_string()).unwrap();
    }
}

fn producer() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

/// A bare reader: owned batches of 512 lines over a channel.
fn bare(runtime: &Runtime, kind: &str, lines: u64) -> Duration {
    runtime.block_on(async {
        let begun = Instant::now();
        let mut child = tokio::process::Command::new(producer())
            .args(["produce", kind, &lines.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Bytes, Vec<usize>)>(64);
        let reader = tokio::spawn(async move {
            let (mut buffer, mut ends, mut scanned) = (BytesMut::with_capacity(1 << 20), Vec::new(), 0);
            loop {
                buffer.reserve(64 * 1024);
                if pipe.read_buf(&mut buffer).await.unwrap() == 0 {
                    break;
                }
                while let Some(at) = memchr::memchr(b'\n', &buffer[scanned..]) {
                    scanned += at + 1;
                    ends.push(scanned);
                    if ends.len() == 512 {
                        let batch = buffer.split_to(std::mem::take(&mut scanned)).freeze();
                        sender.send((batch, std::mem::take(&mut ends))).await.unwrap();
                    }
                }
                scanned = buffer.len();
            }
            sender.send((buffer.freeze(), ends)).await.unwrap();
        });
        let mut seen = 0;
        while let Some((_, ends)) = receiver.recv().await {
            seen += ends.len() as u64;
        }
        reader.await.unwrap();
        child.wait().await.unwrap();
        assert_eq!(seen, lines);
        begun.elapsed()
    })
}

/// A command's run into a file store, to the seal.
fn captured(runtime: &Runtime, command: &Command) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let store = FileStore::connect(FileStoreConfig::new(folder.path())).await.unwrap();
        let fan_out = FanOut::new(vec![SinkConfig::required("file", Arc::new(store))]);
        let event = Event::new(EventType::new("bench").unwrap(), ActionId::new("a").unwrap());
        let key = RunKey::new(event.action_id.clone(), Stage::new("s").unwrap(), event.id.clone(), 1);
        let (_stopper, stop) = Stop::pair();
        let (execution, event, command) = (Execution::new(), Arc::new(event), command.clone());
        let begun = Instant::now();
        let run = tokio::spawn(async move {
            execution.run(&fan_out, &command, event, key, stop, Finality::Final).await.unwrap()
        });
        let executed = run.await.unwrap();
        let took = begun.elapsed();
        assert!(executed.report.sinks[0].balances() && executed.report.sinks[0].stored > 0);
        took
    })
}

fn producing(kind: &str, lines: u64) -> Command {
    Command::new(producer()).with_args(["produce".to_owned(), kind.to_owned(), lines.to_string()])
}

/// A shell line, to its end.
fn shell(line: &str) -> Duration {
    let begun = Instant::now();
    let status = std::process::Command::new("sh").args(["-c", line]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{line}");
    begun.elapsed()
}

/// How long the producer itself took in what is run.
fn produced_in(run: impl FnOnce(&str)) -> Duration {
    let file = tempfile::NamedTempFile::new().unwrap();
    run(&file.path().display().to_string());
    Duration::from_nanos(std::fs::read_to_string(file.path()).unwrap().parse().unwrap())
}

fn capture(criterion: &mut Criterion) {
    let (runtime, producer) = (runtime(), producer());
    for lines in sizes(LINES, [LINES / 10, LINES * 10]) {
        let target = Target::Speed(0.5);
        Row { id: "capture-blocks", size: lines, unit: "lines", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| bare(&runtime, "blocks", lines))
            .ours(|| captured(&runtime, &producing("blocks", lines)));
    }
    for lines in sizes(FLUSHED, [FLUSHED / 10, FLUSHED * 10]) {
        let target = Target::Speed(0.7);
        Row { id: "capture-flushed-lines", size: lines, unit: "lines", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| shell(&format!("{producer} produce lines {lines} | wc -l")))
            .ours(|| captured(&runtime, &producing("lines", lines)));
    }
    let (id, target) = ("capture-beside-ts", Target::Peer(20.0));
    Row { id, size: FLUSHED, unit: "lines", target, curve: Curve::No }
        .measure(criterion)
        .ours(|| captured(&runtime, &producing("blocks", FLUSHED)))
        .peer(|| shell(&format!("{producer} produce blocks {FLUSHED} | ts")));
    for (id, kind, lines) in
        [("capture-child-blocks", "blocks", LINES), ("capture-child-lines", "lines", FLUSHED)]
    {
        Row { id, size: lines, unit: "lines", target: Target::Cost(1.4), curve: Curve::No }
            .measure(criterion)
            .limit(|| {
                produced_in(|file| {
                    shell(&format!("PRODUCED_IN={file} {producer} produce {kind} {lines} | cat"));
                })
            })
            .ours(|| {
                produced_in(|file| {
                    captured(&runtime, &producing(kind, lines).with_variable("PRODUCED_IN", file));
                })
            });
    }
}

criterion_group!(benches, capture);

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, produces, kind, lines] = &words[..]
        && produces == "produce"
    {
        return produce(kind, lines.parse().unwrap());
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
