//! The file broker: leases, claims, delays and dead letters across handles, restarts and damage.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pubsub_core::{
    ActionId, Begin, BrokerAdmin, Conclusion, DeadLetters, ErrorKind, Event, EventId, EventType, GroupName,
    LeaseId, Leased, Novelty, Pattern, Publisher, PublisherExt, Renewal, RunKey, RunRecord, Scope,
    Settlement, Stage, Subscribed, Subscriber, Subscription, Timestamp,
};
use pubsub_file::{FileBroker, FileBrokerConfig};

const LONG: Duration = Duration::from_secs(20);

fn event(action: &str) -> Event {
    Event::new(EventType::new("build-requested").unwrap(), ActionId::new(action).unwrap())
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn build(patterns: &str) -> Subscription {
    Subscription::for_stage(Stage::new("build").unwrap(), [pattern(patterns)]).unwrap()
}

async fn open(dir: &tempfile::TempDir) -> FileBroker {
    FileBroker::connect(FileBrokerConfig::new(dir.path())).await.unwrap()
}

async fn next(on: &mut Subscribed) -> Leased {
    tokio::time::timeout(LONG, on.entries.next()).await.expect("nothing came").unwrap().unwrap()
}

fn lease(of: &Leased) -> LeaseId {
    of.lease.clone().unwrap()
}

async fn settle(on: &Subscribed, what: &Leased, how: Settlement) -> pubsub_core::Result<()> {
    on.leases.settle(vec![(lease(what), how)]).await.pop().unwrap()
}

async fn depth(broker: &FileBroker) -> (u64, u64, u64) {
    let depth = broker.groups(&Scope::default()).await.unwrap().pop().unwrap().depth;
    (depth.waiting, depth.delayed, depth.leased)
}

fn conclusion(of: &Leased, attempt: u32) -> Conclusion {
    let key =
        RunKey::new(of.event.action_id.clone(), Stage::new("build").unwrap(), of.event.id.clone(), attempt);
    Conclusion { record: RunRecord::begun(key, "o"), values: Default::default() }
}

#[tokio::test]
async fn what_was_published_is_there_after_reopening_and_twice_is_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = event("a").with_id(EventId::new("chosen").unwrap());
    {
        let broker = open(&dir).await;
        let answer = broker.publish_one(first.clone()).await.unwrap();
        assert_eq!(answer.novelty, Novelty::New);
        broker.close().await.unwrap();
        assert_eq!(broker.publish_one(event("a")).await.unwrap_err().kind(), ErrorKind::Closed);
    }
    let broker = open(&dir).await;
    assert!(broker.repair().is_none());
    assert_eq!(broker.publish_one(first.clone()).await.unwrap().novelty, Novelty::Duplicate);
    let mut on = broker.subscribe(build("*:a")).await.unwrap();
    let got = next(&mut on).await;
    assert_eq!(got.event, first);
    settle(&on, &got, Settlement::Ack).await.unwrap();
    assert_eq!(settle(&on, &got, Settlement::Ack).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(depth(&broker).await, (0, 0, 0));
}

#[tokio::test]
async fn a_subscriber_in_another_handle_is_woken_and_a_delayed_event_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (open(&dir).await, open(&dir).await);
    let mut on = there.subscribe(build("build-*:*")).await.unwrap();
    let late = Timestamp::now().plus(Duration::from_millis(300));
    here.publish_one(event("late").with_deliver_at(late)).await.unwrap();
    here.publish_one(event("now")).await.unwrap();
    assert_eq!(next(&mut on).await.event.action_id.as_str(), "now");
    assert_eq!(depth(&here).await, (0, 1, 1));
    assert_eq!(next(&mut on).await.event.action_id.as_str(), "late");
    assert!(Timestamp::now() >= late);
}

#[tokio::test]
async fn retry_and_release_come_back_and_a_dropped_stream_gives_back_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir).await;
    for n in 0..5 {
        broker.publish_one(event(&format!("a{n}"))).await.unwrap();
    }
    let mut on = broker.subscribe(build("build-*:*").with_prefetch(5)).await.unwrap();
    let first = next(&mut on).await;
    assert_eq!(depth(&broker).await, (0, 0, 5));
    settle(&on, &first, Settlement::Retry { after: Duration::from_millis(200) }).await.unwrap();
    drop(on);
    let mut on = broker.subscribe(build("build-*:*").with_prefetch(5)).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let got = next(&mut on).await;
        settle(&on, &got, Settlement::Ack).await.unwrap();
        seen.push(got.event.action_id.as_str().to_owned());
    }
    assert_eq!(seen, ["a1", "a2", "a3", "a4", "a0"]);
}

