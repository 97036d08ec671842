//! §4.7: no limit at 10,000.

use super::StoreFixture;
use super::sample::{SampleRun, at, cannot_search, hits, numbered, read_lines};
use crate::{LineBatch, LineRange, Lines, Search, Store, StoreCapabilities, Stream};

const LINES: u64 = 25_000;

/// 25,000 lines, 5,000 of them with one time.
async fn long_run(store: &dyn Store) -> SampleRun {
    let mut run = SampleRun::new();
    run.begin(store).await;
    for batches in numbered(1, LINES).chunks(5) {
        let one_time = batches[0].time();
        let batches: Vec<LineBatch> = (batches.iter())
            .map(|batch| {
                let time = if batch.first().get() <= 5_000 { one_time } else { batch.time() };
                LineBatch::new(
                    batch.first(),
                    time,
                    Stream::Stdout,
                    batch.bytes().clone(),
                    batch.ends().into(),
                    batch.tail(),
                )
                .unwrap()
            })
            .collect();
        run.append(store, &batches).await;
    }
    run.finish(store).await;
    run
}

fn check(lines: &[crate::Line], first: u64, last: u64) {
    let numbers: Vec<u64> = lines.iter().map(|line| line.number.get()).collect();
    assert!(numbers.iter().copied().eq(first..=last), "{first} to {last}, and yet {} lines", numbers.len());
    assert!(lines.iter().all(|line| line.text() == format!("line {}", line.number)));
}

/// §4.7: "last N" is the last N, and all is all, also above 10,000.
pub async fn nothing_ends_at_ten_thousand_lines(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let run = long_run(&*store).await;
    check(&read_lines(&*store, run.id(), Lines::ALL).await, 1, LINES);
    check(&read_lines(&*store, run.id(), Lines::Last(12_000)).await, LINES - 11_999, LINES);
    check(&read_lines(&*store, run.id(), Lines::From(at(10_001))).await, 10_001, LINES);
    check(
        &read_lines(&*store, run.id(), Lines::Range(LineRange::new(at(9_999), at(20_002)))).await,
        9_999,
        20_002,
    );
}

/// §4.7: reading page by page loses and repeats nothing, also among lines of one time.
pub async fn pages_of_equal_times_lose_and_repeat_nothing(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let run = long_run(&*store).await;
    let mut read = Vec::new();
    for first in (1..=LINES).step_by(999) {
        let page = LineRange::new(at(first), at(first + 998));
        read.extend(read_lines(&*store, run.id(), Lines::Range(page)).await);
    }
    check(&read, 1, LINES);
}

/// §4.7: a search gives every hit, in number order.
pub async fn a_search_has_no_most_hits(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let run = long_run(&*store).await;
    let found = hits(&*store, &run.query(), &Search::regex("^line").unwrap()).await.unwrap();
    check(&found.into_iter().map(|hit| hit.line).collect::<Vec<_>>(), 1, LINES);
}
