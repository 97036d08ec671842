//! §4.6: bytes in, lines out, nothing lost; writing the same line again changes nothing.

use futures::future::join_all;

use super::StoreFixture;
use super::sample::{
    SampleRun, batch, lines, lines_in, numbered, read, read_lines, record_of, shape, shape_without_reasons,
};
use crate::{
    Appended, ErrorKind, LineBatch, LineEnd, Lines, MAX_LINE_BYTES, OutputItem, StoreCapabilities, Stream,
};

/// Everything that a line can be.
fn of_every_kind() -> Vec<LineBatch> {
    vec![
        batch(1, Stream::Stdout, "one\ntwo\r\n\n\r\na\rb\n", LineEnd::None),
        batch(6, Stream::Stderr, "half", LineEnd::Part),
        batch(7, Stream::Stdout, &b"caf\xe9\n\xff\xfe\n\0nul\0\n"[..], LineEnd::None),
        batch(10, Stream::Stderr, " of it \u{1b}[31mÜnï\u{1b}[0m\n  \ttabs \n", LineEnd::None),
        batch(12, Stream::Stdout, "\r", LineEnd::Part),
        batch(13, Stream::Stdout, "\n", LineEnd::None),
        batch(14, Stream::Stderr, "\u{feff}{\"json\":\"\\n\"}\nfin é", LineEnd::None),
    ]
}

/// §4.6: number, time, stream, end and bytes of each line come back as they were given.
pub async fn what_is_appended_is_read_back_exactly(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let given = of_every_kind();
    let run = SampleRun::written(&*fixture.store(), &given).await;
    for store in [fixture.store(), fixture.reopen().await] {
        assert_eq!(read_lines(&*store, run.id(), Lines::ALL).await, lines_in(&given));
    }
}

/// §4.6: content and ends in number order rebuild the output of each stream.
pub async fn content_and_ends_rebuild_what_was_printed(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let given = of_every_kind();
    let run = SampleRun::written(&*store, &given).await;
    let read = read_lines(&*store, run.id(), Lines::ALL).await;
    for stream in Stream::BOTH {
        let printed: Vec<u8> = (given.iter().filter(|batch| batch.stream() == stream))
            .flat_map(|batch| batch.bytes().to_vec())
            .collect();
        let rebuilt: Vec<u8> = (read.iter().filter(|line| line.stream == stream))
            .flat_map(|line| [&line.bytes, line.end.as_bytes()].concat())
            .collect();
        assert_eq!(rebuilt, printed, "{}", stream.as_str());
    }
}

/// §4.6: a line of 64 KiB is stored whole, with either end, and as a part.
pub async fn a_line_of_64_kib_is_kept_whole(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let long = "x".repeat(MAX_LINE_BYTES);
    let given = [
        batch(1, Stream::Stdout, long.clone(), LineEnd::Part),
        batch(2, Stream::Stdout, format!("{long}\n"), LineEnd::None),
        batch(3, Stream::Stderr, format!("{long}\r\n"), LineEnd::None),
        batch(4, Stream::Stdout, format!("{}\u{e9}", &long[2..]), LineEnd::None),
        batch(5, Stream::Stdout, "\n".repeat(MAX_LINE_BYTES), LineEnd::None),
    ];
    let run = SampleRun::written(&*store, &given).await;
    let read = read_lines(&*store, run.id(), Lines::ALL).await;
    assert!(read == lines_in(&given), "{} lines of {}", read.len(), MAX_LINE_BYTES + 4);
}

/// §4.6: writing the same line again changes nothing, in whatever batches, through whichever handle, also after the end.
pub async fn a_repeated_append_changes_nothing(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let given = of_every_kind();
    let single: Vec<LineBatch> =
        lines_in(&given).iter().map(|line| LineBatch::of_line(line).unwrap()).collect();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &given).await;
    assert_eq!(store.append(run.key(), &given[..2]).await.unwrap(), Appended::all());
    assert_eq!(fixture.reopen().await.append(run.key(), &single).await.unwrap(), Appended::all());
    run.finish(&*store).await;
    assert_eq!(store.append(run.key(), &single).await.unwrap(), Appended::all());
    for store in [store, fixture.reopen().await] {
        assert_eq!(read_lines(&*store, run.id(), Lines::ALL).await, lines_in(&given));
    }
}

/// §4.6: lines 1 to 100, then 50 to 150, as after a lost answer, are 150 lines.
pub async fn overlapping_appends_store_each_line_once(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    for (first, last) in [(1, 100), (50, 150), (150, 150), (1, 150)] {
        let answer = store.append(run.key(), &numbered(first, last)).await.unwrap();
        assert_eq!(answer, Appended::all(), "what is there already counts as stored");
    }
    let whole = numbered(1, 150);
    run.print(&whole);
    run.finish(&*store).await;
    let texts = |lines: Vec<crate::Line>| lines.into_iter().map(|l| (l.number, l.bytes)).collect::<Vec<_>>();
    assert_eq!(texts(read_lines(&*store, run.id(), Lines::ALL).await), texts(lines_in(&whole)));
}

