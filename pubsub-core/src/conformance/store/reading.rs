//! §4.7: lines by number, from the end, across gaps, and how far they are complete.

use std::time::Duration;

use super::StoreFixture;
use super::sample::{
    SampleRun, at, batch, cannot_search, hits, lines, numbered, read, read_lines, record_of, shape,
    shape_without_reasons, visible,
};
use crate::{
    ErrorKind, Gap, LineEnd, LineRange, Lines, OutputItem, RunQuery, SealBuilder, Search, StoreCapabilities,
    Stream,
};

fn range(first: u64, last: u64) -> LineRange {
    LineRange::new(at(first), at(last))
}

fn gap(first: u64, last: u64, reason: &str) -> Gap {
    Gap { range: range(first, last), bytes: None, reason: reason.to_owned() }
}

/// §4.7: a run without output has an empty list, while it runs and after its end.
pub async fn a_run_without_output_gives_an_empty_list(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    for _ in 0..2 {
        for asked in [Lines::ALL, Lines::From(at(7)), Lines::Range(range(1, 9)), Lines::Last(3)] {
            let output = store.lines(run.id(), asked).await.unwrap();
            assert_eq!(output.complete_through, 0);
            assert_eq!(read(&*store, run.id(), asked).await, []);
        }
        run.finish(&*store).await;
    }
}

/// §4.7: a run that never began here is told as such, and is no empty list.
pub async fn an_unknown_run_is_not_found(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let run = SampleRun::new();
    for asked in [Lines::ALL, Lines::Range(range(1, 9)), Lines::Last(3)] {
        let error = store.lines(run.id(), asked).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(store.runs(&run.query()).await.unwrap(), []);
}

/// §4.7: every way to ask gives exactly the lines it names.
pub async fn lines_are_found_from_a_number_in_a_range_and_from_the_end(
    fixture: &dyn StoreFixture,
    _: StoreCapabilities,
) {
    let store = fixture.store();
    // Batches of all lengths, so that questions begin and end inside them.
    let given = [
        lines(1, ["a", "b", "c"]),
        batch(4, Stream::Stderr, "d\n", LineEnd::None),
        lines(5, ["e", "f", "g", "h", "i"]),
        batch(10, Stream::Stderr, "j\nk", LineEnd::None),
    ];
    let run = SampleRun::written(&*store, &given).await;
    let all = read_lines(&*store, run.id(), Lines::ALL).await;
    assert_eq!(all.len(), 11);
    for first in 1..=13 {
        let expected: Vec<_> = all.iter().filter(|line| line.number.get() >= first).cloned().collect();
        assert_eq!(read_lines(&*store, run.id(), Lines::From(at(first))).await, expected, "from {first}");
        for last in first..=13 {
            let expected: Vec<_> =
                all.iter().filter(|line| range(first, last).contains(line.number)).cloned().collect();
            let asked = Lines::Range(range(first, last));
            assert_eq!(read_lines(&*store, run.id(), asked).await, expected, "{first} to {last}");
        }
    }
    for count in 0..=13 {
        let expected = all[all.len().saturating_sub(count)..].to_vec();
        let asked = Lines::Last(count as u64);
        assert_eq!(read_lines(&*store, run.id(), asked).await, expected, "last {count}");
    }
    assert_eq!(read_lines(&*store, run.id(), Lines::Last(u64::MAX)).await, all);
}

/// A run with lines 1 to 600 and 701 to 900, the others refused.
async fn with_a_hole(fixture: &dyn StoreFixture) -> SampleRun {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &numbered(1, 600)).await;
    run.print(&numbered(601, 700));
    run.append(&*store, &numbered(701, 900)).await;
    run.record.holes = vec![gap(601, 700, "refused by the server")];
    run.finish(&*store).await;
    run
}

