//! §4.7: whoever waits for a change hears of it.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};

use super::StoreFixture;
use super::sample::{SampleRun, cannot_follow, cannot_remove, lines, numbered, record_of, visible};
use crate::{Counts, Lines, Result, Store, StoreCapabilities};

/// Takes items until what the writer did can be seen, which an item must have told.
async fn told<'a>(
    changes: &mut BoxStream<'static, Result<()>>,
    what: &str,
    seen: impl Fn() -> BoxFuture<'a, bool>,
) {
    let waiting = async {
        loop {
            changes.next().await.unwrap().unwrap();
            if seen().await {
                return;
            }
        }
    };
    let limit = Duration::from_secs(30);
    assert!(tokio::time::timeout(limit, waiting).await.is_ok(), "no item within {limit:?} after {what}");
}

/// §4.7: one item comes at once, so that nothing is missed between looking and waiting.
pub async fn an_item_comes_at_once(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await {
        return;
    }
    let run = SampleRun::new();
    for _ in 0..2 {
        let mut changes = store.changes(&run.query()).await.unwrap();
        let first = tokio::time::timeout(Duration::from_secs(30), changes.next()).await;
        first.expect("an item at once").unwrap().unwrap();
        run.begin(&*store).await;
    }
}

async fn every_write_is_told(reader: &dyn Store, writer: &dyn Store) {
    let mut run = SampleRun::new();
    let mut changes = reader.changes(&run.query()).await.unwrap();
    let mut of_action =
        reader.changes(&crate::RunQuery::all().with_action(run.key().action_id.clone())).await.unwrap();
    run.begin(writer).await;
    let begun = || async { !reader.runs(&run.query()).await.unwrap().is_empty() }.boxed();
    told(&mut changes, "begin", begun).await;
    for through in [1, 2] {
        run.append(writer, &[lines(through, ["x"])]).await;
        let there = || {
            async { reader.lines(run.id(), Lines::Last(0)).await.unwrap().complete_through >= through }
                .boxed()
        };
        told(&mut changes, "append", there).await;
    }
    run.record.beat(Counts::default());
    run.begin(writer).await;
    let beaten = || async { record_of(reader, run.id()).await == run.record }.boxed();
    told(&mut changes, "a later record", beaten).await;
    run.finish(writer).await;
    let ended = || async { record_of(reader, run.id()).await == run.record }.boxed();
    told(&mut changes, "finish", ended).await;
    told(&mut of_action, "all of it", ended).await;
}

/// §4.7: begin, append, a sign of life and finish are each told.
pub async fn an_item_comes_after_each_kind_of_write(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if !cannot_follow(&*store, &can).await {
        every_write_is_told(&*store, &*store).await;
    }
}

/// §4.7: also what is written through another handle, as by another process.
pub async fn an_item_comes_after_a_write_through_another_handle(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let store = fixture.store();
    if !cannot_follow(&*store, &can).await {
        every_write_is_told(&*store, &*fixture.reopen().await).await;
        every_write_is_told(&*fixture.reopen().await, &*store).await;
    }
}

/// §4.7: that a run is gone is told too, so that nobody waits for its end.
pub async fn an_item_comes_after_a_removal(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await || cannot_remove(&*store, &can).await {
        return;
    }
    let run = SampleRun::new();
    run.begin(&*store).await;
    let mut changes = store.changes(&run.query()).await.unwrap();
    changes.next().await.unwrap().unwrap();
    assert!(fixture.reopen().await.remove(run.id()).await.unwrap());
    let gone = || async { store.runs(&run.query()).await.unwrap().is_empty() }.boxed();
    told(&mut changes, "remove", gone).await;
}

/// §4.7: items that nobody took are one: a slow follower costs nothing.
pub async fn items_that_nobody_took_are_one(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await {
        return;
    }
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    let mut changes = store.changes(&run.query()).await.unwrap();
    for first in 1..=200 {
        run.append(&*store, &numbered(first, first)).await;
    }
    visible(&store, run.id(), 200).await;
    let mut ready = 0;
    while let Some(item) = changes.next().now_or_never() {
        item.unwrap().unwrap();
        ready += 1;
    }
    assert!(ready <= 20, "{ready} items were waiting after 200 writes that nobody looked at");
}
