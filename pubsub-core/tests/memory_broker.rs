//! What a broker promises, on the broker in memory and through [`Deliveries`].
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use pubsub_core::{
    ActionId, Begin, BrokerAdmin, CRASH_LIMIT, Conclusion, DeadLetters, Deliveries, Delivery, ErrorKind,
    Event, EventId, EventType, GroupName, LeaseState, MemoryBroker, Novelty, PublisherExt, RunKey, RunRecord,
    Scope, Stage, StartAt, Subscriber, Subscription, Timestamp,
};

fn event(kind: &str, action: &str) -> Event {
    Event::new(EventType::new(kind).unwrap(), ActionId::new(action).unwrap())
}

fn on(stage: &str, pattern: &str) -> Subscription {
    Subscription::for_stage(Stage::new(stage).unwrap(), [pattern.parse().unwrap()]).unwrap()
}

async fn open(broker: &MemoryBroker, subscription: Subscription) -> Deliveries {
    Deliveries::open(broker, subscription).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let limit = Duration::from_secs(3600);
    tokio::time::timeout(limit, deliveries.next()).await.expect("a delivery").unwrap().unwrap()
}

async fn nothing(deliveries: &mut Deliveries) {
    let waited = tokio::time::timeout(Duration::from_millis(50), deliveries.next()).await;
    assert!(waited.is_err(), "{waited:?}");
}

fn conclusion(delivery: &Delivery, stage: &str, attempt: u32) -> Conclusion {
    let event = delivery.event();
    let key = RunKey::new(event.action_id.clone(), Stage::new(stage).unwrap(), event.id.clone(), attempt);
    Conclusion { record: RunRecord::begun(key, "w"), values: BTreeMap::new() }
}

