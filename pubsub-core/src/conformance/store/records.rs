//! §4.6 and §5: what is known of a run is kept as it was given, and only moves forward.

use super::StoreFixture;
use super::sample::{SampleRun, lines, read, record_of, shape, shape_without_reasons};
use crate::{
    Counts, ErrorKind, Gap, LineRange, Lines, RECORD_VERSION, RunStatus, SealBuilder, StoreCapabilities,
};

/// §4.6: the record comes back as it was given, at the beginning and at the end, through every handle.
pub async fn a_record_reads_back_exactly(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.record.command = vec!["sh".into(), "-c".into(), "echo 'ü \u{1b}[31m' \"$X\"".into(), String::new()];
    run.record.metadata.insert("key with . and $".into(), "{\"a\":\n1}".into());
    run.record.metadata.insert(String::new(), "x".repeat(10_000));
    run.record.note("stop_requested", "a note", Some(super::at(3)));
    run.begin(&*store).await;
    for store in [fixture.store(), fixture.reopen().await] {
        assert_eq!(record_of(&*store, run.id()).await, run.record);
    }
    run.append(&*store, &[lines(1, ["a", "b"])]).await;
    run.record.gaps = vec![Gap {
        range: LineRange::new(super::at(3), super::at(9)),
        bytes: Some(70),
        reason: "over the limit".into(),
    }];
    run.record.output_incomplete = true;
    run.finish(&*store).await;
    for store in [fixture.store(), fixture.reopen().await] {
        assert_eq!(record_of(&*store, run.id()).await, run.record);
    }
}

/// §5: a late record, whose revision is not higher, changes nothing.
pub async fn an_earlier_record_changes_nothing(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.record.revision = 5;
    run.begin(&*store).await;
    for revision in [1, 4, 5] {
        let mut late = run.record.clone();
        late.revision = revision;
        late.owner = "somebody else".into();
        fixture.reopen().await.begin(&late).await.unwrap();
        assert_eq!(record_of(&*store, run.id()).await, run.record, "revision {revision} after 5");
    }
}

/// §4.7: signs of life and notes are taken while the run goes on.
pub async fn a_later_record_is_taken_while_it_runs(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    for lines in 1..=3 {
        run.record.beat(Counts { lines, ..Counts::default() });
        run.record.note("note", format!("the {lines}th"), None);
        fixture.reopen().await.begin(&run.record).await.unwrap();
        assert_eq!(record_of(&*store, run.id()).await, run.record);
    }
}

/// §5: a sign of life that comes after the end changes nothing, whatever its revision.
pub async fn an_ended_run_never_runs_again(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    let mut beat = run.record.clone();
    run.finish(&*store).await;
    for _ in 0..5 {
        beat.beat(Counts::default());
        store.begin(&beat).await.unwrap();
    }
    assert_eq!((beat.status, beat.revision), (RunStatus::Running, 6));
    assert_eq!(record_of(&*fixture.reopen().await, run.id()).await, run.record);
}

/// §4.6: a begin that is repeated, as after a lost answer, keeps the lines.
pub async fn beginning_again_keeps_the_lines(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &[lines(1, ["a", "b"])]).await;
    run.begin(&*fixture.reopen().await).await;
    run.record.beat(Counts::default());
    run.begin(&*store).await;
    run.append(&*store, &[lines(3, ["c"])]).await;
    run.finish(&*store).await;
    assert_eq!(shape(&read(&*store, run.id(), Lines::ALL).await), "1-3");
}

/// §4.3: the outcome becomes the conclusion by a second finish; finishing again changes nothing.
pub async fn a_later_finish_makes_it_final(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::written(&*store, &[lines(1, ["a"])]).await;
    let ended = run.record.clone();
    assert!(!record_of(&*store, run.id()).await.is_final);
    run.record.conclude();
    fixture.reopen().await.finish(&run.record).await.unwrap();
    assert!(record_of(&*store, run.id()).await.is_final);
    store.finish(&ended).await.unwrap();
    store.finish(&run.record).await.unwrap();
    assert_eq!(record_of(&*store, run.id()).await, run.record);
    assert_eq!(shape(&read(&*store, run.id(), Lines::ALL).await), "1-1");
}

/// §4.6: the holes that a store listed at the seal stay, also when somebody who knows of none makes the run final.
pub async fn holes_survive_a_later_finish_that_knows_none(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    run.append(&*store, &[lines(1, ["a"])]).await;
    run.print(&[lines(2, ["b", "c"])]);
    let holes = vec![Gap {
        range: LineRange::new(super::at(2), super::at(3)),
        bytes: Some(4),
        reason: "refused".into(),
    }];
    run.record.holes.clone_from(&holes);
    run.finish(&*store).await;
    run.record.holes.clear();
    run.record.conclude();
    fixture.reopen().await.finish(&run.record).await.unwrap();
    let record = record_of(&*store, run.id()).await;
    assert_eq!((record.is_final, &record.holes), (true, &holes));
    assert_eq!(shape(&read(&*store, run.id(), Lines::ALL).await), "1-1 gap 2-3 refused");
}

/// §4.12: a sink that never saw the run begin takes its end.
pub async fn finish_creates_a_run_that_never_began(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let store = fixture.store();
    let mut silent = SampleRun::new();
    silent.finish(&*store).await;
    assert_eq!(record_of(&*store, silent.id()).await, silent.record);
    assert_eq!(shape(&read(&*store, silent.id(), Lines::ALL).await), "");
    let mut unseen = SampleRun::new();
    unseen.print(&[lines(1, ["a", "b", "c"])]);
    unseen.finish(&*store).await;
    assert_ne!(record_of(&*store, unseen.id()).await.digest, Some(SealBuilder::new().seal().digest));
    assert_eq!(shape_without_reasons(&read(&*store, unseen.id(), Lines::ALL).await), "gap 1-3");
}

/// §4.1: a record of a newer version is refused by name, when it is written or when it is read.
pub async fn a_newer_record_is_refused_by_name(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let mut run = SampleRun::new();
    run.record.version = RECORD_VERSION + 1;
    let error = match fixture.store().begin(&run.record).await {
        Err(error) => error,
        Ok(()) => fixture.reopen().await.lines(run.id(), Lines::ALL).await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::TooNew);
    let named = format!("version={}", RECORD_VERSION + 1);
    assert!(error.chain().contains(&named), "{error:?} names the version");
}
