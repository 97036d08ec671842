//! Followers in many processes on one run that goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use pubsub_core::conformance::store::{SampleRun, lines};
use pubsub_core::{
    Follow, FollowFrom, Followed, LineNumber, OutputItem, OutputReader, RunId, Target, follow,
};
use tokio::sync::watch;

use super::{Process, say, store};

/// Lines of one append.
const BATCH: u64 = 20;

/// As a command prints them: now and then some.
const PAUSE: Duration = Duration::from_millis(10);

/// Follows to the end; answers how many lines came, each the next one.
async fn to_the_end(reader: Arc<dyn OutputReader>, run: RunId, began: watch::Sender<usize>) -> u64 {
    let (target, from) = (Target::Run(run), FollowFrom::Line(LineNumber::FIRST));
    let mut followed = follow(reader, Follow { target, from });
    let mut through = 0;
    while let Some(item) = followed.next().await {
        match item.unwrap() {
            Followed::Began(_) => began.send_modify(|many| *many += 1),
            Followed::Item(OutputItem::Lines(batch)) => {
                for line in batch.lines() {
                    through += 1;
                    assert_eq!(line.number.get(), through);
                    assert_eq!(line.text(), format!("line {through}"));
                }
            }
            Followed::Item(other) => unreachable!("{other:?}"),
            Followed::Ended(record) => assert_eq!(record.counts.lines, through),
        }
    }
    through
}

pub(super) async fn follow_all(folder: &Path, run: &str, many: usize) {
    let (store, run) = (Arc::new(store(folder).await), RunId::new(run).unwrap());
    let (began, mut have_begun) = watch::channel(0);
    let follower = |_| tokio::spawn(to_the_end(Arc::clone(&store) as Arc<_>, run.clone(), began.clone()));
    let followers: Vec<_> = (0..many).map(follower).collect();
    have_begun.wait_for(|begun| *begun == many).await.unwrap();
    say("ready");
    for through in join_all(followers).await {
        say(&through.unwrap().to_string());
    }
}

/// So many followers in eight processes get each of so many lines.
async fn each_gets_each_line(followers: usize, batches: u64) {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let began = Instant::now();
    let role = |_| format!("follow {} {}", run.id(), followers / 8);
    let processes = Process::many(8, role, folder.path());
    for process in &processes {
        assert_eq!(process.next(), "ready");
    }
    let ready = began.elapsed();
    for first in (0..batches).map(|n| n * BATCH + 1) {
        let texts = (first..first + BATCH).map(|n| format!("line {n}"));
        run.append(&store, &[lines(first, texts)]).await;
        tokio::time::sleep(PAUSE).await;
    }
    run.finish(&store).await;
    let ended = Instant::now();
    let printed = ended - began - ready;
    let counts: Vec<String> = processes.into_iter().flat_map(Process::wait_for_end).collect();
    println!(
        "{followers} followers of {} lines: all following after {ready:.1?}, printed in {printed:.1?}, the last has all \
         {:.1?} after the end",
        batches * BATCH,
        ended.elapsed()
    );
    assert_eq!(counts, vec![(batches * BATCH).to_string(); followers]);
}

#[tokio::test]
async fn followers_in_eight_processes_get_each_line_of_a_running_run_once() {
    each_gets_each_line(80, 50).await;
}

#[tokio::test]
#[ignore = "long: 1,000 followers"]
async fn a_thousand_followers_in_eight_processes_get_each_line_of_a_running_run_once() {
    each_gets_each_line(1_000, 500).await;
}