#[tokio::test]
async fn an_expired_lease_is_renewed_until_another_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir).await;
    broker.publish_one(event("a")).await.unwrap();
    let short = || build("*:a").with_lease(Duration::from_millis(100)).unwrap();
    let mut one = broker.subscribe(short()).await.unwrap();
    let mine = next(&mut one).await;
    assert_eq!(one.leases.renew(&[lease(&mine)]).await.unwrap(), [Renewal::Held]);
    assert!(matches!(one.claims.begin(&lease(&mine)).await.unwrap(), Begin::Go(t) if t.attempt == 1));
    let mut two = broker.subscribe(short()).await.unwrap();
    let theirs = next(&mut two).await;
    assert_eq!(lease(&theirs).count, 2);
    assert_eq!(one.leases.renew(&[lease(&mine)]).await.unwrap(), [Renewal::Lost]);
    for how in [Settlement::Ack, Settlement::Retry { after: Duration::ZERO }] {
        assert_eq!(settle(&one, &mine, how).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    let late = one.claims.conclude(&lease(&mine), conclusion(&mine, 1)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::LeaseLost);
    let Begin::Go(numbers) = two.claims.begin(&lease(&theirs)).await.unwrap() else { panic!() };
    assert_eq!((numbers.attempt, numbers.crashes, numbers.failures), (2, 1, 0));
    two.claims.conclude(&lease(&theirs), conclusion(&theirs, 2)).await.unwrap();
    two.claims.conclude(&lease(&theirs), conclusion(&theirs, 2)).await.unwrap();
    assert!(matches!(two.claims.begin(&lease(&theirs)).await.unwrap(), Begin::Concluded(_)));
    settle(&two, &theirs, Settlement::Ack).await.unwrap();
    assert_eq!(depth(&broker).await, (0, 0, 0));
}

#[tokio::test]
async fn a_group_keeps_what_it_was_made_with_and_goes_once_nobody_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir).await;
    let on = broker.subscribe(build("*:a")).await.unwrap();
    let name = build("*:a").group().unwrap().name.clone();
    let other = Subscription::for_stage(Stage::new("build").unwrap(), [pattern("*:b")]).unwrap();
    let error = broker.subscribe(other.with_group_name(name.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("*:a") && error.to_string().contains("*:b"), "{error}");
    assert_eq!(broker.remove_group(&name).await.unwrap_err().kind(), ErrorKind::Conflict);
    drop(on);
    assert!(broker.remove_group(&name).await.unwrap());
    assert!(!broker.remove_group(&name).await.unwrap());
}

