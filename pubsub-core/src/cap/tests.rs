//! Runs with a limit on their output, from the handler to the store.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use proptest::prelude::{Just, ProptestConfig, Strategy as _, prop_assert_eq, prop_oneof, proptest};

use super::Cap;
use super::ring::Ring;
use crate::conformance::store::{at, lines, read, shape};
use crate::{
    ActionId, Appended, Cause, Event, EventType, Execution, Exit, FanOut, Finality, Follow, FollowFrom,
    Followed, Gap, Line, LineBatch, LineEnd, LineNumber, LineRange, Lines, MemoryStore, OutputItem,
    OutputReader as _, OutputSink, Result, RunContext, RunKey, RunQuery, RunRecord, RunStatus, Search,
    SinkConfig, Stage, Stop, Stream, Target, copy, follow, handler_fn, verify, verify_against,
};

/// What is printed in one write.
type Piece = (Stream, Vec<u8>);

fn out(text: impl Into<Vec<u8>>) -> Piece {
    (Stream::Stdout, text.into())
}

fn execution(cap: Option<(u64, u64)>) -> Execution {
    let capped = |(head, tail)| Execution::new().with_max_output(Cap { head, tail, dir: None });
    cap.map_or_else(Execution::new, capped)
}

fn key() -> (Arc<Event>, RunKey) {
    let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
    let key = RunKey::new(event.action_id.clone(), Stage::new("s").unwrap(), event.id.clone(), 1);
    (Arc::new(event), key)
}

async fn print(execution: &Execution, sinks: Vec<SinkConfig>, pieces: Vec<Piece>, stop: Stop) -> RunRecord {
    let prints = handler_fn(move |context: RunContext| {
        let pieces = pieces.clone();
        async move {
            for (stream, bytes) in pieces {
                context.output.write(stream, bytes.into()).await.unwrap();
            }
            Exit::code(0).into()
        }
    });
    let (event, key) = key();
    let fan_out = FanOut::new(sinks);
    let executed = execution.run(&fan_out, &prints, event, key, stop, Finality::Final).await.unwrap();
    assert!(executed.report.sinks.iter().all(crate::SinkAccount::balances));
    let record = executed.report.record;
    drop(executed.sinks);
    // What nobody needs may be late, or dead.
    let _ = fan_out.close(LATE).await;
    record
}

/// How long sinks may take after the run.
const LATE: Duration = Duration::from_secs(60);

fn required(store: &MemoryStore) -> SinkConfig {
    SinkConfig::required("memory", Arc::new(store.clone())).with_delay(Duration::ZERO)
}

/// A run in a store of its own.
async fn stored(cap: Option<(u64, u64)>, pieces: Vec<Piece>) -> (MemoryStore, RunRecord) {
    let (store, (_stopper, stop)) = (MemoryStore::new(), Stop::pair());
    let record = print(&execution(cap), vec![required(&store)], pieces, stop).await;
    (store, record)
}

async fn read_all(store: &MemoryStore, record: &RunRecord) -> Vec<OutputItem> {
    read(store, &record.key.run_id, Lines::ALL).await
}

fn lines_of(items: &[OutputItem]) -> Vec<Line> {
    let of = |item: &OutputItem| match item {
        OutputItem::Lines(batch) => batch.lines().collect(),
        OutputItem::Gap(_) => Vec::new(),
    };
    items.iter().flat_map(of).collect()
}

/// The limit, what is printed, and which numbers are kept and dropped.
async fn kept(cap: (u64, u64), pieces: Vec<Piece>) -> (String, Vec<Gap>) {
    let (store, record) = stored(Some(cap), pieces).await;
    let items = read_all(&store, &record).await;
    assert_eq!(verify(&store, &record.key.run_id).await.unwrap().problem(), None, "{items:?}");
    let kept =
        shape(&items).replace(&format!(" over the limit of the output ({})", super::size(cap.0 + cap.1)), "");
    (kept, record.gaps)
}