/// §4.6: a run goes on through another handle where the first one stopped, and through both in turn.
pub async fn two_handles_append_to_one_run(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let (one, other) = (fixture.store(), fixture.reopen().await);
    let mut run = SampleRun::new();
    run.begin(&*one).await;
    for round in 0..10 {
        let first = round * 20 + 1;
        run.append(&*one, &numbered(first, first + 9)).await;
        run.append(&*other, &numbered(first + 10, first + 19)).await;
    }
    run.finish(&*other).await;
    for store in [one, other] {
        let read = read_lines(&*store, run.id(), Lines::ALL).await;
        assert_eq!(read.len(), 200);
        assert!(read.iter().all(|line| line.text() == format!("line {}", line.number)));
    }
}

/// §4.6: a line that comes after later ones is stored, or refused by its number where the store needs order: at once, or
/// behind a spool at the end; it is never lost in silence.
pub async fn lines_that_come_late_are_stored_or_refused_by_number(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.print(&[lines(1, ["a", "b", "c", "d"])]);
    let late = lines(2, ["b", "c"]);
    assert_eq!(store.append(run.key(), &[lines(1, ["a"])]).await.unwrap(), Appended::all());
    assert_eq!(store.append(run.key(), &[lines(4, ["d"])]).await.unwrap(), Appended::all());
    let answer = store.append(run.key(), std::slice::from_ref(&late)).await.unwrap();
    if answer != Appended::all() {
        assert!(
            can.ordered.is_yes(),
            "a store that declares no need for order takes lines in any: {answer:?}"
        );
        let refused: Vec<_> = answer.refused.iter().map(|gap| gap.range).collect();
        assert_eq!((refused, answer.again), (vec![late.range()], Vec::new()));
        run.record.holes = answer.refused;
    }
    run.finish(&*store).await;
    let mut holes = run.record.holes.clone();
    if can.ordered.is_yes() {
        // Where a spool took them first, the record says at the end what the store behind it refused.
        holes = record_of(&*store, run.id()).await.holes;
    }
    assert!(holes.iter().all(|gap| gap.range == late.range() && !gap.reason.is_empty()), "{holes:?}");
    let expected = if holes.is_empty() { "1-4" } else { "1-1 gap 2-3; 4-4" };
    assert_eq!(shape_without_reasons(&read(&*store, run.id(), Lines::ALL).await), expected);
}

/// §4.6: an append of no batches is none.
pub async fn nothing_appended_changes_nothing(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &[]).await;
    run.append(&*store, &[lines(1, ["a"])]).await;
    run.append(&*store, &[]).await;
    run.finish(&*store).await;
    assert_eq!(shape(&read(&*store, run.id(), Lines::ALL).await), "1-1");
}

/// §4.12: lines of a run that never began here are refused as a whole.
pub async fn an_append_to_an_unknown_run_is_not_found(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    // One that has nothing at all may be one that is away.
    SampleRun::new().begin(&*store).await;
    let run = SampleRun::new();
    // Also of no lines: it asks whether the run is there.
    for batches in [&[lines(1, ["a"])][..], &[]] {
        let error = store.append(run.key(), batches).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// §4.6: runs that are written at the same time, over two handles, do not mix.
pub async fn runs_written_in_parallel_keep_apart(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let handles = [fixture.store(), fixture.reopen().await];
    let write = |n: usize| {
        let store = handles[n % 2].clone();
        async move {
            let mut run = SampleRun::new();
            run.begin(&*store).await;
            for first in (1..=100).step_by(10) {
                let texts = (first..first + 10).map(|line| format!("run {n} line {line}"));
                run.append(&*store, &[lines(first, texts)]).await;
            }
            run.finish(&*store).await;
            run
        }
    };
    let runs = join_all((0..20).map(|n| tokio::spawn(write(n)))).await;
    for (n, run) in runs.into_iter().enumerate() {
        let items = read(&*handles[0], run.unwrap().id(), Lines::ALL).await;
        assert_eq!(shape(&items), "1-100");
        let batches = items.iter().filter_map(|item| match item {
            OutputItem::Lines(batch) => Some(batch.clone()),
            OutputItem::Gap(_) => None,
        });
        for line in lines_in(&batches.collect::<Vec<_>>()) {
            assert_eq!(line.text(), format!("run {n} line {}", line.number));
        }
    }
}
