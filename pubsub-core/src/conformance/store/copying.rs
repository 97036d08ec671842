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