#[tokio::test]
async fn a_limit_holds_to_the_byte() {
    let long = "x".repeat(150_000);
    let table = [
        ((4, 4), "a\nb\nc\nd\n", "1-4", 0, "never reached"),
        ((4, 4), "a\nb\nc\nd\ne", "1-2 gap 3-3; 4-5", 2, "reached by one byte"),
        ((5, 3), "a\nb\nc\nd\n", "1-2 gap 3-3; 4-4", 2, "lines are kept whole"),
        ((4, 4), "a\nb\nc\nd\ne\n", "1-2 gap 3-3; 4-5", 2, "one line over"),
        ((0, 4), "a\nb\nc\n", "gap 1-1; 2-3", 2, "no head"),
        ((4, 0), "a\nb\nc\nd\n", "1-2 gap 3-3; 4-4", 2, "no tail but the last line"),
        ((0, 1), "a\nb\nc and more than a byte", "gap 1-2; 3-3", 4, "a line larger than the tail"),
        ((2, 1), "a\nb\n", "1-2", 0, "the last line is kept, however long"),
        (
            (2, 9),
            "a\nmuch too long\nb\n",
            "1-1 gap 2-2; 3-3",
            14,
            "a line larger than the tail before the last",
        ),
        ((0, 90_000), &long, "gap 1-1; 2-3", 65_536, "parts"),
        ((70_000, 0), &long, "1-1 gap 2-2; 3-3", 65_536, "parts in the head"),
        ((4, 4), "", "", 0, "nothing"),
    ];
    for (cap, text, expected, dropped, what) in table {
        // However it is written.
        for size in [1_usize, 3, 1 << 20] {
            if text.len() / size > 10_000 {
                continue;
            }
            let (shape, gaps) = kept(cap, text.as_bytes().chunks(size).map(out).collect()).await;
            assert_eq!(shape, expected, "{what}");
            let bytes: Vec<_> = gaps.iter().map(|gap| gap.bytes.unwrap()).collect();
            assert_eq!(bytes.iter().sum::<u64>(), dropped, "{what}");
            assert_eq!(bytes.len(), usize::from(dropped > 0), "one gap: {what}");
        }
    }
}

#[tokio::test]
async fn both_streams_share_one_limit_and_keep_their_numbers_times_and_ends() {
    let stream = |n: usize| if n.is_multiple_of(2) { Stream::Stdout } else { Stream::Stderr };
    let mut pieces: Vec<Piece> = (0..100).map(|n| (stream(n), format!("line {n:02}\r\n").into())).collect();
    pieces.push((Stream::Stderr, b"no end \xff".to_vec()));
    let (store, record) = stored(Some((100, 100)), pieces.clone()).await;
    let items = read_all(&store, &record).await;
    assert_eq!(shape(&items), "1-11 gap 12-90 over the limit of the output (200 bytes); 91-101");
    let (all, whole) = stored(None, pieces).await;
    let whole = lines_of(&read_all(&all, &whole).await);
    let expected = whole.iter().filter(|line| !(12..=90).contains(&line.number.get()));
    for (line, expected) in lines_of(&items).iter().zip(expected) {
        assert_eq!((line.number, line.stream, line.end), (expected.number, expected.stream, expected.end));
        assert_eq!(line.bytes, expected.bytes);
        assert!(line.time >= record.started_at && line.time <= record.finished_at.unwrap());
    }
    let counts = record.counts;
    assert_eq!((counts.lines, counts.stdout_lines, counts.stderr_lines, counts.lossy), (22, 11, 11, 1));
    assert_eq!(record.last_number(), LineNumber::new(101));
}