/// §4.6: a hole is never silent: readers get a gap with its reason where the lines would stand.
pub async fn missing_lines_leave_a_gap_in_their_place(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let run = with_a_hole(fixture).await;
    let table = [
        (Lines::ALL, "1-600 gap 601-700 refused by the server; 701-900"),
        (Lines::From(at(650)), "gap 650-700 refused by the server; 701-900"),
        (Lines::Range(range(600, 601)), "600-600 gap 601-601 refused by the server"),
        (Lines::Range(range(610, 620)), "gap 610-620 refused by the server"),
        (Lines::Range(range(700, 701)), "gap 700-700 refused by the server; 701-701"),
        (Lines::From(at(701)), "701-900"),
    ];
    for store in [fixture.store(), fixture.reopen().await] {
        for (asked, expected) in table {
            assert_eq!(shape(&read(&*store, run.id(), asked).await), expected, "{asked:?}");
        }
    }
}

/// §4.6: what is missing before the first line, after the last one, and without anybody having said so, is a gap.
pub async fn lines_missing_at_both_ends_are_gaps(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.print(&numbered(1, 4));
    run.append(&*store, &numbered(5, 6)).await;
    run.print(&numbered(7, 9));
    run.finish(&*store).await;
    for store in [store, fixture.reopen().await] {
        let shape = |items: Vec<OutputItem>| shape_without_reasons(&items);
        assert_eq!(shape(read(&*store, run.id(), Lines::ALL).await), "gap 1-4; 5-6 gap 7-9");
        assert_eq!(shape(read(&*store, run.id(), Lines::From(at(8))).await), "gap 8-9");
        assert_eq!(shape(read(&*store, run.id(), Lines::From(at(10))).await), "");
        assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap().complete_through, 9);
    }
}

/// §4.6: lines that a cap dropped keep their numbers and are one counted gap in every store.
pub async fn lines_that_nobody_keeps_are_a_gap_with_its_reason(
    fixture: &dyn StoreFixture,
    _: StoreCapabilities,
) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &numbered(1, 10)).await;
    run.append(&*store, &numbered(1_011, 1_020)).await;
    run.record.gaps = vec![Gap { bytes: Some(9_000), ..gap(11, 1_010, "over the limit") }];
    run.finish(&*store).await;
    let items = read(&*store, run.id(), Lines::ALL).await;
    assert_eq!(shape(&items), "1-10 gap 11-1010 over the limit; 1011-1020");
    assert!(items.contains(&OutputItem::Gap(run.record.gaps[0].clone())), "with its bytes");
    assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap().complete_through, 1_020);
}

/// §4.7: the last N lines are the last N that are there, with the gaps between and after them.
pub async fn the_last_n_lines_reach_across_gaps(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let run = with_a_hole(fixture).await;
    let store = fixture.store();
    for (count, expected) in [
        (0, ""),
        (1, "900-900"),
        (200, "701-900"),
        (201, "600-600 gap 601-700; 701-900"),
        (300, "501-600 gap 601-700; 701-900"),
        (800, "1-600 gap 601-700; 701-900"),
        (10_000, "1-600 gap 601-700; 701-900"),
    ] {
        let items = read(&*store, run.id(), Lines::Last(count)).await;
        assert_eq!(shape_without_reasons(&items), expected, "last {count}");
    }
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &numbered(1, 5)).await;
    run.print(&numbered(6, 9));
    run.finish(&*store).await;
    let items = read(&*store, run.id(), Lines::Last(2)).await;
    assert_eq!(shape_without_reasons(&items), "4-5 gap 6-9");
    // What lacks its beginning: that is told where more is asked for than there is.
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.print(&numbered(1, 3));
    run.append(&*store, &numbered(4, 9)).await;
    run.finish(&*store).await;
    for (count, expected) in [(5, "5-9"), (6, "4-9"), (7, "gap 1-3; 4-9")] {
        let items = read(&*store, run.id(), Lines::Last(count)).await;
        assert_eq!(shape_without_reasons(&items), expected, "last {count}");
    }
}

