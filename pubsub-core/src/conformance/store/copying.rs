//! §4.6: `copy` moves a run between any two stores, and `verify` says whether they agree.

use super::StoreFixture;
use super::sample::{SampleRun, at, batch, numbered, read, record_of, shape};
use crate::{
    Gap, LineEnd, LineRange, Lines, MemoryStore, StoreCapabilities, Stream, copy, verify, verify_against,
};

/// §4.6: from here to another store and back into a new one of this kind, twice each; the conclusion goes along.
pub async fn a_copy_into_the_store_and_out_of_it_agrees(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let (store, memory) = (fixture.store(), MemoryStore::new());
    let mut batches = numbered(1, 2_500);
    batches.push(batch(2_501, Stream::Stderr, &b"\xff\r\nhalf"[..], LineEnd::Part));
    batches.push(batch(2_503, Stream::Stderr, "of it", LineEnd::None));
    let (mut here, mut there) = (SampleRun::new(), SampleRun::new());
    for (run, store) in [(&mut here, &*store), (&mut there, &memory as &dyn crate::Store)] {
        run.begin(store).await;
        run.append(store, &batches).await;
        run.finish(store).await;
        run.record.conclude();
        store.finish(&run.record).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(copy(&*store, here.id(), &memory).await.unwrap().lines, 2_503);
        assert_eq!(copy(&memory, there.id(), &*store).await.unwrap().lines, 2_503);
        for run in [&here, &there] {
            assert_eq!(record_of(&*store, run.id()).await, run.record);
            assert_eq!(record_of(&memory, run.id()).await, run.record);
            assert_eq!(verify(&*fixture.reopen().await, run.id()).await.unwrap().problem(), None);
            assert_eq!(verify_against(&*store, &memory, run.id()).await.unwrap(), None);
        }
    }
}

/// §4.6: what is missing in the one is a hole of the other, with its reason, and `verify` names it.
pub async fn a_copy_takes_holes_along(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let (store, memory) = (fixture.store(), MemoryStore::new());
    let mut run = SampleRun::new();
    run.begin(&memory).await;
    run.append(&memory, &numbered(1, 10)).await;
    run.print(&numbered(11, 20));
    run.append(&memory, &numbered(21, 30)).await;
    let hole = Gap { range: LineRange::new(at(11), at(20)), bytes: None, reason: "refused there".into() };
    run.record.holes = vec![hole];
    run.finish(&memory).await;
    copy(&memory, run.id(), &*store).await.unwrap();
    assert_eq!(record_of(&*store, run.id()).await, run.record);
    assert_eq!(shape(&read(&*store, run.id(), Lines::ALL).await), "1-10 gap 11-20 refused there; 21-30");
    let problem = verify(&*store, run.id()).await.unwrap().problem();
    assert_eq!(problem.as_deref(), Some("lines 11 to 20 are missing: refused there"));
}

/// §4.6: a copy fills the holes of a store that sealed the run without these lines, wherever they lie; then it agrees.
pub async fn a_copy_fills_the_holes_of_a_sealed_run(fixture: &dyn StoreFixture, _: StoreCapabilities) {
    let (store, memory) = (fixture.store(), MemoryStore::new());
    let mut run = SampleRun::new();
    run.begin(&memory).await;
    run.append(&memory, &[batch(1, Stream::Stderr, "first\nhalf", LineEnd::Part)]).await;
    run.append(&memory, &numbered(3, 2_500)).await;
    run.append(&memory, &[batch(2_501, Stream::Stdout, &b"\xff\n"[..], LineEnd::None)]).await;
    run.finish(&memory).await;
    // The other one was given all and refused some: at the beginning, within, twice, and at the end.
    let mut here = run.record.clone();
    here.holes.extend([(1, 2), (601, 700), (1_500, 1_500), (2_400, 2_501)].map(|(first, last)| Gap {
        range: LineRange::new(at(first), at(last)),
        bytes: Some(1),
        reason: "refused".into(),
    }));
    store.begin(&here.as_begun()).await.unwrap();
    for (first, last) in [(3, 600), (701, 1_499), (1_501, 2_399)] {
        assert!(store.append(run.key(), &numbered(first, last)).await.unwrap().refused.is_empty());
    }
    store.finish(&here).await.unwrap();
    let shape_of = |items: &[crate::OutputItem]| super::sample::shape_without_reasons(items);
    let holes = "gap 1-2; 3-600 gap 601-700; 701-1499 gap 1500-1500; 1501-2399 gap 2400-2501";
    assert_eq!(shape_of(&read(&*store, run.id(), Lines::ALL).await), holes);
    assert!(!verify(&*store, run.id()).await.unwrap().agrees());
    for _ in 0..2 {
        assert_eq!(copy(&memory, run.id(), &*store).await.unwrap().refused, []);
        assert_eq!(shape(&read(&*store, run.id(), Lines::ALL).await), "1-2501");
        assert_eq!(record_of(&*store, run.id()).await, run.record, "no hole is left");
        assert_eq!(verify(&*fixture.reopen().await, run.id()).await.unwrap().problem(), None);
        assert_eq!(verify_against(&memory, &*store, run.id()).await.unwrap(), None);
    }
    // Another copy that has holes of its own takes none away.
    here.revision += 1;
    store.finish(&here).await.unwrap();
    assert_eq!(record_of(&*store, run.id()).await.holes, []);
    assert!(verify(&*store, run.id()).await.unwrap().agrees());
}