/// Which lines the definition keeps: as many as fit into the head, then as many as fit into the tail from the end, and
/// the last one.
fn model(whole: &[Line], head: u64, tail: u64) -> (usize, usize) {
    let size = |line: &Line| (line.bytes.len() + line.end.as_bytes().len()) as u64;
    let fitting = |lines: &mut dyn Iterator<Item = &Line>, most: u64| {
        let sums = lines.scan(0, |sum, line| {
            *sum += size(line);
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= most).count()
    };
    let front = fitting(&mut whole.iter(), head);
    let back = fitting(&mut whole[front..].iter().rev(), tail);
    let last = usize::from(front < whole.len());
    (front, whole.len() - back.max(last))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn kept_lines_and_the_gap_cover_all_numbers_and_the_seal_is_over_what_is_kept(
        pieces in proptest::collection::vec(
            (
                prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)],
                prop_oneof![
                    8 => "[a-c\r\n]{0,40}".prop_map(String::into_bytes),
                    1 => (1_usize..150_000).prop_map(|n| vec![b'x'; n]),
                    2 => (1_usize..60_000, 1_usize..30).prop_map(|(n, more)| {
                        format!("{}\n", "y".repeat(more)).repeat(n / more + 1).into_bytes()
                    }),
                ],
            ),
            0..40,
        ),
        head in prop_oneof![0_u64..200, 0_u64..300_000],
        tail in prop_oneof![0_u64..200, 0_u64..2_000_000],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (all, record) = stored(None, pieces.clone()).await;
            let whole = lines_of(&read_all(&all, &record).await);
            let (store, record) = stored(Some((head, tail)), pieces).await;
            let items = read_all(&store, &record).await;
            let (front, back) = model(&whole, head, tail);
            let place = |line: &Line| usize::try_from(line.number.get()).unwrap() - 1;
            let numbers: Vec<usize> = lines_of(&items).iter().map(place).collect();
            prop_assert_eq!(numbers, (0..front).chain(back..whole.len()).collect::<Vec<_>>());
            for line in lines_of(&items) {
                let expected = &whole[place(&line)];
                prop_assert_eq!((&line.bytes, line.end, line.stream), (&expected.bytes, expected.end, expected.stream));
            }
            let dropped = &whole[front..back];
            let bytes: usize = dropped.iter().map(|l| l.bytes.len() + l.end.as_bytes().len()).sum();
            let told: Vec<_> = record.gaps.iter().map(|g| (g.range.first.get(), g.range.last.get(), g.bytes)).collect();
            let expected = (front < back).then(|| (front as u64 + 1, back as u64, Some(bytes as u64)));
            prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(record.last_number(), LineNumber::new(whole.len() as u64));
            prop_assert_eq!(verify(&store, &record.key.run_id).await.unwrap().problem(), None);
            Ok(())
        })?;
    }
}

/// `count` lines of ten bytes.
fn numbered(count: usize) -> Vec<u8> {
    (1..=count).flat_map(|n| format!("{n:09}\n").into_bytes()).collect()
}

#[tokio::test]
async fn a_ring_goes_round_and_every_question_has_its_answer() {
    // 10 MB, of which 1 MB and 3 MB are kept: the ring has five places and takes ten blocks.
    let pieces = numbered(1_000_000).chunks(10_000).map(out).collect();
    let (store, record) = stored(Some((1_000_000, 3_000_000)), pieces).await;
    let run = &record.key.run_id;
    let gap = "gap 100001-700000 over the limit of the output (4 MB)";
    assert_eq!(shape(&read_all(&store, &record).await), format!("1-100000 {gap}; 700001-1000000"));
    assert_eq!(record.gaps[0].bytes, Some(6_000_000));
    let last = read(&store, run, Lines::Last(300_001)).await;
    assert_eq!(shape(&last), format!("100000-100000 {gap}; 700001-1000000"));
    let range = Lines::Range(LineRange::new(at(200_000), at(200_001)));
    assert_eq!(shape(&read(&store, run, range).await), gap.replace("100001-700000", "200000-200001"));
    let search = Search::regex("^0006(00|99)000$|^000700001$").unwrap();
    let hits: Vec<_> = store.search(&RunQuery::of_run(run.clone()), &search).await.unwrap().collect().await;
    let numbers: Vec<u64> = hits.iter().map(|hit| hit.as_ref().unwrap().line.number.get()).collect();
    assert_eq!(numbers, [700_001]);
    let other = MemoryStore::new();
    let report = copy(&store, run, &other).await.unwrap();
    assert_eq!((report.lines, report.record.holes.len()), (400_000, 0));
    assert!(verify(&other, run).await.unwrap().agrees());
    assert_eq!(verify_against(&store, &other, run).await.unwrap(), None);
}