/// §4.7: the answer about a running run says up to which line it is complete.
pub async fn a_running_run_says_how_far_it_is_complete(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap().complete_through, 0);
    run.append(&*store, &numbered(1, 3)).await;
    visible(&store, run.id(), 3).await;
    run.append(&*store, &numbered(4, 50)).await;
    visible(&store, run.id(), 50).await;
    let output = store.lines(run.id(), Lines::ALL).await.unwrap();
    assert_eq!((output.complete_through, output.record.status), (50, crate::RunStatus::Running));
    assert_eq!(shape(&read(&*fixture.reopen().await, run.id(), Lines::ALL).await), "1-50");
    run.append(&*store, &numbered(61, 70)).await;
    let through = store.lines(run.id(), Lines::ALL).await.unwrap().complete_through;
    assert!(can.ordered.is_yes() || through == 50, "51 to 60 may still come, and yet complete to {through}");
    // Once they are known never to come, nothing holds the rest up.
    run.record.holes = vec![gap(51, 60, "dropped")];
    run.record.beat(crate::Counts::default());
    run.begin(&*store).await;
    visible(&store, run.id(), 70).await;
}

/// §4.6: a live follower sees a line within the time that the store declares, and some for a busy machine.
pub async fn appended_lines_are_visible_within_the_declared_time(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let (store, other) = (fixture.store(), fixture.reopen().await);
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    for number in 1..=5 {
        run.append(&*store, &numbered(number, number)).await;
        // What a busy machine may take beside it.
        let limit = can.visible_within + Duration::from_secs(10);
        let seen = tokio::time::timeout(limit, visible(&other, run.id(), number)).await;
        assert!(seen.is_ok(), "line {number} is not visible within {limit:?}");
    }
}

/// §4.6: counts and digest, taken anew over what the store gives back, are those of the record.
pub async fn the_seal_over_what_is_read_is_the_one_of_the_record(
    fixture: &dyn StoreFixture,
    _: StoreCapabilities,
) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    for first in (1..=3_000).step_by(3) {
        run.append(
            &*store,
            &[lines(first, ["x", ""]), batch(first + 2, Stream::Stderr, "é\r\n", LineEnd::None)],
        )
        .await;
    }
    run.append(&*store, &[batch(3_001, Stream::Stdout, &b"\xff no end"[..], LineEnd::None)]).await;
    run.finish(&*store).await;
    for store in [store, fixture.reopen().await] {
        let mut seal = SealBuilder::new();
        for item in read(&*store, run.id(), Lines::ALL).await {
            match item {
                OutputItem::Lines(batch) => seal.add(&batch),
                OutputItem::Gap(gap) => panic!("no line is missing, and yet: {gap:?}"),
            }
        }
        let record = record_of(&*store, run.id()).await;
        assert_eq!((seal.counts(), Some(seal.seal().digest)), (record.counts, record.digest));
    }
}

/// §4.6: a store that lacks lines keeps the capture's counts and digest and lists its holes beside them.
pub async fn a_seal_over_a_hole_says_so(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let run = with_a_hole(fixture).await;
    let record = record_of(&*fixture.reopen().await, run.id()).await;
    assert_eq!((record.counts.lines, record.digest), (900, run.record.digest));
    assert_eq!(record.holes, [gap(601, 700, "refused by the server")]);
}

/// §4.7: once the record says completed, all lines are visible, to readers and to searches: 100 times in a row.
pub async fn all_lines_are_visible_when_finish_returns(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let (store, other) = (fixture.store(), fixture.reopen().await);
    let search = Search::regex("^line").unwrap();
    for round in 0..100 {
        let run = SampleRun::written(&*store, &numbered(1, 10)).await;
        let reader = if round % 2 == 0 { &other } else { &store };
        let output = reader.lines(run.id(), Lines::ALL).await.unwrap();
        assert_eq!((output.complete_through, output.record.status), (10, crate::RunStatus::Completed));
        assert_eq!(shape(&read(&**reader, run.id(), Lines::ALL).await), "1-10");
        if !cannot_search(&**reader, &can).await {
            let found = hits(&**reader, &RunQuery::of_run(run.id().clone()), &search).await.unwrap();
            assert_eq!(found.len(), 10, "round {round}");
        }
    }
}
