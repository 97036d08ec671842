//! §4.7: `follow` gives each line once, in order, from a start number to the end, then ends.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;

use super::StoreFixture;
use super::sample::{SampleRun, at, cannot_follow, numbered, shape, visible};
use crate::{
    Follow, FollowFrom, Followed, Gap, LineNumber, LineRange, OutputItem, RunId, Store, StoreCapabilities,
    Target, follow,
};

const LINES: u64 = 3_000;

/// Writes `LINES` lines in batches of 1 to 50, none before `allowed` reaches its first number, and ends the run.
async fn write(store: Arc<dyn Store>, mut run: SampleRun, mut allowed: watch::Receiver<u64>) {
    // It gives no sign of life, however long it takes beside others.
    run.record.beat_every_ms = 600_000;
    run.begin(&*store).await;
    let mut first = 1;
    while first <= LINES {
        allowed.wait_for(|allowed| *allowed >= first).await.unwrap();
        let last = LINES.min(first + fastrand::u64(0..50));
        run.append(&*store, &numbered(first, last)).await;
        first = last + 1;
    }
    run.finish(&*store).await;
}

/// Writes all of them as fast as the store takes them.
async fn write_all(store: Arc<dyn Store>, run: SampleRun) {
    let (_allow, allowed) = watch::channel(LINES);
    write(store, run, allowed).await;
}

/// What a follower is given: up to the end, or until it has at least so many lines.
async fn followed(store: Arc<dyn Store>, run: RunId, from: FollowFrom, most: u64) -> Vec<OutputItem> {
    let mut followed = follow(store, Follow { target: Target::Run(run), from });
    let began = followed.next().await.unwrap().unwrap();
    assert!(matches!(began, Followed::Began(_)), "the beginning comes first: {began:?}");
    let (mut items, mut lines) = (Vec::new(), 0);
    while lines < most {
        match followed.next().await.unwrap().unwrap() {
            Followed::Item(item) => {
                lines += item.range().lines();
                items.push(item);
            }
            Followed::Ended(record) => {
                assert_eq!(record.status, crate::RunStatus::Completed);
                assert!(followed.next().await.is_none(), "nothing comes after the end");
                break;
            }
            Followed::Began(record) => panic!("a run begins once: {record:?}"),
        }
    }
    items
}

/// The numbers run from `first` to the last one, each once.
fn is_whole(items: &[OutputItem], first: u64) {
    let expected = if first > LINES { String::new() } else { format!("{first}-{LINES}") };
    assert_eq!(shape(items), expected);
}

/// §4.7: followers that join while lines come, at any point, from any start, through any handle.
pub async fn followers_that_join_at_any_point_get_each_line_once(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let handles = [fixture.store(), fixture.reopen().await];
    if cannot_follow(&*handles[0], &can).await {
        return;
    }
    let run = SampleRun::new();
    let id = run.id().clone();
    // The run waits for its followers, so that they join in the middle of it, however fast the store is.
    let (allow, allowed) = watch::channel(0);
    let writer = tokio::spawn(write(fixture.store(), run, allowed));
    let mut followers = Vec::new();
    for n in 0..30_u64 {
        let store = Arc::clone(&handles[usize::from(n % 2 == 0)]);
        let through = n * LINES / 40;
        allow.send_replace(through);
        visible_or_new(&store, &id, through).await;
        let start = 1 + fastrand::u64(0..LINES);
        let from = match n % 3 {
            0 => FollowFrom::Line(LineNumber::FIRST),
            1 => FollowFrom::Line(at(start)),
            _ => FollowFrom::Last(start / 2),
        };
        let first = if let FollowFrom::Line(number) = from { Some(number.get()) } else { None };
        followers.push((first, tokio::spawn(followed(store, id.clone(), from, u64::MAX))));
    }
    allow.send_replace(LINES);
    writer.await.unwrap();
    for (first, follower) in followers {
        let items = follower.await.unwrap();
        let first = first.or_else(|| items.first().map(|item| item.range().first.get()));
        is_whole(&items, first.unwrap_or(LINES + 1));
    }
}

