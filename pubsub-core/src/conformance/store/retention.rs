//! §4.6: `remove` deletes, retention expires.

use std::time::Duration;

use super::StoreFixture;
use super::sample::{SampleRun, cannot_remove, cannot_search, hits, lines, read_lines, record_of};
use crate::{ErrorKind, Keep, Lines, Search, Store, StoreCapabilities, Timestamp};

/// §4.6: record and lines are gone, for every handle and every question, and late lines do not bring them back.
pub async fn a_removed_run_is_gone(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let mut running = SampleRun::new();
    running.begin(&*store).await;
    running.append(&*store, &[lines(1, ["a"])]).await;
    for run in [running, SampleRun::written(&*store, &[lines(1, ["a"])]).await] {
        assert!(fixture.reopen().await.remove(run.id()).await.unwrap());
        for store in [fixture.store(), fixture.reopen().await] {
            assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(store.runs(&run.query()).await.unwrap(), []);
            let late = store.append(run.key(), &[lines(2, ["b"])]).await;
            assert_eq!(late.unwrap_err().kind(), ErrorKind::NotFound);
            if !cannot_search(&*store, &can).await {
                let found = hits(&*store, &run.query(), &Search::literal("a").unwrap()).await.unwrap();
                assert_eq!(found, []);
            }
        }
        let mut again = run;
        again.record.revision = 1;
        again.record.status = crate::RunStatus::Running;
        again.begin(&*store).await;
        assert_eq!(record_of(&*store, again.id()).await, again.record, "nothing of the old one is left");
        assert_eq!(read_lines(&*store, again.id(), Lines::ALL).await, []);
    }
}

/// §4.6: removing again, or what never was, answers so.
pub async fn removing_what_is_not_there_changes_nothing(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let (gone, stays) = (SampleRun::written(&*store, &[]).await, SampleRun::written(&*store, &[]).await);
    assert!(store.remove(gone.id()).await.unwrap());
    assert!(!store.remove(gone.id()).await.unwrap());
    assert!(!store.remove(SampleRun::new().id()).await.unwrap());
    assert_eq!(record_of(&*store, stays.id()).await, stays.record);
}

/// §4.6: what began before and has ended, or is lost, expires; what runs or began later stays.
pub async fn only_old_runs_that_have_ended_expire(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let border = Timestamp::now().minus(Duration::from_secs(3_600));
    let begun = |secs: i64, beat: Timestamp| {
        let mut run = SampleRun::new();
        run.record.started_at = Timestamp::from_micros(border.as_micros() + secs * 1_000_000);
        run.record.beat_at = beat;
        run
    };
    let mut ended = begun(-1, border);
    let lost = begun(-60, border.minus(Duration::from_secs(60)));
    let running = begun(-60, Timestamp::now());
    let mut later = begun(0, border);
    for run in [&ended, &lost, &running, &later] {
        run.begin(&*store).await;
    }
    ended.finish(&*store).await;
    later.finish(&*store).await;
    assert_eq!(store.expire(&Keep::new()).await.unwrap(), 0, "without a limit everything stays");
    let keep = Keep::new().with_since(border);
    assert_eq!(store.expire(&keep).await.unwrap(), 2);
    assert_eq!(store.expire(&keep).await.unwrap(), 0, "they went once");
    for store in [store, fixture.reopen().await] {
        for gone in [&ended, &lost] {
            assert_eq!(store.runs(&gone.query()).await.unwrap(), []);
        }
        for stays in [&running, &later] {
            assert_eq!(record_of(&*store, stays.id()).await, stays.record);
        }
    }
}

/// An hour ago and so many seconds: each is older than the one after it, and than what begins now.
fn begun(secs: i64) -> SampleRun {
    let mut run = SampleRun::new();
    let hour = Timestamp::now().minus(Duration::from_secs(3_600));
    run.record.started_at = Timestamp::from_micros(hour.as_micros() + secs * 1_000_000);
    run
}

