//! §4.6: `remove` deletes, retention expires.

use std::time::Duration;

use super::StoreFixture;
use super::sample::{SampleRun, cannot_remove, cannot_search, hits, lines, read_lines, record_of};
use crate::{ErrorKind, Lines, Search, StoreCapabilities, Timestamp};

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
    assert_eq!(store.expire(border).await.unwrap(), 2);
    for store in [store, fixture.reopen().await] {
        for gone in [&ended, &lost] {
            assert_eq!(store.runs(&gone.query()).await.unwrap(), []);
        }
        for stays in [&running, &later] {
            assert_eq!(record_of(&*store, stays.id()).await, stays.record);
        }
    }
}