/// As `visible`, also where the run is not there yet.
async fn visible_or_new(store: &Arc<dyn Store>, run: &RunId, through: u64) {
    let begun = || async { store.lines(run, crate::Lines::Last(0)).await.is_ok() }.boxed();
    super::until("the run begins", begun).await;
    visible(store, run, through).await;
}

/// §4.7: the number is the point to resume from, as often as the connection is lost.
pub async fn a_follower_goes_on_where_another_stopped(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await {
        return;
    }
    let run = SampleRun::new();
    let id = run.id().clone();
    let writer = tokio::spawn(write_all(fixture.reopen().await, run));
    let mut items: Vec<OutputItem> = Vec::new();
    while items.last().is_none_or(|item| item.range().last.get() < LINES) {
        let next = items.last().map_or(LineNumber::FIRST, |item| item.range().last.plus(1));
        let most = fastrand::u64(1..500);
        items.extend(followed(Arc::clone(&store), id.clone(), FollowFrom::Line(next), most).await);
    }
    writer.await.unwrap();
    is_whole(&items, 1);
}

/// §4.7: what does not exist yet is waited for.
pub async fn a_follower_that_comes_first_waits_for_the_run(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await {
        return;
    }
    let run = SampleRun::new();
    let from = FollowFrom::Line(LineNumber::FIRST);
    let mut following = Box::pin(followed(fixture.reopen().await, run.id().clone(), from, u64::MAX));
    assert!(futures::poll!(&mut following).is_pending(), "there is nothing yet");
    let (items, ()) = futures::join!(following, write_all(store, run));
    is_whole(&items, 1);
}

/// §4.7: a run that has ended is given as a whole, then the follower ends.
pub async fn a_follower_that_comes_last_gets_the_whole_run(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await {
        return;
    }
    let run = SampleRun::new();
    let id = run.id().clone();
    write_all(Arc::clone(&store), run).await;
    for (from, first) in [
        (FollowFrom::Line(LineNumber::FIRST), 1),
        (FollowFrom::Line(at(LINES - 10)), LINES - 10),
        (FollowFrom::Line(at(LINES + 1)), LINES + 1),
        (FollowFrom::Last(0), LINES + 1),
        (FollowFrom::Last(1_234), LINES - 1_233),
        (FollowFrom::Last(LINES * 2), 1),
    ] {
        let items = followed(fixture.reopen().await, id.clone(), from, u64::MAX).await;
        is_whole(&items, first);
    }
}

/// §4.6 and §4.7: a hole is a gap for followers too, in its place, also at the end.
pub async fn a_follower_is_told_of_what_is_missing(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_follow(&*store, &can).await {
        return;
    }
    let mut run = SampleRun::new();
    let (id, from) = (run.id().clone(), FollowFrom::Line(LineNumber::FIRST));
    let following = tokio::spawn(followed(fixture.reopen().await, id, from, u64::MAX));
    let hole = |first, last| Gap {
        range: LineRange::new(at(first), at(last)),
        bytes: None,
        reason: "refused".to_owned(),
    };
    run.begin(&*store).await;
    run.append(&*store, &numbered(1, 600)).await;
    run.print(&numbered(601, 700));
    run.append(&*store, &numbered(701, 900)).await;
    run.print(&numbered(901, 950));
    run.record.holes = vec![hole(601, 700), hole(901, 950)];
    run.finish(&*store).await;
    let items = following.await.unwrap();
    if can.ordered.is_yes() {
        // What such a store has passed by will never come: its gap may be told before anybody says why.
        assert_eq!(super::sample::shape_without_reasons(&items), "1-600 gap 601-700; 701-900 gap 901-950");
    } else {
        assert_eq!(shape(&items), "1-600 gap 601-700 refused; 701-900 gap 901-950 refused");
    }
}
