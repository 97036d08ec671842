//! A hundred followers on one run that prints a line every millisecond: each number once, in order, to the end.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pubsub_core::conformance::store::{SampleRun, at, lines};
use pubsub_core::{
    Follow, FollowFrom, Followed, Lines, OutputItem, OutputReader, RunId, RunStatus, Target, follow,
};
use pubsub_file::{FileStore, FileStoreConfig};
use tokio::sync::watch;

const LINES: u64 = 1_000;

async fn open(dir: PathBuf) -> FileStore {
    FileStore::connect(FileStoreConfig::new(dir)).await.unwrap()
}

/// Follows from there, is cut off once after so many lines, and goes on with the next number on another handle; answers
/// the first and the last number.
async fn followed(dir: PathBuf, run: RunId, from: FollowFrom, cut_after: u64) -> (u64, u64) {
    let (mut first, mut next, mut from, mut left) = (None, None, from, cut_after);
    for _ in 0..2 {
        let store: Arc<dyn OutputReader> = Arc::new(open(dir.clone()).await);
        let mut items = follow(store, Follow { target: Target::Run(run.clone()), from });
        'reading: while let Some(item) = items.next().await {
            let Followed::Item(item) = item.unwrap() else { continue };
            let OutputItem::Lines(batch) = item else { unreachable!("nothing is missing: {item:?}") };
            for line in batch.lines() {
                let number = line.number.get();
                assert!(next.is_none_or(|next| next == number), "{number} in place of {next:?}");
                assert_eq!(line.bytes, format!("line {number}"));
                first = first.or(Some(number));
                next = Some(number + 1);
                left = left.saturating_sub(1);
                if left == 0 {
                    break 'reading;
                }
            }
        }
        left = u64::MAX;
        from = next.map_or(from, |next| FollowFrom::Line(at(next)));
    }
    (first.unwrap_or(0), next.map_or(0, |next| next - 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_followers_that_are_cut_off_once_get_each_line_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().to_owned()).await;
    let mut run = SampleRun::new();
    let id = run.id().clone();
    let (printed, mut seen) = watch::channel(0);
    let mut followers = Vec::new();
    let join = |n: u64, followers: &mut Vec<_>| {
        let start = fastrand::u64(1..=LINES);
        let from = match n % 3 {
            0 => FollowFrom::Line(at(1)),
            1 => FollowFrom::Line(at(start)),
            _ => FollowFrom::Last(start / 2),
        };
        let wanted = if let FollowFrom::Line(number) = from { Some(number.get()) } else { None };
        let cut_after = fastrand::u64(1..LINES);
        followers.push((wanted, tokio::spawn(followed(dir.path().to_owned(), id.clone(), from, cut_after))));
    };
    // Some before it begins, most while it prints, some after it has ended.
    (0..5).for_each(|n| join(n, &mut followers));
    let writer = tokio::spawn(async move {
        run.begin(&store).await;
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        for n in 1..=LINES {
            tick.tick().await;
            run.append(&store, &[lines(n, [format!("line {n}")])]).await;
            printed.send_replace(n);
        }
        run.finish(&store).await;
    });
    for n in 5..95 {
        let wanted = fastrand::u64(n * LINES / 100..=(n + 1) * LINES / 100);
        seen.wait_for(|seen| *seen >= wanted).await.unwrap();
        join(n, &mut followers);
    }
    writer.await.unwrap();
    (95..100).for_each(|n| join(n, &mut followers));
    for (wanted, follower) in followers {
        let (first, last) = tokio::time::timeout(Duration::from_secs(60), follower).await.unwrap().unwrap();
        assert!(
            wanted.is_none_or(|wanted| wanted == first) && (last == LINES || first == 0),
            "{first}-{last}"
        );
    }
    let output = open(dir.path().to_owned()).await.lines(&id, Lines::Last(0)).await.unwrap();
    assert_eq!((output.record.status, output.complete_through), (RunStatus::Completed, LINES));
}