#[tokio::test]
async fn a_follower_hears_that_output_is_held_back_and_gets_the_gap_in_its_place() {
    let (store, (_stopper, stop)) = (MemoryStore::new(), Stop::pair());
    let (event, key) = key();
    let target = Target::Run(key.run_id.clone());
    let from = FollowFrom::Line(LineNumber::FIRST);
    let followed = follow(Arc::new(store.clone()), Follow { target, from });
    let (seen, reader) = (key.run_id.clone(), store.clone());
    let prints = handler_fn(move |context: RunContext| {
        let (run, store) = (seen.clone(), reader.clone());
        async move {
            context.output.line("one").await.unwrap();
            for n in 2..=9 {
                context.output.line(n.to_string()).await.unwrap();
            }
            // Long before the next sign of life is due.
            let mut changes = store.changes(&RunQuery::of_run(run.clone())).await.unwrap();
            while store.lines(&run, Lines::ALL).await.unwrap().record.notes.is_empty() {
                changes.next().await.unwrap().unwrap();
            }
            let record = store.lines(&run, Lines::ALL).await.unwrap().record;
            let note = &record.notes[0];
            assert_eq!((note.kind.as_str(), note.after_line), ("output_held_back", Some(at(1))));
            assert!(note.text.contains("its last 4 bytes are held back"), "{}", note.text);
            assert_eq!((record.status, record.counts.lines), (RunStatus::Running, 1));
            Exit::code(0).into()
        }
    });
    let fan_out = FanOut::new(vec![required(&store)]);
    let execution = execution(Some((4, 4)));
    let run = execution.run(&fan_out, &prints, event, key, stop, Finality::Final);
    let (executed, items) = tokio::join!(run, followed.map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(executed.unwrap().report.record.notes.len(), 1);
    let items = items.into_iter().filter_map(|followed| match followed {
        Followed::Item(item) => Some(item),
        _ => None,
    });
    assert_eq!(shape(&items.collect::<Vec<_>>()), "1-1 gap 2-7 over the limit of the output (8 bytes); 8-9");
}

#[tokio::test]
async fn without_a_disk_the_last_lines_are_kept_in_memory_and_the_account_is_right() {
    let store = MemoryStore::new();
    let cap = Cap::new(4_000_000).with_dir("/dev/null/folder");
    let pieces: Vec<Piece> = numbered(1_000_000).chunks(50_000).map(out).collect();
    let (_stopper, stop) = Stop::pair();
    let execution = Execution::new().with_max_output(cap);
    let record = print(&execution, vec![required(&store)], pieces, stop).await;
    let [gap] = &record.gaps[..] else { panic!("{:?}", record.gaps) };
    assert_eq!(gap.range.first, at(200_001));
    let kept = 1_000_000 - gap.range.last.get();
    assert!((1..110_000).contains(&kept), "one block at most: {gap:?}");
    assert_eq!(gap.bytes, Some(gap.range.lines() * 10));
    assert_eq!(record.counts.lines, 200_000 + kept);
    assert!(verify(&store, &record.key.run_id).await.unwrap().agrees());
}

#[tokio::test]
async fn a_run_that_is_stopped_brings_its_tail_into_a_narrow_queue() {
    let (store, (stopper, stop)) = (MemoryStore::new(), Stop::pair());
    let stopper = Arc::new(stopper);
    let prints = handler_fn(move |context: RunContext| {
        let stopper = Arc::clone(&stopper);
        async move {
            context.output.write(Stream::Stdout, numbered(400_000).into()).await.unwrap();
            stopper.stop(Cause::Cancelled);
            let mut stop = context.stop.clone();
            Exit::stopped(stop.requested().await).into()
        }
    });
    let (event, key) = key();
    let fan_out = FanOut::new(vec![required(&store).with_queue_bytes(100_000)]);
    let execution = execution(Some((1_000, 3_000_000)));
    let executed = execution.run(&fan_out, &prints, event, key, stop, Finality::Final).await.unwrap();
    let record = executed.report.record;
    assert_eq!(record.cause, Some(Cause::Cancelled));
    assert!(!record.output_incomplete);
    assert_eq!(record.counts.lines, 300_100);
    assert!(verify(&store, &record.key.run_id).await.unwrap().agrees());
}

/// A store that takes a while for each append, or never answers one.
struct Slow(MemoryStore, Option<Duration>);

#[async_trait::async_trait]
impl OutputSink for Slow {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        match self.1 {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
        self.0.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_waits_for_a_slow_store_that_nobody_needs_and_not_for_a_dead_one() {
    for (time, reaches_the_end) in [(Some(Duration::from_secs(1)), true), (None, false)] {
        let (store, other, (_stopper, stop)) = (MemoryStore::new(), MemoryStore::new(), Stop::pair());
        let slow = SinkConfig::best_effort("slow", Arc::new(Slow(other.clone(), time)));
        let sinks = vec![required(&store), slow.with_queue_bytes(100_000)];
        let started = tokio::time::Instant::now();
        let pieces = numbered(400_000).chunks(50_000).map(out).collect();
        let record = print(&execution(Some((1_000, 3_000_000))), sinks, pieces, stop).await;
        assert!(verify(&store, &record.key.run_id).await.unwrap().agrees());
        if reaches_the_end {
            let (run, last) = (record.key.run_id, at(400_000));
            let items = read(&other, &run, Lines::Last(300_000)).await;
            assert_eq!(lines_of(&items).len(), 300_000, "none was dropped");
            assert_eq!(lines_of(&items).last().unwrap().number, last);
        } else {
            assert!(started.elapsed() < LATE + Duration::from_secs(10), "{:?}", started.elapsed());
        }
    }
}

/// A block of one line after the other, as large as blocks get.
fn full_block(first: u64) -> super::Block {
    let mut block = super::Block::default();
    for n in first.. {
        let batch = lines(n, ["x"]);
        if !block.has_room(&batch) {
            break;
        }
        block.add(&batch);
    }
    block
}

#[test]
fn a_ring_of_single_short_lines_takes_no_more_than_twice_its_bytes() {
    let tail = 4 << 20;
    let mut ring = Ring::new(Cap { head: 0, tail, dir: None }, key().1);
    let mut first = 1;
    for _ in 0..30 {
        let block = full_block(first);
        first = block.held.unwrap().last.get() + 1;
        ring.push(&block);
    }
    let bytes = ring.disk_bytes();
    assert!(bytes > tail && bytes <= 2 * tail + (3 << 20) + 8192, "{bytes}");
    // What is there is what came last, without a hole.
    let mut next = first;
    let mut held: Vec<_> = std::iter::from_fn(|| ring.take_oldest()).map(|stored| stored.held).collect();
    held.reverse();
    for block in held {
        assert_eq!(block.last.get() + 1, next);
        next = block.first.get();
    }
}

#[test]
fn limits_are_told_in_the_unit_that_is_exact() {
    let table = [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (1_024, "1 KiB"),
        (1_500, "1500 bytes"),
        (500_000_000, "500 MB"),
        (1 << 30, "1 GiB"),
        (3 << 40, "3 TiB"),
    ];
    for (bytes, told) in table {
        assert_eq!(super::size(bytes), told);
    }
    let cap = Cap::new(7);
    assert_eq!((cap.head, cap.tail), (3, 4));
}

#[test]
fn a_block_reads_back_as_it_was() {
    let line = |first: u64, stream, bytes: &'static [u8], tail| {
        crate::conformance::store::batch(first, stream, bytes, tail)
    };
    let batches = [
        line(7, Stream::Stdout, b"a\nb\r\n", LineEnd::None),
        line(9, Stream::Stderr, b"\xff part", LineEnd::Part),
        line(10, Stream::Stdout, b"end", LineEnd::None),
    ];
    let mut block = super::Block::default();
    batches.iter().for_each(|batch| block.add(batch));
    let decode = |bytes: &[u8]| super::block::decode(bytes.to_vec().into(), at(7));
    let whole = (batches.to_vec(), block.frames.len());
    assert_eq!(decode(&block.frames), whole);
    // What lies behind is an earlier block's, or nothing.
    assert_eq!(decode(&[&block.frames[..], &[0; 40]].concat()), whole);
    let mut older = super::Block::default();
    older.add(&line(1, Stream::Stdout, b"older\n", LineEnd::None));
    assert_eq!(decode(&[&block.frames[..], &older.frames].concat()), whole);
    // A torn end, and a changed byte, end what is taken.
    for length in 0..block.frames.len() {
        let (taken, bytes) = decode(&block.frames[..length]);
        assert_eq!(taken, batches[..taken.len()]);
        assert!(taken.len() < 3 && bytes <= length);
        let mut changed = block.frames.clone();
        changed[length] ^= 1;
        assert_eq!(decode(&changed).0, batches[..taken.len()], "byte {length}");
    }
}

/// Prints, and dies once what it printed is on the disk: dropped in the middle, as a killed process leaves it.
async fn dies(store: &MemoryStore, dir: &std::path::Path, cap: (u64, u64), pieces: Vec<Piece>) -> RunKey {
    let (event, key) = key();
    let (printed, seen) = tokio::sync::oneshot::channel();
    let printed = Arc::new(std::sync::Mutex::new(Some(printed)));
    let prints = handler_fn(move |context: RunContext| {
        let (pieces, printed) = (pieces.clone(), Arc::clone(&printed));
        async move {
            for (stream, bytes) in pieces {
                context.output.write(stream, bytes.into()).await.unwrap();
            }
            let printed = printed.lock().unwrap().take();
            printed.unwrap().send(()).unwrap();
            std::future::pending().await
        }
    });
    let cap = Cap { head: cap.0, tail: cap.1, dir: Some(dir.to_owned()) };
    let execution = Execution::new().with_max_output(cap);
    let fan_out = FanOut::new(vec![required(store)]);
    let (_stopper, stop) = Stop::pair();
    let run = execution.run(&fan_out, &prints, event, key.clone(), stop, Finality::Final);
    let on_disk = async {
        seen.await.unwrap();
        let path = dir.join(format!("{}.tail", key.run_id));
        let mut before = 0;
        loop {
            // Until what was printed last has been written as well.
            tokio::time::sleep(3 * super::KEPT_WITHIN).await;
            let length = std::fs::metadata(&path).map_or(0, |file| file.len());
            if length > 0 && length == before {
                break;
            }
            before = length;
        }
    };
    tokio::select! {
        ended = run => panic!("{ended:?}"),
        () = on_disk => {}
    }
    let _ = fan_out.close(LATE).await;
    key
}

async fn brought(store: &MemoryStore, dir: &std::path::Path) -> u64 {
    let fan_out = FanOut::new(vec![required(store)]);
    let brought = super::bring_tails(dir, store, &fan_out).await.unwrap();
    fan_out.close(LATE).await.unwrap();
    brought
}

fn files(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[tokio::test]
async fn what_a_process_that_died_had_held_back_is_brought_by_another() {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    // Three full blocks and one that was begun, of which 3 MB are the tail.
    let mut pieces: Vec<Piece> = numbered(450_000).chunks(10_000).map(out).collect();
    pieces.push((Stream::Stderr, b"the last word\n".to_vec()));
    let key = dies(&store, dir.path(), (1_000_000, 3_000_000), pieces).await;
    let head = "1-100000";
    assert_eq!(shape(&read(&store, &key.run_id, Lines::ALL).await), head);
    assert_eq!(brought(&store, dir.path()).await, 1);
    let gap = "gap 100001-150002 over the limit of the output (4 MB)";
    let items = read(&store, &key.run_id, Lines::ALL).await;
    assert_eq!(shape(&items), format!("{head} {gap}; 150003-450001"));
    let last = lines_of(&items).pop().unwrap();
    assert_eq!((last.stream, &last.bytes[..]), (Stream::Stderr, &b"the last word"[..]));
    let record = store.lines(&key.run_id, Lines::ALL).await.unwrap().record;
    assert_eq!(record.status, RunStatus::Running, "nobody knows how it would have ended");
    assert_eq!(record.gaps[0].bytes, Some(500_020));
    assert_eq!(record.notes.iter().filter(|note| note.kind == "output_brought").count(), 1);
    assert_eq!((files(dir.path()), brought(&store, dir.path()).await), (0, 0));
}

#[tokio::test]
async fn a_line_that_was_printed_just_before_the_end_is_not_lost() {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let pieces = vec![out("one\ntwo\n"), out("three\n"), out("four\n")];
    let key = dies(&store, dir.path(), (4, 100), pieces).await;
    assert_eq!(brought(&store, dir.path()).await, 1);
    assert_eq!(shape(&read(&store, &key.run_id, Lines::ALL).await), "1-4");
}

#[tokio::test]
async fn what_is_torn_or_damaged_is_brought_as_far_as_it_is_whole() {
    let whole = 4096 + 24;
    for (length, shaped) in [(whole, "1-1"), (whole + 17, "1-1"), (whole + 17 + 4, "1-2"), (4095, "1-1")] {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let pieces = vec![out("one\n"), out("two\n"), out("three\n")];
        let key = dies(&store, dir.path(), (4, 100), pieces).await;
        let path = dir.path().join(format!("{}.tail", key.run_id));
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        brought(&store, dir.path()).await;
        assert_eq!(shape(&read(&store, &key.run_id, Lines::ALL).await), shaped, "{length} bytes");
        // A file that is being made is nobody else's.
        assert_eq!(files(dir.path()), usize::from(length < 4096));
    }
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_left_and_one_of_an_unknown_run_for_a_week() {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let key = dies(&store, dir.path(), (0, 100), vec![out("one\ntwo\n")]).await;
    let path = dir.path().join(format!("{}.tail", key.run_id));
    let bytes = std::fs::read(&path).unwrap();
    let newer =
        String::from_utf8(bytes.clone()).unwrap_or_default().replace("\"version\":1", "\"version\":9");
    std::fs::write(&path, &newer).unwrap();
    assert_eq!((brought(&store, dir.path()).await, files(dir.path())), (0, 1));
    std::fs::write(&path, &bytes).unwrap();
    // It may wait in a spool; but not for ever.
    let other = MemoryStore::new();
    assert_eq!((brought(&other, dir.path()).await, files(dir.path())), (0, 1));
    let old = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert_eq!((brought(&other, dir.path()).await, files(dir.path())), (0, 0));
    assert_eq!(brought(&store, &dir.path().join("nowhere")).await, 0);
}

#[tokio::test]
async fn what_is_held_back_of_a_removed_run_is_removed_with_it() {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(dies(&store, dir.path(), (0, 100), vec![out("one\ntwo\n")]).await);
    }
    let path = dir.path().join(format!("{}.tail", keys[1].run_id));
    std::fs::write(path, "damaged").unwrap();
    for key in &keys[..2] {
        assert!(super::remove_tail(dir.path(), &key.run_id).await.unwrap());
        assert!(!super::remove_tail(dir.path(), &key.run_id).await.unwrap());
    }
    assert_eq!((files(dir.path()), brought(&store, dir.path()).await), (1, 1), "the other stays");
    assert!(!super::remove_tail(dir.path().join("nowhere"), &keys[0].run_id).await.unwrap());
}

#[tokio::test]
async fn what_a_living_process_holds_back_is_its_own() {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let folder = dir.path().to_owned();
    let seen = store.clone();
    let prints = handler_fn(move |context: RunContext| {
        let (folder, store) = (folder.clone(), seen.clone());
        async move {
            context.output.write(Stream::Stdout, numbered(300_000).into()).await.unwrap();
            assert_eq!((files(&folder), brought(&store, &folder).await), (1, 0));
            assert!(!super::remove_tail(&folder, &context.key.run_id).await.unwrap());
            context.output.line("the end").await.unwrap();
            Exit::code(0).into()
        }
    });
    let (event, key) = key();
    let execution =
        Execution::new().with_max_output(Cap { head: 0, tail: 20, dir: Some(dir.path().to_owned()) });
    let fan_out = FanOut::new(vec![required(&store)]);
    let (_stopper, stop) = Stop::pair();
    execution.run(&fan_out, &prints, event, key.clone(), stop, Finality::Final).await.unwrap();
    assert_eq!(shape(&read(&store, &key.run_id, Lines::ALL).await).split("; ").last(), Some("300000-300001"));
    assert!(verify(&store, &key.run_id).await.unwrap().agrees());
    assert_eq!(files(dir.path()), 0);
}

/// All that is left of a tail: the gap, and the lines.
async fn drained(tail: super::Tail) -> (Option<Gap>, Vec<Line>) {
    let (gap, mut lines, mut tail) = (tail.gap().cloned(), Vec::new(), tail);
    while let Some((rest, batches)) = tail.next_off_thread().await {
        tail = rest;
        lines.extend(batches.unwrap().iter().flat_map(LineBatch::lines));
    }
    (gap, lines)
}

#[tokio::test]
async fn a_process_that_dies_while_it_gives_the_tail_leaves_the_same_tail() {
    let dir = tempfile::tempdir().unwrap();
    let cap = Cap { head: 10, tail: 1_500_000, dir: Some(dir.path().to_owned()) };
    let (mut ring, mut over) = (Ring::new(cap.clone(), key().1), super::Over::new(&cap));
    for first in (1..300_000).step_by(1_000) {
        let numbers = (first..first + 1_000).map(|n| format!("{n:09}"));
        over.hold_back(&mut vec![lines(first, numbers)]);
        std::iter::from_fn(|| over.next()).for_each(|block| ring.push(&block));
    }
    // What is in no full block was not on the disk yet.
    let given = drained(super::Tail::new(ring, over).unwrap()).await;
    let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let (file, head) = super::file::HeldFile::open(&path).unwrap().unwrap();
    let left = drained(super::Tail::left(Arc::new(file), head).unwrap().unwrap()).await;
    assert_eq!(left.1.last().unwrap().number, at(300_000));
    assert!(left == given, "{:?} {:?}", left.0, given.0);
}