/// Six runs of 100 bytes each, the oldest first; the first and the fourth are running. Not written in this order.
async fn six(store: &dyn Store) -> Vec<SampleRun> {
    let mut runs: Vec<SampleRun> = (0..6).map(begun).collect();
    for at in [3, 5, 0, 4, 1, 2] {
        let Some(run) = runs.get_mut(at) else { continue };
        run.begin(store).await;
        run.append(store, &[lines(1, ["x".repeat(99)])]).await;
        if at % 3 == 0 {
            run.record.beat(run.printed());
            run.begin(store).await;
        } else {
            run.finish(store).await;
        }
    }
    runs
}

/// Which of the runs every handle has, all of them whole.
async fn left(fixture: &dyn StoreFixture, runs: &[SampleRun]) -> Vec<usize> {
    let mut left = Vec::new();
    let handles = [fixture.store(), fixture.reopen().await];
    for (at, run) in runs.iter().enumerate() {
        let mut there = 0;
        for store in &handles {
            let records = store.runs(&run.query()).await.unwrap();
            if records.is_empty() {
                assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
                continue;
            }
            assert_eq!(records, std::slice::from_ref(&run.record));
            assert_eq!(read_lines(&**store, run.id(), Lines::ALL).await.len(), 1);
            there += 1;
        }
        assert!(there == 0 || there == handles.len(), "all handles answer the same of run {at}");
        left.extend((there > 0).then_some(at));
    }
    left
}

/// Expires by each of these in turn: how many have to go, and which of the runs stay.
async fn expires(
    fixture: &dyn StoreFixture,
    runs: &[SampleRun],
    cases: impl IntoIterator<Item = (Keep, u64, Vec<usize>)>,
) {
    for (keep, gone, stay) in cases {
        assert_eq!(fixture.store().expire(&keep).await.unwrap(), gone, "{keep:?}");
        assert_eq!(left(fixture, runs).await, stay, "{keep:?}");
    }
}

/// §4.2, §4.6: of more than so many runs the oldest expire; what runs stays, and counts.
pub async fn the_oldest_expire_until_so_many_are_left(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let runs = six(&*store).await;
    let cases =
        [(6, 0, vec![0, 1, 2, 3, 4, 5]), (4, 2, vec![0, 3, 4, 5]), (3, 1, vec![0, 3, 5]), (1, 1, vec![0, 3])];
    let cases = cases.map(|(most, gone, stay)| (Keep::new().with_runs(most), gone, stay));
    expires(fixture, &runs, cases).await;
}

/// §4.2, §4.6: of more than so many bytes of output the oldest expire; what runs stays, and counts.
pub async fn the_oldest_expire_until_their_bytes_fit(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let runs = six(&*store).await;
    // Between two sizes: a store may count what it adds to a line.
    let cases = [
        (680, 0, vec![0, 1, 2, 3, 4, 5]),
        (480, 2, vec![0, 3, 4, 5]),
        (380, 1, vec![0, 3, 5]),
        (0, 1, vec![0, 3]),
    ];
    let cases = cases.map(|(most, gone, stay)| (Keep::new().with_bytes(most), gone, stay));
    expires(fixture, &runs, cases).await;
}

/// §4.2, §4.6: where several limits are named, what stays is within each of them.
pub async fn limits_that_are_named_together_all_hold(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_remove(&*store, &can).await {
        return;
    }
    let runs = six(&*store).await;
    let began = |at: usize| runs.get(at).map_or(Timestamp::EPOCH, |run| run.record.started_at);
    let loose = Keep::new().with_runs(100).with_bytes(100_000).with_since(Timestamp::EPOCH);
    let cases = [
        (loose, 0, vec![0, 1, 2, 3, 4, 5]),
        (loose.with_since(began(2)), 1, vec![0, 2, 3, 4, 5]),
        (loose.with_since(began(1)).with_runs(4), 1, vec![0, 3, 4, 5]),
        (loose.with_since(began(1)).with_runs(4).with_bytes(380), 1, vec![0, 3, 5]),
    ];
    expires(fixture, &runs, cases).await;
}
