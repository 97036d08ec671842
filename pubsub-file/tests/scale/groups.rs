//! Groups of one action each, made, used and left one after the other.

use std::time::{Duration, Instant};

use pubsub_core::conformance::broker::{Member, named, on};
use pubsub_core::{BrokerAdmin as _, Event, Publisher as _, Scope};
use pubsub_file::{FileBroker, FileBrokerConfig};

use super::LONG;

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

/// So many groups, each of which finds its one event among all.
async fn each_finds_its_event(many: usize) -> (Duration, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let broker = super::broker(folder.path()).await;
    for from in (0..many).step_by(1_000) {
        let event = |n: usize| -> Event { named("go", &format!("action-{n}"), &format!("event-{n}")) };
        for answer in broker.publish((from..many.min(from + 1_000)).map(event).collect()).await {
            answer.unwrap();
        }
    }
    let mut times = Vec::with_capacity(many);
    for n in 0..many {
        let began = Instant::now();
        let mut member = Member::join(&broker, on("work", &[&format!("*:action-{n}")])).await;
        assert_eq!(member.take().await, format!("event-{n}"));
        drop(member);
        times.push(began.elapsed());
    }
    let (first, last) = (median(&times[..100]), median(&times[many - 100..]));
    let began = Instant::now();
    assert_eq!(broker.groups(&Scope::default()).await.unwrap().len(), many);
    let listed = began.elapsed();
    drop(broker);
    // They go after their time, all of them.
    let config = FileBrokerConfig::new(folder.path()).with_group_retention(Duration::from_millis(10));
    let began = Instant::now();
    let broker = FileBroker::connect(config).await.unwrap();
    let dropped = async {
        while !broker.groups(&Scope::default()).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, dropped).await.unwrap();
    println!(
        "{many} groups: the first 100 took {first:.2?} each, the last 100 {last:.2?}; listed in {listed:.1?}, all \
         dropped after {:.1?}",
        began.elapsed()
    );
    (first, last)
}

#[tokio::test]
async fn short_lived_groups_find_their_event_and_are_dropped() {
    each_finds_its_event(300).await;
}

#[tokio::test]
#[ignore = "long: 10,000 groups"]
async fn the_last_of_ten_thousand_short_lived_groups_is_as_quick_as_the_first() {
    let (first, last) = each_finds_its_event(10_000).await;
    assert!(last < first * 2, "{first:?}, {last:?}");
}