#[tokio::test]
async fn a_dead_letter_is_kept_and_replayed_for_its_group_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir).await;
    let sent = event("a");
    broker.publish_one(sent.clone()).await.unwrap();
    let mut on = broker.subscribe(build("*:a")).await.unwrap();
    let mut other = broker.subscribe(build("build-*:*")).await.unwrap();
    let got = next(&mut on).await;
    let twin = next(&mut other).await;
    assert!(matches!(on.claims.begin(&lease(&got)).await.unwrap(), Begin::Go(_)));
    assert_eq!(other.claims.begin(&lease(&twin)).await.unwrap(), Begin::Elsewhere);
    settle(&other, &twin, Settlement::Ack).await.unwrap();
    settle(&on, &got, Settlement::DeadLetter { reason: "because".into() }).await.unwrap();
    let letters = broker.list(None, 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].reason.as_str(), letters[0].attempts), (1, "because", 1));
    let group = build("*:a").group().unwrap().name.clone();
    let id = broker.replay(sent.id.as_str(), Some(&group)).await.unwrap();
    assert_eq!(broker.replay(sent.id.as_str(), None).await.unwrap_err().kind(), ErrorKind::NotFound);
    let again = next(&mut on).await;
    assert_eq!((again.event.id.clone(), again.event.replay_of.clone()), (id, Some(sent.id)));
    broker.publish_one(event("b")).await.unwrap();
    assert_eq!(next(&mut other).await.event.action_id.as_str(), "b", "the replay is not for this group");
    assert!(broker.list(Some(&GroupName::new("none").unwrap()), 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cancel_reaches_what_runs_in_another_handle_and_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (open(&dir).await, open(&dir).await);
    here.publish_one(event("a")).await.unwrap();
    let mut on = there.subscribe(build("*:a")).await.unwrap();
    let running = next(&mut on).await;
    assert!(matches!(on.claims.begin(&lease(&running)).await.unwrap(), Begin::Go(_)));
    let leases = Arc::clone(&on.leases);
    let woken = tokio::spawn(async move { leases.wake().await });
    here.cancel(&ActionId::new("a").unwrap()).await.unwrap();
    tokio::time::timeout(LONG, woken).await.unwrap().unwrap().unwrap();
    assert_eq!(on.leases.renew(&[lease(&running)]).await.unwrap(), [Renewal::Cancelled]);
    assert!(matches!(on.claims.begin(&lease(&running)).await.unwrap(), Begin::Cancelled(_)));
    here.publish_one(event("a")).await.unwrap();
    let later = next(&mut on).await;
    assert!(matches!(on.claims.begin(&lease(&later)).await.unwrap(), Begin::Go(_)));
}

#[tokio::test]
async fn without_a_group_each_subscriber_gets_each_event_and_nothing_can_be_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir).await;
    broker.publish_one(event("before")).await.unwrap();
    let all = || Subscription::broadcast([pattern("build-*:*")]).unwrap();
    let (mut one, mut two) = (broker.subscribe(all()).await.unwrap(), broker.subscribe(all()).await.unwrap());
    broker.publish_one(event("after")).await.unwrap();
    for on in [&mut one, &mut two] {
        let got = next(on).await;
        assert_eq!((got.event.action_id.as_str(), got.lease), ("after", None));
        assert_eq!(on.leases.renew(&[]).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    broker.close().await.unwrap();
    assert!(one.entries.next().await.is_none());
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused_with_the_limit_and_the_others_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let broker =
        FileBroker::connect(FileBrokerConfig::new(dir.path()).with_max_event_bytes(2000)).await.unwrap();
    let large = event("a").with_payload(format!("\"{}\"", "x".repeat(2000)).parse().unwrap());
    let answers = broker.publish(vec![event("a"), large, event("a")]).await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("limit=2000"), "{error}");
}

#[tokio::test]
async fn a_full_database_refuses_and_takes_again_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let small = FileBrokerConfig::new(dir.path()).with_max_bytes(512 * 1024);
    let filled;
    {
        let broker = FileBroker::connect(small.clone()).await.unwrap();
        // What no group waits for would make room.
        drop(broker.subscribe(build("*:a")).await.unwrap());
        let big = || event("a").with_payload(format!("\"{}\"", "x".repeat(50_000)).parse().unwrap());
        let mut kept = 0;
        let error = loop {
            match broker.publish_one(big()).await {
                Ok(_) => kept += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full);
        filled = kept;
        assert!(filled > 3);
    }
    let broker = FileBroker::connect(small.with_max_bytes(4 << 20)).await.unwrap();
    broker.publish_one(event("a")).await.unwrap();
    let mut on = broker.subscribe(build("*:a")).await.unwrap();
    for _ in 0..=filled {
        let got = next(&mut on).await;
        settle(&on, &got, Settlement::Ack).await.unwrap();
    }
    assert_eq!(depth(&broker).await, (0, 0, 0));
}

#[tokio::test]
async fn hostile_ids_are_only_values() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir).await;
    for id in ["../../outside", "/abs", "..", "x/../action-1", "a'; DROP TABLE events; --", "a*[1]?"] {
        let id = ActionId::new(id).unwrap();
        broker.publish_one(event(id.as_str())).await.unwrap();
        let literal = Pattern::literal(&EventType::new("build-requested").unwrap(), &id);
        let on = Subscription::for_stage(Stage::new("build").unwrap(), [literal]).unwrap();
        let mut on = broker.subscribe(on).await.unwrap();
        assert_eq!(next(&mut on).await.event.action_id, id);
    }
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["broker"]);
}