/// §4.2: each event goes to one member of a group, to each group, and in the order of publishing.
#[tokio::test(start_paused = true)]
async fn members_share_and_groups_each_get_all() {
    let broker = MemoryBroker::new();
    for n in 0..10 {
        broker.publish_one(event("t", "a").with_id(EventId::new(format!("{n}")).unwrap())).await.unwrap();
    }
    let (mut one, mut two) = (open(&broker, on("s", "t:a")).await, open(&broker, on("s", "t:a")).await);
    let mut other = open(&broker, on("other", "t:*")).await;
    let mut shared = Vec::new();
    for _ in 0..5 {
        for member in [&mut one, &mut two] {
            let delivery = next(member).await;
            shared.push(delivery.event().id.as_str().to_owned());
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(shared, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    for n in 0..10 {
        let delivery = next(&mut other).await;
        assert_eq!(delivery.event().id.as_str(), n.to_string());
        delivery.ack().await.unwrap();
    }
    nothing(&mut one).await;
    nothing(&mut other).await;
}

/// §4.1, §4.2: patterns are the shared grammar, two that match are one delivery, and a literal id is literal.
#[tokio::test(start_paused = true)]
async fn ids_with_pattern_characters_are_literal_in_events() {
    let table: [(&[&str], &[&str]); 6] = [
        (&["build-requested:*"], &["a[1]", "a1", "a*", "ab", "a:b", "A1"]),
        (&["build-requested:a[1]"], &["a[1]"]),
        (&["build-requested:a?"], &["a1", "a*", "ab"]),
        (&["build-requested:a\\*"], &["a*"]),
        (&["build:*"], &[]),
        (&["build-requested:a*", "build-requested:*1"], &["a[1]", "a1", "a*", "ab", "a:b", "A1"]),
    ];
    let broker = MemoryBroker::new();
    for id in ["a[1]", "a1", "a*", "ab", "a:b", "A1"] {
        broker.publish_one(event("build-requested", id)).await.unwrap();
    }
    broker.publish_one(event("buildXx", "1")).await.unwrap();
    for (index, (patterns, expected)) in table.into_iter().enumerate() {
        let patterns = patterns.iter().map(|p| p.parse().unwrap());
        let subscription =
            Subscription::for_stage(Stage::new(format!("s{index}")).unwrap(), patterns).unwrap();
        let mut deliveries = open(&broker, subscription).await;
        for id in expected {
            let delivery = next(&mut deliveries).await;
            assert_eq!(delivery.event().action_id.as_str(), *id);
            delivery.ack().await.unwrap();
        }
        nothing(&mut deliveries).await;
    }
}

/// §4.2: a lease is renewed as long as the delivery is alive; what is dropped comes back.
#[tokio::test(start_paused = true)]
async fn a_long_job_is_never_taken_and_a_dropped_delivery_comes_back() {
    let broker = MemoryBroker::new();
    broker.publish_one(event("t", "a")).await.unwrap();
    let (mut one, mut two) = (open(&broker, on("s", "t:a")).await, open(&broker, on("s", "t:a")).await);
    let delivery = next(&mut one).await;
    tokio::time::sleep(Duration::from_secs(2 * 60 * 60)).await;
    nothing(&mut two).await;
    assert_eq!(*delivery.state().borrow(), LeaseState::Held);
    drop(delivery);
    next(&mut two).await.ack().await.unwrap();
    nothing(&mut one).await;
}

/// §4.2: a killed holder's event runs again elsewhere; the former holder can neither settle, renew nor conclude.
#[tokio::test(start_paused = true)]
async fn a_former_holder_can_do_nothing() {
    let broker = MemoryBroker::new();
    broker.publish_one(event("t", "a")).await.unwrap();
    // Taken without a keeper: nobody renews, as when its worker is paused.
    let mut dead = broker.subscribe(on("s", "t:a")).await.unwrap();
    let leased = futures::StreamExt::next(&mut dead.entries).await.unwrap().unwrap();
    let lease = leased.lease.unwrap();
    assert!(matches!(dead.claims.begin(&lease).await.unwrap(), Begin::Go(t) if t.attempt == 1));
    let mut two = open(&broker, on("s", "t:a")).await;
    let started = tokio::time::Instant::now();
    let delivery = next(&mut two).await;
    assert!(started.elapsed() >= Duration::from_secs(30) && started.elapsed() < Duration::from_secs(40));
    assert!(
        matches!(delivery.begin().await.unwrap(), Begin::Go(t) if (t.attempt, t.crashes, t.failures) == (2, 1, 0))
    );
    let lost = |result: pubsub_core::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::LeaseLost);
    lost(dead.claims.conclude(&lease, conclusion(&delivery, "s", 1)).await);
    lost(dead.leases.settle(vec![(lease.clone(), pubsub_core::Settlement::Ack)]).await.remove(0));
    assert_eq!(dead.leases.renew(&[lease]).await.unwrap(), [pubsub_core::Renewal::Lost]);
    delivery.conclude(conclusion(&delivery, "s", 2)).await.unwrap();
    delivery.ack().await.unwrap();
}

/// §4.2: an event that kills its workers is exhausted after so many crashes, and holds up nobody.
#[tokio::test(start_paused = true)]
async fn an_event_that_kills_its_workers_is_exhausted() {
    let broker = MemoryBroker::new();
    broker.publish_one(event("t", "poison")).await.unwrap();
    for crash in 0..=CRASH_LIMIT {
        let mut dead = broker.subscribe(on("s", "t:*")).await.unwrap();
        let leased = futures::StreamExt::next(&mut dead.entries).await.unwrap().unwrap();
        match dead.claims.begin(&leased.lease.unwrap()).await.unwrap() {
            Begin::Go(numbers) => assert!(numbers.crashes == crash && crash < CRASH_LIMIT),
            Begin::Exhausted(numbers) => assert_eq!((numbers.crashes, crash), (CRASH_LIMIT, CRASH_LIMIT)),
            other => panic!("{other:?}"),
        }
        broker.publish_one(event("t", "good")).await.unwrap();
        let good = futures::StreamExt::next(&mut dead.entries).await.unwrap().unwrap();
        let settled = dead.leases.settle(vec![(good.lease.unwrap(), pubsub_core::Settlement::Ack)]).await;
        assert!(settled.iter().all(Result::is_ok));
    }
}

/// §4.2: a retry is on the group's own due list; other groups do not see it; it counts as a failure.
#[tokio::test(start_paused = true)]
async fn a_retry_is_the_groups_own_and_counted() {
    let broker = MemoryBroker::new();
    broker.publish_one(event("t", "a")).await.unwrap();
    let (mut one, mut other) = (open(&broker, on("s", "t:a")).await, open(&broker, on("o", "t:a")).await);
    next(&mut other).await.ack().await.unwrap();
    let delivery = next(&mut one).await;
    delivery.begin().await.unwrap();
    delivery.retry_in(Duration::from_secs(60)).await.unwrap();
    let info = broker.groups(&Scope::default()).await.unwrap();
    let depth = info.iter().find(|g| g.name.as_str() == "s@t:a").unwrap().depth;
    assert_eq!((depth.waiting, depth.delayed, depth.leased), (0, 1, 0));
    let started = tokio::time::Instant::now();
    let delivery = next(&mut one).await;
    assert!(started.elapsed() >= Duration::from_secs(60));
    assert!(
        matches!(delivery.begin().await.unwrap(), Begin::Go(t) if (t.attempt, t.failures, t.crashes) == (2, 1, 0))
    );
    delivery.release().await.unwrap();
    let delivery = next(&mut one).await;
    assert!(
        matches!(delivery.begin().await.unwrap(), Begin::Go(t) if (t.attempt, t.failures, t.crashes) == (3, 1, 0))
    );
    nothing(&mut other).await;
}

/// §4.2: claims are shared by groups of one stage, and outlive them.
#[tokio::test(start_paused = true)]
async fn what_is_concluded_is_concluded_for_every_group_of_the_stage() {
    let broker = MemoryBroker::new();
    broker.publish_one(event("t", "a")).await.unwrap();
    let (mut one, mut two) = (open(&broker, on("s", "t:a")).await, open(&broker, on("s", "t:*")).await);
    let (first, second) = (next(&mut one).await, next(&mut two).await);
    first.begin().await.unwrap();
    assert_eq!(second.begin().await.unwrap(), Begin::Elsewhere);
    first.conclude(conclusion(&first, "s", 1)).await.unwrap();
    assert!(matches!(second.begin().await.unwrap(), Begin::Concluded(_)));
    first.ack().await.unwrap();
    let mut late = open(&broker, on("s", "*:a")).await;
    assert!(matches!(next(&mut late).await.begin().await.unwrap(), Begin::Concluded(_)));
}

/// §4.2: an id is one event; delivery can be delayed; starts differ; a group is what it was made as.
#[tokio::test(start_paused = true)]
async fn ids_delays_starts_and_conflicts() {
    let broker = MemoryBroker::new();
    let first = event("t", "a").with_id(EventId::new("chosen").unwrap());
    assert_eq!(broker.publish_one(first.clone()).await.unwrap().novelty, Novelty::New);
    let again = broker.publish_one(first).await.unwrap();
    assert_eq!(again.novelty, Novelty::Duplicate);
    let mut latest = open(&broker, on("latest", "t:a").with_start(StartAt::Latest)).await;
    let mut after = open(&broker, on("after", "t:a").with_start(StartAt::After(again.position))).await;
    let delayed = event("t", "a").with_deliver_at(Timestamp::now().plus(Duration::from_secs(10)));
    broker.publish_one(delayed).await.unwrap();
    nothing(&mut latest).await;
    next(&mut latest).await.ack().await.unwrap();
    next(&mut after).await.ack().await.unwrap();
    let name = GroupName::new("g").unwrap();
    let _one = open(&broker, on("s", "t:a").with_group_name(name.clone())).await;
    let error = Deliveries::open(&broker, on("s", "t:b").with_group_name(name)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("t:a") && error.to_string().contains("t:b"), "{error}");
}

/// §4.2: a cancel covers what runs, waits and is delayed, not what comes after; who runs hears of it at once.
#[tokio::test(start_paused = true)]
async fn a_cancel_covers_every_event_of_before() {
    let broker = MemoryBroker::new();
    for kind in ["running", "waiting"] {
        broker.publish_one(event(kind, "a")).await.unwrap();
    }
    let later = Timestamp::now().plus(Duration::from_secs(3600));
    broker.publish_one(event("delayed", "a").with_deliver_at(later)).await.unwrap();
    let mut deliveries = open(&broker, on("s", "*:a")).await;
    let running = next(&mut deliveries).await;
    assert!(matches!(running.begin().await.unwrap(), Begin::Go(_)));
    let mut state = running.state();
    let started = tokio::time::Instant::now();
    broker.cancel(&ActionId::new("a").unwrap()).await.unwrap();
    state.wait_for(|state| *state == LeaseState::Cancelled).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    broker.publish_one(event("after", "a")).await.unwrap();
    for kind in ["waiting", "delayed", "after"] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.event().event_type.as_str(), kind);
        assert_eq!(matches!(delivery.begin().await.unwrap(), Begin::Cancelled(_)), kind != "after", "{kind}");
        delivery.ack().await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// §4.2: dead letters keep the bytes and the reason; a replay is a new event for that group alone.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_replayed_for_its_group_alone() {
    let broker = MemoryBroker::new();
    let published = event("t", "a");
    broker.publish_one(published.clone()).await.unwrap();
    let (mut one, mut two) = (open(&broker, on("s", "t:a")).await, open(&broker, on("o", "t:a")).await);
    next(&mut one).await.dead_letter("no good").await.unwrap();
    next(&mut two).await.ack().await.unwrap();
    let letters = broker.list(None, 10).await.unwrap();
    assert_eq!((letters.len(), letters.first().unwrap().reason.as_str()), (1, "no good"));
    let new = broker.replay(published.id.as_str(), None).await.unwrap();
    let delivery = next(&mut one).await;
    assert_eq!((&delivery.event().id, &delivery.event().replay_of), (&new, &Some(published.id.clone())));
    nothing(&mut two).await;
    assert!(broker.list(None, 10).await.unwrap().is_empty());
    assert_eq!(broker.replay("x", None).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// §4.2: without a group each subscriber gets each event; there is nothing to begin.
#[tokio::test(start_paused = true)]
async fn a_broadcast_reaches_everybody_and_has_no_runs() {
    let broker = MemoryBroker::new();
    let subscription = Subscription::broadcast(["t:*".parse().unwrap()]).unwrap();
    let mut one = open(&broker, subscription.clone()).await;
    let mut two = open(&broker, subscription).await;
    broker.publish_one(event("t", "a")).await.unwrap();
    for deliveries in [&mut one, &mut two] {
        let delivery = next(deliveries).await;
        assert_eq!(delivery.begin().await.unwrap_err().kind(), ErrorKind::Unsupported);
        delivery.ack().await.unwrap();
    }
}

/// §4.2: closing ends the stream and gives back what was taken and not handed out.
#[tokio::test(start_paused = true)]
async fn what_was_taken_in_advance_is_given_back_at_once() {
    let broker = MemoryBroker::new();
    for _ in 0..5 {
        broker.publish_one(event("t", "a")).await.unwrap();
    }
    let mut one = open(&broker, on("s", "t:a").with_prefetch(5)).await;
    next(&mut one).await.ack().await.unwrap();
    one.close().await;
    let mut two = open(&broker, on("s", "t:a").with_prefetch(5)).await;
    for _ in 0..4 {
        tokio::time::timeout(Duration::from_millis(1), next(&mut two)).await.unwrap().ack().await.unwrap();
    }
}

/// §4.2: what is broadcast to a subscriber that is too slow is missed, and told in its place; what it never asked for
/// costs it nothing.
#[tokio::test(start_paused = true)]
async fn a_slow_listener_hears_in_their_place_of_the_events_that_it_missed() {
    let broker = MemoryBroker::new();
    let all = Subscription::broadcast(["t:*".parse().unwrap()]).unwrap();
    let mut slow = open(&broker, all).await;
    for _ in 0..3_000 {
        broker.publish_one(event("other", "a")).await.unwrap();
    }
    for n in 0..1_500 {
        broker.publish_one(event("t", &n.to_string())).await.unwrap();
    }
    for n in 0..1_024 {
        assert_eq!(next(&mut slow).await.event().action_id.as_str(), n.to_string());
    }
    broker.publish_one(event("t", "after")).await.unwrap();
    let told = slow.next().await.unwrap().unwrap_err();
    assert!(told.to_string().contains(&format!("events={}", 1_500 - 1_024)), "{told}");
    assert_eq!(next(&mut slow).await.event().action_id.as_str(), "after");
    nothing(&mut slow).await;
}
